"""The pages on data: each example is made into files as the page shows it, and each of its commands is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK, Call, save

PAGES = Path(__file__).parents[2] / "docs" / "data"
SHORT = ("--steps", "1", *QUICK[2:])
# Blocks of pages that are not run here: they fetch data, or name what the reader has.
NOT_RUN = {"published.md": ("torchvision:", "hf:"), "memory.md": ("from_dataset(labeled",)}
FILE = re.compile(r"[\w-]+\.(?:csv|tsv|jsonl)")


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Yield (form, text) of every block of a page: "python", or "text" for an indented one."""
    text = (PAGES / page).read_text(encoding="utf-8")
    for code, indented in re.findall(r"```python\n(.*?)```|^((?:    [^\n]*\n)+)", text, re.DOTALL | re.MULTILINE):
        if code:
            yield "python", code
        else:
            yield "text", "\n".join(line[4:] for line in indented.splitlines())


def images(tree: str) -> None:
    """Make the folders and images of a tree such as ``photos/`` above ``  cat/  1.jpg 2.jpg``."""
    root, *lines = tree.splitlines()
    number = iter(range(1000))
    for line in lines:
        name, rest = line.split(maxsplit=1)
        files = [part.strip() for part in re.findall(r"[\w.]+\.jpg", rest)] or [f"{k}.jpg" for k in range(4)]
        inner = re.findall(r"(\w+)/", rest) or [""]  # "any images, in any folders"
        for folder in inner:
            for file in files:
                pixels = np.random.default_rng(next(number)).integers(0, 255, (12, 12, 3))
                save(pixels, Path(root.strip("/ ")) / name / folder / file)


def prepare(page: str) -> None:
    """Make what a page takes for granted."""
    if page == "texts.md":
        for name in ("pos", "neg", "unsup"):
            folder = Path("aclImdb/train") / name
            folder.mkdir(parents=True)
            for k in range(3):
                (folder / f"{k}.txt").write_text(f"A film of the kind {name}, number {k}")
        lines = [f"title {k},body {k},{('a', 'b', '')[k % 3]}" for k in range(9)]
        Path("news.csv").write_text("\n".join(["title,body,topic", *lines]))
    if page == "jsonl.md":
        Path("rows.json").write_text('[{"text": "Great film", "label": "good"}]')
    if page == "numpy.md":
        rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
        np.save("x.npy", rows)
        np.save("y.npy", np.arange(30) % 3 - 1)
        Path("y.txt").write_text("".join(f"{('', 'u', 'v')[k % 3]}\n" for k in range(30)))


def new_rows(command: list[str]) -> None:
    """Make the file of new rows that a command names: the training's without its label."""
    if "new.csv" in command and not Path("new.csv").exists():
        Path("new.csv").write_text(Path("cancer.csv").read_text())


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_examples_and_commands_of_the_page_work(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(page)
    run(page, call)


def run(page: str, call: Callable[..., object]) -> None:
    content, ran, runs = "", 0, 0
    for form, text in blocks(page):
        if any(mark in text for mark in NOT_RUN.get(page, ())):
            continue
        if form == "python":
            exec(compile(text.replace("steps=50", "steps=1"), page, "exec"), {})
            ran += 1
        elif text.startswith("metapl "):
            for line in text.splitlines():
                _, name, *rest = line.split()
                if content and (named := FILE.search(line)):
                    Path(named[0]).write_text(content + "\n", encoding="utf-8")
                    content = ""
                new_rows(rest)
                quick = [part for part in SHORT if name == "train"]
                out = ["--out", f"out-{runs}"] if name == "train" and "--out" not in rest else []
                runs, ran = runs + 1, ran + 1
                done = call(name, *rest, *quick, *out)
                assert done.code == 0, (line, done)
        elif text.splitlines()[0].endswith("/"):
            images(text)
        else:
            content = text
    assert ran or page == "published.md"
