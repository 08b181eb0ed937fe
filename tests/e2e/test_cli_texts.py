"""Texts through the command line: a CSV file in, a model that reads new texts out; every method trains on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Call, refused, sums, table

from metapl.config.settings import make_config
from metapl.data.memory.source import MemorySource
from metapl.data.texts.tokens import _load, encode_texts
from metapl.methods import METHODS
from metapl.training.loop import train

ASKED = {
    "place": ("where is the {}?", "in which town was the {} built?"),
    "time": ("when did the {} open?", "what year is the {} from?"),
}
THINGS = ("bridge", "Łódź mill", "café", "tower", "old school", "harbour", "museum", "東京 station", "road", "theatre")
QUICK = (
    "--steps",
    "60",
    "batch.labeled=8",
    "batch.unlabeled=16",
    "--guard",
    "off",
    "optim.name=adamw",
    "optim.lr=0.01",
)


def questions() -> list[tuple[str, str]]:
    """Forty questions about places and times."""
    return [(form.format(thing), kind) for kind, forms in ASKED.items() for form in forms for thing in THINGS]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.csv"
    lines = ["text,label", *(f'"{text}",{kind if k % 2 else ""}' for k, (text, kind) in enumerate(questions()))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_from_a_file_to_answers(call: Call, file: Path, tmp_path: Path) -> None:
    before, run, out = sums(file.parent), tmp_path / "run", tmp_path / "answers.csv"
    done = call("train", str(file), "--method", "fixmatch", "--out", str(run), "split.validation=none", *QUICK)
    assert done.code == 0, done
    card = json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))
    assert card["model"] == "ngram"
    assert card["preprocessing"]["tokens"]["tokenizer"] == "words"
    new = tmp_path / "new.csv"
    new.write_text('text\n"Where is the LIBRARY?"\n"when did the library open?"\n""\n', encoding="utf-8")
    done = call("predict", str(run), str(new), "--out", str(out))
    assert done.code == 0, done
    labels = [row["label"] for row in table(out.read_text(encoding="utf-8"))]
    assert labels[:2] == ["place", "time"]
    assert len(labels) in (2, 3)  # an empty text is a row without words, or a row that says nothing
    whole = tmp_path / "whole.csv"
    whole.write_text("text,label\n" + "".join(f'"{t}",{k}\n' for t, k in questions()), encoding="utf-8")
    done = call("evaluate", str(run), str(whole), "--json", "-")
    assert done.code == 0, done
    assert json.loads(done.out)["accuracy"] > 0.8
    assert {k: v for k, v in sums(file.parent).items() if k in before} == before


def test_settings_of_texts_that_cannot_be(call: Call, file: Path, tmp_path: Path) -> None:
    for setting, part in (
        ("source.text.tokenizer=word", "unknown tokenizer 'word'"),
        ("source.text.tokenizer=hf:nowhere", "nowhere'. Give hf:FOLDER"),
        ("source.text.max_tokens=0", "0 tokens per text"),
        ("model=small_cnn", "'small_cnn' does not take texts. Use ngram"),
    ):
        refused(call("train", str(file), "--out", str(tmp_path / "none"), setting, *QUICK), part)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "mpl_reduced"])  # that one wants a stored teacher
def test_every_method_trains_on_texts(method: str, tmp_path: Path) -> None:
    ids, tokens, _ = encode_texts([text for text, _ in questions()], "words", "auto")
    labels = np.array([k // 20 if k % 5 == 0 else -1 for k in range(40)])
    source = MemorySource("questions", "text", ids, labels, ("place", "time"), tokens=tokens)
    small = {"steps": 12, "batch.labeled": 4, "batch.unlabeled": 8, "split.validation": "none", "guard.mode": "off"}
    result = train(make_config("questions", options={"method": method, **small}), tmp_path / "run", source=source)
    made = result.predictor.probabilities(ids)
    assert made.shape == (40, 2)
    assert np.allclose(made.sum(1), 1, atol=1e-5)


def test_a_changed_tokenizer_is_told_and_not_used(call: Call, file: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder, run = tmp_path / "cutter", tmp_path / "run"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "when", "is", "the", "did", "open", "what", "in"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    given = (f"source.text.tokenizer=hf:{folder}", "split.validation=none", "--quiet")
    done = call("train", str(file), "--method", "fixmatch", "--out", str(run), *given, *QUICK)
    assert done.code == 0, done
    new = tmp_path / "new.csv"
    new.write_text('text,label\n"Where is the LIBRARY?",place\n"when did the library open?",time\n', encoding="utf-8")
    assert call("evaluate", str(run), str(new)).code == 0
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = stored["model"]["vocab"]
    vocabulary["where"], vocabulary["when"] = vocabulary["when"], vocabulary["where"]
    (folder / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    _load.cache_clear()  # as in another process
    for command in (("evaluate", run, new), ("evaluate", run, file), ("predict", run, new)):
        refused(call(*command), "not the one the model was trained with", "its vocabulary", str(folder))
