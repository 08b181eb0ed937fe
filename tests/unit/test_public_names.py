"""What ``import metapl`` offers, and that it costs next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import metapl

PUBLIC = {
    "Check", "Comparison", "ConvNet", "LabeledKFold", "METHODS", "MLP", "MODELS", "Modality", "Predictions",
    "Predictor", "Result", "RunConfig", "SemiSupervisedClassifier", "SemiSupervisedDataset", "SmallCNN",
    "SplitConfig", "Stopped", "Tuning", "UserError", "WideResNet", "__version__", "check", "compare", "diagnostics",
    "embed", "evaluate", "filter_pseudo_labels", "fit", "from_arrays", "from_dataset", "generate_pseudo_labels",
    "label_batch", "load_model", "make_config", "make_split", "open_source", "predict_folder", "predict_source",
    "register_modality", "resume", "train", "train_mpl", "tune", "write_report",
}  # fmt: skip
EXTRAS = ("timm", "torchvision", "transformers")
SLOW = ("torch", "sklearn", "numpy", "PIL", "matplotlib", "yaml", *EXTRAS)


def loaded_after(code: str) -> set[str]:
    """The slow packages that a fresh interpreter has loaded after ``code``."""
    report = f"import sys; print('loaded:', *[m for m in {SLOW!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    head, *found = done.stdout.splitlines()[-1].split()
    assert head == "loaded:"
    return set(found)


def test_the_list_is_frozen() -> None:
    assert set(metapl.__all__) == PUBLIC
    assert len(metapl.__all__) == len(PUBLIC)
    assert set(dir(metapl)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_is_there(name: str) -> None:
    value = getattr(metapl, name)
    assert isinstance(value, ModuleType) == (name == "diagnostics")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="teach"):
        _ = metapl.teach


def test_no_file_or_folder_has_the_name_of_a_public_function() -> None:
    """Else importing that file would set the module over the function, as an attribute of the package."""
    root = Path(metapl.__file__).parent
    modules = {p.stem for p in root.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert modules & PUBLIC == {"diagnostics"}


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(metapl.__file__).read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    homes = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert homes.pop("diagnostics") == "metapl"
    assert homes == metapl._HOME


def test_import_loads_nothing_slow() -> None:
    assert loaded_after("import metapl; metapl.UserError; metapl.__version__") == set()
    loaded = loaded_after("import metapl; metapl.train")
    assert "torch" in loaded  # the probe sees what it is meant to see
    assert not loaded & set(EXTRAS)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"], ["trian"], ["train", "--nope"]])
def test_help_and_usage_errors_load_nothing_slow(words: list[str]) -> None:
    assert loaded_after(f"from metapl.cli import main; main({words!r})") == set()
