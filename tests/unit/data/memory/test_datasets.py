"""Map-style data sets as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from metapl.data.images.decode import decode
from metapl.data.memory.datasets import from_dataset
from metapl.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = torch.from_numpy(RNG.integers(0, 256, (6, 3, 8, 9), dtype=np.uint8))
Y = torch.tensor([0, 1, 2, 1, 0, 2])


class Rows(Dataset[Any]):
    """Whatever it is given, row by row; counts how often each is read."""

    def __init__(self, rows: list[Any], classes: Any = None) -> None:
        self.items, self.read = rows, [0] * len(rows)
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Any:
        self.read[k] += 1
        return self.items[k]


def pictures(count: int = 6, size: tuple[int, int] = (9, 8), mode: str = "RGB") -> list[Image.Image]:
    return [Image.fromarray(p.permute(1, 2, 0).numpy()).resize(size).convert(mode) for p in PIXELS[:count]]


def test_every_row_is_read_once_and_parts_stay_apart() -> None:
    labeled = Rows([(x, int(y)) for x, y in zip(PIXELS, Y)], ["cat", "dog", "cow"])
    unlabeled, test = Rows([(x, 1) for x in PIXELS[:2]]), Rows([(x, y) for x, y in zip(PIXELS[4:], Y[4:])])
    source = from_dataset(labeled, unlabeled, test)
    assert source.labels.tolist() == [0, 1, 2, 1, 0, 2, -1, -1, 0, 2]
    assert source.is_test.tolist() == [False] * 8 + [True] * 2
    assert source.ids[5:9] == ("5", "unlabeled/0", "unlabeled/1", "test/0")
    assert source.class_names == ("cat", "dog", "cow")
    assert torch.equal(source.data, torch.cat([PIXELS, PIXELS[:2], PIXELS[4:]]))
    assert [*labeled.read, *unlabeled.read, *test.read] == [1] * 10


@pytest.mark.parametrize("row", [lambda x: x, lambda x: (x,), lambda x: (x, -1), lambda x: (x, None), lambda x: [x, 3]])
def test_rows_without_labels_in_every_form(row: Any) -> None:
    source = from_dataset(TensorDataset(PIXELS, Y), Rows([row(x) for x in PIXELS]))
    assert source.labels.tolist() == [*Y.tolist(), *[-1] * 6]
    assert torch.equal(source.data[6:], PIXELS)


def test_labels_may_be_missing_or_texts() -> None:
    labels = ["b", None, float("nan"), -1, "a", torch.tensor(-1)]
    source = from_dataset(Rows(list(zip(PIXELS, labels))))
    assert source.labels.tolist() == [1, -1, -1, -1, 0, -1]
    assert source.class_names == ("a", "b")
    assert from_dataset(Rows(list(zip(PIXELS, Y.numpy())))).class_names == ("0", "1", "2")


def test_images_of_every_type_are_the_same_pixels() -> None:
    last = PIXELS.permute(0, 2, 3, 1)
    forms = [
        PIXELS,
        PIXELS.float() / 255,
        PIXELS.double(),
        PIXELS.int(),
        last.numpy(),
        (last / 255).numpy(),
        pictures(),
    ]
    for form in forms:
        source = from_dataset(Rows(list(zip(form, Y))))
        assert torch.equal(source.data, PIXELS), type(form)
        assert source.notes == ("images are 8 x 9, RGB",)
        floats = torch.is_tensor(form) and form.is_floating_point()
        assert source.white == (0 if not floats and form is not forms[5] else 255 if form is forms[2] else 1)
    grey = from_dataset(Rows(list(zip(PIXELS[:, 0], Y))))
    assert torch.equal(grey.data, PIXELS[:, :1])
    mixed = from_dataset(Rows([(pictures(1, mode="L")[0], 0), (PIXELS[0], 1)]))
    assert mixed.data.shape == (2, 3, 8, 9)
    assert torch.equal(mixed.data[0, 0], mixed.data[0, 2])


def test_images_are_brought_to_one_size_like_those_of_a_folder(tmp_path: Path) -> None:
    wide, tall = pictures(1, (200, 100))[0], pictures(1, (30, 90))[0]
    tall.save(tmp_path / "tall.png")
    source = from_dataset(Rows([(wide, 0), (tall, 1), (pictures(1)[0], 0)]))
    assert source.data.shape == (3, 3, 64, 64)
    assert torch.equal(source.data[1], decode(tmp_path / "tall.png", (3, 64, 64)))
    assert source.notes == ("images are brought to 64 x 64, RGB",)
    for resize in ("stretch", "pad", "cover"):
        source = from_dataset(Rows([(wide, 0), (tall, 1)]), image_size="12x20", resize=resize)
        assert torch.equal(source.data[1], decode(tmp_path / "tall.png", (3, 12, 20), resize=resize))
    tensors = from_dataset(TensorDataset(torch.rand(4, 1, 70, 70), torch.tensor([0, 1, 0, 1])))
    assert tensors.data.shape == (4, 1, 64, 64)


def test_features_and_texts() -> None:
    table = torch.randn(6, 3)
    source = from_dataset(TensorDataset(table, Y), Rows([[1.0, 2.0, 3.0]]))
    assert source.kind == "table"
    assert torch.equal(source.data, torch.cat([table, torch.tensor([[1.0, 2, 3]])]))
    rows = [{"text": "what is it", "label": 0, "id": 7}, {"text": "who", "label": 1}]
    source = from_dataset(Rows(rows), Rows([{"text": "why", "label": -1}]), max_tokens=4)
    assert source.kind == "text"
    assert source.data.shape == (3, 4)
    assert source.labels.tolist() == [0, 1, -1]


def test_names_of_the_set_inside_and_of_features() -> None:
    inner = Rows(list(zip(PIXELS, Y)), ["cat", "dog", "cow"])
    assert from_dataset(Subset(Subset(inner, [0, 1, 2, 3]), [1, 2, 0])).class_names == ("cat", "dog", "cow")
    rows = Rows([{"img": x, "label": int(y)} for x, y in zip(PIXELS, Y)])
    rows.features = {"img": None, "label": type("ClassLabel", (), {"names": ["u", "v", "w"]})()}  # type: ignore[attr-defined]
    assert from_dataset(rows).class_names == ("u", "v", "w")
    assert from_dataset(Rows(list(zip(PIXELS, Y)), ["only", "two"])).class_names == ("0", "1", "2"), "too few names"
    assert from_dataset(inner, class_names=["p", "q", "r"]).class_names == ("p", "q", "r")


class Wrapped(Rows):
    """A set around another, with labels of its own."""

    def __init__(self, inner: Rows, change: Any) -> None:
        super().__init__([(x, change(int(y))) for x, y in inner.items])
        self.dataset = inner


def test_names_that_may_belong_to_other_numbers_are_not_taken() -> None:
    names = ["cat", "dog", "cow"]
    inner = Rows(list(zip(PIXELS, Y)), names)
    flags = from_dataset(Rows([(x, bool(y == 2)) for x, y in GOOD], names[:2]))
    assert (flags.class_names, flags.labels.tolist()) == (("False", "True"), [0, 0, 1, 0, 0, 1])
    for change in (lambda y: 2 - y, lambda y: y // 2):
        wrapped = from_dataset(Wrapped(inner, change))
        assert wrapped.class_names == tuple(str(k) for k in sorted({change(y) for y in Y.tolist()}))
    merged = from_dataset(Rows([(x, int(y) // 2) for x, y in GOOD], names))
    assert merged.class_names == ("0", "1")
    assert merged.notes[-1] == "1 of 3 class names do not occur, so classes go by number: give class_names"
    for key in ("target_transform", "other"):
        moved = Rows(GOOD, names)
        setattr(moved, key, lambda y: y)
        for given in (moved, Subset(moved, range(6))):
            assert from_dataset(given).class_names == (("0", "1", "2") if key == "target_transform" else tuple(names))
    several = Rows(GOOD, [("cat", "Felis catus"), ("dog",), ("cow", "Bos")])
    assert from_dataset(several).class_names == tuple(names)
    assert from_dataset(Rows(GOOD, [("cat", "a"), ("cat", "b"), ("cow",)])).class_names == ("0", "1", "2")


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from ()


class Broken(Rows):
    def __getitem__(self, k: int) -> Any:
        if k == 3:
            raise OSError("cannot open\nthe file")
        return super().__getitem__(k)


GOOD = list(zip(PIXELS, Y))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([Endless()], "labeled: a Endless cannot be indexed by row"),
        ([{"x": 1}], "a dict cannot be indexed"),
        ([(PIXELS, Y)], "Give them to from_arrays"),
        ([Rows([])], "labeled: the data set has no row"),
        ([Rows(GOOD), Rows([])], "unlabeled: the data set has no row"),
        ([Broken(GOOD)], "labeled, row 3: it cannot be read (OSError: cannot open the file)"),
        ([Rows([({1, 2}, 0)])], "labeled, row 0: a set is neither an image"),
        ([Rows([()])], "the row is empty"),
        ([Rows([{"audio": 1}])], "a row has the keys audio"),
        ([Rows(GOOD), Rows(["text"])], "unlabeled, row 0: it is <U4"),
        ([Rows([("text", 0), (PIXELS[0], 1)])], "labeled, row 1: it is a Tensor, the rows before are texts"),
        ([Rows([(torch.ones(3), 0), (torch.ones(4), 1)])], "labeled, row 1: its shape is"),
        ([Rows([(PIXELS[0] / 255 - 0.5, 0)])], "leave Normalize out"),
        ([Rows([(PIXELS[0] / 255, 0), (PIXELS[1].float(), 1)])], "labeled, row 1: image values reach"),
        ([Rows([(torch.zeros(2, 8, 9), 0)])], "no dimension holds 1 or 3 channels"),
        ([Rows([(PIXELS[0], torch.tensor([0, 1]))])], "its label has the shape [2]"),
        ([Rows([(PIXELS[0], 0.5)])], "row 0 has label 0.5"),
        ([Rows(GOOD), None, Rows([(PIXELS[0], 7)])], "row 0 has label '7'"),
        ([Rows(GOOD, ["a", "b", "c"]), None, Rows([(PIXELS[0], 7)])], "y_test: row 0 has label '7'"),
        ([Rows([*GOOD, (PIXELS[0], -2)], ["a", "b", "c"])], "row 6 has label '-2'"),
    ],
)
def test_data_sets_that_cannot_serve(parts: list[Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        from_dataset(*parts)
    assert words in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def test_rows_that_do_not_fit_into_memory_are_refused_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metapl.data.memory.datasets.MAX_BYTES", 1000)
    rows = Rows(GOOD)
    with pytest.raises(UserError, match=r"6 rows of 216 bytes need 0\.0 GiB"):
        from_dataset(rows)
    assert sum(rows.read) == 1
