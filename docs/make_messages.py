"""Write docs/messages.md: messages about data side by side, each with the input that provokes it and what to do.

Run it after a change of a message: ``python docs/make_messages.py``. Every input is made, read and, where the message
says what to do, read again as it says; the script stops where that does not work.
"""

from __future__ import annotations

import ast
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import metapl
from metapl.data.row_checks import plural
from metapl.errors import UserError

PAGE = Path(__file__).with_name("messages.md")
SOURCE = Path(metapl.__file__).parent
NOT_SHOWN = 110  # characters of an input beyond which the rest is left out


@dataclass
class Case:
    """An input and the message on it.

    Attributes:
        title: what is odd about the input.
        files: path -> content; "png", "jpg" for a small image, text for anything else.
        settings: given with it.
        fix: settings that the message advises; with these it can be read. {} where another remedy is advised.
        mended: files as the message advises, where that is not a setting.
        data: what is named as the data, by default the first file's folder or file.
    """

    title: str
    files: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    fix: dict[str, str] = field(default_factory=dict)
    mended: dict[str, str] = field(default_factory=dict)
    data: str = ""


def rows(line: str, count: int = 24, head: str = "a,b,label") -> str:
    """A file of ``count`` rows; {a}, {b}, {k} and {label} stand for values."""
    values = ({"a": k * 7 % 11, "b": k * 3 % 13, "k": k, "label": "uv"[k % 2]} for k in range(count))
    return "".join([f"{head}\n" if head else "", *(line.format(**value) + "\n" for value in values)])


GOOD = rows("{a},{b},{label}")
PLAIN = {f"photos/{name}/{k}.png": "png" for name in ("cat", "dog") for k in range(3)}
GROUPS: dict[str, list[Case]] = {}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


def page() -> str:
    """The whole page."""
    lines = [
        "# Messages",
        "",
        "Written by `python docs/make_messages.py`, which makes each input, reads it, and reads it again as the",
        "message advises. A message says what is wrong, where, and what to do.",
        "",
    ]
    for group, cases in GROUPS.items():
        lines += [f"## {group}", ""]
        for case in cases:
            lines += [f"### {case.title}", "", *shown(case), ""]
    lines += ["## All messages", "", "By module, as templates: `…` stands for what differs from case to case.", ""]
    for module, found in templates():
        lines += [f"### `{module}`", "", *(f"- {text}" for text in found), ""]
    return "\n".join(lines)


def shown(case: Case) -> list[str]:
    """The input, the message and what following it gives."""
    with tempfile.TemporaryDirectory() as folder:
        message, _ = provoke(case, Path(folder), case.files, case.settings)
    if not message:
        raise SystemExit(f"{case.title}: the input provokes no message")
    lines = ["```text", *input_of(case), "```", "", f"> {message}"]
    if case.fix or case.mended:
        with tempfile.TemporaryDirectory() as folder:
            files, settings = {**case.files, **case.mended}, {**case.settings, **case.fix}
            again, found = provoke(case, Path(folder), files, settings)
        if again and not found:
            raise SystemExit(f"{case.title}: the advice does not work: {again}")
        how = " ".join(f"`{key}={value}`" for key, value in case.fix.items()) or "With the input mended"
        lines += ["", f"{how}: {found}."]
    return lines


def provoke(case: Case, folder: Path, files: dict[str, str], settings: dict[str, str]) -> tuple[str, str]:
    """The error, or else the notes, that these files and settings give; and what was read."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content in ("png", "jpg"):
            grey = np.full((8, 8), len(name) * 7 % 256, dtype=np.uint8)
            Image.fromarray(grey).save(path, "PNG" if content == "png" else "JPEG")
        elif content != "gone":
            path.write_text(content, encoding="utf-8")
    given = folder / (case.data or next(iter(files)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = metapl.make_config(str(given), overrides=[f"{key}={value}" for key, value in settings.items()])
            source = metapl.open_source(config.data, options=config.source)
    except UserError as error:
        return str(error).replace(f"{folder}/", ""), ""
    rows_read = len(source.ids)
    found = (
        f"{plural(rows_read, 'row')}, {plural(len(source.class_names), 'class', 'classes')}, "
        f"{plural(int((source.labels < 0).sum()), 'row')} without a label"
    )
    return "; ".join(note.replace(f"{folder}/", "") for note in source.notes), found


def input_of(case: Case) -> Iterator[str]:
    """The files, shortened, and the settings."""
    for name, content in list(case.files.items())[:6]:
        if content in ("png", "jpg"):
            yield name
            continue
        lines = content.splitlines()
        yield f"{name}:"
        yield from (f"    {line[:NOT_SHOWN]}" for line in lines[:4])
        if len(lines) > 4:
            yield f"    ... ({len(lines)} lines)"
    if len(case.files) > 6:
        yield f"... ({len(case.files)} files)"
    if case.settings:
        yield "  ".join(f"{key}={value}" for key, value in case.settings.items())


def templates() -> Iterator[tuple[str, list[str]]]:
    """(module, its messages) of every ``UserError`` in the package."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = list(dict.fromkeys(_messages(tree)))
        if found:
            yield path.relative_to(SOURCE).as_posix(), found


ERRORS = {"UserError", "BadRow", "UnclearDelimiter", "NoRow"}


def _messages(tree: ast.AST) -> Iterator[str]:
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef):
            continue
        known: dict[str, list[str]] = {}
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign):
                _remember(node, known)
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS and node.args:
                words = [_text(argument, known) for argument in node.args]
                setting = f", {words[3]}" if len(words) > 3 and words[3] else ""
                remedy = words[1].removesuffix(".") if len(words) > 1 else ""
                yield f"{words[0]}. {remedy}{setting}{'' if setting else '.'}".replace("\n", " ")


def _remember(node: ast.Assign, known: dict[str, list[str]]) -> None:
    """Note texts that names stand for: ``what = f"..."`` and ``what, remedy = "...", "..."``."""
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts))
        for name, value in pairs:
            if isinstance(name, ast.Name):
                known.setdefault(name.id, []).append(_text(value, {}))


def _text(node: ast.AST, known: dict[str, list[str]]) -> str:
    """A message as a template."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "…"
    if isinstance(node, ast.Name):
        return " / ".join(text for text in known.get(node.id, ["…"]) if text) or "…"
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body, known)} / {_text(node.orelse, known)}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, known) + _text(node.right, known)
    return "…"


GROUPS["Folders"] = [
    Case(
        "Parts of a data set",
        {f"d/{p}/{n}/{k}.png": "png" for p in ("train", "val", "test") for n in ("cat", "dog") for k in (1, 2)},
        data="d",
    ),
    Case("No class folders", {f"d/{p}/{k}.png": "png" for p in ("train", "test") for k in (1, 2)}, data="d"),
    Case("Unlabelled images beside the classes", {**PLAIN, "photos/unsup/1.png": "png"}, data="photos"),
    Case(
        "A class that may mean no label",
        {**PLAIN, "photos/unknown/1.png": "png"},
        {"source.no_label": "unknown"},
        data="photos",
    ),
    Case("Photographs that are not read", {**PLAIN, "photos/cat/9.heic": "x"}, data="photos"),
    Case("Texts in folders", {f"d/{n}/{k}.txt": "a film" for n in ("pos", "neg") for k in (1, 2)}, data="d"),
    Case("A folder around the classes", {f"d/animals/{n}/1.png": "png" for n in ("cat", "dog")}, data="d"),
    Case("One name, written in two ways", {**PLAIN, "photos/Cat/1.png": "png"}, data="photos"),
    Case("A misspelt path", {**PLAIN}, data="potos"),
]
GROUPS["The first line and the delimiter"] = [
    Case(
        "No header",
        {"x.csv": rows("{a}.5,{b},{label}", head="")},
        {},
        {"source.table.header": "none", "source.table.label": "3"},
    ),
    Case(
        "A row of words as the first line",
        {"x.csv": rows("{b},State,{label}", head="")},
        {"source.table.label": "3"},
        {"source.table.header": "none"},
    ),
    Case(
        "A column without a name",
        {"x.csv": rows("{a},{b},{label}", head="a,,label")},
        {},
        {"source.table.ignore": "unnamed_2"},
    ),
    Case("Row names of pandas", {"x.csv": rows("{k},{a},{label}", head=",a,label")}),
    Case("Empty columns at the end", {"x.csv": rows("{a},{label},,", head="a,label,,")}),
    Case("Two columns of one name", {"x.csv": rows("{a},{b},{label}", head="a,a,label")}, mended={"x.csv": GOOD}),
    Case("A row of another length", {"x.csv": GOOD + "1,2,3,u\n"}, {}, {"source.table.skip_bad_rows": "true"}),
    Case(
        "Many rows of another length",
        {"x.csv": rows("{a},{b},9,{label}")},
        mended={"x.csv": rows("{a},{b},9,{label}", head="a,b,c,label")},
    ),
    Case(
        "Two delimiters would do",
        {"x.csv": rows("{a};{b},1;{label}", head="a;b,c;label").replace("b,c", "b,c")},
        {"source.table.delimiter": "auto"},
    ),
    Case(
        "A title above the names",
        {"x.csv": "Report of May\n" + GOOD},
        mended={"x.csv": GOOD},
    ),
    Case(
        "Names that come again",
        {"x.csv": GOOD + GOOD},
        {},
        {"source.table.skip_bad_rows": "true"},
    ),
    Case("An empty file", {"x.csv": ""}, mended={"x.csv": GOOD}),
    Case("A spreadsheet", {"x.xlsx": "x"}),
    Case("A .json file", {"x.json": "[]"}),
]
GROUPS["Quotes, encodings, JSON"] = [
    Case(
        "Quotes that mean nothing",
        {"x.tsv": 'text\tlabel\n"one\tu\ntwo\tv\nthree"\tu\nfour\tv\n'},
        {},
        {"source.table.quotes": "none"},
    ),
    Case(
        "Swallowed lines in two columns",
        {"x.csv": 'text,label\n"one,u\ntwo,v\nthree",u\n' + rows("text {k},{label}", 20, "")},
        {},
        {"source.table.quotes": "none"},
    ),
    Case(
        "A quote that is never closed",
        {"x.csv": GOOD + '"1,2,u\n'},
        {},
        {"source.table.quotes": "none", "source.table.ignore": "a"},
    ),
    Case(
        "One JSON array",
        {"x.jsonl": '[{"a": 1, "label": "u"}, {"a": 3, "label": "v"}]\n'},
        mended={"x.jsonl": '{"a": 1, "label": "u"}\n{"a": 3, "label": "v"}\n'},
    ),
    Case(
        "Two labels in one row",
        {"x.jsonl": '{"a": 1, "label": "u"}\n{"a": 3, "label": "v"}\n{"a": 5, "label": ["u", "v"]}\n'},
        {},
        {"source.table.skip_bad_rows": "true"},
    ),
    Case(
        "An object where a value belongs",
        {"x.jsonl": '{"a": 1, "label": "u"}\n{"a": {"b": 1}, "label": "v"}\n'},
        mended={"x.jsonl": '{"a": 1, "label": "u"}\n{"a": 3, "label": "v"}\n'},
    ),
    Case(
        "A line that is not JSON",
        {"x.jsonl": '{"a": 1, "label": "u"}\n{"a": 2\n'},
        mended={"x.jsonl": '{"a": 1, "label": "u"}\n{"a": 3, "label": "v"}\n'},
    ),
]
GROUPS["Labels"] = [
    Case(
        "No column of labels", {"x.csv": rows("{a},{b},{label}", head="a,b,kind")}, {}, {"source.table.label": "kind"}
    ),
    Case(
        "A mark in most rows",
        {"x.csv": rows("{a},{b},-1", 30) + "1,2,u\n3,4,v\n5,6,u\n"},
        {},
        {"source.no_label": "-1"},
    ),
    Case("A mark in a few rows", {"x.csv": GOOD + "1,2,unknown\n"}, {}, {"source.no_label": "unknown"}),
    Case(
        "Numbers written in two ways",
        {"x.csv": rows("{a},{b},{k}", 2) + rows("{a},{b},0.0", 9, "") + rows("{a},{b},1", 9, "")},
    ),
    Case("Classes that look alike", {"x.csv": GOOD + "1,2,U\n"}, {}, {"source.label_map": "U:u"}),
    Case(
        "A test label that training lacks",
        {"d/labelled.csv": GOOD, "d/test.csv": "a,b,label\n1,2,u.\n"},
        {},
        {"source.label_map": "u.:u"},
        data="d",
    ),
    Case("Several labels in one cell", {"x.csv": GOOD + "1,2,u|v\n3,4,u|v\n"}, {}, {"source.label_map": "u|v:u"}),
    Case("A quantity as the label", {"x.csv": rows("{a},{b},{k}.5", 40)}),
    Case("A mapping that is not one", {"x.csv": GOOD}, {"source.label_map": "u"}, mended={}),
]
GROUPS["Columns"] = [
    Case(
        "Limits among numbers",
        {"x.csv": rows("{k}.{a},{b},{label}", 40) + "<1.0,1,u\n"},
        {},
        {"source.table.ignore": "a"},
    ),
    Case("Numbers with a unit", {"x.csv": rows("{k} cm,{b},{label}", 20)}),
    Case(
        "A mark in cells of numbers",
        {"x.csv": rows("{k}.5,{b},{label}", 30) + rows("...,{b},{label}", 9, "")},
        mended={"x.csv": rows("{k}.5,{b},{label}", 30) + rows(",{b},{label}", 9, "")},
    ),
    Case("Dates", {"x.csv": rows("2024-05-{a}1,{b},{label}".replace("{a}1", "1{k}"), 10)}),
    Case("NA as a category", {"x.csv": rows("NA,{b},{label}") + rows("brick,{b},{label}", 20, "")}),
    Case(
        "A decimal comma", {"x.csv": rows("{a},5;{b};{label}", head="a;b;label")}, {}, {"source.table.decimal": "comma"}
    ),
    Case("An id that repeats", {"x.csv": rows("{a},{b},{label}", head="id,b,label")}),
    Case(
        "Two columns of texts",
        {"x.csv": rows("what {k},it {k},{label}", head="question,sentence,label")},
        {},
        {"source.table.text": "question,sentence"},
    ),
    Case("A column that is not there", {"x.csv": GOOD}, {"source.table.ignore": "c"}),
    Case("Long numbers", {"x.csv": rows("1700000000{k:02d}.25,{b},{label}", 60)}, {"source.table.features": "a,b"}),
    Case("One role too many", {"x.csv": GOOD}, {"source.table.label": "label", "source.table.path": "label"}),
]
GROUPS["Paths"] = [
    Case(
        "Names without a suffix",
        {"x.csv": rows("img{k},{label}", 4, "id,label"), **{f"img{k}.jpg": "jpg" for k in range(4)}},
        {"source.table.path": "id"},
        {"source.table.suffix": ".jpg"},
    ),
    Case(
        "Backslashes",
        {"x.csv": rows("im\\{k}.png,{label}", 4, "path,label"), **{f"im/{k}.png": "png" for k in range(4)}},
        mended={"x.csv": rows("im/{k}.png,{label}", 4, "path,label")},
    ),
    Case("Images that are not there", {"x.csv": rows("{k}.png,{label}", 4, "path,label")}),
]


if __name__ == "__main__":
    main()
