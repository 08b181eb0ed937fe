"""Columns that name or number the rows, told from quantities; the same from files and from memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metapl import SemiSupervisedClassifier, open_source
from metapl.api.estimator_inputs import numbered
from metapl.data.memory.arrays import from_arrays
from metapl.data.tables.id_columns import named_id, numbers_rows
from metapl.errors import UserError
from metapl.types import Source

pytestmark = pytest.mark.filterwarnings("ignore:every row of y has a label:UserWarning")

DRAW = np.random.default_rng(0)
OUT, TOLD, KEPT = "is left out", "to leave it out", ""
COLUMNS = {
    "counts": ("n", np.arange(80.0), OUT),
    "counts from 1000": ("n", 1000 + np.arange(80.0), OUT),
    "counts with gaps": ("n", np.sort(DRAW.permutation(120)[:80]), OUT),
    "counts, shuffled": ("n", DRAW.permutation(100)[:80], OUT),
    "counts long numbers": ("n", 1_000_000_000 + np.arange(1000.0), OUT),
    "grows with wide gaps": ("n", np.cumsum(DRAW.integers(1, 50, 80)), TOLD),
    "differs, and is called an id": ("Kunden-Nr", DRAW.permutation(5000)[:80], OUT),
    "repeats, and is called an id": ("region_id", DRAW.integers(0, 5, 80), TOLD),
    "an income": ("income", DRAW.permutation(90_000)[:80] + 10_000, KEPT),
    "an age": ("age", DRAW.integers(18, 90, 80), KEPT),
    "a length": ("length", np.arange(80) / 10, KEPT),
    "years": ("year", np.repeat(np.arange(1980, 2000), 4), KEPT),
    "one value": ("n", np.full(80, 4.0), KEPT),
    "few rows": ("n", np.arange(9.0), KEPT),
    "numbers with gaps in them": ("n", np.where(np.arange(80) % 9, np.arange(80.0), np.nan), KEPT),
}


def csv_file(folder: Path, frame: pd.DataFrame) -> Source:
    frame.to_csv(folder / "x.csv", index=False)
    return open_source(str(folder / "x.csv"))


def parquet(folder: Path, frame: pd.DataFrame) -> Source:
    frame.to_parquet(folder / "x.parquet")
    return open_source(str(folder / "x.parquet"))


def memory(folder: Path, frame: pd.DataFrame) -> Source:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return from_arrays(frame.drop(columns="label"), frame["label"])


def nullable(folder: Path, frame: pd.DataFrame) -> Source:
    """pandas' types with gaps; the estimator tells by itself whether rows are known by name."""
    frame = frame.assign(gap=np.where(np.arange(len(frame)) % 4, 0.5, np.nan)).convert_dtypes()
    source = memory(folder, frame)
    assert numbered([frame.drop(columns="label")]) == any(OUT in note for note in source.notes)
    return memory(folder, frame.drop(columns="gap"))


@pytest.mark.parametrize("opener", [csv_file, parquet, memory, nullable])
@pytest.mark.parametrize("case", COLUMNS)
def test_the_same_from_everywhere(tmp_path: Path, case: str, opener: Callable[[Path, pd.DataFrame], Source]) -> None:
    name, values, wanted = COLUMNS[case]
    labels = np.where(np.arange(len(values)) % 2, "u", "v")
    source = opener(tmp_path, pd.DataFrame({name: values, "a": np.arange(len(values)) % 7, "label": labels}))
    assert [column.name for column in source.columns] == (["a"] if wanted == OUT else [name, "a"])
    notes = [note for note in source.notes if note.startswith(f"column '{name}'")]
    assert len(notes) == bool(wanted)
    assert not wanted or wanted in notes[0]


def test_rows_numbered_anew_in_each_file(tmp_path: Path) -> None:
    numbers, short = np.arange(80.0), np.arange(20.0)
    assert numbers_rows("n", [numbers, numbers]) == ("only counts the rows", True)
    assert numbers_rows("n", [short * 7, numbers * 3]) == ("has another whole number in every row, in order", False)
    assert numbers_rows("n", [numbers, numbers % 7]) == ("", False)
    folder = tmp_path / "x"
    folder.mkdir()
    for name, count in (("labelled", 60), ("unlabelled", 90)):
        pd.DataFrame({"n": range(count), "a": 1.5, "label": ["u", "v"] * (count // 2)}).to_csv(
            folder / f"{name}.csv", index=False
        )
    assert [column.name for column in open_source(str(folder)).columns] == ["a"]


def test_warned_where_no_note_would_be_seen() -> None:
    X = pd.DataFrame({"n": range(80), "m": np.arange(80) ** 2, "a": 1.5})
    with pytest.warns(UserWarning, match="every row|counts the rows") as told:
        from_arrays(X, [0, 1] * 40)
    assert [str(w.message).split(" and is")[0] for w in told] == [
        "column 'n' only counts the rows",
        "column 'm' has another whole number in every row, in order: to leave it out, drop it",
    ]
    with contextlib.nullcontext():  # warnings are errors in tests
        from_arrays(X[["a"]], [0, 1] * 40)


@pytest.mark.parametrize("named", [False, True])
def test_the_estimator_takes_columns_with_gaps(named: bool) -> None:
    X = pd.DataFrame({"a": np.arange(80) % 7, "b": np.arange(80) % 5 / 2}).convert_dtypes()
    X.loc[3, "a"], X.loc[4, "b"] = pd.NA, None
    X = X.assign(t=pd.array(range(80), dtype="Int64")) if named else X
    with pytest.warns(UserWarning, match="is left out") if named else contextlib.nullcontext():
        fitted = SemiSupervisedClassifier(steps=2, guard="off").fit(X, [0, 1, -1, -1] * 20)
    assert fitted.predictor_.takes.shape == (2,)
    assert len(fitted.predict(X)) == 80


@pytest.mark.filterwarnings("ignore:column", "ignore:X does not have valid feature names")
@pytest.mark.parametrize("names", [["a", "id", "b"], [0, 1, 2]])
def test_arrays_go_by_position_where_a_column_was_left_out(tmp_path: Path, names: list[str | int]) -> None:
    X = pd.DataFrame(DRAW.normal(size=(80, 3)), columns=names)
    X[names[1]] = range(80)
    y = np.where(np.arange(80) < 20, X[names[2]] > 0, -1)
    fitted = SemiSupervisedClassifier(steps=2, random_state=0, guard="off").fit(X, y, X_unlabeled=X.to_numpy())
    assert fitted.predictor_.takes.shape == (2,)
    assert fitted.pseudo_labels_.labels.shape == (140,)
    p = fitted.predict_proba(X)
    fitted.save(tmp_path / "x")
    for one in (fitted, SemiSupervisedClassifier.load(tmp_path / "x")):
        np.testing.assert_array_equal(one.predict_proba(X.to_numpy()), p)
        with pytest.raises(UserError, match=rf"2 columns, X had 3 in training, '{names[1]}' among them, left out"):
            one.predict(X[[names[0], names[2]]].to_numpy())
    with pytest.raises(UserError, match=rf"Give the columns '{names[0]}', '{names[2]}' alone"):
        fitted.result_.predict(X.to_numpy())


def test_a_frame_of_nothing_but_a_number_of_its_rows_is_refused() -> None:
    with pytest.raises(UserError, match=r"'t' only counts the rows.* or source\.table\.features"):
        SemiSupervisedClassifier(steps=2, guard="off").fit(pd.DataFrame({"t": range(80)}), [0, 1] * 40)


@pytest.mark.parametrize(
    "name", ["id", "ID", "user_id", "userId", "userID", "Kunden-Nr", "index", "Unnamed: 0", "uuid"]
)
def test_names_of_ids(name: str) -> None:
    assert named_id(name)


@pytest.mark.parametrize("name", ["grid", "paid", "Humid", "body_mass_index", "key", "number", "a", "ids_total"])
def test_names_of_quantities(name: str) -> None:
    assert not named_id(name)
