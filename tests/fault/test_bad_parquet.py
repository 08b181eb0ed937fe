"""Damaged Parquet files: one line that names the file, whatever is broken in it."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from metapl import open_source
from metapl.data.tables.readers.parquet import ParquetFile
from metapl.errors import UserError


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    table = pa.table({"image": [bytes([k]) * 200 for k in range(50)], "label": ["a", "b"] * 25})
    pq.write_table(table, tmp_path / "whole.parquet", compression="snappy")
    return (tmp_path / "whole.parquet").read_bytes()


def read(path: Path) -> None:
    ParquetFile(path).read({"image": "auto", "label": "text"})


def test_truncated_and_foreign_files(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.parquet"
    cuts = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 40))]
    for content in [*cuts, whole[:-1], whole[1:], b"label,text\na,b\n", b"PAR1" + bytes(60) + b"PAR1"]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.parquet: the file is damaged, or not a Parquet file") as error:
            read(path)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content


def test_zeroed_pages_are_told_or_read(tmp_path: Path, whole: bytes) -> None:
    """Damage inside a page is found by the decoder, or lies in bytes that no value depends on."""
    path, refused = tmp_path / "a.parquet", list[str]()
    for start in range(4, len(whole) - 700, 16):
        path.write_bytes(whole[:start] + bytes(16) + whole[start + 16 :])
        try:
            read(path)
        except UserError as error:
            refused.append(error.where)
    assert set(refused) == {"a.parquet"}


CHANGED = """
import random, sys
from pathlib import Path
from metapl.data.tables.readers.parquet import ParquetFile
from metapl.errors import UserError

path, draw, told = Path(sys.argv[1]), random.Random(1), 0
whole = path.read_bytes()
for _ in range(200):
    changed = bytearray(whole)
    for _ in range(draw.choice([1, 2, 8])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    path.write_bytes(bytes(changed))
    try:
        ParquetFile(path).read({"image": "auto", "label": "text"})
    except UserError:
        told += 1
print(told)
"""


def test_changed_bytes_never_end_the_process(tmp_path: Path, whole: bytes) -> None:
    """In a process of its own: some damage makes pyarrow abort where it is asked for the sizes of columns."""
    path = tmp_path / "a.parquet"
    path.write_bytes(whole)
    done = subprocess.run([sys.executable, "-c", CHANGED, str(path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert 20 < int(done.stdout) < 200


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        ParquetFile(tmp_path / "none.parquet")
    with pytest.raises(UserError):
        ParquetFile(tmp_path)


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((30, 40), shade).save(file, format="PNG")
    return file.getvalue()


PICTURES = [picture(20 + 10 * k) for k in range(8)]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([base64.b64encode(p).decode() for p in PICTURES], r"row 0: the path is a text of .*Store the image's bytes"),
        (
            ["data:image/png;base64," + base64.b64encode(p).decode()[:90] for p in PICTURES],
            r"row 0: .*'data:image/png.*looks like base64",
        ),
        ([list(p[:40]) for p in PICTURES], "holds list<.*Store the bytes of PNG or JPEG files there"),
        ([bytes(1200)] * 8, "8 of 8 images cannot be read, the first is 0: not an image in a known format"),
        ([{"bytes": None, "path": f"{k}.png"} for k in range(8)], r"looked for '.*0\.png'"),
    ],
)
def test_images_in_other_forms(tmp_path: Path, images: list[Any], words: str) -> None:
    pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 4}), tmp_path / "odd.parquet")
    with pytest.raises(UserError, match=words) as error:
        open_source(str(tmp_path / "odd.parquet"))
    assert len(str(error.value)) < 400


def test_names_of_columns_that_published_files_have(tmp_path: Path) -> None:
    table = pa.table({"img": PICTURES, "label": [0, 1] * 4})
    pq.write_table(table, tmp_path / "cifar.parquet")
    source = open_source(str(tmp_path / "cifar.parquet"))
    assert source.rows(np.arange(2)).shape == (2, 1, 40, 30)
    pq.write_table(table.rename_columns(["img", "fine"]), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"'img', 'fine'.*Set source\.table\.label=NAME\.$"):
        open_source(str(tmp_path / "other.parquet"))
