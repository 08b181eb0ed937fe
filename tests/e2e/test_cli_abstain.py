"""``metapl predict --precision``: validation rows decide which rows are answered."""

from __future__ import annotations

import re
from pathlib import Path

from commands import Call, refused, table


def test_a_target_precision_decides_which_rows_are_answered(call: Call, digits_run: Path) -> None:
    done = call("predict", digits_run, "digits", "--precision", "0.9")
    assert done.code == 0, done.err
    match = re.search(r"from a probability of ([\d.]+) on: of (\d+) validation rows (\d+)", done.err)
    assert match is not None, done.err
    assert 0 < int(match[3]) < int(match[2])
    rows = table(done.out)
    assert 0 < sum(not row["label"] for row in rows) < len(rows)
    clear = [row for row in rows if abs(float(row["probability"]) - float(match[1])) > 1e-4]  # it is printed rounded
    assert all(bool(row["label"]) == (float(row["probability"]) > float(match[1])) for row in clear)
    refused(call("predict", digits_run, "digits", "--precision", "0.9999"), "no threshold is known to reach 99.99 %")
    refused(call("predict", digits_run, "digits", "--precision", "0.9", "--abstain-below", "0.5"), "both given")
