"""Damaged files through check, train and predict: refused in one line or read, never a bug, and left as they are."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from damaged import saved

from metapl.cli import main

WORDS = ["--steps", "1", "--guard", "off", "--no-report", "--quiet", "--method", "fixmatch", "--validation", "none"]
WORDS += ["batch.labeled=4", "batch.unlabeled=4"]
ODD = (
    b"\0",
    b"\xff",
    b'"',
    b"\n",
    b"\r\n",
    b",",
    b"[" * 3000,
    b"9" * 5000,
    b"{",
    b"1e999",
    b"\x1b[2J",
    b"NaN",
    b"-inf",
)
COUNTS = [18, pytest.param(500, marks=[pytest.mark.fault, pytest.mark.timeout(3600)])]


def table() -> list[tuple[float, float, str]]:
    return [(k * 7 % 11, k * 3 % 13, "uv"[k % 2] if k < 16 else "") for k in range(24)]


def csv_bytes() -> bytes:
    return ("a,b,label\n" + "".join(f"{a},{b},{y}\n" for a, b, y in table())).encode()


def jsonl_bytes() -> bytes:
    return "".join(json.dumps({"a": a, "b": b, "label": y or None}) + "\n" for a, b, y in table()).encode()


def npz_bytes() -> bytes:
    file = io.BytesIO()
    y = np.array([{"u": 0, "v": 1}.get(y, -1) for *_, y in table()])
    np.savez_compressed(file, X=np.array([row[:2] for row in table()], dtype=np.float32), y=y)
    return file.getvalue()


def parquet_bytes() -> bytes:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    a, b, y = zip(*table())
    parquet.write_table(pa.table({"a": list(map(float, a)), "b": list(map(float, b)), "label": list(y)}), file)
    return file.getvalue()


def photos(folder: Path) -> None:
    for name in ("labelled/u", "labelled/v", "unlabelled"):
        (folder / name).mkdir(parents=True)
        for k in range(4):
            (folder / name / f"{k}.png").write_bytes(saved("PNG") + bytes(k))


FILES = {"t.csv": csv_bytes, "t.tsv": csv_bytes, "t.jsonl": jsonl_bytes, "t.npz": npz_bytes, "t.parquet": parquet_bytes}


def damage(content: bytes, draw: random.Random) -> bytes:
    """Cut, flip bits, put something odd in, double a part, or leave a part out."""
    place, end = sorted(draw.randrange(len(content)) for _ in range(2))
    way = draw.randrange(5)
    if way == 0:
        return content[:place]
    if way == 1:
        bits = bytearray(content)
        for _ in range(draw.randrange(1, 9)):
            bits[draw.randrange(len(bits))] ^= 1 << draw.randrange(8)
        return bytes(bits)
    if way == 2:
        return content[:place] + draw.choice(ODD) + content[place:]
    return content[:end] + content[place:] if way == 3 else content[:place] + content[end:]


def sums(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained model for rows of the table, and one for images."""
    place = tmp_path_factory.mktemp("runs")
    (place / "t.csv").write_bytes(csv_bytes())
    photos(place / "photos")
    for name, kind in (("t.csv", "table"), ("photos", "image")):
        assert main(["train", str(place / name), *WORDS, "--out", str(place / kind)]) == 0
    return {kind: place / kind for kind in ("table", "image")}


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_inputs(count: int, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw, codes = random.Random(count), dict[str, int]()
    names = [*FILES, "photos"]
    for number in range(count):
        name, place = names[number % len(names)], tmp_path / str(number)
        place.mkdir()
        data = place / name
        if name == "photos":
            photos(data)
            for hurt in draw.sample(sorted(data.rglob("*.png")), 3):
                hurt.write_bytes(damage(hurt.read_bytes(), draw))
        else:
            data.write_bytes(damage(FILES[name](), draw))
        before, kind = sums(data), "image" if name == "photos" else "table"
        for words in (
            ["check", str(data)],
            ["train", str(data), *WORDS, "--out", str(place / "run")],
            ["predict", str(runs[kind]), str(data), "--out", str(place / "p.csv")],
        ):
            code, said = main(words), capsys.readouterr().err
            assert code in (0, 2), (number, words, said)
            assert "bug" not in said
            assert "Traceback" not in said
            # What check finds unusable stands in its report.
            assert code == 0 or words[0] == "check" or said.splitlines()[-1].startswith("error: "), (
                number,
                words,
                said,
            )
            codes[f"{words[0]} {code}"] = codes.get(f"{words[0]} {code}", 0) + 1
        assert sums(data) == before
        shutil.rmtree(place)
    print(f"{count} damaged inputs: {codes}")


RUN_FILES = ("config.yaml", "env.json", "split.json", "results.json", "metrics.jsonl", "snapshots.jsonl")
CONTENTS = (
    b"",
    b"[]",
    b"{}",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 5000,
    b"\xff\xfe\0",
    b"x: [",
    b'{"sha": 3}',
)


@pytest.mark.parametrize("name", [*RUN_FILES[:3], *(pytest.param(n, marks=pytest.mark.fault) for n in RUN_FILES[3:])])
def test_damaged_files_of_a_run(
    name: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, content in enumerate(CONTENTS):
        run = tmp_path / f"{name}-{number}"
        shutil.copytree(runs["table"], run)
        (run / name).write_bytes(content)
        for words in (
            ["predict", str(run), str(runs["table"].parent / "t.csv")],
            ["report", str(run)],
            ["resume", str(run)],
        ):
            code, said = main(words), capsys.readouterr().err
            assert code in (0, 2), (content[:20], words, said)
