"""Imports run one way, from the joints up to the command line; methods and data do not know each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import metapl.methods
from metapl.data.sources import SOURCES
from metapl.methods import METHODS

ROOT = Path(__file__).parents[2] / "src" / "metapl"
# One row per room, from the bottom up. A room imports from itself and from the rooms above its row.
ROOMS = (
    {"types", "errors", "_version"},
    {"hardware"},
    {"utils"},
    {"losses", "feedback", "pseudo_labels", "thresholds", "optim", "diagnostics"},
    {"models"},
    {"methods"},
    {"data"},
    {"config"},
    {"runs"},
    {"inference"},
    {"training"},
    {"checks"},
    {"comparison"},
    {"tuning"},
    {"report"},
    {"review"},
    {"deploy"},
    {"api"},
    {"cli"},
    {"__main__"},
)
ORDER = {name: k for k, names in enumerate(ROOMS) for name in names}
# All that a method may import; models.combined makes one network of those that a method ends with.
FOR_METHODS = {"types", "errors", "losses", "feedback", "pseudo_labels", "thresholds", "optim"}
FOR_METHODS |= {"methods.base", "methods.fields", "methods.parts", "models.combined", "utils.fields"}

# Where rows set aside for testing are judged.
EVALUATION = {"inference.run_evaluation", "api.demo", "comparison.worker", "comparison.peers", "training.result"}


def files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def name_of(path: Path) -> str:
    """``methods.mpl`` for methods/mpl.py, ``methods`` for methods/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Modules of this package that the file imports, anywhere in it, without the package's name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("metapl.") for a in node.names if a.name.startswith("metapl.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "metapl" or (node.module or "").startswith("metapl."):
                base = (node.module or "").removeprefix("metapl").removeprefix(".")
                found |= {_module(base, alias.name) for alias in node.names}
    return found


def _module(base: str, name: str) -> str:
    """``base.name`` where that is a file or a folder, else ``base``."""
    joined = f"{base}.{name}" if base else name
    place = ROOT.joinpath(*joined.split("."))
    return joined if place.with_suffix(".py").is_file() or place.is_dir() else base


def external(path: Path) -> set[str]:
    """First names of everything else that the file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found - {"metapl"}


def words(path: Path) -> set[str]:
    """Every name and every string of the file's code; texts that document it are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            found.discard(ast.get_docstring(node, clean=False) or "")
    return {word.lower() for word in found}


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    name = name_of(path)
    own = name.split(".")[0]
    assert own in ORDER, f"{own} is in no room: give it a row in ROOMS"
    for other in imported(path):
        target = other.split(".")[0]
        assert ORDER[target] <= ORDER[own], f"{name} imports {other}, which stands above it"


def test_data_know_no_method_and_one_door_knows_networks() -> None:
    for path in files():
        name = name_of(path)
        rooms = {other.split(".")[0] for other in imported(path)}
        if name.startswith("data"):
            assert "methods" not in rooms, name
            assert "models" not in rooms or name == "data.embedded", name


def test_there_is_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in files():
        graph.setdefault(name_of(path), set()).update(imported(path) - {name_of(path)})
    done: set[str] = set()
    while ready := {n for n, needs in graph.items() if n not in done and (needs & graph.keys()) <= done}:
        done |= ready
    assert done == set(graph), f"in a circle: {sorted(set(graph) - done)}"


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=name_of)
def test_a_method_knows_neither_data_nor_loop_nor_disk_nor_another_method(path: Path) -> None:
    table = path.name == "__init__.py"
    allowed = {"errors", "types", "utils.lazy_table", "utils.names"} if table else FOR_METHODS
    assert imported(path) <= allowed
    assert not external(path) & {"logging", "os", "pathlib", "time", "numpy", "sklearn", "PIL"}


def test_methods_name_no_data_set() -> None:
    names = {*SOURCES, "digits", "mnist", "fashion", "cifar"} - {"folder"}
    for path in (ROOT / "methods").glob("*.py"):
        assert not words(path) & names, path
        assert not {n for n in names - {"idx"} if n in path.read_text(encoding="utf-8").lower()}, path


def test_data_name_no_method() -> None:
    names = {*METHODS, "meta_pseudo_labels"}
    for path in (ROOT / "data").rglob("*.py"):
        assert not words(path) & names, path  # as a name or a whole string; a remedy may mention one in a sentence


def test_only_evaluation_reads_the_test_part() -> None:
    """``split.test`` is read where rows are judged, and nowhere in the loop, the methods or the stream."""
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tests = [n.value for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "test"]
        reads = [v for v in tests if getattr(v, "id", getattr(v, "attr", "")) == "split"]
        assert not reads or name_of(path) in {
            "inference.run_evaluation",
            "api.demo",
            "comparison.worker",
            "comparison.peers",
            "training.result",
        }, path


def test_predicting_imports_no_method() -> None:
    code = "import sys, metapl.inference.predict; print([m for m in sys.modules if m.startswith('metapl.methods.')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_method_is_found_by_its_class() -> None:
    from metapl.methods import MPL

    assert MPL is METHODS["mpl"]
    with pytest.raises(AttributeError):
        metapl.methods.Nothing  # noqa: B018


def test_only_readers_of_rows_ask_for_the_kind_by_its_name() -> None:
    """All else asks the kind's ``Modality``, so that a new kind of rows is one folder and one record."""
    allowed = {"data.tables.source", "data.tables.roles", "data.memory.arrays"}
    by_name = re.compile(r"kind\)? (==|!=|in|not in) [({]?\"(image|table|text)\"|\"image\": .*\[.*kind\]")
    asking = {name_of(path) for path in files() if by_name.search(path.read_text(encoding="utf-8"))}
    assert asking == allowed
