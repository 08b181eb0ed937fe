"""Map-style data sets as a source: every row is read once, into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from metapl.data.images.decode import Unreadable, pixels_of
from metapl.data.images.levels import depth_of, levels_of, span_of
from metapl.data.images.options import GIB, ImageOptions
from metapl.data.images.resize import how, image_at
from metapl.data.memory.arrays import assemble, check_signals
from metapl.data.memory.source import MemorySource
from metapl.data.memory.tensors import check_divided_once, planes
from metapl.data.tables.dataframe import is_missing
from metapl.errors import UserError
from metapl.types import Array, Levels, Resize

MAX_BYTES = 4 * GIB
X_KEYS = ("x", "image", "img", "pixel_values", "text", "sentence", "question", "document", "content", "features")
Y_KEYS = ("y", "label", "labels", "fine_label", "target", "class")
PARTS = {"labeled": ("X", "y"), "unlabeled": ("X_unlabeled", ""), "test": ("X_test", "y_test")}


def from_dataset(
    labeled: Any,
    unlabeled: Any = None,
    test: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | str = "auto",
    resize: Resize = "cover",
    tokenizer: str = "auto",
    max_tokens: int | str = "auto",
    name: str = "arrays",
) -> MemorySource:
    """Return a source over map-style data sets (``len(dataset)``, ``dataset[k]``); every row is read once and held in
    memory.

    Leave random transforms and ``Normalize`` out of the data sets: metapl makes its own views and standardises itself.

    Args:
        labeled: rows (x, y), or mappings with an image or text and a label. x: a Pillow image, a tensor or array
            (image or features), or a text. y: a whole number or a text; -1, None or NaN: no label.
        unlabeled: rows x, (x,) or (x, y), whose y is dropped.
        test: rows (x, y) for ``evaluate``.
        class_names: names of the classes 0, 1, ...; by default those of ``labeled.classes`` (or of Hugging Face's
            features) if each of them occurs as a whole number and the data set has no ``target_transform``; else the
            labels that occur, since names without rows may belong to other numbers.
        image_size: side in pixels or "HxW"; auto: the common size of all images where no side is above 64, else 64.
        resize: "cover", "stretch" or "pad", as the setting ``source.image.resize``.
        tokenizer, max_tokens: for texts, as in ``from_arrays``.
        name: what messages call the source.

    Raises:
        UserError: a part cannot be indexed, a row cannot be read or does not fit the others, or the rows need more than
            4 GiB; the message names part and row.
    """
    return read_dataset(
        (labeled, unlabeled, test),
        class_names=class_names,
        image_size=image_size,
        resize=resize,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        name=name,
    )


def read_dataset(
    parts: tuple[Any, Any, Any],
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | str = "auto",
    resize: Resize = "cover",
    tokenizer: str = "auto",
    max_tokens: int | str = "auto",
    name: str = "arrays",
    published: bool = False,
    learnt: bool = True,
    levels: Levels | None = None,
) -> MemorySource:
    """Do the work of ``from_dataset``, with more arguments.

    Args:
        parts: labeled, unlabeled, test; None: no such part.
        published: whether the labels are numbers of the data set's own names; the names that occur are taken.
        learnt: as in ``encode_labels``.
        levels: of Pillow images with more than 8 bits; None: their range in the labelled and unlabelled rows.

    Raises:
        UserError: as ``from_dataset``.
    """
    given = {part: dataset for part, dataset in zip(PARTS, parts) if dataset is not None}
    total = sum(_length(dataset, part) for part, dataset in given.items())
    options = ImageOptions(image_size, resize=resize)
    rows: _Rows | None = None
    made: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for part, dataset in given.items():
        labels: list[Any] = []
        for k, (x, y) in enumerate(_pairs(dataset, part)):
            rows = rows or _rows_for(x, options, total, f"{part}, row {k}")
            if levels is None and isinstance(x, Image.Image) and depth_of(x):
                levels = _levels(given)
            rows.levels = levels or Levels()
            rows.add(x, f"{part}, row {k}")
            labels.append(y)
        counts[part] = len(labels)
        if PARTS[part][1]:
            made[PARTS[part][1]] = labels
    assert rows is not None  # there is a labelled row: _length saw to it
    for part, data in zip(counts, rows.parts(list(counts.values()))):
        made[PARTS[part][0]] = data
    notes = rows.notes
    names = _class_names(parts[0], made["y"]) if class_names is None else None
    if (
        names
        and not published
        and not _numbered_so(parts[0], names)
        and (idle := set(range(len(names))) - set(made["y"]))
    ):
        notes += (f"{len(idle)} of {len(names)} class names do not occur, so classes go by number: give class_names",)
        names = None
    if names:
        for key in ("y", "y_test"):
            made[key] = [_named(y, names) for y in made[key]] if key in made else None
        class_names = [name for name in names if name in made["y"]]  # without those that no row has
    source = assemble(made, class_names, "auto", "", tokenizer, max_tokens, name, copy=False, learnt=learnt)
    source.notes += notes
    source.resize, source.white, source.resized, source.levels = resize, rows.white, rows.resized, rows.levels
    return source


def _levels(parts: Mapping[str, Any]) -> Levels:
    """Return the range of all Pillow images with more than 8 bits among the training rows; this reads each row."""
    spans = []
    for part in ("labeled", "unlabeled"):
        for k, (x, _) in enumerate(_pairs(parts[part], part)) if part in parts else ():
            if isinstance(x, Image.Image) and depth_of(x):
                try:
                    spans.append(span_of(x))
                except (OSError, ValueError) as error:
                    what = f"the image cannot be used: {error}"
                    raise UserError(what, "Mend or leave out this row.", f"{part}, row {k}") from error
    return levels_of(np.array(spans).reshape(-1, 4))


def _length(dataset: Any, part: str) -> int:
    if isinstance(dataset, tuple):
        raise UserError("a tuple of arrays is not a data set", "Give them to from_arrays: X and y.", part)
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset | Mapping | str) or not indexed:
        what = f"a {type(dataset).__name__} cannot be indexed by row"
        raise UserError(what, "Give a map-style data set: len(dataset) and dataset[k].", part)
    count = len(dataset)
    if not count:
        raise UserError("the data set has no row", "Give rows, or leave it out.", part)
    return count


def _pairs(dataset: Any, part: str) -> Iterator[tuple[Any, Any]]:
    """Yield (x, y) of every row; y None: no label."""
    for k in range(len(dataset)):
        try:
            row = dataset[k]
        except Exception as error:  # whatever the data set's own code raises
            what = f"it cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            raise UserError(what, "Mend or leave out this row.", f"{part}, row {k}") from error
        x, y = _split(row, f"{part}, row {k}")
        yield x, _label(y, f"{part}, row {k}")


def _split(row: Any, where: str) -> tuple[Any, Any]:
    if isinstance(row, Mapping):
        found = next((key for key in X_KEYS if key in row), None)
        if found is None:
            what = f"a row has the keys {', '.join(map(str, row))}"
            raise UserError(what, f"Name what is to be classified 'x' (or one of {', '.join(X_KEYS[1:])}).", where)
        return row[found], next((row[key] for key in Y_KEYS if key in row), None)
    pair = isinstance(row, tuple) or (isinstance(row, list) and row and not isinstance(row[0], int | float))
    if not pair:
        return row, None
    if not row:
        raise UserError("the row is empty", "Give x or (x, y).", where)
    return row[0], row[1] if len(row) > 1 else None


def _label(y: Any, where: str) -> Any:
    if isinstance(y, Tensor | np.ndarray | np.generic):
        if y.size != 1 if isinstance(y, np.ndarray) else isinstance(y, Tensor) and y.numel() != 1:
            what = f"its label has the shape {list(y.shape)}"
            raise UserError(what, "Give a class number (argmax of a one-hot row), or a text.", where)
        y = y.item()
    return None if is_missing(y) or y == -1 else y


def _class_names(dataset: Any, labels: Sequence[Any]) -> list[str] | None:
    """Return the names of class numbers in a data set, or in the one inside a ``Subset``; None if it has none.

    None, too, if the labels are not these numbers: True and False, or results of a ``target_transform``.
    """
    if any(type(y) is not int for y in labels if y is not None):
        return None
    if isinstance(dataset, ConcatDataset) and not hasattr(dataset, "classes"):
        found = [_class_names(part, labels) for part in dataset.datasets]
        return found[0] if all(names == found[0] for names in found) else None
    if isinstance(dataset, Subset) and not hasattr(dataset, "classes"):
        return _class_names(dataset.dataset, labels)
    if getattr(dataset, "target_transform", None) is not None:
        return None
    names = getattr(dataset, "classes", None)
    features = getattr(dataset, "features", None)
    if names is None and isinstance(features, Mapping):
        names = next((getattr(features[key], "names", None) for key in Y_KEYS if key in features), None)
    highest = max((y for y in labels if y is not None), default=-1)
    if not isinstance(names, list | tuple) or highest >= len(names):
        return None
    plain = [
        str(name[0] if isinstance(name, list | tuple) and name else name) for name in names
    ]  # of several, the first
    return plain if len(set(plain)) == len(plain) else None


def _numbered_so(dataset: Any, names: Sequence[str]) -> bool:
    """Return whether a data set itself says that class k is called ``names[k]``, as ``ImageFolder`` does.

    Names without rows then do not shift the others.
    """
    if isinstance(dataset, ConcatDataset):
        return all(_numbered_so(part, names) for part in dataset.datasets)
    if isinstance(dataset, Subset) and not hasattr(dataset, "class_to_idx"):
        return _numbered_so(dataset.dataset, names)
    numbers = getattr(dataset, "class_to_idx", None)
    return isinstance(numbers, Mapping) and {str(k): v for k, v in numbers.items()} == {
        n: k for k, n in enumerate(names)
    }


def _named(y: Any, names: Sequence[str]) -> Any:
    """Return the class's name; a number without a name as text, which a later check reports."""
    return y if y is None else names[y] if isinstance(y, int) and 0 <= y < len(names) else str(y)


class _Rows:
    """Rows of one kind, collected."""

    notes: tuple[str, ...] = ()
    white = 0  # white level of float images, 1 or 255; 0: there were no float images
    resized = False  # whether images were resized, or a size was given
    levels = Levels()  # of Pillow images with more than 8 bits

    def add(self, x: Any, where: str) -> None:
        raise NotImplementedError

    def parts(self, counts: Sequence[int]) -> list[Any]:
        """Return the rows in parts of ``counts``, as ``from_arrays`` takes them."""
        raise NotImplementedError


def _rows_for(x: Any, options: ImageOptions, total: int, where: str) -> _Rows:
    """Return the collector for rows like ``x``."""
    if isinstance(x, str):
        return _Texts()
    if isinstance(x, Image.Image) or np.ndim(x) in (2, 3):
        return _Images(options, total)
    if np.ndim(x) == 1:
        return _Features(total)
    what = f"a {type(x).__name__} is neither an image nor a row of features nor a text"
    raise UserError(what, "Give a Pillow image, a tensor, an array or a text.", where)


class _Texts(_Rows):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, x: Any, where: str) -> None:
        if not isinstance(x, str):
            raise UserError(f"it is a {type(x).__name__}, the rows before are texts", "Give texts.", where)
        self.texts.append(x)

    def parts(self, counts: Sequence[int]) -> list[Any]:
        ends = np.cumsum(counts).tolist()
        return [self.texts[end - count : end] for count, end in zip(counts, ends)]


class _Features(_Rows):
    def __init__(self, total: int) -> None:
        self.total, self.filled, self.table = total, 0, torch.zeros(0, 0)

    def add(self, x: Any, where: str) -> None:
        row = torch.as_tensor(x) if np.ndim(x) == 1 else None
        if row is None or (self.filled and len(row) != self.table.shape[1]) or row.is_complex():
            before = f"[{self.table.shape[1]}]" if self.filled else "another"
            what = f"its shape is {list(np.shape(x))}, the rows before have {before}"
            raise UserError(what, "Bring all rows to one shape.", where)
        if not self.filled:
            _check_memory(self.total, 4 * len(row))
            self.table = torch.zeros(self.total, len(row))
        self.table[self.filled] = row
        self.filled += 1

    def parts(self, counts: Sequence[int]) -> list[Any]:
        return list(torch.split(self.table, list(counts)))


class _Images(_Rows):
    """Collects uint8 images; small ones keep their size until all are read, larger ones are resized at once."""

    def __init__(self, options: ImageOptions, total: int) -> None:
        self.options, self.total, self.scale, self.highest = options, total, 0, 0.0
        self.images: list[Tensor] = []
        self.array: tuple[int, ...] = ()  # the shape of an array among them; Pillow images are certainly images
        self.resized = options.sides is not None

    def add(self, x: Any, where: str) -> None:
        image = self._read(x, where)
        if self.options.sides is not None or self.options.common([(image.shape[1], image.shape[2])]) is None:
            image = image_at(image, self.options.sides or self.options.auto_sides, self.options.resize)
            self.resized = True
        if not self.images:
            _check_memory(self.total, image.numel())
        self.images.append(image)

    def parts(self, counts: Sequence[int]) -> list[Any]:
        signals = check_signals(self.array, self.white == 0, "x", "x[None]", "x.reshape(-1)")
        if self.white == 1:
            check_divided_once(self.highest, "from_dataset")
        channels = max(len(image) for image in self.images)
        sizes = {(image.shape[1], image.shape[2]) for image in self.images}
        self.resized |= len(sizes) > 1
        size = sizes.pop() if len(sizes) == 1 else self.options.auto_sides
        colour, way = "grey" if channels == 1 else "RGB", how(self.options.resize) if self.resized else ""
        sized = f"images are {'brought to ' if self.resized else ''}{size[0]} x {size[1]}, {colour}{way}"
        self.notes = (sized, *signals)
        _check_memory(self.total, channels * size[0] * size[1])
        made = []
        for count in counts:
            part = torch.empty(count, channels, *size, dtype=torch.uint8)
            for k, image in enumerate(self.images[:count]):
                part[k] = image_at(image, size, self.options.resize)  # a grey one is spread over RGB
            del self.images[:count]
            made.append(part)
        return made

    def _read(self, x: Any, where: str) -> Tensor:
        """uint8 [1 or 3, height, width]."""
        if isinstance(x, Image.Image):
            try:
                return pixels_of(x, levels=self.levels)
            except Unreadable as error:
                raise UserError(f"the image cannot be used: {error}", "Mend or leave out this row.", where) from error
        array = x.detach().cpu().float().numpy() if isinstance(x, Tensor) and x.is_floating_point() else np.asarray(x)
        self.array = self.array or array.shape
        if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or not array.size:
            what = f"it is {array.dtype} {list(array.shape)}, which is not an image"
            raise UserError(what, "Give [H, W], [H, W, C] or [C, H, W] with C 1 or 3.", where)
        stack = planes(array[None], where, isinstance(x, Tensor))[0]
        if stack.dtype == np.uint8:
            return torch.from_numpy(np.array(stack, order="C"))
        return self._bytes(stack, where)

    def _bytes(self, values: Array, where: str) -> Tensor:
        """Return floats and other whole numbers as uint8; their scale, 0..1 or 0..255, is the same for all rows."""
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 255):  # NaN fails both
            remedy = "Scale to 0..1 or 0..255; leave Normalize out, metapl standardises itself."
            raise UserError(f"image values run from {low:g} to {high:g}", remedy, where)
        if not self.scale and high > 0:
            self.scale = 1 if high <= 1 and values.dtype.kind in "bf" else 255
        self.highest = max(self.highest, high)
        if values.dtype.kind == "f":
            self.white = self.scale
        if self.scale == 1 and high > 1:
            what = f"image values reach {high:g}, in the rows before at most 1"
            raise UserError(what, "Bring all images to one scale.", where)
        return torch.from_numpy(np.rint(values * (255.0 / (self.scale or 255))).astype(np.uint8, order="C"))


def _check_memory(rows: int, each: int) -> None:
    if rows * each > MAX_BYTES:
        what = f"{rows} rows of {each} bytes need {rows * each / GIB:.1f} GiB of memory, above the limit of 4"
        raise UserError(what, "Set a smaller source.image.size, or give the images as a folder.", "from_dataset")
