"""Remakes docs/settings.md from the settings' annotations.

python docs/make_settings.py
"""

from __future__ import annotations

from pathlib import Path

from metapl.config.help import Setting, groups

OUT = Path(__file__).parent / "settings.md"
HEAD = """# Settings

Every key that a run takes. Give them as `key=value` on the command line (`metapl train DATA optim.lr=0.02`), as a tree
in a YAML file (`--config FILE`), or in Python (`metapl.make_config("digits", options={"optim.lr": 0.02})`). Options
of `metapl train` stand for some of the keys: `--labels` for `split.labels`, `--validation` for `split.validation`. The
command line beats the file, the file beats the defaults, and an unknown key is an error that names the nearest one.
The resolved settings are stored as `config.yaml` in the run folder.

This page is made by `python docs/make_settings.py` from the annotations in the code; a test keeps the two together.
"""


def page() -> str:
    """The whole page."""
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
    OUT.write_text(page(), encoding="utf-8")
    print(OUT)
