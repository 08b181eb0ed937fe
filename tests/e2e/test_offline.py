"""Import and training where there is no way out: in a network namespace without routes; and few dependencies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE = ("unshare", "--net", "--map-root-user")


def may_unshare() -> bool:
    return shutil.which("unshare") is not None and not subprocess.run([*ALONE, "true"], capture_output=True).returncode


def test_train_and_predict_without_a_network(tmp_path: Path) -> None:
    if not may_unshare():
        pytest.skip("network namespaces are not permitted here")
    lines = (
        "import socket, sys",
        "def refused(*words): raise AssertionError(f'a connection is tried: {words}')",
        "socket.socket.connect = socket.getaddrinfo = refused",
        "from metapl.cli import main",
        f"run = {str(tmp_path / 'run')!r}",
        "quick = ['--labels', '2', '--steps', '2', '--guard', 'off', '--method', 'fixmatch', '--model', 'mlp']",
        "code = main(['train', 'digits', *quick, '--quiet', '--out', run])",
        f"predict = ['predict', run, 'digits', '--out', {str(tmp_path / 'p.csv')!r}]",
        "sys.exit(code or main(['evaluate', run]) or main(predict))",
    )
    done = subprocess.run([*ALONE, sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.csv").is_file()


def test_fewer_than_twelve_direct_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=\[ ]", text)[0] for text in project["dependencies"]}
    assert len(names) == len(project["dependencies"]) < 12
