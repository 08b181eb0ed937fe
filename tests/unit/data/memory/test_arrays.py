"""Sources over arrays in memory: shapes, scales, labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metapl.data.memory.arrays import from_arrays
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError

RNG = np.random.default_rng(0)


def test_memory_source_checks_its_parts() -> None:
    data, labels = torch.zeros(3, 2), np.array([0, 1, -1])
    assert MemorySource("m", "table", data, labels, ("a", "b")).ids == ("0", "1", "2")
    with pytest.raises(ValueError, match="same length"):
        MemorySource("m", "table", data, labels[:2], ("a", "b"))
    with pytest.raises(ValueError, match=r"-1 or 0\.\.0"):
        MemorySource("m", "table", data, labels, ("a",))
    with pytest.raises(ValueError, match="ids must differ"):
        MemorySource("m", "table", data, labels, ("a", "b"), ids=("x", "x", "y"))
    with pytest.raises(ValueError, match="uint8"):
        MemorySource("m", "image", data, labels, ("a", "b"))


def test_memory_fingerprint_sees_every_part() -> None:
    def make(value: float = 0, label: int = 0, names: tuple[str, ...] = ("a", "b"), first_id: str = "x") -> str:
        data = torch.tensor([[value], [1.0]])
        return MemorySource("m", "table", data, np.array([label, 1]), names, ids=(first_id, "y")).fingerprint()

    assert make() == make()
    assert len({make(), make(value=1), make(label=-1), make(names=("a", "c")), make(first_id="z")}) == 5


def test_tables() -> None:
    source = from_arrays(
        [[1, 2], [3, 4], [5, 6]], [0, 1, -1], X_unlabeled=[[7.5, 8]], X_test=np.array([[9, 9]]), y_test=[1]
    )
    assert source.kind == "table"
    assert source.data.dtype == torch.float32
    assert source.labels.tolist() == [0, 1, -1, -1, 1]
    assert source.is_test.tolist() == [False] * 4 + [True]
    assert source.ids == ("0", "1", "2", "unlabeled/0", "test/0")
    assert source.data[3].tolist() == [7.5, 8]


@pytest.mark.parametrize("bad", [-np.inf, np.inf, 1e300])
def test_tables_must_be_finite(bad: float) -> None:
    table = np.zeros((4, 3))
    table[2, 1] = bad
    with pytest.raises(UserError, match="row 2, column 1"):
        from_arrays(table, [0, 1, 0, 1])
    with pytest.raises(UserError, match=r"X_unlabeled: row 2, column 1"):
        from_arrays(np.zeros((2, 3)), [0, 1], X_unlabeled=table)


@pytest.mark.parametrize(
    ("shape", "as_torch", "expected"),
    [
        ((4, 5, 6), False, (4, 1, 5, 6)),
        ((4, 5, 6, 3), False, (4, 3, 5, 6)),
        ((4, 3, 5, 6), False, (4, 3, 5, 6)),
        ((4, 1, 5, 6), True, (4, 1, 5, 6)),
        ((4, 5, 6, 1), True, (4, 1, 5, 6)),
        ((4, 3, 7, 1), False, (4, 1, 3, 7)),
        ((4, 3, 7, 1), True, (4, 3, 7, 1)),
    ],
)
def test_image_layouts(shape: tuple[int, ...], as_torch: bool, expected: tuple[int, ...]) -> None:
    values = RNG.integers(0, 256, shape, dtype=np.uint8)
    values.setflags(write=False)  # torch warns when it shares such memory: it must be copied
    given: Any = torch.tensor(values) if as_torch else values
    source = from_arrays(given, [0, 1, 0, 1])
    assert tuple(source.data.shape) == expected
    assert source.data.is_contiguous()
    channels_last = expected[1:] != shape[1:] and len(shape) == 4
    wanted = values.transpose(0, 3, 1, 2) if channels_last else values.reshape(expected)
    assert np.array_equal(source.data.numpy(), wanted)


def test_image_scales() -> None:
    levels = RNG.integers(0, 256, (6, 4, 4), dtype=np.uint8)
    levels[0, 0, 0] = 255
    labels = [0, 1] * 3
    for given in (levels, levels / 255, levels.astype(np.float32), levels.astype(int), torch.tensor(levels / 255.0)):
        assert np.array_equal(from_arrays(given, labels).data[:, 0].numpy(), levels)
    assert from_arrays(levels > 99, labels).data.unique().tolist() == [0, 255]
    assert any("64" in n or "16" in n for n in from_arrays(levels % 17, labels).notes)
    black = from_arrays(levels / 255, labels, X_unlabeled=np.zeros((1, 4, 4)))
    assert not black.data[6].any()
    assert np.array_equal(black.data[:6, 0].numpy(), levels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": np.full((2, 4, 4), -1.0)}, "run from -1 to -1"),
        ({"X": np.full((2, 4, 4), 300)}, "run from 300 to 300"),
        ({"X": np.full((2, 4, 4), np.nan)}, "run from nan"),
        ({"X_test": np.full((1, 4, 4), 200.0), "y_test": [0]}, "X is on the scale 0..1 but X_test on 0..255"),
        ({"X": np.zeros((2, 4, 4, 2))}, "1 or 3 channels"),
        ({"X": np.zeros((2, 4, 4, 4, 4))}, "5 dimensions"),
        ({"X": np.zeros(2)}, "shape is (2,)"),
        ({"X": np.zeros((0, 4))}, "shape is (0, 4)"),
        ({"X": np.array([["a"], ["b"]])}, "not numbers"),
        ({"X_unlabeled": np.ones((2, 5, 5))}, "those of X"),
        ({"X_unlabeled": np.ones((2, 5))}, "not a stack of images"),
        ({"X_test": np.ones((2, 4, 4))}, "belong together"),
        ({"kind": "table"}, "not like kind='table'"),
        ({"kind": "text"}, "not like kind='text'"),
        ({"kind": "sound"}, "kind is 'sound'"),
        ({"y": [0, 1, 1]}, "one label per row"),
        ({"y": [[0], [1]]}, "one label per row"),
        ({"y": [0, -2]}, "row 1 has label -2"),
        ({"y": [0, 0.5]}, "row 1 has label 0.5"),
        ({"y": np.array(["a", 1], dtype=object)}, "partly numbers"),
        ({"y": np.array(["a", -1])}, "dtype=object"),
        ({"y": np.array([(1,), "a"], dtype=object)}, "row 0 has label (1,)"),
        ({"y": ["cat", "dog"], "class_names": ["cat", "dgo"]}, "Did you mean 'dgo'"),
        ({"y": [0, 2], "class_names": ["cat", "dog"]}, "row 1 has label '2'"),
        ({"class_names": ["cat", "cat"]}, "the same"),
        ({"X_test": np.ones((1, 4, 4)), "y_test": [5]}, "y_test: row 0 has label '5'"),
    ],
)
def test_arrays_that_cannot_serve(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"X": np.full((2, 4, 4), 0.5), "y": [0, 1], **change}
    with pytest.raises(UserError) as error:
        from_arrays(given.pop("X"), given.pop("y"), **given)
    assert words in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("y", "class_names", "labels", "names"),
    [
        ([3, 10, -1, 3], None, [0, 1, -1, 0], ("3", "10")),
        (np.array([1.0, np.nan, 0.0, -1.0]), None, [1, -1, 0, -1], ("0", "1")),
        (["b", "a", "NA", "null"], None, [2, 1, 0, 3], ("NA", "a", "b", "null")),
        (np.array(["b", None, np.nan, -1], dtype=object), None, [0, -1, -1, -1], ("b",)),
        (np.array([1, None, 0, -1], dtype=object), None, [1, -1, 0, -1], ("0", "1")),
        ([True, False, True, True], None, [1, 0, 1, 1], ("False", "True")),
        ([1, 0, -1, 1], ["cat", "dog", "cow"], [1, 0, -1, 1], ("cat", "dog", "cow")),
        (["dog", "cat", "dog", "cat"], ["dog", "cat"], [0, 1, 0, 1], ("dog", "cat")),
        (torch.tensor([1, 0, -1, 1]), None, [1, 0, -1, 1], ("0", "1")),
    ],
)
def test_labels(y: Any, class_names: Any, labels: list[int], names: tuple[str, ...]) -> None:
    source = from_arrays(np.zeros((4, 2)), y, class_names=class_names)
    assert source.labels.tolist() == labels
    assert source.class_names == names
