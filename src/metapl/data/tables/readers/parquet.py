"""Parquet files as columns: texts, numbers, and images as bytes; read with pyarrow (the extra ``parquet``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metapl.data.images.scan import missing, shown
from metapl.data.tables.digits import too_coarse
from metapl.data.tables.readers.frame import Blobs, Form, Frame, Texts, Values, not_a_number, to_numbers
from metapl.data.tables.roles import LABELS, PATHS, TEXTS
from metapl.errors import UserError
from metapl.types import Array

INDEX = "__index_level_0__"  # pandas' name of a column of row numbers
BUFFER, LOOK = 1 << 16, 1 << 14  # bytes of a column, and rows, of a file that is read in stretches
MAX_BYTES = 8 * 2**30  # of one unpacked column, which is held in memory


class ParquetFile:
    """A ``frame.TableFile`` over one Parquet file.

    Texts, dates and true/false are read as text, a null as "" or NaN. Columns of bytes are read as bytes, and so are
    structs {bytes, path}, in which Hugging Face's data sets store images. If the file stores the names of class
    numbers, a column read as text holds these names, and "" for -1.

    Attributes:
        whole: the columns of numbers; in these, the label -1 means "no label".

    Raises:
        UserError: pyarrow is missing, the file is missing or damaged, or it is not a Parquet file.
    """

    numbered = False
    last: frozenset[str] = frozenset()
    _rows_read: Any = None  # of a stretch: its rows as a pyarrow table
    _first = 0  # of a stretch: its first row in the file

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: dict[tuple[str, str], bool] = {}  # facts about whole columns, for stretches of them
        self.name = shown(self.path.name)
        self._parquet = _pyarrow(self.name)
        with self._user_errors():
            self._file = self._parquet.ParquetFile(self.path, memory_map=True)
            fields = list(self._file.schema_arrow)
            self.rows = int(self._file.metadata.num_rows)
            self._class_names = _class_names(self._file.schema_arrow.metadata or {})
            self.whole = frozenset(field.name for field in fields if _is_number(field.type))
            self.names = tuple(field.name for field in fields if field.name != INDEX)
        for k, name in enumerate(self.names):
            if not name.strip() or name in self.names[:k]:
                what = f"two columns are called '{shown(name)}'" if name.strip() else f"column {k + 1} has no name"
                raise UserError(what, "Rename or remove one." if name.strip() else "Name it.", self.name)
        if not self.rows or not self.names:
            raise UserError("the file has no row", "Give a file with rows.", self.name)

    def read(self, forms: Mapping[str, Form], most: Mapping[str, int] | None = None) -> Frame:
        """Read columns as ``frame.TableFile.read`` does."""
        columns: dict[str, Values] = {}
        full: set[str] = set()
        for name in self.names:
            if name in forms:
                values = self._column(name, forms[name])
                limit = (most or {}).get(name)
                if isinstance(values, Texts) and limit is not None and len(values.levels) > limit:
                    full.add(name)
                else:
                    columns[name] = values
        return Frame(self.name, columns, self._place, self._line, self.rows, full=full)

    def stretches(self, forms: Mapping[str, Form], rows: int) -> Iterator[ParquetFile]:
        """As ``stretch.LongFile`` has it. What is decided by a whole column is decided for the file."""
        import pyarrow as pa

        names, first = [name for name in self.names if name in forms], 0
        for batch in self._batches(names, rows):
            part = copy(self)
            part._rows_read, part._first, part.rows = pa.Table.from_batches([batch]), first, batch.num_rows
            yield part
            first += batch.num_rows

    def remarks(self) -> list[str]:
        """Return an empty list: a Parquet file has no doubtful lines (see ``stretch.LongFile``)."""
        return []

    def cells(self, names: Sequence[str], rows: int = 1024) -> Iterator[list[Any]]:
        """Yield the rows one by one, ``rows`` of them in memory: text, numbers, the bytes of an image, or None."""
        import pyarrow as pa

        for batch in self._batches(names, rows):
            columns = []
            for name in names:
                values, kind = batch.column(name), batch.column(name).type
                if pa.types.is_dictionary(kind):
                    values, kind = values.cast(kind.value_type), kind.value_type
                if pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
                    values = values.cast(pa.string())  # as in a whole file
                columns.append(values.to_pylist())
            yield from map(list, zip(*columns, strict=True))

    def _batches(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        """Yield record batches, of which memory holds one.

        pyarrow would otherwise read the columns of a whole row group ahead (``pre_buffer``), or count its pages as
        memory of this process (``memory_map``).
        """
        with self._user_errors():
            file = self._parquet.ParquetFile(self.path, buffer_size=BUFFER, pre_buffer=False)
            batches = file.iter_batches(rows, columns=list(names), use_threads=False)
        while True:
            with self._user_errors():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _line(self, row: int) -> str:
        return str(self._first + row)

    def _place(self, row: int) -> str:
        return f"{self.name}, row {self._first + row}"

    def _column(self, name: str, form: Form) -> Values:
        import pyarrow as pa

        with self._user_errors():
            values = self._chunks(name)
            if len(values) != self.rows:
                raise ValueError(f"column '{name}' has {len(values)} of {self.rows} rows")
            kind = values.type
            if pa.types.is_dictionary(kind):
                values, kind = values.cast(kind.value_type), kind.value_type
            if pa.types.is_struct(kind):
                values, kind = _picture(values, kind, partial(self._of_all, "bytes", name, values, _has_bytes))
            if _is_bytes(kind) and form == "text" and name.lower() in (*LABELS, *TEXTS):
                values = _decoded(values)  # as some tools write texts
                kind = values.type
            if pa.types.is_list(kind) or pa.types.is_large_list(kind):
                values = _lone(values)
                kind = values.type
            if _is_bytes(kind):
                if form == "number":
                    raise UserError(f"column '{shown(name)}' holds bytes, not numbers", "Leave it out.", self.name)
                return _blobs(values)
            if pa.types.is_nested(kind):
                what, remedy = f"column '{shown(name)}' holds {kind}", "Write one value per row"
                if name.lower() in PATHS:
                    remedy = "Store the bytes of PNG or JPEG files there, or give the pixels as a .npz file"
                setting = f"or set source.table.ignore={shown(name)}." if form != "text" else ""
                raise UserError(what, remedy if setting else f"{remedy}.", self.name, setting)
            if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
                if form != "text":
                    return self._numbers(values, name, form == "number")
                whole = pa.types.is_floating(kind) and self._of_all("whole", name, values, _all_whole)
                return _named(_texts(_digits(values, whole)), self._class_names.get(name, ()))
            if pa.types.is_null(kind) and form != "text":
                return np.full(self.rows, np.nan, dtype=np.float32)
            texts = _texts(values)
            return self._parsed(texts, name) if form == "number" else texts

    def _numbers(self, values: Any, name: str, wide: bool) -> Array:
        """Return numbers as ``to_numbers`` does; NaN for a null.

        Raises:
            UserError: a value that is infinite as float32.
        """
        exact = np.asarray(values.cast("float64", safe=False).to_numpy(), dtype=np.float64)
        with np.errstate(over="ignore"):
            made = exact.astype(np.float32)
        bad = np.flatnonzero(np.isinf(made))
        if len(bad):
            raise not_a_number(shown(name), repr(float(exact[bad[0]])), self._place(int(bad[0])))
        return exact if wide or too_coarse(exact) else made

    def _parsed(self, texts: Texts, name: str) -> Array:
        listed = texts.tolist()
        made = to_numbers(listed, wide=True)
        if isinstance(made, int):
            raise not_a_number(shown(name), listed[made], self._place(made))
        return made

    def _chunks(self, name: str) -> Any:
        """Read one column, a row group at a time, so that a column too large for memory is refused early.

        (The sizes in the file's own directory are not used: if they are damaged, pyarrow ends the process.)
        """
        import pyarrow as pa

        if self._rows_read is not None:
            return self._rows_read.column(name)
        chunks, size = [], 0
        for k in range(self._file.num_row_groups):
            part = self._file.read_row_group(k, columns=[name], use_threads=False).column(name)
            chunks.append(part)
            size += part.nbytes
            if size > MAX_BYTES:
                what = f"column '{shown(name)}' is larger than {MAX_BYTES / 2**30:.0f} GiB, the limit"
                raise UserError(what, "Take fewer rows, or store the images as files and name them by path.", self.name)
        return pa.chunked_array([chunk for part in chunks for chunk in part.chunks], type=chunks[0].type)

    def _of_all(self, fact: str, name: str, values: Any, holds: Callable[[Iterator[Any]], bool]) -> bool:
        """Return whether a fact holds of a column: of ``values``, or in a stretch of the column of the whole file."""
        if self._rows_read is None:
            return holds(iter([values]))
        if (fact, name) not in self._known:
            columns = (batch.column(name) for batch in self._batches([name], LOOK))
            self._known[fact, name] = holds(columns)
        return self._known[fact, name]

    @contextmanager
    def _user_errors(self) -> Iterator[None]:
        """Turn pyarrow's errors about the file into a ``UserError`` of one line."""
        import pyarrow as pa

        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as error:
            raise missing(self.path) from error
        except PermissionError as error:
            raise UserError("no permission to read the file", "Check its permissions.", self.name) from error
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            text = " ".join(str(error).split())[:200]
            what = f"the file is damaged, or not a Parquet file ({text})"
            raise UserError(what, "Fetch or write it again.", self.name) from error


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        remedy = "Install it: pip install 'metapl[parquet]'."
        raise UserError("Parquet files are read with pyarrow, which is not installed", remedy, name) from error
    return parquet


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _has_bytes(columns: Iterator[Any]) -> bool:
    """Return whether a row of a column of structs {bytes, path} has bytes."""
    import pyarrow.compute as pc

    return any(pc.struct_field(values, "bytes").null_count < len(values) for values in columns)


def _picture(values: Any, kind: Any, has_bytes: Callable[[], bool]) -> tuple[Any, Any]:
    """Return the bytes of a struct {bytes, path}, or its paths if no row has bytes; other structs stay as they are."""
    import pyarrow.compute as pc

    fields = {kind.field(k).name for k in range(kind.num_fields)}
    if "bytes" in fields:
        inner = pc.struct_field(values, "bytes" if "path" not in fields or has_bytes() else "path")
        return inner, inner.type
    return values, kind


def _decoded(values: Any) -> Any:
    """Return a column of bytes as text where it is text in UTF-8, else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        texts = values.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        return values
    odd = pc.any(pc.match_substring_regex(texts, "[\\x00-\\x08\\x0e-\\x1f]")).as_py()
    return values if odd else texts


def _lone(values: Any) -> Any:
    """Return a column of lists of at most one value each as a column of values, else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if (pc.max(pc.list_value_length(values)).as_py() or 0) > 1:
        return values
    listed = [row[0] if row else None for row in values.to_pylist()]
    return pa.chunked_array([pa.array(listed, type=values.type.value_type)])


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Return column -> names of its class numbers, as Hugging Face's data sets store them; {} if none are stored."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {k: tuple(map(str, f["names"])) for k, f in features.items() if f.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(texts: Texts, names: tuple[str, ...]) -> Texts:
    """Replace class numbers by their names; numbers without a name stay."""
    known = {**{str(k): name for k, name in enumerate(names)}, "-1": ""}
    return Texts(texts.codes, tuple(known.get(level, level) for level in texts.levels)) if names else texts


def _blobs(values: Any) -> Blobs:
    return [blob for chunk in values.chunks for blob in chunk.to_pylist()]


def _all_whole(columns: Iterator[Any]) -> bool:
    """Return whether a column of floats holds nothing but whole numbers and gaps, as pandas makes of integers."""
    import pyarrow as pa

    there = False
    for values in columns:
        values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
        numbers = values.to_numpy(zero_copy_only=False)
        known = numbers[~np.isnan(numbers)]
        if (np.abs(known) >= 2**53).any() or (known != np.rint(known)).any():
            return False
        there = there or len(known) > 0
    return there


def _digits(values: Any, whole: bool) -> Any:
    """Return floats for writing: NaN is a null too, and whole numbers are integers if ``whole``, without ".0"."""
    import pyarrow as pa

    if not pa.types.is_floating(values.type):
        return values
    numbers = values.to_numpy()
    if whole:
        integers = [None if np.isnan(number) else int(number) for number in numbers.tolist()]
        return pa.chunked_array([pa.array(integers, type=pa.int64())])
    return pa.chunked_array([pa.array(numbers, from_pandas=True)])


def _texts(values: Any) -> Texts:
    """Return each different text once, in the order of their first rows; "" for a null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    written = pc.fill_null(values.cast(pa.large_string()), "")
    encoded = pa.array(written.combine_chunks()).dictionary_encode()
    codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int32)
    return Texts(codes, tuple(encoded.dictionary.to_pylist()))
