"""A pool is labelled part by part: a killed run goes on, no row is lost or doubled, other engines write the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metapl.cli import main
from metapl.inference import label_pool as pools
from metapl.inference.label_pool import label_pool
from metapl.utils.files import write_json

parquet = pytest.importorskip("pyarrow.parquet")
ROWS, PART = 450, 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and its pool as CSV, JSON Lines and Parquet, with bad rows in the text files."""
    import pyarrow as pa

    folder, draw = tmp_path_factory.mktemp("pool"), np.random.default_rng(1)
    rows = [{"id": f"r{k}", "x": round(float(draw.normal()), 4), "kind": "ab"[k % 2]} for k in range(ROWS)]
    lines = [f"{row['id']},{row['x']},{row['kind']}" for row in rows]
    trained = [f"{line},{'yes' if row['x'] > 0 else 'no'}" for line, row in zip(lines[:60], rows)]
    (folder / "train.csv").write_text("id,x,kind,label\n" + "\n".join(trained) + "\n")
    (folder / "pool.csv").write_text(
        "id,x,kind\n" + "\n".join([*lines[:120], "broken", "q,ten,a", *lines[120:]]) + "\n"
    )
    (folder / "pool.jsonl").write_text("".join(json.dumps({**row, "tags": [1, 2]}) + "\n" for row in rows) + "{\n")
    parquet.write_table(pa.Table.from_pylist(rows), folder / "pool.parquet")
    words = ["train", str(folder / "train.csv"), "--labels", "10", "--steps", "5", "--quiet", "--no-report"]
    assert main([*words, "guard.mode=off", "mpl.finetune_steps=0", "--out", str(folder / "run")]) == 0
    return folder


def label(folder: Path, pool: str, out: Path, **more: Any) -> dict[str, Any]:
    return label_pool(folder / "run", str(folder / pool), out, rows=PART, **more)


def answers(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("part-*.parquet")) for row in parquet.read_table(path).to_pylist()]


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if not path.name.startswith(".lock")}


def test_every_form_of_a_pool_gives_the_same_answers(folder: Path, tmp_path: Path) -> None:
    counts = {form: label(folder, f"pool.{form}", tmp_path / form) for form in ("csv", "jsonl", "parquet")}
    assert {form: (count["rows"], count["problems"]) for form, count in counts.items()} == {
        "csv": (ROWS, 2),
        "jsonl": (ROWS, 1),
        "parquet": (ROWS, 0),
    }
    by_form = {form: {row["id"]: row for row in answers(tmp_path / form)} for form in counts}
    assert sorted(by_form["csv"]) == sorted(f"r{k}" for k in range(ROWS))
    for form in ("jsonl", "parquet"):
        assert by_form[form].keys() == by_form["csv"].keys()
        assert all(row["label"] == by_form["csv"][name]["label"] for name, row in by_form[form].items())
        gap = max(abs(row["confidence"] - by_form["csv"][name]["confidence"]) for name, row in by_form[form].items())
        assert gap < 1e-5
    listed = (tmp_path / "csv" / "problems.csv").read_text()
    assert "pool.csv, line 122" in listed
    assert "is not a number" in listed


class Killed(Exception):
    pass


def test_a_run_that_ended_early_goes_on(folder: Path, tmp_path: Path) -> None:
    label(folder, "pool.csv", tmp_path / "whole")

    def two_parts(job: Any, parts: Any) -> Any:
        for done, part in enumerate(parts):
            if done == 2:
                raise Killed
            yield job(part)

    out = tmp_path / "cut"
    with pytest.raises(Killed):
        label(folder, "pool.csv", out, engine=two_parts)
    first = (out / "part-00001.parquet").stat().st_mtime_ns
    (out / "part-00000.parquet").write_bytes(b"damaged")
    label(folder, "pool.csv", out)
    assert (out / "part-00001.parquet").stat().st_mtime_ns == first
    assert files(out) == files(tmp_path / "whole")


def test_labels_of_others_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    label(folder, "pool.csv", tmp_path / "out")
    words = ["label", str(folder / "run"), str(folder / "pool.parquet"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert main([*words[:-1], str(tmp_path / "mine")]) == 2
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]
    facts = json.loads((tmp_path / "out" / "part-00002.json").read_text())
    facts |= {"digest": "of other rows"}
    del facts["seal"]
    write_json(tmp_path / "out" / "part-00002.json", {**facts, "seal": pools.seal(facts)})
    with pytest.raises(pools.UserError, match="the pool has changed"):
        label(folder, "pool.csv", tmp_path / "out")


@pytest.mark.fault
def test_kills_at_any_time(folder: Path, tmp_path: Path) -> None:
    label(folder, "pool.csv", tmp_path / "whole")
    code = "from pathlib import Path; from metapl.inference.label_pool import label_pool; import sys; "
    code += f"label_pool(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), rows={PART})"
    out = tmp_path / "cut"
    for part in (0, 1, 1, 3):
        words = [str(folder / "run"), str(folder / "pool.csv"), str(out)]
        process = subprocess.Popen([sys.executable, "-c", code, *words])
        while process.poll() is None and not (out / f"part-{part:05d}.parquet").exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    label(folder, "pool.csv", out)
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.fault
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_writes_the_same_files(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from metapl.inference.ray_engine import ray_engine

    label(folder, "pool.csv", tmp_path / "here")
    label(folder, "pool.csv", tmp_path / "ray", engine=ray_engine())
    assert files(tmp_path / "ray") == files(tmp_path / "here")
