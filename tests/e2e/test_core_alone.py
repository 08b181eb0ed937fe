"""The core runs where none of the extras' packages is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXTRAS = ("pandas", "pyarrow", "torchvision", "timm", "transformers", "datasets", "optuna")
CODE = """
import sys
for name in {extras!r}:
    sys.modules[name] = None  # what an import of a missing package comes to

import numpy as np
import metapl
from metapl.cli import main

quick = ["--steps", "4", "batch.labeled=8", "batch.unlabeled=16", "--guard", "off", "--quiet"]
assert main(["train", "digits", "--labels", "5", "--method", "fixmatch", "--out", "run", *quick]) == 0
assert main(["evaluate", "run"]) == 0
assert main(["predict", "run", "digits", "--out", "labels.csv"]) == 0
np.savez("set.npz", X=np.eye(40, 3), y=np.arange(40) % 2)
assert main(["train", "set.npz", "--labels", "5", "--method", "mpl", "--out", "run2", *quick]) == 0
source = metapl.from_arrays({{"a": [1, None, 3, 4], "b": list("xyxy")}}, ["u", "v", "u", None])
assert source.columns[1].levels == ("x", "y")
assert metapl.from_arrays(["some text", "more"], [0, 1]).kind == "text"
assert not [name for name in {extras!r} if sys.modules[name] is not None]
for data in ("torchvision:MNIST", "hf:imdb", "rows.parquet"):
    assert main(["train", data]) == 2
"""


def test_train_evaluate_and_predict_without_any_extra(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    code = CODE.format(extras=EXTRAS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for extra in ("vision", "hf", "parquet"):
        assert f"pip install 'metapl[{extra}]'" in done.stderr
