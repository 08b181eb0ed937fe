"""Limits on lines, nesting, digits and archives; links out of a folder; what a full disk and a killed process leave."""

from __future__ import annotations

import gzip
import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged import saved
from safetensors import SafetensorError

import metapl
from metapl.cli import main
from metapl.config.settings import make_config
from metapl.data.memory.idx import read_idx
from metapl.errors import Doubt, UserError
from metapl.runs.folder import Metrics
from metapl.runs.model_folder import Predictor, load_model, save_model
from metapl.training.job import Job
from metapl.types import Preprocessing
from metapl.utils import files, limits
from metapl.utils.files import remove_leftovers
from metapl.utils.locks import locked


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_an_endless_line_is_refused_in_constant_memory(name: str, tmp_path: Path) -> None:
    """In a process that may take 1 GB in all, of which the imports are more than half; the file has 1.5 GB."""
    path = tmp_path / name
    with open(path, "wb") as file:
        file.write(b"a,label\n1,x\n" if name != "t.jsonl" else b'{"a": 1, "label": "x"}\n')
        file.write(b'"' + b"y" * 100)
        file.truncate(3 << 29)  # the rest is a hole: no disk is filled
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"{name}, line [23]: the line has more than 16 MB") as error:
        metapl.open_source(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert "one row per line" in str(error.value)


def test_many_short_lines_are_no_endless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINE", 50)
    monkeypatch.setattr(limits, "_BLOCK", 7)
    path = tmp_path / "t.csv"
    path.write_bytes(b"\r\n".join([b"x" * 48] * 20))
    limits.check_lines(path, "t.csv")
    path.write_bytes(b"\n".join([b"x" * 50, b"x" * 50, b"x" * 70, b"x"]))
    with pytest.raises(UserError, match="line 3"):
        limits.check_lines(path, "t.csv")


MULTIPLIED = [f"k{n}: &k{n} {{{', '.join(f'x{i}: *k{n - 1}' for i in range(9))}}}" for n in range(1, 12)]
YAML = {
    "nested": "data: " + "[" * 20_000,
    "nested and closed": "data: " + "[" * 300 + "]" * 300,
    "refers to itself": "data: digits\nmpl: &a\n  x: *a\n",
    "multiplied": "\n".join(["data: digits", "k0: &k0 {a: 1}", *MULTIPLIED]),
    "5000 digits": "data: digits\nseed: " + "9" * 5000,
    "hexadecimal": "data: digits\nseed: 0x" + "f" * 6000,
    "400 digits": "data: digits\noptim: {lr: " + "9" * 400 + "}",
    "17 digits": "data: digits\nseed: " + "9" * 17,
}
VALUES = ("seed=" + "9" * 5000, "seed=0x" + "f" * 6000, "seed=" + "[" * 5000, "optim.lr=" + "9" * 400)


@pytest.mark.parametrize("kind", YAML)
def test_settings_that_no_one_writes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(YAML[kind])
    began = time.process_time()
    with pytest.raises(UserError) as error:
        make_config(None, file=path)
    assert time.process_time() - began < 20
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "text", ["seed=" + "9" * 5000, "seed=0x" + "f" * 6000, "seed=" + "[" * 5000, "optim.lr=" + "9" * 400]
)
def test_values_that_no_one_writes(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", text]) == 2
    assert len(capsys.readouterr().err) < 6500


def test_an_archive_that_unpacks_to_a_thousand_times_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with open(tmp_path / "X.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (300, 1 << 20)})
        file.truncate(128 + 300 * (1 << 20))
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(tmp_path / "X.npy", "X.npy")
        np.save(tmp_path / "y.npy", np.zeros(300, dtype=np.int64))
        archive.write(tmp_path / "y.npy", "y.npy")
    assert path.stat().st_size < 2**21
    with pytest.raises(UserError, match=r"a\.npz, 'X\.npy': .* MB unpack to 0\.3 GB, more than 200 times"):
        metapl.open_source(str(path))


def test_a_packed_idx_file_that_announces_too_much(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, 400_000, 28, 28) + bytes(1000)))
    with pytest.raises(UserError, match=r"unpack to 0\.3 GB"):
        read_idx(path, 3)


def test_ordinary_archives_are_read() -> None:
    limits.check_ratio(limits.SMALL, 1, "")
    limits.check_ratio(10 * limits.SMALL, limits.SMALL, "")


def test_links_out_of_a_folder_are_followed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("labelled/a", "labelled/b", "unlabelled"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            (tmp_path / "data" / name / f"{k}.png").write_bytes(saved("PNG"))
    (tmp_path / "data" / "labelled" / "a" / "inside.png").symlink_to("../b/0.png")
    assert not any("links" in note for note in metapl.open_source(str(tmp_path / "data")).notes)
    (tmp_path / "secret.png").write_bytes(saved("PNG"))
    (tmp_path / "data" / "labelled" / "a" / "out.png").symlink_to(tmp_path / "secret.png")
    notes = metapl.open_source(str(tmp_path / "data")).notes
    (said,) = [note for note in notes if isinstance(note, Doubt) and note.kind == "links"]
    assert "is read: 1, such as 'labelled/a/out.png'" in said
    assert main(["check", str(tmp_path / "data")]) == 0
    assert "links lead out of the folder" in capsys.readouterr().out


# ---- a full disk, a killed process -----------------------------------------------------------------------------


def a_model() -> Predictor:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    return Predictor(network, Preprocessing("image", (1, 8, 8), (0.5,), (0.3,)), ("a", "b"), torch.device("cpu"))


def test_a_full_disk_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"No space left.*weights") as error:
        files.write_tensors(tmp_path / "weights", {"x": torch.zeros(10)})
    assert error.value.errno == 28

    def closing(*words: object, **named: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", closing)
    with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
        Metrics(tmp_path).write(1, {"loss": 0.0})


def test_a_model_that_cannot_be_stored_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = a_model()
    save_model(tmp_path, made, "own", {})

    def full(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("metapl.utils.files.write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path, made, "own", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]
    again = load_model(tmp_path, network=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)))
    assert torch.equal(again.model[1].weight, made.model[1].weight)  # type: ignore[index]


def test_what_a_killed_process_wrote_aside_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = (f".results.json.{dead.pid}.tmp", f".results.json.{os.getpid()}.tmp", ".mine.tmp")
    old = [tmp_path / name for name in names]
    young = tmp_path / f".config.yaml.{dead.pid}.tmp"
    for path in (*old, young):
        path.write_text("x")
    for path in old:
        os.utime(path, (0, 0))
    with locked(tmp_path / ".lock"):
        left = {path.name for path in tmp_path.glob(".*.tmp")}
    assert left == {old[1].name, old[2].name, young.name}, "only an old one of a process that is gone"
    remove_leftovers(tmp_path / "nowhere")


@pytest.mark.fault
def test_a_killed_search_prints_nothing_stray(tmp_path: Path) -> None:
    """Its processes are fed by pipes, and end without a word where the feeder dies."""
    command = [sys.executable, "-m", "metapl", "tune", "digits", "--method", "pseudo_label", "--model", "mlp"]
    command += ["--labels", "3", "--steps", "40", "--workers", "2", "--out", str(tmp_path / "t"), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "t" / "trials.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        _, said = process.communicate(timeout=120)  # ends when the last of its processes has closed its end
    assert not [line for line in said.splitlines() if "Traceback" in line or "Error" in line]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_memory_that_runs_out_is_no_bug(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(job: Job, t: int) -> None:
        raise error

    monkeypatch.setattr(Job, "step", step)
    assert main(["train", "digits", "--labels", "3", "--steps", "1", "--out", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert "error: memory ran out. Use smaller batches" in said
    assert "bug" not in said
    assert main(["train", "digits", "batch.unlabeled=9007199254740991"]) == 2
