"""Which column of a file plays which role: label, contents (a path, a text, or features), id, split."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from metapl.data.images.scan import UNLABELED
from metapl.data.tables.options import AUTO, NONE, TableOptions
from metapl.data.tables.readers.frame import counted, short
from metapl.errors import UserError
from metapl.types import Kind, ModelInput, Preprocessing

LABELS = ("label", "labels", "class", "target", "category", "y")
SURE = LABELS[:2]  # names that hardly any feature has: they win over the others
PATHS = ("path", "file", "filename", "filepath", "image", "img", "image_path")
TEXTS = ("text", "sentence", "question", "document", "content")
TRAIN, TEST = ("train", "labelled", "labeled"), ("test",)
SPLITS = (*TRAIN, *UNLABELED, *TEST)


_UNNAMED = re.compile(r"unnamed_(\d+)")


def unnamed(field: int) -> str:
    """Return the name for a column without a name; ``field`` counts from 1."""
    return f"unnamed_{field}"


@dataclass(frozen=True)
class Roles:
    """The role of each column.

    Attributes:
        kind: the modality of the rows.
        label, id, split: the column, or None.
        contents: the column of paths, the columns of texts, or the columns of features.
        chosen: columns that the user named as features or categories; they are always kept.
        guessed: whether the column of paths or texts was found by its name alone.
        notes: notes for the user.
    """

    kind: Kind
    label: str | None
    id: str | None
    split: str | None
    contents: tuple[str, ...]
    chosen: frozenset[str] = frozenset()
    guessed: bool = False
    notes: tuple[str, ...] = ()


def find_roles(names: Sequence[str], options: TableOptions, where: str) -> Roles:
    """Return the role of each of the columns ``names``; ``where`` is the file, for messages.

    Raises:
        UserError: a named column is missing, a role fits several columns, or no column is left for the classifier.
    """
    for group in ("features", "ignore", "categorical"):
        for name in options.named(group):
            _check(name, names, f"source.table.{group}", where)
    listed = {*options.named("features"), *options.named("categorical")}
    for name in names:
        if (match := _UNNAMED.fullmatch(name)) and name not in options.named("ignore") and name not in listed:
            remedy = "Name it in the first line"
            raise UserError(f"column {match[1]} has no name", remedy, where, f"or set source.table.ignore={name}.")
    free = [n for n in names if n not in options.named("ignore") and n not in listed]
    texts = text_columns(options, names)
    for name in texts:
        _check(name, names, "source.table.text", where)
    explicit = {options.label, options.path, options.id, options.split, *texts} - {AUTO, NONE}
    label = _label([n for n in free if n == options.label or n not in explicit], names, options, where)
    others = {}
    for role in ("id", "split"):  # named columns are taken before guessed ones
        asked = getattr(options, role)
        own = [n for n in free if n == asked or n not in explicit]
        others[role] = _single(own, names, asked, (role,), f"source.table.{role}", where)
    taken = {label, *others.values()}
    free = [n for n in free if n not in taken]
    kind, column = _contents(free, names, options, listed, where)
    if column is not None:
        contents: tuple[str, ...] = texts if kind == "text" and texts else (column,)
        if twice := [n for n in contents if n not in free]:
            raise UserError(f"column '{short(twice[0])}' has two roles", "Name it once.", "source.table.text")
        rest = [n for n in names if n not in taken and n not in contents]
    else:
        wanted = options.named("features") or [*free, *listed]
        contents = tuple(n for n in names if (n in wanted or n in listed) and n not in taken)
        rest = [n for n in names if n not in taken and n not in contents]
    if not contents:
        raise _nothing(names, label, where)
    if label is None:
        more = " (Is the delimiter a comma, tab, semicolon or pipe?)" if len(names) == 1 else ""
        what = f"no column holds the label (there are {listing(names)})"
        last = f" The last column is often it: source.table.label={len(names)}." if names[0] == "1" else ""
        raise UserError(what, f"Set source.table.label=NAME.{more}{last}", where)
    guessed = column is not None and (options.path if kind == "image" else options.text) == AUTO
    notes = _notes(kind, {"label": label, **others}, contents, rest)
    return Roles(kind, label, others["id"], others["split"], contents, frozenset(listed), guessed, notes)


def text_columns(options: TableOptions, names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of texts that ``source.table.text`` names, one or several between commas; none under auto."""
    if options.text in (AUTO, NONE):
        return ()
    if options.text in names:
        return (options.text,)
    return tuple(filter(None, (name.strip() for name in options.text.split(","))))


def model_roles(names: Sequence[str], options: TableOptions, like: ModelInput, where: str) -> Roles:
    """Return the role of each of the columns ``names`` of new rows for a model; ``options`` are the training's.

    Raises:
        UserError: a column that the model needs is missing, or the label column if labels are asked for.
    """
    contents = _model_contents(names, options, like.takes, where)
    free = [n for n in names if n not in contents]
    label = _model_label(free, options, where) if like.labels else None
    others: dict[str, str | None] = {}
    for role in ("id", "split"):
        asked = getattr(options, role)
        found = [n for n in free if (n == asked if asked != AUTO else n.lower() == role)]
        others[role] = found[0] if len(found) == 1 and asked != NONE else None
    used = {*contents, *others.values(), label, options.label}
    rest = [n for n in names if n not in used and n.lower() not in LABELS]
    notes = (f"{where}: columns not used: {listing(rest)}",) if rest else ()
    return Roles(like.takes.kind, label, others["id"], others["split"], contents, notes=notes)


def _model_contents(names: Sequence[str], options: TableOptions, takes: Preprocessing, where: str) -> tuple[str, ...]:
    """Return the columns that the model takes."""
    if takes.kind != "image" and takes.tokens is None:
        if not takes.columns:
            what = "the model was trained on columns without names, so those of a file cannot be matched"
            raise UserError(what, "Use Python, with arrays.", where)
        for column in takes.columns:
            if column.name not in names:
                remedy = f"The model needs it. {hint(column.name, names)}"
                raise UserError(f"column '{short(column.name)}' is missing", remedy, where)
        return tuple(column.name for column in takes.columns)
    role, known, noun = ("path", PATHS, "image paths") if takes.kind == "image" else ("text", TEXTS, "texts")
    asked = getattr(options, role)
    if role == "text" and (several := text_columns(options, names)) and set(several) <= set(names):
        return several
    found = [n for n in names if (n == asked if asked not in (AUTO, NONE) else n.lower() in known)]
    if len(found) == 1:
        return (found[0],)
    wanted = f"'{short(asked)}'" if asked not in (AUTO, NONE) else f"one of {', '.join(known)}"
    what = f"there must be one column of {noun}, {wanted}; there are {listing(found or names)}"
    raise UserError(what, "Rename the column.", where)


def _model_label(free: Sequence[str], options: TableOptions, where: str) -> str:
    """Return the label column among the columns that the model does not take."""
    if options.label != AUTO:
        found = [n for n in free if n == options.label]
    else:
        found = [n for n in free if n.lower() in LABELS]
        found = [n for n in found if n.lower() in SURE] or found
    if len(found) != 1:
        wanted = f"'{short(options.label)}'" if options.label != AUTO else f"one of {', '.join(LABELS)}"
        what = f"there must be one column of labels, {wanted}; there are {listing(found or free) or 'none'}"
        raise UserError(what, "Add it, or rename one.", where)
    return found[0]


def _label(free: Sequence[str], names: Sequence[str], options: TableOptions, where: str) -> str | None:
    if options.label != AUTO:
        return _single(free, names, options.label, (), "source.table.label", where)
    found = [n for n in free if n.lower() in LABELS]
    sure = [n for n in found if n.lower() in SURE]
    return _one(sure or found, "label", where)


def _contents(
    free: Sequence[str], names: Sequence[str], options: TableOptions, listed: Collection[str], where: str
) -> tuple[Kind, str | None]:
    """Return the kind of the rows, and the column of paths or texts; None for a table."""
    asked = {role: getattr(options, role) not in (AUTO, NONE) for role in ("path", "text")}
    if sum(asked.values()) + bool(listed) > 1:
        what = "more than one of path, text and features is named"
        raise UserError(what, "Name the one that the classifier is to see.", "source")
    path = text = None
    if not listed and not asked["text"]:
        path = _single(free, names, options.path, PATHS, "source.table.path", where)
    if not listed and not asked["path"]:
        several = text_columns(options, names)
        asked_text = several[0] if several else options.text
        text = _single(free, names, asked_text, TEXTS, "source.table.text", where)
    if path is not None and text is not None:
        what = f"column '{short(path)}' may hold images and column '{short(text)}' texts"
        raise UserError(what, f"Set source.table.path={path} or source.table.text={text}.", where)
    if path is not None:
        return "image", path
    return ("table", None) if text is None else ("text", text)


def _single(
    free: Sequence[str], names: Sequence[str], asked: str, known: Sequence[str], setting: str, where: str
) -> str | None:
    """Return the column that ``asked`` names, or the one whose name is ``known``."""
    if asked == NONE:
        return None
    if asked != AUTO:
        _check(asked, names, setting, where)
        if asked not in free:
            raise UserError(f"column '{short(asked)}' has two roles", "Name it once.", setting)
        return asked
    return _one([n for n in free if n.lower() in known], setting.rpartition(".")[2], where)


def _one(found: Sequence[str], role: str, where: str) -> str | None:
    if len(found) > 1:
        words = ", ".join(f"'{short(n)}'" for n in found)
        both = f" To use all of them, set source.table.text={','.join(found)}." if role == "text" else ""
        raise UserError(f"several columns may hold the {role}: {words}", f"Set source.table.{role}=NAME.{both}", where)
    return found[0] if found else None


def _check(name: str, names: Sequence[str], setting: str, where: str) -> None:
    if name not in names:
        raise UserError(f"there is no column '{short(name)}' ({setting})", hint(name, names), where)


def _nothing(names: Sequence[str], label: str | None, where: str) -> UserError:
    if len(names) == 1:
        what = f"only one column was found ('{short(names[0])}')"
        remedy = "Add a column to learn from. (Or is the delimiter not a comma, tab, semicolon or pipe?)"
        return UserError(what, remedy, where)
    return UserError("no column is left for the classifier to see", "Name some with source.table.features.", where)


def _notes(
    kind: Kind, single: Mapping[str, str | None], contents: Sequence[str], rest: Sequence[str]
) -> tuple[str, ...]:
    what = {"image": "images", "text": "texts", "table": counted(len(contents), "feature")}[kind]
    named = [f"{role}: '{short(name)}'" for role, name in single.items() if name]
    notes = ["; ".join([f"{what}: {listing(contents)}", *named])]
    if rest:
        notes.append(f"columns not used: {listing(rest)}")
    return tuple(notes)


def listing(names: Sequence[str], most: int = 8) -> str:
    """Return ``'a', 'b' and 3 more``."""
    shown = ", ".join(f"'{short(name)}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def hint(word: str, known: Sequence[str]) -> str:
    """Return a remedy that names the column closest to ``word``, or lists some columns."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean '{short(close[0])}'?" if close else f"There are {listing(known)}."
