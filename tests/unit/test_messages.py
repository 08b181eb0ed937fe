"""Every message says what to do, and the page of messages is what its script writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_messages", DOCS / "make_messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_message_says_what_to_do(script: ModuleType) -> None:
    bare = [f"{name}: {text}" for name, found in script.templates() for text in found if text.endswith(". .")]
    bare = [text for text in bare if not text.endswith(": …. .")]  # said by a worker, with what to do
    assert bare == []


def test_the_page_shows_what_is_said_today_and_its_advice_works(script: ModuleType) -> None:
    stored = (DOCS / "messages.md").read_text(encoding="utf-8").partition("## All messages")[0]
    made = script.page().partition("## All messages")[0]
    assert made.splitlines() == stored.splitlines()
