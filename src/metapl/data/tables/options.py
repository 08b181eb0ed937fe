"""How files of rows are read: the settings ``source.table``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from metapl.utils.fields import Settings

Decimal = Literal["point", "comma"]
Header = Literal["auto", "first", "none"]
Quotes = Literal["auto", "none"]
AUTO: Literal["auto"] = "auto"
NONE = "none"
# How a file is written; new files are written as the training's.
WRITTEN = ("delimiter", "encoding", "decimal", "header", "quotes")


@dataclass(frozen=True)
class TableOptions(Settings, group="source.table"):
    """How files of rows are read: which column has which role, and how the file is written."""

    label: Annotated[str, "the column of the classes; auto takes label, labels, class, target, category or y"] = AUTO
    path: Annotated[
        str,
        "the column of image paths, or none; auto takes path, file, filename, filepath, image, img or image_path",
    ] = AUTO
    text: Annotated[str, "the columns of texts, or none; auto takes text, sentence, question, document or content"] = (
        AUTO
    )
    features: Annotated[str, "the columns of features, between commas; by default all without another role"] = ""
    ignore: Annotated[str, "columns that are not used, between commas"] = ""
    categorical: Annotated[
        str, "columns whose values are categories even where they look like numbers, between commas"
    ] = ""
    id: Annotated[
        str, "the column of row ids, or none; auto takes id. Without one, the line in the file is a row's id"
    ] = AUTO
    split: Annotated[str, "the column of train, unlabelled or test, or none; auto takes split"] = AUTO
    delimiter: Annotated[str, "comma, tab, semicolon or pipe; auto finds it in the header"] = AUTO
    encoding: Annotated[
        str,
        "utf-8, cp1252 (Windows, Excel), latin-1 or another that Python knows; auto takes UTF-8, or what the "
        "file's first bytes say. Valid UTF-8 beyond ASCII is always read as UTF-8",
    ] = AUTO
    decimal: Annotated[
        Decimal, "the sign before the decimals of all numbers in a CSV or TSV file: point (3.5) or comma (3,5)"
    ] = "point"
    skip_bad_rows: Annotated[
        bool, "leave out bad rows of a file (they are listed in problems.csv) instead of stopping"
    ] = False
    suffix: Annotated[str, "added to each path, such as .jpg where the column holds names without it"] = ""
    header: Annotated[
        Header,
        "first (the first line names the columns), none (it is a row; columns are called 1, 2, ...) or auto, which "
        "takes it for names and stops where it looks like a row",
    ] = AUTO
    quotes: Annotated[
        Quotes, "auto (fields may stand in double quotes) or none (a quote is a character like any other)"
    ] = AUTO

    def named(self, group: str) -> tuple[str, ...]:
        """Return the columns that ``features``, ``ignore`` or ``categorical`` lists."""
        return tuple(filter(None, (name.strip() for name in getattr(self, group).split(","))))

    @property
    def written(self) -> dict[str, str]:
        """The settings in ``WRITTEN`` that differ from their defaults."""
        default = {f.name: f.default for f in fields(self)}
        return {name: getattr(self, name) for name in WRITTEN if getattr(self, name) != default[name]}
