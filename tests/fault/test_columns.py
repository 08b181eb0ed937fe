"""Columns that were left out or kept for a wrong reason: limits among numbers, dates, NA, two columns of texts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from given import notes, opened, write

import metapl
from metapl import UserError

VALUES = [f"{value:.3f}" for value in np.random.default_rng(0).normal(size=3000)]


def table(path: Path, column: list[str], name: str = "lead") -> Path:
    lines = [f"{value},{k * 7 % 11},{'uv'[k % 2]}" for k, value in enumerate(column)]
    return write(path, "\n".join([f"{name},other,label", *lines]))


@pytest.mark.parametrize(("odd", "count"), [("<1.0", 300), (">100", 300), ("n.d.", 300), ("1.2*", 3000)])
def test_a_few_other_cells_do_not_lose_a_column_of_numbers(tmp_path: Path, odd: str, count: int) -> None:
    column = VALUES[:count]
    column[17], column[count - 1] = odd, odd
    path = table(tmp_path / "x.csv", column)
    for run in (lambda: opened(path), lambda: metapl.check(str(path))):
        with pytest.raises(
            UserError, match=rf"line 19: column 'lead' holds numbers, but 2 of its .* such as '{re.escape(odd)}'"
        ):
            run()
    assert "lead" not in [column.name for column in opened(path, ignore="lead").columns]
    assert opened(path, categorical="lead").columns[0].levels
    column[17] = column[count - 1] = ""
    assert not opened(table(tmp_path / "y.csv", column)).columns[0].levels
    if count == 300:
        column[17] = odd
        with pytest.raises(UserError, match="X: column 'lead' holds numbers, but 1 of its"):
            metapl.from_arrays(pd.DataFrame({"lead": column, "b": range(300)}), np.arange(300) % 2)


def test_texts_and_categories_stay_what_they_are(tmp_path: Path) -> None:
    few = table(tmp_path / "x.csv", [("1", "2", "3", "none")[k % 4] for k in range(300)])
    assert opened(few).columns[0].levels == ("1", "2", "3", "none")
    ids = table(tmp_path / "y.csv", [f"row {k}" for k in range(3000)])
    assert "'lead' has more than 1000 different texts" in notes(opened(ids))


DATES = ["%Y-%m-%d", "%d.%m.%y", "%m/%d/%Y", "%Y-%m-%dT%H:%M:%S", "%d %b %Y", "%Y/%m/%d %H:%M"]


@pytest.mark.parametrize("form", DATES)
@pytest.mark.parametrize("step", ["1D", "37D"])
def test_dates_are_called_dates(tmp_path: Path, form: str, step: str) -> None:
    days = [day.strftime(form) for day in pd.date_range("2020-01-01", periods=60, freq=step)]
    source = opened(table(tmp_path / "x.csv", days, "day"))
    assert "column 'day' holds dates" in notes(source)
    assert [column.name for column in source.columns] == ["other"]
    twice = opened(table(tmp_path / "y.csv", days[:30] * 2, "day"))
    assert "column 'day' holds dates" in notes(twice)


@pytest.mark.parametrize("text", ["1-2", "2024-13-45", "10.0.0.1", "2024", "1/2", "May", "12-34-5678", "1.2.3.4"])
def test_what_is_no_date(text: str) -> None:
    from metapl.data.tables.doubts import is_date

    assert not is_date(text)


def test_na_as_a_category_is_told_once_for_all_columns(tmp_path: Path) -> None:
    lines = [f"{('NA', 'brick')[k % 2]},{('NA', 'x', 'y')[k % 3]},{k % 7},{'uv'[k % 2]}" for k in range(40)]
    path = write(tmp_path / "x.csv", "\n".join(["alley,pool,n,label", *lines]))
    assert "'NA' is a category of its own in 2 columns: 'alley', 'pool'" in notes(opened(path))
    assert any(finding.kind == "marks_as_categories" for finding in metapl.check(str(path)).findings)


def test_several_columns_of_texts_are_read_as_one(tmp_path: Path) -> None:
    from metapl.inference.run_predictions import predict_to

    lines = [f"title {k},body number {k},{'uv'[k % 2]}" for k in range(20)]
    path = write(tmp_path / "x.csv", "\n".join(["title,body,label", *lines]))
    source = opened(path, text="title,body")
    one = write(tmp_path / "y.csv", "\n".join(["text,label", *(line.replace(",body", " body") for line in lines)]))
    np.testing.assert_array_equal(source.data, opened(one).data)  # type: ignore[attr-defined]
    settings = {"source.table.text": "title,body"}
    run = tmp_path / "run"
    predictor = metapl.fit(str(path), steps=4, labels=3, guard="off", options=settings, out=run).predictor
    new = write(tmp_path / "new.csv", "\n".join(["body,title", "body number 3,title 3"]))
    predict_to(run, str(new), str(tmp_path / "out.csv"), False, None)
    (line,) = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert line.endswith(f"{predictor.predict_proba(['title 3' + chr(10) + 'body number 3']).max():.6f}")


def test_two_columns_that_may_hold_texts_name_both_ways_out(tmp_path: Path) -> None:
    lines = [f"what is {k},it is {k},{'uv'[k % 2]}" for k in range(20)]
    path = write(tmp_path / "x.csv", "\n".join(["question,sentence,label", *lines]))
    with pytest.raises(UserError, match=r"To use all of them, set source\.table\.text=question,sentence"):
        opened(path)
    assert opened(path, text="question,sentence").kind == "text"
    with pytest.raises(UserError, match="there is no column 'bdy'"):
        opened(path, text="question,bdy")
