"""``check`` and ``train`` never disagree about how data are read, whatever the file holds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

import metapl
from metapl import UserError

CELLS = [
    "1",
    "2.5",
    "-3",
    "0.0",
    "1.0",
    "",
    "NA",
    "x",
    "y",
    " x",
    "'y'",
    "2024-01-02",
    "<1.0",
    "1e39",
    "3,5",
    "a|b",
    '"',
    '""',
]
LABELS = ["u", "v", "1", "1.0", "0", "-1", "unknown", "", "U", "u|v", "v "]
NAMES = ["a", "b", "text", "id", "split", "7", "", "path", "2019", "a b"]
ENDS = ["\n", "\r\n"]


@st.composite
def files(draw: st.DrawFn) -> str:
    """The text of a file of rows: mostly sound, with what people's files hold."""
    mark, end = draw(st.sampled_from([",", ";", "\t"])), draw(st.sampled_from(ENDS))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=draw(st.booleans())))
    header = draw(
        st.sampled_from([[*names, "label"], [*names, "label", ""], [*names, "class"], ["1.5"] * (len(names) + 1)])
    )
    usual = draw(st.lists(st.sampled_from(CELLS), min_size=len(names), max_size=len(names)))
    known = draw(st.lists(st.sampled_from(LABELS), min_size=2, max_size=4))
    lines = [mark.join(header)]
    for k in range(draw(st.integers(0, 30))):
        cells = [cell if draw(st.integers(0, 5)) else draw(st.sampled_from(CELLS)) for cell in usual]
        label = known[k % len(known)]
        extra = [""] * (len(header) - len(names) - 1) + [""] * (draw(st.integers(0, 19)) == 0)
        lines.append(mark.join([*cells, label, *extra]))
    if draw(st.integers(0, 9)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), "")
    return end.join(lines) + end


def tried(read: Callable[[], Any]) -> tuple[Any, UserError | None]:
    """What ``read`` gives, or the error that it raises."""
    try:
        return read(), None
    except UserError as error:
        return None, error


@settings(max_examples=80, deadline=None)
@given(files())
@example('path,label\n"",u,\n')  # no good row
def test_check_reads_what_train_reads(content: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(content.encode())
        source, refused = tried(lambda: metapl.open_source(str(path), options=metapl.make_config(str(path)).source))
        found, error = tried(lambda: metapl.check(str(path)))
        if refused is not None:  # check says the same, or the same without the advice to leave rows out
            same = error is not None and (error.what, error.where) == (refused.what, refused.where)
            assert same or (found is not None and not found.usable)
            return
        assert error is None
        assert found.facts["notes"] == list(source.notes)
        assert found.facts["rows"]["all"] == len(source.ids)
        counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.class_names))
        read = {name: sum(part.values()) for name, part in found.facts["classes"].items()}
        assert read == dict(zip(source.class_names, counts.tolist()))
        assert not any(finding.kind == "bad_rows" for finding in found.findings)
