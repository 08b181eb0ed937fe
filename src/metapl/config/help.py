"""What there is to set: every key with its default and meaning, read from the dataclasses' own comments.

A field is explained by the comment on its line, by the text under it, or under "Attributes:" in its class.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import sys
import textwrap
import tokenize
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from metapl.config.settings import RunConfig
from metapl.config.values import describe
from metapl.methods import METHODS, method_class
from metapl.utils.fields import Help, notes_of


@dataclass(frozen=True)
class Setting:
    """One key: its dotted name, its default as YAML, what it takes, and what it means."""

    key: str
    default: str
    takes: str
    meaning: str


def groups() -> list[tuple[str, str, list[Setting]]]:
    """(title, what the group is about, settings): the run itself, its groups, then one group per method."""
    top = [s for s in settings(RunConfig) if s.key != "settings"]
    rest = [
        (name, about(cls), settings(cls, f"{name}."))
        for f in fields(RunConfig)
        if is_dataclass(group := typing.get_type_hints(RunConfig)[f.name])
        for name, cls in [(f.name, group), *_inner(group, f.name)]
    ]
    methods = [(name, summary(name), settings(cls.Config, f"{name}.")) for name, cls in METHODS.items()]
    return [("run", "What is trained, on what, and for how long.", top), *rest, *methods]


def settings(cls: Any, prefix: str = "") -> list[Setting]:
    """The settings of one dataclass, without those of the groups in it."""
    hints, told = typing.get_type_hints(cls), _meanings(cls)
    noted = {
        name: f"{note.text}{f', in {note.unit}' if note.unit else ''}" for name, note in notes_of(cls, Help).items()
    }
    return [
        Setting(f"{prefix}{f.name}", _default(f), _takes(hints[f.name]), noted.get(f.name) or told[f.name])
        for f in fields(cls)
        if not is_dataclass(hints[f.name])
    ]


def _inner(cls: Any, prefix: str) -> list[tuple[str, Any]]:
    """(name, class) of every group inside a dataclass."""
    hints = typing.get_type_hints(cls)
    return [(f"{prefix}.{f.name}", hints[f.name]) for f in fields(cls) if is_dataclass(hints[f.name])]


def summary(method: str) -> str:
    """The first line of the method's file."""
    return _first_line(sys.modules[method_class(method).__module__].__doc__)


def about(cls: Any) -> str:
    """The first paragraph of the class's text."""
    return " ".join(_plain(inspect.getdoc(cls) or "").split("\n\n")[0].split())


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _default(f: Any) -> str:
    if f.default is MISSING:
        return "required" if f.default_factory is MISSING else ""
    if f.default == "":
        return "''"  # as YAML writes it
    words = {None: "null", True: "true", False: "false"}
    return words[f.default] if f.default is None or isinstance(f.default, bool) else str(f.default)


def _takes(hint: Any) -> str:
    return ", ".join(describe(hint))


def _meanings(cls: Any) -> dict[str, str]:
    """What the source says about each field."""
    text = textwrap.dedent(inspect.getsource(cls))
    body = typing.cast(ast.ClassDef, ast.parse(text).body[0]).body
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    listed, found = _attributes(inspect.getdoc(cls) or ""), dict[str, str]()
    for node, following in zip(body, [*body[1:], None]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            said = comments.get(node.end_lineno or 0) or _text(following) or listed.get(name) or about(cls)
            found[name] = _plain(said)
    return found


def _text(node: ast.stmt | None) -> str:
    """The string that stands alone under a field."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _attributes(doc: str) -> dict[str, str]:
    """Name to text of the "Attributes:" section."""
    _, found, section = doc.partition("Attributes:\n")
    told: dict[str, str] = {}
    name = ""
    for line in section.splitlines() if found else []:
        if match := re.fullmatch(r" {4}(\w+): (.*)", line):
            name = match[1]
            told[name] = match[2]
        elif name and line.startswith(" " * 8):
            told[name] += f" {line.strip()}"
    return told


def _plain(text: str) -> str:
    return text.replace("``", "`")
