"""``utils.files``: what is left beside a file that cannot be written, and the cells of names."""

from __future__ import annotations

from pathlib import Path

import pytest

from metapl.utils.files import by_cell, write_text


def test_a_text_that_is_not_unicode_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeError):
        write_text(tmp_path / "a.txt", "\udc80")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_names_are_known_by_themselves_and_by_their_cells() -> None:
    assert by_cell(["=a", "b", "-1"]) == {"=a": "=a", "'=a": "=a", "b": "b", "-1": "-1"}
    assert by_cell(["=a", "'=a"]) == {"=a": "=a", "'=a": "'=a"}, "a name comes before another one's cell"
