"""Pages that are made from the code are as the code is now, and the pages' commands and names exist."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import metapl
from metapl.config import help
from metapl.config.settings import known_keys
from metapl.methods import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pages", ROOT / "docs" / "make_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_made_from_the_code_are_up_to_date(maker: ModuleType) -> None:
    for file, text in maker.pages().items():
        assert file.read_text(encoding="utf-8") == text, "run: python docs/make_pages.py"


def test_every_method_has_its_page() -> None:
    assert {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")} == {"index", *METHODS}


def test_every_key_is_on_the_page_and_explained() -> None:
    listed = {s.key: s for _, _, settings in help.groups() for s in settings}
    assert set(listed) == {key for method in METHODS for key in known_keys(method)}
    for setting in listed.values():
        assert len(setting.meaning) > 3, setting
        assert setting.takes
        assert setting.default or setting.key == "data"


def test_settings_are_read_from_annotations() -> None:
    listed = {s.key: s for _, _, settings in help.groups() for s in settings}
    meaning = "global gradient norm; 0 = no clipping"
    assert listed["optim.clip"] == help.Setting("optim.clip", "0.0", "number, at least 0", f"largest {meaning}")
    assert listed["mpl.feedback"].takes == "exact, sampled, none, official"
    assert listed["views.flip"].meaning.startswith("images: mirror left and right")
    assert listed["split.labels"].default == "null"
    assert listed["split.labels"].takes == "whole number, at least 1; or null"
    assert listed["split.validation"].meaning.endswith('or 0 / "none"'), "a text over two lines is read to its end"
    assert listed["data"].default == "required"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_named_files_and_commands_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for place in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / place).exists(), place
    from metapl.cli import app

    commands = {(c.name or c.callback.__name__) for c in app.registered_commands if c.callback is not None}
    text = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    for used in re.findall(r"`?metapl ([a-z]+)(?= |`|$)", text):
        assert used in commands | {"trains"}, used


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by: small letters, hyphens for blanks, no other signs; a repeat counts."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    made: list[str] = []
    for title in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        made.append(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return {f"{name}-{made[:k].count(name)}" if name in made[:k] else name for k, name in enumerate(made)}


PAGES = ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    here = ROOT / page
    text = re.sub(r"^```.*?^```", "", here.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for place, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", text):
        there = here.parent / place if place else here
        assert there.exists(), place
        assert not anchor or anchor in anchors(there), f"{place}#{anchor}"


def test_the_python_examples_of_the_python_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "start" / "python.md").read_text(encoding="utf-8")
    estimator, fit = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for code, (long, short) in ((estimator, ('method="mpl", ', "steps=5, ")), (fit, ("600", "5"))):
        assert long in code
        exec(compile(code.replace(long, short), "python.md", "exec"), {})
    assert {p.name for p in tmp_path.iterdir()} == {"digits-model", "digits-run"}


def test_the_programs_of_the_tutorial_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of its blocks, one after the other as one program, with fewer epochs and steps."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "from-the-tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    short = blocks[0].replace("SEED, EPOCHS, STEPS = 0, 60, 600", "SEED, EPOCHS, STEPS = 0, 2, 3")
    assert short != blocks[0]
    names: dict[str, object] = {}
    for code in [short, *blocks[1:]]:
        exec(compile(code, "from-the-tutorial.md", "exec"), names)
    said = capsys.readouterr().out
    assert "epoch 2/2" in said
    assert "alpha 0, 10 updates" in said
    assert said.splitlines()[-1].startswith("Meta Pseudo Labels: ")
    assert len(list((tmp_path / "runs").iterdir())) == 5


def test_the_programs_of_the_sklearn_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of its blocks, one after the other as one program, with fewer steps."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "sklearn.md"
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for code in blocks:
        short = code.replace("Classifier(random_state=0)", "Classifier(random_state=0, steps=3)")
        short = short.replace("steps=300", "steps=3")
        assert short != code
        exec(compile(short, "sklearn.md", "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} == {"breast-cancer-model", "my-run"}
    assert 0 < float(capsys.readouterr().out.split()[0]) <= 1
    for place in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / place).exists(), place


def test_the_tutorial_pages_links_and_names_exist() -> None:
    page = ROOT / "docs" / "from-the-tutorial.md"
    text = page.read_text(encoding="utf-8")
    places = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert len(places) > 3
    for place in places:
        assert (page.parent / place).exists(), place
    for name in re.findall(r"metapl\.(\w+)\(", text):
        assert name in metapl.__all__, name
    assert "from-the-tutorial.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_shows_a_report() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert re.findall(r"!\[[^]]+\]\((docs/img/[^)]+)\)", text) == ["docs/img/report-clothing.png"]


def test_pictures_of_the_pages_are_small() -> None:
    for picture in (ROOT / "docs" / "img").glob("report-*.png"):
        assert picture.stat().st_size < 250_000, picture.name


def test_every_page_stands_in_the_sites_navigation() -> None:
    """One that is missing there can be found by nobody: add it to ``nav`` in mkdocs.yml."""
    listed = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert not pages - set(listed), "add to nav in mkdocs.yml"
    assert not set(listed) - pages, "take out of nav in mkdocs.yml"
    assert len(listed) == len(set(listed))


def texts_of(path: Path) -> list[str]:
    """Every text in a module, with NUL for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_the_messages_on_the_page_of_symptoms_are_those_of_the_code() -> None:
    known = "\n".join(text for path in (ROOT / "src").rglob("*.py") for text in texts_of(path))
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert len(rows) > 25
    for message, cause, remedy in rows:
        assert cause, message
        assert remedy, message
        filled = re.sub(r"\b[A-Z]{3,}\b", "\0", message)
        assert message in known or filled in known, message
