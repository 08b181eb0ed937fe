"""What mkdocs does to a page before it is built: names files of the repository, and lists the commands."""

from __future__ import annotations

import os
import re
from typing import Any

import click
import typer

COMMANDS = "<!-- commands -->"
LINK = re.compile(r"\[([^]\n]+)\]\((\.\.?/[^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Write a link that leads out of docs/ as the file's name, and put every command's help on its page."""
    here = os.path.dirname(page.file.abs_src_path)

    def named(match: re.Match[str]) -> str:
        place = os.path.normpath(os.path.join(here, match[2].partition("#")[0]))
        if place.startswith(config.docs_dir + os.sep):
            return match[0]
        return f"`{os.path.relpath(place, os.path.dirname(config.docs_dir))}`"

    markdown = LINK.sub(named, markdown)
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def commands() -> str:
    """The help of every command, as the program prints it."""
    from metapl.cli import app

    group: Any = typer.main.get_command(app)
    top: Any = click.Context(group, info_name="metapl", terminal_width=100)
    parts = []
    for name in group.list_commands(top):
        command = group.get_command(top, name)
        context: Any = click.Context(command, info_name=name, parent=top, terminal_width=100)
        parts.append(f"## metapl {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)
