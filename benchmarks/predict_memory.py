"""How much memory ``predict`` takes for 1,000 to 100,000 rows of a table (CSV, JSON Lines, Parquet), texts and images.

    python benchmarks/predict_memory.py > memory.json

Each number is the largest resident size of a process of its own that loads a small model and labels a file or folder,
in MB. Constant memory means that the last column is hardly larger than the first.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from metapl.models import build_model
from metapl.runs.model_folder import Predictor, save_model
from metapl.types import Column, Preprocessing, Tokens

COLUMNS = 20
COLOURS = ("blue", "green", "red")


def save(folder: Path, preprocessing: Preprocessing, network: str) -> None:
    """Store a model with weights drawn at random: memory does not depend on what it has learnt."""
    torch.manual_seed(0)
    model = build_model(network, preprocessing.input_shape, 3, preprocessing.tokens)
    predictor = Predictor(model, preprocessing, ("a", "b", "c"), torch.device("cpu"))
    save_model(folder, predictor, network, {})


def table(root: Path, count: int) -> Path:
    columns = (*(Column(f"x{k}") for k in range(COLUMNS)), Column("colour", COLOURS))
    size = len(columns)
    save(root / "model", Preprocessing("table", (size,), (0.0,) * size, (1.0,) * size, columns), "mlp")
    draw, path = np.random.default_rng(0), root / "rows.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("id," + ",".join(column.name for column in columns) + "\n")
        for k in range(count):
            values = ",".join(f"{v:.6f}" for v in draw.normal(size=COLUMNS))
            file.write(f"row-{k},{values},{COLOURS[k % 3]}\n")
    return path


def jsonl(root: Path, count: int) -> Path:
    path = table(root, count).with_suffix(".jsonl")
    with open(root / "rows.csv", encoding="utf-8") as rows, open(path, "w", encoding="utf-8") as file:
        for row in csv.DictReader(rows):
            file.write(json.dumps({k: v if k in ("id", "colour") else float(v) for k, v in row.items()}) + "\n")
    return path


def parquet(root: Path, count: int) -> Path:
    from pyarrow import csv as arrow
    from pyarrow import parquet as files

    files.write_table(arrow.read_csv(table(root, count)), root / "rows.parquet")
    return root / "rows.parquet"


def texts(root: Path, count: int) -> Path:
    tokens = Tokens("words", 64)
    save(root / "model", Preprocessing("text", (64,), (), (), tokens=tokens), "ngram")
    draw, path = np.random.default_rng(0), root / "rows.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("id,text\n")
        for k in range(count):
            file.write(f"row-{k},{' '.join(f'word{w}' for w in draw.integers(0, 5000, 40))}\n")
    return path


def images(root: Path, count: int) -> Path:
    save(root / "model", Preprocessing("image", (3, 32, 32), (0.5,) * 3, (0.25,) * 3, resized=True), "small_cnn")
    draw = np.random.default_rng(0)
    for start in range(0, count, 1000):
        folder = root / "photos" / f"{start:06}"
        folder.mkdir(parents=True)
        for k in range(start, min(count, start + 1000)):
            Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{k:06}.jpg")
    return root / "photos"


KINDS = {"table": table, "jsonl": jsonl, "parquet": parquet, "texts": texts, "images": images}


def measure(model: str, rows: str) -> int:
    """Label the rows and return the largest resident size of this process, in bytes."""
    import metapl

    predictor, count = metapl.load_model(model), 0
    for chunk in metapl.predict_source(predictor, rows):
        count += len(chunk.ids)
    assert count
    # Not ru_maxrss: a child's begins with the size that its parent had.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=[*KINDS])
    parser.add_argument("--counts", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(measure(*asked.measure))
        return
    found: dict[str, dict[int, float]] = {}
    for kind in asked.kinds:
        for count in asked.counts:
            with tempfile.TemporaryDirectory() as place:
                rows = KINDS[kind](Path(place), count)
                words = [sys.executable, __file__, "--measure", str(Path(place, "model")), str(rows)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
            found.setdefault(kind, {})[count] = round(int(done.stdout) / 1e6)
            print(kind, count, found[kind][count], "MB", file=sys.stderr, flush=True)
    print(json.dumps({"unit": "MB", "peak": found}, indent=2))


if __name__ == "__main__":
    main()
