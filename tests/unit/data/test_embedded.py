"""Embedding mode: features made once by a frozen encoder and kept on disk; the stored model takes raw rows."""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import metapl
from metapl.config.settings import make_config
from metapl.data.embedded import EmbeddedSource, embed
from metapl.data.memory.source import MemorySource
from metapl.data.sources import SourceOptions
from metapl.errors import UserError
from metapl.inference.run_evaluation import judge_own
from metapl.inference.run_predictions import predict_to
from metapl.models.encoders import build_encoder
from metapl.models.probe import alike, probe_rows
from metapl.runs.model_folder import load_model
from metapl.types import Preprocessing, Tokens
from tiny_bert import tiny_bert

OPTIONS = {
    "steps": 6,
    "device": "cpu",
    "guard.mode": "off",
    "batch.unlabeled": 8,
    "split.validation": 2,
    "method": "fixmatch",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bert(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT without a head, in the form of sentence-transformers."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    tiny_bert(transformers, add_pooling_layer=False).save_pretrained(folder)
    return folder


class Means(nn.Module):
    """Counts what it is shown; features are means of channels and rows."""

    seen: ClassVar[list[int]] = []  # of the class: the encoder's copy counts too

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        return self.scale * torch.cat([x.mean((1, 2)), x.mean((1, 3))], 1)


def images(test: int = 8) -> MemorySource:
    """Sixty grey 8 x 8 images of two brightnesses, the last ``test`` of them test rows."""
    draw, labels = torch.Generator().manual_seed(0), np.arange(60) % 2
    data = torch.randint(0, 120, (60, 1, 8, 8), generator=draw) + 100 * torch.from_numpy(labels).view(-1, 1, 1, 1)
    is_test = np.arange(60) >= 60 - test
    known = np.where((np.arange(60) < 16) | is_test, labels, -1)
    return MemorySource("bright", "image", data.to(torch.uint8), known, ("dark", "light"), is_test=is_test)


def texts(folder: Path) -> MemorySource:
    tokens = Tokens(f"hf:{folder}", 10, pad=0, mask=3, special=(1, 2))
    ids = torch.randint(4, 50, (20, 10), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    for row in range(20):
        ids[row, 1 + row % 10 :] = 0
    return MemorySource("texts", "text", ids, np.arange(20) % 2, ("a", "b"), tokens=tokens)


# ---- features ------------------------------------------------------------------------------------------------------


def test_rows_are_encoded_when_asked_for_and_once(cache: Path) -> None:
    net, source = Means(), images()
    made = embed(source, net)
    net.seen.clear()
    first = made.rows(np.array([3, 1, 3]))
    assert net.seen == [2]  # each once
    expected = source.data[[3, 1, 3]].float() / 255
    assert torch.allclose(first, torch.cat([expected.mean((1, 2)), expected.mean((1, 3))], 1))
    made.rows(np.arange(10))
    assert net.seen == [2, 8]
    again = embed(images(), net)  # another process, as it were
    net.seen.clear()
    assert torch.equal(again.rows(np.arange(10)), made.rows(np.arange(10)))
    assert net.seen == []
    assert again.fingerprint() == made.fingerprint() != source.fingerprint()
    assert not again._done[50:].any()  # nobody has asked for test rows
    embed(images(), net, cache=False).rows(np.arange(10))
    assert net.seen[1:] == [10]
    assert {p.suffix for p in cache.rglob("*") if p.is_file()} == {".safetensors", ""}
    assert not list(cache.rglob("*.tmp"))


def test_encoding_says_what_it_does(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("metapl.data.embedded")
    monkeypatch.setattr(module, "FEW", 10)
    monkeypatch.setattr(module, "PIECE", 20)
    monkeypatch.setattr(module, "SECONDS", -1.0)
    told: list[str] = []
    made = embed(images(), Means(), tell=told.append)
    made.rows(np.arange(5))
    assert told == []
    made.rows(np.arange(50))
    assert told == [
        f"encoding 45 rows with given:Means, once; features are kept in {cache / 'features'}",
        "20 of 45 rows are encoded, about 0:00 to go",
        "40 of 45 rows are encoded, about 0:00 to go",
    ]
    made.rows(np.arange(50, 55))  # too few to be worth a line
    assert len(told) == 3


def test_other_weights_sizes_and_rows_have_features_of_their_own() -> None:
    net = Means()
    made = embed(images(), net)
    prints = {made.fingerprint(), embed(images(), net, normalize=True).fingerprint()}
    prints |= {embed(images(), net, size=4).fingerprint(), embed(images(), net, mean=(0.5,), std=(0.2,)).fingerprint()}
    prints |= {embed(images(4), net).fingerprint()}
    net.scale.data += 1
    prints |= {embed(images(), net).fingerprint()}
    assert len(prints) == 6


@pytest.mark.parametrize("harm", ["cut", "zeros", "text"])
def test_a_damaged_cache_is_made_again(harm: str, cache: Path) -> None:
    net = Means()
    good = embed(images(), net).rows(np.arange(20))
    (path,) = cache.rglob("*.safetensors")
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-9], "zeros": content[:-200] + bytes(200), "text": b"hello"}[harm])
    net.seen.clear()
    assert torch.equal(embed(images(), net).rows(np.arange(20)), good)
    assert sum(net.seen) == 24  # four rows for the check, then all again


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "file"))
    assert embed(images(), Means()).rows(np.arange(5)).shape == (5, 16)


def test_the_cache_gives_a_test_row_the_features_of_what_it_holds_now(photos: Path) -> None:
    """The source's fingerprint knows no more of a test file than its size."""

    def features() -> tuple[torch.Tensor, torch.Tensor]:
        source = metapl.open_source(str(photos), SourceOptions(image_size="20"))
        test = np.flatnonzero(source.is_test)
        return embed(source, Means()).rows(test), source.rows(test)

    def exchange(one: Path, other: Path) -> None:
        content = one.read_bytes(), other.read_bytes()
        one.write_bytes(content[1])
        other.write_bytes(content[0])

    before, raw = features()
    Means.seen.clear()
    assert torch.equal(features()[0], before)
    assert Means.seen == [4]  # the check alone
    for path in (photos / "test" / "dark").iterdir():  # to .bmp, whose size says nothing
        Image.open(path).resize((20, 20)).save(path.with_suffix(".bmp"))
        path.unlink()
    for path in (photos / "test" / "light").iterdir():
        Image.open(path).resize((20, 20)).save(path.with_suffix(".bmp"))
        path.unlink()
    before, raw = features()
    exchange(photos / "test" / "dark" / "30.bmp", photos / "test" / "light" / "31.bmp")
    after, now = features()
    assert not torch.equal(raw, now)
    assert torch.allclose(after, Means()(now.float() / 255), atol=1e-6)
    assert not torch.allclose(after, before, atol=0.1)
    Means.seen.clear()
    assert torch.equal(features()[0], after)
    assert Means.seen == [4]


class Power(nn.Module):
    """Its weights do not say all that it does."""

    def __init__(self, power: float, buffer: float = 1.0) -> None:
        super().__init__()
        self.power, self.body = power, nn.Linear(64, 40, bias=False)
        nn.init.constant_(self.body.weight, 1 / 64)
        self.register_buffer("factor", torch.full((), buffer), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.body(x.flatten(1)) ** self.power


class Edited(Power):
    __qualname__ = "Power"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x.mean((1, 2, 3)).unsqueeze(1)


@pytest.mark.parametrize("other", [lambda: Power(2), lambda: Power(1, 1.5), lambda: Edited(1)])
def test_the_cache_and_a_stored_model_know_an_encoder_by_what_it_does(other: Any, tmp_path: Path) -> None:
    index, raw = np.arange(20), images().data[:4]
    source = embed(images(), Power(1))
    first = source.rows(index)
    changed = other()
    assert torch.equal(embed(images(), changed).rows(index), embed(images(), changed, cache=False).rows(index))
    assert not torch.allclose(embed(images(), changed).rows(index), first, rtol=0.1)
    assert torch.equal(embed(images(), Power(1)).rows(index), first)
    result = metapl.train(make_config("bright", options={**OPTIONS, "steps": 2}), tmp_path / "run", source=source)
    assert torch.equal(
        load_model(tmp_path / "run", encoder=Power(1)).probabilities(raw), result.predictor.probabilities(raw)
    )
    with pytest.raises(UserError, match="other features than at the training"):
        load_model(tmp_path / "run", encoder=changed)


def test_rounding_is_no_other_encoder() -> None:
    takes = Preprocessing("image", (3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    net = build_encoder("timm:test_resnet", takes)
    half = build_encoder(_Rounded(net.network), takes, spec=net.spec)
    assert not torch.equal(net.probe, half.probe)
    assert alike(half.probe, net.probe)
    rows = probe_rows(takes)
    assert torch.equal(rows, probe_rows(takes))
    assert torch.pdist(rows.flatten(1).float()).min() > 1000  # images that are not alike
    assert not alike(net.probe + 0.1 * net.probe.std(0) * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), net.probe)
    assert not alike(net.probe[:, :3], net.probe)


class _Rounded(nn.Module):
    """What another device might give: eleven bits of each number, as in TF32."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.half().float()).half().float()


def test_the_users_own_module_stays_as_it_is() -> None:
    net = Means().train()
    net.scale.requires_grad_(True)
    embed(images(), net).rows(np.arange(3))
    assert net.training
    assert net.scale.requires_grad
    assert next(net.parameters()).device.type == "cpu"


def test_the_cache_is_bounded_and_what_was_used_longest_ago_goes_first(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sets() -> set[str]:
        return {path.parent.name for path in cache.rglob("*.safetensors")}

    def fill(power: float) -> str:
        before = sets()
        net = Power(1)
        net.body.weight.data *= power
        embed(images(), net).rows(np.arange(50))
        return next(iter(sets() - before), "")

    first, second = fill(1), fill(2)
    size = max(path.stat().st_size for path in cache.rglob("*.safetensors"))
    for age, name in ((300, first), (200, second)):
        for path in (cache / "features" / name).glob("*.safetensors"):
            os.utime(path, (time.time() - age,) * 2)
    assert fill(1) == ""  # used again now, so the second is the oldest
    foreign = cache / "features" / second / "notes.txt"
    foreign.write_text("mine")
    module = importlib.import_module("metapl.data.embedded")
    monkeypatch.setattr(module, "LIMIT", int(2.5 * size))
    third = fill(3)
    assert sets() == {first, third}
    assert foreign.exists()
    monkeypatch.setattr(module, "LIMIT", size // 2)
    assert fill(4) == ""  # no room for it at all
    assert sets() == set()
    assert not (cache / "features" / first).exists()
    monkeypatch.setattr(module, "LIMIT", 2**30)
    monkeypatch.setattr("metapl.utils.cache.FREE_SHARE", 1e-15)
    assert fill(5) == ""


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_named_encoders(name: str) -> None:
    made = embed(images(), name, size=32)
    assert made.kind == "features"
    one, other = made.rows(np.arange(4)), embed(images(), name, size=32, cache=False).rows(np.arange(4))
    assert torch.allclose(one, other, atol=1e-5)  # random weights, but the same every time
    assert one.std(0).max() > 1e-4
    noted = made.encoder.spec
    assert noted.channels == 3
    assert noted.size == (32, 32)
    assert noted.mean[0] > 0.3
    assert "weights are random" in made.notes[-1]


def test_grey_images_resized_and_normalised_for_the_encoder() -> None:
    seen: list[torch.Tensor] = []

    class Watch(Means):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    embed(images(), Watch(), size=(16, 16), mean=(0.5,), std=(0.25,)).rows(np.array([0]))
    expected = torch.nn.functional.interpolate(
        images().data[:1].float() / 255, (16, 16), mode="bilinear", antialias=True
    )
    assert torch.allclose(seen[-1], (expected - 0.5) / 0.25, atol=1e-6)


def test_texts_are_pooled_over_what_is_no_padding(transformers: ModuleType, bert: Path, tmp_path: Path) -> None:
    source = texts(bert)
    made = embed(source, f"hf:{bert}").rows(np.arange(20))
    model = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    for row in (0, 7, 9, 13):
        ids = source.data[row][source.data[row] != 0].long()[None]
        with torch.no_grad():
            expected = model(input_ids=ids).last_hidden_state.mean(1)[0]
        assert torch.allclose(made[row], expected, atol=1e-5)
    unit = embed(source, f"hf:{bert}", normalize=True).rows(np.arange(20))
    assert torch.allclose(unit, torch.nn.functional.normalize(made, dim=1), atol=1e-6)
    for path in bert.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    first = embed(texts(tmp_path), f"hf:{tmp_path}").rows(np.arange(20))
    with torch.no_grad():
        expected = model(input_ids=source.data[9][None].long()).last_hidden_state[0, 0]
    assert torch.allclose(first[9], expected / expected.norm(), atol=1e-5)


def test_texts_are_pooled_over_their_beginning(transformers: ModuleType, bert: Path) -> None:
    source = texts(bert)
    source.data[0] = torch.tensor([1, 7, 8, 9, 2, 0, 0, 0, 0, 0])  # its own marks around three words
    source.data[1] = torch.tensor([1, 7, 2, 0, 0, 0, 0, 0, 0, 0])
    source.data[2] = torch.tensor([1, 2, 0, 0, 0, 0, 0, 0, 0, 0])
    made = embed(source, f"hf:{bert}", pooling="begin", cache=False).rows(np.arange(3))
    model = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    for row, places in ((0, [1, 2]), (1, [1]), (2, [0, 1])):
        ids = source.data[row][source.data[row] != 0].long()[None]
        with torch.no_grad():
            expected = model(input_ids=ids).last_hidden_state[0, places].mean(0)
        assert torch.allclose(made[row], expected, atol=1e-5)


def test_what_cannot_be_encoded_is_told(bert: Path) -> None:
    table = MemorySource("numbers", "table", torch.zeros(4, 3), np.zeros(4, dtype=int), ("a",))
    cases = [
        (table, "timm:test_resnet", {}, "these rows are a table"),
        (images(), "timm:test_resnt", {}, "timm has no network 'test_resnt'"),
        (images(), "resnet18", {}, "'resnet18' is not an encoder"),
        (images(), f"hf:{bert}", {}, "reads texts, these rows are images"),
        (images(), nn.Identity(), {}, r"gives \[4, 1, 8, 8\] for 4 rows. It must give \[B, D\]"),
        (images(), nn.Linear(3, 3), {}, "cannot take these rows"),
        (texts(bert), "timm:test_resnet", {}, "takes images, these rows are texts"),
        (texts(bert), f"hf:{bert}", {"weights": "file.pth"}, "Its folder has them"),
        (texts(bert), f"hf:{bert}", {"pooling": "start"}, "unknown pooling 'start'"),
        (images(), nn.Flatten(), {"pooling": "cls"}, "encoder.pooling is for hf: encoders of texts"),
        (images(), "timm:test_resnet", {"weights": "gone.pth", "size": 32}, "no such file of weights"),
    ]
    for source, encoder, options, message in cases:
        with pytest.raises(UserError, match=message):
            embed(source, encoder, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"encoder\.weights is set, and encoder\.name is not"):
        metapl.train(make_config("digits", options={"source.encoder.weights": "file.pth"}))
    fetch = {"source.encoder.name": "timm:test_resnet", "source.download": True}
    with pytest.raises(UserError, match=r"weights of an encoder are not fetched.*source.encoder.weights"):
        metapl.train(make_config("digits", options=fetch))


def test_texts_are_cut_by_the_tokenizer_of_what_reads_them() -> None:
    def tokenizer(**options: str) -> str:
        return make_config("texts.csv", options=options).source.text.tokenizer

    assert tokenizer() == "auto"
    assert tokenizer(model="hf:net") == "hf:net"
    assert tokenizer(**{"source.encoder.name": "hf:encoder"}) == "hf:encoder"
    assert tokenizer(**{"source.encoder.name": "hf:encoder", "source.text.tokenizer": "hf:other"}) == "hf:other"


def test_arrays_through_fit() -> None:
    source = images()
    options = {**OPTIONS, "source.encoder.name": "timm:test_resnet", "source.encoder.size": 32}
    result = metapl.fit(source.data.numpy(), source.labels, options=options)
    assert isinstance(result.source, EmbeddedSource)
    p = result.predict_proba(source.data[:5].numpy())
    assert np.allclose(p, result.predictor.probabilities(result.source.rows(np.arange(5))).numpy(), atol=1e-5)


# ---- whole runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders of grey images of several sizes."""
    source, root = images(0), tmp_path / "photos"
    for k in range(40):
        name = (
            f"labelled/{('dark', 'light')[k % 2]}"
            if k < 12
            else "unlabelled"
            if k < 30
            else f"test/{('dark', 'light')[k % 2]}"
        )
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.data[k, 0].numpy()).resize((20 + k % 3, 20)).save(root / name / f"{k}.png")
    return root


def weights_of(name: str, folder: Path) -> Path:
    from metapl.models import build_model

    torch.manual_seed(5)
    path = folder / "encoder.pth"
    torch.save(build_model(name, (3, 32, 32), 7).state_dict(), path)
    return path


def test_a_run_on_features_predicts_on_images(photos: Path, tmp_path: Path, cache: Path) -> None:
    file = weights_of("timm:test_resnet", tmp_path)
    options = {
        "source.encoder.name": "timm:test_resnet",
        "source.encoder.weights": str(file),
        "source.encoder.size": 32,
    }
    result = metapl.train(make_config(str(photos), options={**OPTIONS, **options}), tmp_path / "run")
    assert isinstance(result.source, EmbeddedSource)
    assert result.summary["model"] == "head"
    assert not result.source._done[result.split.test].any()
    assert result.source.inner.rows(np.array([0])).shape == (1, 1, 32, 32)
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert card["encoder"]["weights"] == str(file)
    figures, _, _ = judge_own(tmp_path / "run", "cpu")
    assert figures["rows"] == 10

    predictor = load_model(tmp_path / "run")
    raw = result.source.inner.rows(result.split.test)
    assert predictor.takes.shape == (1, 32, 32)
    assert torch.equal(predictor.probabilities(raw), result.predictor.probabilities(raw))
    features = result.source.rows(result.split.test)
    assert torch.allclose(predictor.probabilities(raw), result.predictor.probabilities(features), atol=1e-5)
    count, problems, _ = predict_to(tmp_path / "run", str(photos / "test"), str(tmp_path / "answers.csv"), False, "cpu")
    assert (count, problems) == (10, [])

    torch.save({k: v + 1 for k, v in torch.load(file, weights_only=True).items()}, file)
    with pytest.raises(UserError, match="other weights than at the training"):
        load_model(tmp_path / "run")
    file.unlink()
    with pytest.raises(UserError, match="no such file of weights"):
        load_model(tmp_path / "run")


def test_a_run_that_0_1_0_left_unfinished_goes_on_with_the_scale_of_its_features(tmp_path: Path) -> None:
    as_table = embed(images(), Means())
    as_table.kind = "table"  # as 0.1.0 did
    whole = metapl.train(make_config("x", options=OPTIONS), tmp_path / "run", source=as_table)
    assert whole.folder is not None
    (whole.folder / "results.json").unlink()
    path = whole.folder / "config.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**tree, "source": {"encoder": "", "encoder_size": "auto"}}), encoding="utf-8")
    resumed = metapl.resume(whole.folder, source=embed(images(), Means()))
    assert resumed.predictor.preprocessing == whole.predictor.preprocessing
    for name, tensor in whole.predictor.model.state_dict().items():
        assert torch.equal(resumed.predictor.model.state_dict()[name], tensor), name


def test_an_encoder_from_python_is_given_again(tmp_path: Path) -> None:
    net = Means()
    source = embed(images(), net)
    result = metapl.train(make_config("bright", options=OPTIONS), tmp_path / "run", source=source)
    raw = images().data[-8:]
    before = result.predictor.probabilities(raw)
    with pytest.raises(UserError, match=r"load_model\(folder, encoder=...\)"):
        load_model(tmp_path / "run")
    assert torch.equal(load_model(tmp_path / "run", encoder=net).probabilities(raw), before)
    assert torch.equal(load_model(tmp_path / "run", encoder=Means).probabilities(raw), before)
    assert metapl.evaluate(result.predictor, source, result.split.test)["rows"] == 8
    net.scale.data += 1
    with pytest.raises(UserError, match="other weights"):
        load_model(tmp_path / "run", encoder=net)


def test_a_text_run_needs_the_encoders_folder(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    source = embed(texts(folder), f"hf:{folder}", pooling="begin")
    config = make_config("texts", options={**OPTIONS, "split.labels": 4, "split.validation": "none", "steps": 3})
    result = metapl.train(config, tmp_path / "run", source=source)
    raw = texts(folder).data[:6]
    predictor = load_model(tmp_path / "run")
    assert predictor.takes.tokens == texts(folder).tokens
    assert torch.equal(predictor.probabilities(raw), result.predictor.probabilities(raw))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="holds no network of transformers"):
        load_model(tmp_path / "run")
