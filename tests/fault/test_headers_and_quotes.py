"""The first line of a file, columns without a name, and quotes that mean nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from given import notes, opened, write

import metapl
from metapl import UserError
from metapl.data.sources import SourceOptions

ADULT = ["39, State-gov, 77516, Bachelors, <=50K"] + [
    f"{20 + k * 7 % 50}, {('Private', 'State-gov')[k % 2]}, {k * 977 % 9973}, {('HS', 'Bachelors')[k % 3 % 2]}, "
    f"{('<=50K', '>50K')[k % 2]}"
    for k in range(40)
]
NUMBERS = [f"{k * 7 % 11}.00,{k * 3 % 13}.00,0.00,{'ab'[k % 2]}" for k in range(1, 30)]
TEXTS = [f"sentence number {k},{('good', 'bad')[k % 2]}" for k in range(30)]
WHOLE = [f"{k * 37 % 101},{k * 91 % 1009},{k * 3 % 7},{k % 2}" for k in range(5, 40)]


@pytest.mark.parametrize("rows", [ADULT, NUMBERS, TEXTS, WHOLE], ids=["words", "decimals", "texts", "whole numbers"])
def test_a_file_without_a_header_is_named_and_the_advice_works(tmp_path: Path, rows: list[str]) -> None:
    path = write(tmp_path / "x.csv", "\n".join(rows))
    label = str(rows[0].count(",") + 1)
    for settings in ({}, {"label": label}):
        with pytest.raises(UserError, match=r"line 1: the first line looks like a row.*source\.table\.header=none"):
            opened(path, **settings)
    source = opened(path, header="none", label=label, **({"text": "1"} if rows is TEXTS else {}))
    assert (len(source.ids), len(source.class_names)) == (len(rows), 2)
    assert source.ids[0] == "1"


@pytest.mark.parametrize(
    "header", ["name,2019,2020,label", "0,1,2,label", "a,b,c,label", "size,10,20,label", "class,b,2020,x"]
)
def test_headers_are_taken_for_headers(tmp_path: Path, header: str) -> None:
    rows = "\n".join(f"{'xy'[k % 2]},{k * 37 % 101},{k * 91 % 1009},{'uv'[k % 2]}" for k in range(20))
    source = opened(write(tmp_path / "x.csv", f"{header}\n{rows}\n"))
    assert len(source.ids) == 20


def test_header_first_is_an_answer_too(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.csv", "yes,age,label\n" + "".join(f"yes,{k * 7 % 11},{'uv'[k % 2]}\n" for k in range(20))
    )
    assert [column.name for column in opened(path, header="first").columns] == ["yes", "age"]


def test_new_rows_are_read_as_the_training_was(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "\n".join(ADULT))
    options = {"source.table.header": "none", "source.table.label": "5"}
    predictor = metapl.fit(str(path), steps=4, labels=3, guard="off", options=options).predictor
    rows = [line.rpartition(",")[0] for line in ADULT]
    new = write(tmp_path / "new.csv", "\n".join(rows))
    (chunk,) = metapl.predict_source(predictor, str(new))
    assert len(chunk.ids) == len(ADULT)


def test_trailing_columns_without_a_name_are_dropped_with_a_note(tmp_path: Path) -> None:
    rows = "".join(f"{k * 7 % 11},{k * 3 % 13},{'uv'[k % 2]},,\n" for k in range(20))
    source = opened(write(tmp_path / "x.csv", "a,b,label,,\n" + rows))
    assert [column.name for column in source.columns] == ["a", "b"]
    assert "x.csv: 2 empty columns without a name at the end dropped" in source.notes
    short = opened(write(tmp_path / "y.csv", "a,b,label,\n" + rows.replace(",,\n", "\n")))
    assert [column.name for column in short.columns] == ["a", "b"]


def test_other_columns_without_a_name_may_be_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a,,label\n" + "".join(f"{k * 7 % 11},z,{'uv'[k % 2]}\n" for k in range(20)))
    with pytest.raises(
        UserError, match=r"column 2 has no name\. Name it .* set source\.table\.ignore=unnamed_2"
    ) as error:
        opened(path)
    assert "pandas" not in str(error.value)
    assert [column.name for column in opened(path, ignore="unnamed_2").columns] == ["a"]


@pytest.mark.parametrize("first", ['"",', ","])
def test_row_names_of_pandas_and_r_are_not_used(tmp_path: Path, first: str) -> None:
    rows = "".join(f"{900 - k * 7},{k * 7 % 11},{'uv'[k % 2]}\n" for k in range(20))
    source = opened(write(tmp_path / "x.csv", f"{first}a,label\n{rows}"))
    assert [column.name for column in source.columns] == ["a"]
    assert "the first column has no name and is not used (pandas and R write the names of rows so)" in notes(source)


def test_r_writes_one_field_more_than_the_header_has(tmp_path: Path) -> None:
    rows = "".join(f"row{k}\t{k * 7 % 11}\t{'uv'[k % 2]}\n" for k in range(20))
    source = opened(write(tmp_path / "x.tsv", "a\tlabel\n" + rows))
    assert source.data[:3, 0].tolist() == [0, 7, 3]  # type: ignore[attr-defined]
    assert "R writes the names of rows so" in notes(source)


def test_a_field_more_in_each_row_is_no_row_name_where_it_repeats(tmp_path: Path) -> None:
    rows = "".join(f"{k % 5},{k * 7 % 11},1,{'uv'[k % 2]}\n" for k in range(20))
    with pytest.raises(UserError, match="the row has 4 fields where the header has 3"):
        opened(write(tmp_path / "x.csv", "a,b,label\n" + rows))
    ends = "".join(f"{k % 5},{k * 7 % 11},{'uv'[k % 2]},\n" for k in range(20))
    source = opened(write(tmp_path / "y.csv", "a,b,label\n" + ends))
    assert source.data[:2].tolist() == [[0, 0], [1, 7]]  # type: ignore[attr-defined]


QUOTE = '"'
SENTENCES = [
    f"{QUOTE * (k % 4 == 0)}sentence {k} is {('poor', 'fine')[k % 2]}{QUOTE * (k % 7 == 0)}\t{'uv'[k % 2]}"
    for k in range(1000)
]


@pytest.mark.parametrize("skip", [False, True])
def test_quotes_that_mean_nothing_lose_no_line(tmp_path: Path, skip: bool) -> None:
    path = write(tmp_path / "x.tsv", "text\tlabel\n" + "\n".join(SENTENCES))
    with pytest.raises(UserError, match=r"x\.tsv, lines? \d+.*source\.table\.quotes=none"):
        opened(path, skip_bad_rows=skip)
    source = opened(path, quotes="none", skip_bad_rows=skip)
    assert len(source.ids) == 1000
    assert not source.problems


@pytest.mark.parametrize(
    "lines",
    [
        ['"He said,1,2,u', 'she said",3,4,v', "they said,5,6,u"],
        ['a,"1,2,u', "b,3,4,v", 'c",5,6,u'],
    ],
)
def test_a_row_that_swallowed_lines_is_never_skipped(tmp_path: Path, lines: list[str]) -> None:
    path = write(tmp_path / "x.csv", "\n".join(["name,a,b,label", *lines, *("d,7,8,v" for _ in range(9))]))
    with pytest.raises(UserError, match=r"lines 2 to .*source\.table\.quotes=none"):
        opened(path, skip_bad_rows=True)
    assert len(opened(path, quotes="none").ids) == 12


def test_texts_of_several_lines_are_read_as_before(tmp_path: Path) -> None:
    rows = "".join(f'"first {k}, and\nsecond, third\n",{"uv"[k % 2]}\n' for k in range(20))
    source = opened(write(tmp_path / "x.csv", "text,label\n" + rows))
    assert len(source.ids) == 20
    assert "x.csv: 20 rows of several lines" in notes(source)


def test_check_finds_swallowed_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", "text\tlabel\n" + "\n".join(SENTENCES))
    with pytest.raises(UserError, match=r"source\.table\.quotes=none"):
        metapl.check(str(path))


def test_predictions_do_not_offer_settings(tmp_path: Path) -> None:
    rows = "\n".join(f"{k * 7 % 11},{k * 3 % 13},{'uv'[k % 2]}" for k in range(20))
    predictor = metapl.fit(
        str(write(tmp_path / "x.csv", f"a,b,label\n{rows}")), steps=4, labels=3, guard="off"
    ).predictor
    new = write(tmp_path / "new.csv", "\n".join(f"{k * 7 % 11}.5,{k * 3 % 13}.5" for k in range(20)))
    with pytest.raises(UserError, match="the first line looks like a row") as error:
        list(metapl.predict_source(predictor, str(new)))
    assert "source." not in str(error.value)
    assert np.isfinite(predictor.predict_proba(np.zeros((1, 2)))).all()


SHORT = [
    "text,label",
    '"He said so,u',
    "and she did,v",
    'they agreed",u',
    *(f"plain {k},{'uv'[k % 2]}" for k in range(40)),
]
IN_FRONT = [
    "label,text",
    'u,"He said so',
    "v,and she did",
    'u,they agreed"',
    *(f"{'uv'[k % 2]},plain {k}" for k in range(40)),
]
NUMBERED = ["7,3,u", '"8,5,u', "9,6,v", '4",7,u', *(f"{k * 7 % 11},{k * 3 % 13},{'uv'[k % 2]}" for k in range(40))]


@pytest.mark.parametrize(
    "lines", [SHORT, IN_FRONT, ["a,b,label", *NUMBERED]], ids=["two columns", "label first", "three"]
)
@pytest.mark.parametrize("skip", [False, True])
def test_swallowed_lines_of_few_columns_are_an_error_in_check_and_train(
    tmp_path: Path, lines: list[str], skip: bool
) -> None:
    """Lines of prose may hold a comma too: here they also hold a known label, each at its place."""
    path = write(tmp_path / "x.csv", "\n".join(lines))
    options = SourceOptions(skip_bad_rows=skip)
    for read in (lambda: opened(path, skip_bad_rows=skip), lambda: metapl.check(str(path), options=options)):
        with pytest.raises(UserError, match=r"makes one row of 3 lines.*source\.table\.quotes=none"):
            read()
    more = {} if "text" in lines[0] else {"categorical": "a"}
    assert len(opened(path, quotes="none", skip_bad_rows=skip, **more).ids) == len(lines) - 1


def test_quoted_prose_of_several_lines_is_a_text(tmp_path: Path) -> None:
    rows = "".join(f'"first {k}, and\nsecond, third\nlast, u or v",{"uv"[k % 2]}\n' for k in range(20))
    rows += "".join(f"plain {k},{'uv'[k % 2]}\n" for k in range(20))
    assert len(opened(write(tmp_path / "x.csv", "text,label\n" + rows)).ids) == 40


# -- without a header, columns go by their place

PLAIN = [f"{k * 7 % 11},{k * 3 % 13},{k * 5 % 17},{'uv'[k % 2]}" for k in range(40)]


def shortened(*dropped: int) -> str:
    return "\n".join(",".join(c for k, c in enumerate(line.split(",")) if k not in dropped) for line in PLAIN)


def test_a_new_file_without_a_middle_column_is_refused(tmp_path: Path) -> None:
    data, out = write(tmp_path / "x.csv", "\n".join(PLAIN)), tmp_path / "run"
    settings = ["source.table.header=none", "source.table.label=4", "steps=2", "split.labels=3", "guard.mode=off"]
    metapl.train(metapl.make_config(str(data), overrides=settings), out)
    from metapl.inference.run_evaluation import judge_other
    from metapl.inference.run_predictions import predict_to

    for k, dropped in enumerate([(1,), (0,), (1, 3), (2, 3)]):
        new = write(tmp_path / f"new{k}.csv", shortened(*dropped))
        with pytest.raises(UserError, match="columns go by their position: write all") as error:
            list(metapl.predict_source(metapl.load_model(out), str(new)))
        assert "source." not in str(error.value)
        with pytest.raises(UserError, match="columns go by their position: write all"):
            predict_to(out, str(new), str(tmp_path / "out.csv"), False, None)
    for k, dropped in enumerate([(), (3,)]):  # the label, the last of them, may be left out
        new = write(tmp_path / f"good{k}.csv", shortened(*dropped))
        assert predict_to(out, str(new), str(tmp_path / f"out{k}.csv"), False, None)[0] == 40
    with pytest.raises(UserError, match="columns go by their position: write all"):
        judge_other(out, str(tmp_path / "good1.csv"), None)


def test_unlabelled_and_test_files_without_a_header_have_all_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "\n".join(PLAIN))
    write(tmp_path / "u.csv", shortened(3))
    write(tmp_path / "short.csv", shortened(1))
    settings = {"header": "none", "label": "4"}
    assert len(opened(path, unlabeled=str(tmp_path / "u.csv"), **settings).ids) == 80
    for part in ({"unlabeled": str(tmp_path / "short.csv")}, {"test": str(tmp_path / "u.csv")}):
        with pytest.raises(UserError, match="its rows have 3 fields, those of the training have 4"):
            opened(path, **settings, **part)
