"""Remakes what the pages take from the code: docs/settings.md, and the lists of methods in two files.

python docs/make_pages.py
"""

from __future__ import annotations

import re
from pathlib import Path

from metapl.config.help import Setting, groups, summary
from metapl.methods import METHODS

DOCS = Path(__file__).parent
SETTINGS, METHODS_PAGE, SITE = DOCS / "settings.md", DOCS / "methods" / "index.md", DOCS.parent / "mkdocs.yml"
HEAD = """# Settings

Every key that a run takes. Give them as `key=value` on the command line (`metapl train DATA optim.lr=0.02`), as a tree
in a YAML file (`--config FILE`), or in Python (`metapl.make_config("digits", options={"optim.lr": 0.02})`). Options
of `metapl train` stand for some of the keys: `--labels` for `split.labels`, `--validation` for `split.validation`. The
command line beats the file, the file beats the defaults, and an unknown key is an error that names the nearest one.
The resolved settings are stored as `config.yaml` in the run folder.

This page is made by `python docs/make_pages.py` from the annotations in the code; a test keeps the two together.
"""


def pages() -> dict[Path, str]:
    """The text of every file that is made or holds a list that is made."""
    rows = [f"| [`{name}`]({name}.md) | {summary(name).rstrip('.')} |\n" for name in METHODS]
    lines = [f"      - {name}: methods/{name}.md\n" for name in METHODS]
    return {
        SETTINGS: settings_page(),
        METHODS_PAGE: with_lines(METHODS_PAGE, r"\| \[`\w+`\]\(\w+\.md\) \|.*\n", rows),
        SITE: with_lines(SITE, r"      - (\w+): methods/\1\.md\n", lines),
    }


def with_lines(file: Path, old: str, new: list[str]) -> str:
    """The text of ``file`` with ``new`` in place of the run of lines that match ``old``."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    places = [k for k, line in enumerate(lines) if re.fullmatch(old, line)]
    return "".join([*lines[: places[0]], *new, *lines[places[-1] + 1 :]])


def settings_page() -> str:
    """The whole page of settings."""
    parts = [HEAD]
    for title, about, settings in groups():
        parts.append(f"## {title}\n\n{about}\n\n| Key | Default | Takes | Meaning |\n|---|---|---|---|")
        parts.append("\n".join(map(row, settings)) + "\n")
    return "\n".join(parts)


def row(setting: Setting) -> str:
    """One line of a table."""
    default = setting.default if setting.default in ("", "required") else f"`{setting.default}`"
    cells = (f"`{setting.key}`", default, setting.takes, setting.meaning.rstrip("."))
    return f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |"


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
        print(file)
