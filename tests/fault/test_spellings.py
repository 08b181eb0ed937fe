"""One value, written in two ways: in labels, categories, new rows and test rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from given import labels, notes, opened, write
from hypothesis import given
from hypothesis import strategies as st

import metapl
from metapl import UserError


def trained(path: Path, **settings: object) -> metapl.Predictor:
    options = {f"source.table.{name}": value for name, value in settings.items()}
    return metapl.fit(str(path), steps=4, guard="off", options=options).predictor


def jobs(values: tuple[str, ...], more: str = "") -> str:
    rows = [f"{k * 37 % 11},{values[k % len(values)]},{'uv'[k % 2]}" for k in range(24)]
    return "\n".join(["age,job,label", *rows, "3,,", "4,,", more])


@pytest.mark.parametrize("spellings", [("0", "0.0", "1", "1.0"), ("1.", "2", "1", "2.00"), ("-3", "4", "-3.0", "4")])
def test_numbers_written_in_two_ways_are_one_class(tmp_path: Path, spellings: tuple[str, ...]) -> None:
    rows = "".join(f"{k * 37 % 101},{spellings[k % 4]}\n" for k in range(40))
    source = opened(write(tmp_path / "x.csv", "x,label\n" + rows))
    assert len(source.class_names) == 2
    assert "different spellings of one value are merged" in notes(source)


def test_texts_that_look_alike_are_still_refused_and_the_advice_works(tmp_path: Path) -> None:
    rows = "".join(f"{k * 37 % 101},{('cat', 'dog', 'Cat')[k % 3]}\n" for k in range(40))
    path = write(tmp_path / "x.csv", "x,label\n" + rows)
    with pytest.raises(UserError, match=r"differ only by case.*source\.label_map=Cat:cat"):
        opened(path)
    assert opened(path, label_map="Cat:cat").class_names == ("cat", "dog")


def test_test_labels_are_found_however_they_are_written(tmp_path: Path) -> None:
    write(tmp_path / "d" / "labelled.csv", "x,label\n" + "".join(f"{k * 37 % 101},{k % 2}\n" for k in range(20)))
    write(tmp_path / "d" / "test.csv", "x,label\n5,0.0\n7, 1\n9,'1'\n")
    source = opened(tmp_path / "d")
    assert (source.class_names, labels(source)[20:]) == (("0", "1"), ["0", "1", "1"])


def test_a_test_label_with_a_full_stop_names_the_mapping_and_the_mapping_works(tmp_path: Path) -> None:
    rows = "".join(f"{k * 37 % 101},{('<=50K', '>50K')[k % 2]}\n" for k in range(20))
    write(tmp_path / "d" / "labelled.csv", "x,label\n" + rows)
    write(tmp_path / "d" / "test.csv", "x,label\n5,<=50K.\n7,>50K.\n")
    with pytest.raises(UserError, match=r"'<=50K\.' is not among.*source\.label_map=<=50K\.:<=50K"):
        opened(tmp_path / "d")
    source = opened(tmp_path / "d", label_map="<=50K.:<=50K,>50K.:>50K")
    assert labels(source)[20:] == ["<=50K", ">50K"]


@pytest.mark.parametrize("bad", ["cat", ":dog", "a:b,c", "a:b,a:c"])
def test_mappings_that_are_none_say_how_to_write_them(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UserError, match=r"^source\.label_map: .*\. .+"):
        opened(write(tmp_path / "x.csv", "x,label\n1,a\n4,b\n"), label_map=bad)


def test_a_mapping_to_nothing_takes_the_label_away(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "x,label\n" + "".join(f"{k * 37 % 11},{'abc'[k % 3]}\n" for k in range(9)))
    source = opened(path, label_map='"c":,b:B')
    assert (source.class_names, labels(source)[:3]) == (("B", "a"), ["a", "B", None])


@pytest.mark.parametrize(
    ("training", "new"),
    [
        (("1", "2"), ("1.0", "2.0")),
        (("1.0", "2.0"), ("1", "2")),
        (("Private", "State"), (" Private", "State ")),
        ((" Private", " State"), ("Private", "State")),
        (("Private", "State"), ("'Private'", "'State'")),
        (("True", "False"), ("1", "FALSE")),
        (("caf\u00e9", "bar"), ("cafe\u0301", "bar")),
    ],
)
def test_categories_are_matched_in_new_rows(tmp_path: Path, training: tuple[str, ...], new: tuple[str, ...]) -> None:
    path = write(tmp_path / "x.csv", jobs(training))
    predictor = trained(path, categorical="job", features="age,job")
    same = write(tmp_path / "same.csv", f"age,job\n3,{training[0]}\n4,{training[1]}\n")
    other = write(tmp_path / "other.csv", f"age,job\n3,{new[0]}\n4,{new[1]}\n")
    a, b = (next(metapl.predict_source(predictor, str(p))).probabilities for p in (same, other))
    assert a.equal(b)
    frame = pd.DataFrame({"age": [3.0, 4.0], "job": list(new)})
    np.testing.assert_array_equal(predictor.predict_proba(frame), a.numpy())


def test_two_spellings_in_training_are_one_category(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "x.csv", jobs(("Private", " Private", "State", "State"))))
    assert source.columns[1].levels == ("Private", "State")
    assert "column 'job': different spellings of one value are merged: ' Private' as 'Private'" in notes(source)


def test_a_file_of_unknown_categories_is_told_loudly_and_first(tmp_path: Path) -> None:
    from metapl.data.sources import open_source, read_ref

    predictor = trained(write(tmp_path / "x.csv", jobs(("cook", "baker"))))
    path = write(tmp_path / "new.csv", "age,job\n" + "3,smith\n" * 391)
    rows = open_source(read_ref(str(path)), like=predictor.input())
    wanted = (
        "column 'job': all 391 rows hold categories that training did not hold, so the column counts as missing "
        "(here 'smith', in training"
    )
    assert any(note.startswith(wanted) for note in rows.notes)


@given(
    st.integers(-(10**9), 10**9), st.sampled_from(["", " ", "\t"]), st.sampled_from(["", "'", '"']), st.integers(0, 3)
)
def test_the_same_value_is_found_however_it_is_written(number: int, blank: str, quote: str, zeros: int) -> None:
    from metapl.data.tables.spelling import Spellings, plain

    written = f"{blank}{quote}{number}{'.' if zeros else ''}{'0' * zeros}{quote}{blank}"
    assert plain(written) == str(number)
    assert Spellings([str(number), str(number + 1)]).find(written) == 0
