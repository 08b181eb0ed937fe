"""DataFrames, series and texts in memory, as a source and as new rows for a trained model."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from metapl import SemiSupervisedClassifier
from metapl.api.estimator_inputs import read_targets
from metapl.api.fit import fit
from metapl.data.batches.preprocess import fit_preprocessing, preprocessing_from_dict, preprocessing_to_dict
from metapl.data.memory import tensors
from metapl.data.memory.arrays import from_arrays
from metapl.data.memory.new_rows import rows_for
from metapl.data.tables.columns import ColumnReport, encode_column
from metapl.data.tables.dataframe import encode_frame
from metapl.data.tables.readers.frame import Texts
from metapl.errors import UserError
from metapl.types import Column, Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore:every row of y has a label:UserWarning")

NAN = float("nan")


def frame(**more: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": pd.array([3, None, 5], dtype="Int64"),
            "colour": ["red", None, "blue"],
            "size": pd.Categorical(["L", "S", "L"], categories=["S", "M", "L"]),
            "member": [True, False, True],
            "weight": np.array([1.5, NAN, 2.5], dtype=np.float32),
            **more,
        }
    )


def same(made: torch.Tensor, wanted: list[Any]) -> None:
    assert torch.equal(made.nan_to_num(-7), torch.tensor(wanted).nan_to_num(-7))


def fitted(source: Any) -> Preprocessing:
    return fit_preprocessing(source, np.flatnonzero(~source.is_test))


def test_columns_of_every_kind() -> None:
    test = frame()[["weight", "member", "size", "colour", "age"]].assign(colour=["green", "red", "blue"])
    more = frame(colour=["white", "red", "red"], junk=0)
    source = from_arrays(frame(), [0, 1, -1], X_unlabeled=more, X_test=test, y_test=[1, 0, 0])
    assert source.columns == (
        Column("age"),
        Column("colour", ("blue", "red", "white")),
        Column("size", ("L", "S")),
        Column("member", ("False", "True")),
        Column("weight"),
    )
    same(source.data[:3], [[3, 1, 0, 1, 1.5], [NAN, NAN, 1, 0, NAN], [5, 0, 0, 1, 2.5]])
    assert source.data[3:6, 1].tolist() == [2, 1, 1]
    same(source.data[6:], [[3, NAN, 0, 1, 1.5], [NAN, 1, 1, 0, NAN], [5, 0, 0, 1, 2.5]])
    assert "junk" in source.notes[0]


def test_every_string_dtype_means_the_same() -> None:
    for dtype in (object, "string", "str", "category"):
        source = from_arrays(pd.DataFrame({"a": pd.Series(["x", None, "y"], dtype=dtype)}), [0, 1, 0])
        assert source.columns == (Column("a", ("x", "y")),)
        same(source.data, [[0], [NAN], [1]])
    nullable = pd.DataFrame({"a": pd.array([True, None, False], dtype="boolean")})
    same(from_arrays(nullable, [0, 1, 0]).data, [[1], [NAN], [0]])
    objects = pd.DataFrame(
        {"a": np.array([1, None, 2.5], dtype=object), "b": pd.array([1.5, None, 2], dtype="Float64")}
    )
    same(from_arrays(objects, [0, 1, 0]).data, [[1, 1.5], [NAN, NAN], [2.5, 2]])


def test_a_mapping_of_columns_is_a_table() -> None:
    source = from_arrays({"a": [1, 2, None], "b": ["x", "y", "x"]}, [0, 1, 0])
    assert source.columns == (Column("a"), Column("b", ("x", "y")))
    same(source.data, [[1, 0], [2, 1], [NAN, 0]])


def test_the_index_names_rows_where_it_is_text() -> None:
    named = frame().set_axis(["p", "q", "r"])
    source = from_arrays(named, [0, 1, 0], X_unlabeled=named, X_test=frame(), y_test=[0, 1, 1])
    assert source.ids == ("p", "q", "r", "unlabeled/p", "unlabeled/q", "unlabeled/r", "test/0", "test/1", "test/2")
    assert from_arrays(frame().set_axis(["p", "p", "r"]), [0, 1, 0]).ids == ("0", "1", "2")
    assert from_arrays(frame().set_axis([7, 8, 9]), [0, 1, 0]).ids == ("0", "1", "2")


@pytest.mark.parametrize(
    ("y", "mark", "labels", "names"),
    [
        (pd.Series(["a", None, "b"]), None, [0, -1, 1], ("a", "b")),
        (pd.Series(["a", pd.NA, "b"], dtype="string"), None, [0, -1, 1], ("a", "b")),
        (pd.Series([2, None, 5]), None, [0, -1, 1], ("2", "5")),
        (pd.Series([2, None, 5], dtype="Int64"), None, [0, -1, 1], ("2", "5")),
        (pd.Series(["b", None, "a"], dtype="category"), None, [1, -1, 0], ("a", "b")),
        (pd.Series([True, None, False], dtype="boolean"), None, [1, -1, 0], ("False", "True")),
        (["a", "?", "b"], "?", [0, -1, 1], ("a", "b")),
        (["a", "", "b"], None, [0, -1, 1], ("a", "b")),
        (np.array(["a", "", "b"]), "?", [0, -1, 1], ("a", "b")),
        ([4, "", 5], None, [0, -1, 1], ("4", "5")),
        (["a", "", "?"], ("", "?"), [0, -1, -1], ("a",)),
        ([4, -9, 5], -9, [0, -1, 1], ("4", "5")),
        ([True, 1, 0], 1, None, "partly"),
        (["a", -1, "b"], None, [0, -1, 1], ("a", "b")),
        ([torch.tensor(1), np.int64(0), -1], None, [1, 0, -1], ("0", "1")),
    ],
)
def test_labels_without_a_label(y: Any, mark: Any, labels: Any, names: Any) -> None:
    if labels is None:
        with pytest.raises(UserError, match=names):
            from_arrays(np.zeros((3, 2)), y, unlabeled=mark)
        return
    source = from_arrays(np.zeros((3, 2)), y, unlabeled=mark)
    assert source.labels.tolist() == labels
    assert source.class_names == names


NAMES = pd.DataFrame({"name": [f"name {k}" for k in range(20)]})


def test_a_column_of_texts_that_all_differ_is_left_out() -> None:
    X = NAMES.assign(size=np.arange(20) % 7, colour=["red", "blue"] * 10)
    with pytest.warns(UserWarning, match="column 'name' has another text in nearly every row"):
        source = from_arrays(X, [0, 1] * 10)
    assert [column.name for column in source.columns] == ["size", "colour"]
    assert source.data.shape == (20, 2)
    assert any("'name' has another text in nearly every row" in note for note in source.notes)
    assert rows_for(X, fit_preprocessing(source, np.arange(20))).tolist() == source.data.tolist()


@pytest.mark.parametrize(("rows", "kept"), [(9, True), (10, False)])
def test_few_rows_do_not_tell_an_id_from_a_category(rows: int, kept: bool) -> None:
    told = contextlib.nullcontext() if kept else pytest.warns(UserWarning, match="'name' has another text")
    with told:
        source = from_arrays(NAMES.assign(size=1.0)[:rows], [0, 1] * (rows // 2) + [0] * (rows % 2))
    assert [column.name for column in source.columns] == (["name", "size"] if kept else ["size"])


def test_a_column_of_too_many_texts_is_left_out_unless_it_is_a_category() -> None:
    names = [f"name {k % 1100}" for k in range(2200)]
    X = pd.DataFrame({"name": names, "size": np.arange(2200) % 7})
    with pytest.warns(UserWarning, match="'name' has more than 1000 different texts and is left out"):
        source = from_arrays(X, [0, 1] * 1100)
    assert [column.name for column in source.columns] == ["size"]
    source = from_arrays(X.astype({"name": "category"}), [0, 1] * 1100)
    assert len(source.columns[0].levels) == 1100
    assert len(from_arrays(X, [0, 1] * 1100, features=["name"]).columns[0].levels) == 1100


def test_features_alone_are_used_whatever_they_hold() -> None:
    X = pd.DataFrame({"n": range(60), "a": np.arange(60) % 7, "b": 1.5})
    source = from_arrays(X, [0, 1] * 30, features=["b", "n"], X_unlabeled=X)
    assert [column.name for column in source.columns] == ["b", "n"]
    assert source.data[:60].tolist() == X[["b", "n"]].to_numpy().tolist()
    assert source.notes == ()
    fitted = SemiSupervisedClassifier(steps=3, guard="off", options={"source.table.features": "n,b"}).fit(
        X, [0, 1] * 30
    )
    assert fitted.predictor_.takes.columns == (Column("n"), Column("b"))
    assert fitted.predict(X).shape == (60,)


def test_columns_that_number_the_rows_are_left_out_by_the_estimator_too() -> None:
    X = pd.DataFrame({"kunde": np.random.default_rng(0).permutation(100)[:80] + 7000, "a": np.arange(80) % 7})
    with pytest.warns(UserWarning, match=r"column 'kunde' numbers the rows .* and is left out") as told:
        fitted = SemiSupervisedClassifier(steps=3, guard="off").fit(X, [0, 1] * 40)
    assert told[0].filename == __file__
    assert fitted.predictor_.takes.columns == (Column("a"),)
    assert any("'kunde' numbers the rows" in note for note in fitted.notes_)
    assert fitted.n_features_in_ == 2
    assert fitted.predict(X).shape == (80,)
    source = from_arrays(X.to_numpy(), [0, 1] * 40)
    assert source.data.shape == (80, 2)
    assert source.notes == (
        "column 0 of X numbers the rows (another whole number in each, with few gaps): to leave it out, drop it",
    )


def test_a_column_called_a_category_stays() -> None:
    source = from_arrays(NAMES.astype("category"), [0, 1] * 10)
    assert len(source.columns[0].levels) == 20


def test_rows_of_the_pool_count_when_a_column_is_judged() -> None:
    source = from_arrays(NAMES, [0, 1] * 10, X_unlabeled=NAMES)
    assert len(source.columns[0].levels) == 20


def test_a_table_of_one_column_of_texts_says_what_to_pass() -> None:
    with pytest.raises(UserError, match="'name' has another text in nearly every row") as error:
        SemiSupervisedClassifier().fit(NAMES, [0, 1] * 10)
    assert "X['name']" in error.value.remedy


def test_quantities_are_no_labels() -> None:
    X, ages = np.zeros((60, 2)), np.arange(60) * 7 % 61 + 18
    words = r"y: it has 60 different values in 60 labelled rows, such as '1818' and '7818': a quantity"
    with pytest.raises(UserError, match=words) as error:
        from_arrays(X, ages * 100 + 18)
    assert error.value.remedy.startswith("If these are classes, give them as texts.")
    with pytest.raises(UserError, match=words):
        SemiSupervisedClassifier().fit(X, ages * 100 + 18)
    source = from_arrays(X, ages.astype(str))
    assert len(source.class_names) == 60
    said = "y has 60 different values in 60 labelled rows, such as '18' and '78': a quantity or a number of the rows"
    assert source.notes == (f"{said}, not a class: are these the classes?",)
    assert from_arrays(X, ages % 25).notes == (), "class numbers, two rows each"
    assert "y has 25 different values" in from_arrays(X, ages % 25 * 4).notes[0]
    assert len(from_arrays(X[:30], np.arange(30)[::-1].copy()).notes) == 1


@pytest.mark.parametrize("y", [np.arange(40), np.arange(40) + 1, np.arange(40) * 2 + 3])
def test_one_row_of_each_class_is_told_and_taken(y: np.ndarray[Any, Any]) -> None:
    X, labels = np.zeros((80, 2)), np.concatenate([y, np.full(40, -1)])
    source = from_arrays(X, labels)
    assert source.labels.tolist() == [*range(40), *[-1] * 40]
    said = f"40 different values in 40 labelled rows, such as '{y[0]}' and '{y[-1]}'"
    told = f"y has {said}: a quantity or a number of the rows"
    assert source.notes == (f"if these are not classes, give others: {told}",)
    with pytest.warns(UserWarning, match="could represent a regression problem"):  # by scikit-learn
        codes, _ = read_targets(labels, -1)
    assert codes.tolist() == source.labels.tolist()


def test_the_empty_text_is_a_class_where_it_is_named_as_one() -> None:
    source = from_arrays(np.zeros((3, 2)), ["a", "", None], class_names=["", "a"])
    assert source.labels.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": frame(day=pd.Timestamp("2020-01-01"))}, "X: column 'day': it holds dates"),
        ({"X": frame(day=pd.Timestamp("2020-01-01", tz="UTC"))}, "it holds dates"),
        ({"X": frame(day=[datetime.date(2020, 1, 1)] * 3)}, "it holds dates"),
        ({"X": frame(day=pd.Timedelta("1D"))}, "it holds dates"),
        ({"X": frame(odd=[1, "a", 2])}, "row 0 is the number 1, row 1 the text 'a'"),
        ({"X": frame(odd=[[1], [2], [3]])}, "row 0 holds a list"),
        ({"X": frame(odd=[1j, 2, 3])}, "complex"),
        ({"X": frame(odd=[1, np.inf, 2])}, "X, row 1: column 'odd' is inf"),
        ({"X": frame().iloc[:0], "y": []}, "no rows"),
        ({"X": pd.concat([frame(), frame()], axis=1)}, "two columns are named 'age'"),
        ({"X": {"a": [1, 2], "b": [1, 2, 3]}}, "different lengths"),
        (
            {"X": pd.DataFrame({"a": [f"name {k}" for k in range(1001)] * 2}), "y": [0] * 2002},
            "has more than 1000 different texts",
        ),
        ({"X": pd.DataFrame({"a": ["1,5", "2", "NA"]})}, "column 'a' holds the text '1,5' and others that are numbers"),
        ({"X": pd.DataFrame({"a": ["1.234,5", "2", None]})}, "the text '1.234,5'"),
        ({"features": ["agee"]}, "X: there is no column 'agee'"),
        ({"X": np.zeros((3, 2)), "features": ["a"]}, "features names columns, and X has none"),
        ({"X": NAMES, "y": [0, 1] * 10}, "pass the column itself: X['name']"),
        ({"X_unlabeled": frame().drop(columns="colour")}, "X_unlabeled: there is no column 'colour'"),
        ({"X_unlabeled": frame().rename(columns={"age": "Age"})}, "Did you mean 'Age'"),
        ({"X_unlabeled": np.zeros((3, 5))}, "X has named columns"),
        ({"X_unlabeled": frame(colour=[1, 2, 3])}, "column 'colour' is numbers in X_unlabeled and text elsewhere"),
        ({"X_test": frame(age=["x", "y", "z"]), "y_test": [0, 1, 0]}, "X_test, row 0: column 'age' is 'x'"),
        ({"y": pd.Series([0, 1, 0], index=[2, 1, 0])}, "another order"),
        ({"kind": "image"}, "it looks like a table"),
        ({"kind": "text"}, "it has 5 columns"),
        ({"X": np.array([["a", 1], ["b", 2]], dtype=object)}, "it holds 'a', not a number"),
        ({"X": [[1, 2], [3]]}, "different lengths"),
        ({"X": [[1, datetime.date(2020, 1, 1)]]}, "it holds 'datetime.date'"),
    ],
)
def test_frames_that_cannot_serve(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"X": frame(), "y": [0, 1, 0], **change}
    with pytest.raises(UserError) as error:
        from_arrays(given.pop("X"), given.pop("y"), **given)
    assert words in str(error.value), str(error.value)
    assert error.value.remedy


def test_sparse_tables_are_written_out_below_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    table = scipy.sparse.csr_matrix(np.eye(3))
    same(from_arrays(table, [0, 1, 0]).data, np.eye(3).tolist())
    monkeypatch.setattr(tensors, "MAX_SPARSE", 35)
    with pytest.raises(UserError, match=r"it is sparse, and 0\.0 GiB"):
        from_arrays(table, [0, 1, 0])


def test_missing_values_of_masked_arrays_and_lists() -> None:
    masked = np.ma.array([[1.0, 2], [3, 4]], mask=[[0, 1], [0, 0]])
    same(from_arrays(masked, [0, 1]).data, [[1, NAN], [3, 4]])
    same(from_arrays([[1, None], [3, 4]], [0, 1]).data, [[1, NAN], [3, 4]])
    same(from_arrays([torch.tensor([1.0, 2]), torch.tensor([3.0, 4])], [0, 1]).data, [[1, 2], [3, 4]])


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda t: np.array(t, dtype=object), pd.Series, frozenset])
def test_texts(make: Any) -> None:
    texts = ["what is this", "who was that", "why so"]
    if make is frozenset:  # a set has no order
        with pytest.raises(UserError):
            from_arrays(make(texts), [0, 1, 0])
        return
    source = from_arrays(make(texts), [0, 1, -1], X_unlabeled=make(["one two three four"]), X_test=["w"], y_test=[1])
    assert source.kind == "text"
    assert source.tokens is not None
    assert source.data.dtype == torch.int32
    assert source.data.shape == (5, source.tokens.length)
    assert source.labels.tolist() == [0, 1, -1, -1, 1]
    assert torch.equal(rows_for(make(texts), fitted(source)), source.data[:3])


def test_texts_as_one_column_and_their_length() -> None:
    one = pd.DataFrame({"question": ["what is this", "who"]}, index=["a", "b"])
    source = from_arrays(one, [0, 1], kind="text", max_tokens=2, X_test=pd.Series(["x y z"]), y_test=[0])
    assert source.data.shape == (3, 2)
    assert source.ids == ("a", "b", "test/0")
    assert from_arrays(["a"], [0], X_test=["a " * 99], y_test=[0]).data.shape == (2, 8), "test rows set no length"


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (["a", None], "row 1 has no text"),
        (["a", 3], "row 1 is a int"),
        (pd.Series(["a", pd.NA], dtype="string"), "row 1 has no text"),
        ("one text", "not"),
    ],
)
def test_texts_that_cannot_serve(X: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_arrays(X, [0, 1])


def test_new_rows_of_a_frame() -> None:
    known = fitted(from_arrays(frame(), [0, 1, 0]))
    new = frame(colour=["blue", "purple", "red"], note="x").iloc[::-1, ::-1]
    same(rows_for(new, known), [[5, 1, 0, 1, 2.5], [NAN, NAN, 1, 0, NAN], [3, 0, 0, 1, 1.5]])
    same(rows_for({c: list(new[c]) for c in new}, known), rows_for(new, known).tolist())
    with pytest.raises(UserError, match="there is no column 'age'"):
        rows_for(new.drop(columns="age"), known)
    with pytest.raises(UserError, match=r"categories \('colour'\)"):
        rows_for(np.zeros((2, 5)), known)
    with pytest.raises(UserError, match="trained on a table, and this is texts"):
        rows_for(["a", "b"], known)


def test_a_category_written_as_a_number_is_found() -> None:
    known = fitted(from_arrays(pd.DataFrame({"code": ["1", "2", "x"]}), [0, 1, 0]))
    same(rows_for(pd.DataFrame({"code": [2, 1, 5]}), known), [[1], [0], [NAN]])


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        [1, 0],
        [1.0, 0.0],
        np.array([1, 0], dtype=np.int8),
        ["True", "False"],
        ["true", "FALSE"],
        ["1", "0"],
        pd.array([True, False], dtype="boolean"),
    ],
)
@pytest.mark.parametrize("trained", [[True, False, None], ["true", "false", "true"]])
def test_true_and_false_are_found_in_every_form(values: Any, trained: list[Any]) -> None:
    known = fitted(from_arrays(pd.DataFrame({"member": trained}), [0, 1, 0]))
    same(rows_for(pd.DataFrame({"member": values}), known), [[1], [0]])
    same(rows_for(pd.DataFrame({"member": [*pd.Series(values, dtype=object), None]}), known), [[1], [0], [NAN]])
    with pytest.warns(UserWarning, match="column 'member': all 2 rows hold categories that training.*here '2'"):
        same(rows_for(pd.DataFrame({"member": [2, 3]}), known), [[NAN], [NAN]])


def test_a_column_whose_values_are_all_unknown_is_told() -> None:
    given = {"size": [1.0, 2.0, 3.0], "colour": ["red", "blue", "nan"]}
    source = from_arrays(pd.DataFrame(given), [0, 1, 0])
    known, told = fitted(source), list[str]()
    same(rows_for(pd.DataFrame({"size": [NAN], "colour": [NAN]}), known), [[NAN, NAN]])  # nothing was there
    same(rows_for(pd.DataFrame({"size": [1], "colour": ["Red"]}), known, tell=told.append), [[1, NAN]])
    same(
        rows_for(pd.DataFrame({"size": [1, 2], "colour": ["Red", "red"]}), known, tell=told.append), [[1, NAN], [2, 2]]
    )
    wanted = "column 'colour': the row holds a category that training did not hold, so the column counts as missing "
    wanted += "(here 'Red', in training 'blue', 'nan', 'red')"
    assert told == [f"X: {wanted}"]
    more = from_arrays(
        pd.DataFrame(given), [0, 1, 0], X_test=pd.DataFrame({"size": [1], "colour": ["Red"]}), y_test=[0]
    )
    assert more.notes == (f"X_test: {wanted}",)


def test_new_rows_of_arrays() -> None:
    table = fitted(from_arrays(np.arange(6.0).reshape(3, 2), [0, 1, 0]))
    same(rows_for([[1, 2]], table), [[1, 2]])
    same(rows_for(pd.DataFrame({"p": [1], "q": [2]}), table), [[1, 2]])
    named = fitted(from_arrays(pd.DataFrame({"p": [1, 2], "q": [2, 3]}), [0, 1]))
    same(rows_for(np.array([[1, 2]]), named), [[1, 2]])
    with pytest.raises(UserError, match=r"shape \[3\], the model was trained on \[2\]"):
        rows_for([[1, 2, 3]], table)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    image = fitted(from_arrays(pictures, [0, 1, 0]))
    wanted = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    assert torch.equal(rows_for(pictures / 255, image), wanted)
    assert torch.equal(rows_for(wanted, image), wanted)
    with pytest.raises(UserError, match="trained on images"):
        rows_for([[1.0, 2]], image)
    with pytest.raises(UserError, match=r"\[3, 8, 5\]"):
        rows_for(np.zeros((1, 8, 5, 3)), image)
    assert from_arrays(pd.DataFrame({"a": ["x", "y"]}), [0, 1]).data.tolist() == [[0], [1]]


@pytest.mark.parametrize("white", [0, 1, 255])
def test_an_image_is_read_alike_alone_and_in_any_batch(white: int) -> None:
    """The scale of floats is the training's; where that had whole numbers each image tells, or the batch is refused."""
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 5), dtype=np.uint8)
    pictures[0] = np.minimum(pictures[0], 1)  # nearly black
    pictures[1] = 0
    given = pictures if not white else pictures / (255 // white)
    known = preprocessing_from_dict(preprocessing_to_dict(fitted(from_arrays(given, [0, 1] * 3, kind="image"))))
    assert known.white == white
    older = {k: v for k, v in preprocessing_to_dict(known).items() if k != "white"}
    assert preprocessing_from_dict(older).white == 0
    told: list[str] = []
    wanted = torch.from_numpy(pictures)[:, None]
    for scale in (1, 255) if not white else (white,):
        floats = (pictures / (255 // scale)).astype(np.float32)
        index = [1, 2, 3, 4, 5] if white == 0 and scale == 255 else range(6)
        assert torch.equal(rows_for(floats[index], known, tell=told.append), wanted[index])
        for k in index:
            assert torch.equal(rows_for(floats[k : k + 1], known, tell=told.append), wanted[k : k + 1])
    assert told == (["X: no value is above 1, and the model was trained on floats 0..255"] if white == 255 else [])
    assert torch.equal(rows_for(pictures, known), wanted)
    assert torch.equal(rows_for(pictures.astype(int), known), wanted)
    if white != 255:
        with pytest.raises(UserError, match=r"white may be 1 or 255|trained on floats of the scale 0\.\.1"):
            rows_for(pictures.astype(float), known)


def test_features_are_a_list_of_names_of_any_type() -> None:
    X = pd.DataFrame({1: np.arange(60) % 7, 2: np.arange(60) / 2, "ab": 0.5})
    assert [column.name for column in from_arrays(X, [0, 1] * 30, features=[1]).columns] == ["1"]
    with pytest.raises(UserError, match=r"features is 'ab', not a list of names. Write \['ab'\]"):
        from_arrays(X, [0, 1] * 30, features="ab")


def test_a_further_column_of_any_kind_is_not_looked_at() -> None:
    """The model never saw the dates, so they cannot be in its way; nor can they where the columns are named."""
    draw, y = np.random.default_rng(0), np.repeat(["a", "b"], 10)
    X = pd.DataFrame({"size": draw.normal(size=20), "age": draw.normal(size=20)})
    dated = X.assign(since=pd.to_datetime("2020-01-01"))
    result = fit(X, y, X_test=dated, y_test=y, method="supervised", steps=2)
    assert result.predict(dated).tolist() == result.predict(X).tolist()
    assert any("X_test has columns that X has not, passed over: since" in note for note in result.source.notes)
    chosen = from_arrays(dated, y, features=["size", "age"])
    assert [column.name for column in chosen.columns] == ["size", "age"]
    with pytest.raises(UserError, match="dates or times"):
        from_arrays(dated, y)
    with pytest.raises(UserError, match="'age'"):
        result.predict(dated.drop(columns="age"))


def test_an_empty_text_is_a_level_of_a_dataframe_and_missing_in_a_file() -> None:
    column, report = Column("colour", ("", "red")), ColumnReport()
    cells = Texts(np.array([0, 1, 2, 0], dtype=np.int32), ("", "red", "blue"))
    same(torch.from_numpy(encode_column(column, cells, str, report)), [NAN, 1, NAN, NAN])
    assert report.missing == {"colour": 2}
    assert report.unknown == {"colour": 1}
    rows, lost = encode_frame({"colour": np.array(["", "red", None, "blue"], dtype=object)}, [column], "X")
    same(rows[:, 0], [0, 1, NAN, NAN])
    assert not lost
    _, lost = encode_frame({"colour": np.array([None, "green", "blue"], dtype=object)}, [column], "X")
    assert len(lost) == 1
    assert "all 3 rows hold categories that training did not hold" in lost[0]
    assert "(here 'green', in training '', 'red')" in lost[0]


def test_numbers_are_levels_by_their_text() -> None:
    rows, _ = encode_frame({"size": np.array([2.0, NAN, 1.5, 3.0])}, [Column("size", ("1.5", "2", "x"))], "X")
    same(rows[:, 0], [1, NAN, 0, NAN])
