"""Corrections: labels of a file laid over those of the data, and what they change in the split."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from metapl.config.settings import GuardConfig, RunConfig
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.corrections import CorrectedSource
from metapl.data.options import SourceOptions
from metapl.data.sources import open_source, read_ref
from metapl.errors import UserError
from metapl.inference.run_evaluation import judge_own, open_own
from metapl.training.loop import train
from metapl.types import Source

DIGITS = read_ref("digits")


def opened(path: Path, text: str) -> Source:
    path.write_text(text, encoding="utf-8")
    return open_source(DIGITS, SourceOptions(corrections=str(path)))


def test_rows_change_their_part_and_the_draw_does_not(tmp_path: Path) -> None:
    plain, config = open_source(DIGITS), SplitConfig(labels=10)
    before = make_split(plain, config, 0)
    pool = np.setdiff1d(before.unlabeled, before.labeled)
    added, taught, judged, dropped, tested = pool[0], before.labeled[0], before.validation[0], before.labeled[1], 0
    tested = before.test[0]
    lines = [f"{added},3", f"{taught},7", f"{judged},", f"{dropped},", f"{tested},5"]
    source = opened(tmp_path / "c.csv", "id,label,answer\n" + "".join(f"{line},x\n" for line in lines))
    assert isinstance(source, CorrectedSource)
    assert isinstance(source, Source)
    after = make_split(source, config, 0)
    assert set(after.labeled) == (set(before.labeled) | {added}) - {dropped}
    assert set(after.validation) == set(before.validation) - {judged}
    assert set(after.test) == set(before.test)
    assert {judged, dropped} <= set(after.unlabeled)
    assert source.labels[[added, taught, judged, dropped, tested]].tolist() == [3, 7, -1, -1, 5]
    assert after.sha != before.sha
    assert source.fingerprint() != plain.fingerprint()
    alone = make_split(source, SplitConfig(labels=10, include_labeled=False), 0)
    assert added not in alone.unlabeled
    assert dropped in alone.unlabeled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,label\n0,3\n99999,1\n", ["no row '99999'", "line 3"]),
        ("id,label\n0,eleven\n", ["no class 'eleven'", "line 2"]),
        ("id,label\n0,3\n0,4\n", ["two answers", "line 3"]),
        ("name,label\n0,3\n", ["no column 'id'"]),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        opened(tmp_path / "c.csv", text)
    assert all(word in str(caught.value) for word in [*words, "c.csv"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.csv"):
        open_source(DIGITS, SourceOptions(corrections=str(tmp_path / "gone.csv")))


def test_a_run_keeps_its_own_copy_and_may_be_moved(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_text("id,label\n5,5\n6,\n", encoding="utf-8")
    config = RunConfig(
        "digits",
        method="supervised",
        model="mlp",
        steps=4,
        split=SplitConfig(labels=10),
        guard=GuardConfig("off"),
        source=SourceOptions(corrections=str(file)),
    )
    result = train(config, tmp_path / "run")
    file.unlink()  # what the user does with it later changes nothing
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "run", moved)
    _, _, source, split = open_own(moved, None)
    assert split.sha == result.split.sha
    assert source.labels[[5, 6]].tolist() == [5, -1]
    assert judge_own(moved, None)[0]["rows"] == len(result.split.test)
