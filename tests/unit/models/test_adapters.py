"""Networks of other packages by name, first weights from a file, networks given from Python."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.models import as_factory, build_given, build_model, given_name
from metapl.models.encoders import InputSpec, build_encoder
from metapl.optim import OptimConfig
from metapl.runs.model_folder import Predictor, load_model, save_model
from metapl.types import Context, Preprocessing, Tokens
from tiny_bert import tiny_bert

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY, RGB = (1, 32, 32), (3, 32, 32)
TOKENS = Tokens("hf:there", 10, pad=0, mask=3, special=(1, 2))
NAMES = ("timm:test_resnet", "timm:test_vit", "torchvision:resnet18", "torchvision:squeezenet1_1")


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def vit(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision transformer for 3 x 16 x 16 images and 7 classes, with random weights."""
    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        num_labels=7,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT without a head, stored in half precision."""
    folder = tmp_path_factory.mktemp("bert")
    tiny_bert(transformers).half().save_pretrained(folder)
    return folder


def image_rows(shape: tuple[int, ...]) -> Preprocessing:
    return Preprocessing("image", shape, (0.5,) * shape[0], (0.25,) * shape[0])


def comes_back(net: nn.Module, name: str, preprocessing: Preprocessing, folder: Path, **given: Any) -> None:
    """Stored, loaded and asked again: the same answers, bit for bit."""
    names = ("a", "b", "c", "d")
    predictor = Predictor(net, preprocessing, names, torch.device("cpu"))
    high = 255 if preprocessing.kind == "image" else 40
    dtype = torch.uint8 if preprocessing.kind == "image" else torch.int32
    rows = torch.randint(4, high, (5, *preprocessing.shape)).to(dtype)
    before = predictor.probabilities(rows)
    save_model(folder, predictor, name, {})
    assert torch.equal(load_model(folder, **given).probabilities(rows), before)
    assert before.std(0).max() > 1e-4  # the answers do depend on the rows


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [GREY, RGB], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_channels_and_classes(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(name, shape, 4)
    torch.manual_seed(0)
    again = build_model(name, shape, 4)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    model(torch.randn(4, *shape)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    comes_back(model, name, image_rows(shape), tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("timm:resnt18", RGB, "timm has no network 'resnt18'. Did you mean resnet18"),
        ("timm:hf_hub:someone/net", RGB, "timm has no network"),
        ("torchvision:resnet1", RGB, "torchvision has no classifier 'resnet1'. Did you mean resnet18"),
        ("torchvision:fcn_resnet50", RGB, "no classifier"),
        ("timm:test_vit", (3, 30, 30), "cannot take these rows .*30.* Set source.image.size"),
        ("torchvision:vit_b_16", (3, 20, 20), "cannot be made for images of 20 x 20 pixels"),
        ("torchvision:alexnet", (1, 8, 8), "cannot take these rows .*too small"),
        ("timm:test_vit", (9,), "takes images"),
        ("hf:/no/such/folder", RGB, "holds no network of transformers"),
        ("hf:/no/such/folder", (9,), "these rows are a table"),
        ("given:Net", RGB, "given as a Python object"),
    ],
)
def test_what_does_not_fit_is_told(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(name, shape, 4)


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package, name in (("timm", "timm:test_vit"), ("torchvision", "torchvision:resnet18")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf'{package} is not installed.*pip install "metapl\[vision\]"'):
            build_model(name, RGB, 4)


def test_weights_are_fetched_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    asked: list[bool] = []
    made = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, **given: asked.append(given.pop("pretrained")) or made(name, **given)
    )
    build_model("timm:test_vit", GREY, 4)
    build_model("timm:test_vit", GREY, 4, download=True)
    assert asked == [False, True]
    from metapl.models import vision

    state = build_model("torchvision:squeezenet1_1", RGB, 1000).state_dict()
    monkeypatch.setattr(vision, "downloaded", lambda name: state)
    model = build_model("torchvision:squeezenet1_1", GREY, 4, download=True)
    assert torch.equal(model.features[3].squeeze.weight, state["features.3.squeeze.weight"])  # type: ignore[union-attr, index]
    for name in ("small_cnn", "hf:there"):
        with pytest.raises(UserError, match="download"):
            build_model(name, RGB, 4, download=True)


def test_a_failed_download_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")

    def offline(*args: Any, **given: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", offline)
    for name in ("timm:test_vit", "torchvision:squeezenet1_1"):
        with pytest.raises(UserError, match=f"weights of {name} cannot be fetched .no route to host.*weights=FILE"):
            build_model(name, RGB, 4, download=True)


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def test_fetched_weights_are_read_without_running_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own code reads the file from torch's cache, in which everybody's programs write."""
    models = pytest.importorskip("torchvision").models
    name, cached = "torchvision:squeezenet1_1", tmp_path / "hub" / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached.mkdir(parents=True)
    file = cached / Path(models.SqueezeNet1_1_Weights.DEFAULT.url).name
    torch.manual_seed(3)
    state = build_model(name, RGB, 1000).state_dict()
    torch.save(state, file)
    model = build_model(name, RGB, 4, download=True)
    assert torch.equal(model.state_dict()["features.3.squeeze.weight"], state["features.3.squeeze.weight"])
    torch.save({**state, "more": Planted(tmp_path / "planted")}, file)
    with pytest.raises(UserError, match=f"holds more than weights, or is damaged.*Remove {file.name}"):
        build_model(name, RGB, 4, download=True)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be fetched"):
        build_model(name, RGB, 4, download=True)
    assert not (tmp_path / "planted").exists()


# ---- transformers --------------------------------------------------------------------------------------------------


def test_images_through_transformers(transformers: ModuleType, vit: Path, tmp_path: Path) -> None:
    stored = dict(transformers.ViTForImageClassification.from_pretrained(vit).named_parameters())
    for shape in ((3, 16, 16), (1, 16, 16), (3, 32, 32)):  # grey becomes RGB, other sizes get interpolated positions
        notes: list[str] = []
        model = build_model(f"hf:{vit}", shape, 4, notes=notes)
        assert "new weights for classifier" in notes[0]
        inner = dict(model.model.named_parameters())  # type: ignore[union-attr, operator]
        bodies = [n for n in stored if not n.startswith("classifier")]
        assert all(torch.equal(inner[n], stored[n]) for n in bodies)
        comes_back(model, "hf:/gone", image_rows(shape), tmp_path)  # the folder is not needed to load what was trained
        assert json.loads((tmp_path / "model.json").read_text())["architecture"]["num_hidden_layers"] == 2


def test_texts_through_transformers(bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(f"hf:{bert}", (10,), 4, TOKENS)
    torch.manual_seed(0)
    again = build_model(f"hf:{bert}", (10,), 4, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ids = torch.randint(4, 50, (3, 10))
    ids[:, 6:] = TOKENS.pad
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(ids), model(ids[:, :6]), atol=1e-6)  # padding is not seen
        assert torch.equal(model(ids), model(ids.int()))
    save_model(
        tmp_path,
        Predictor(model, Preprocessing("text", (10,), (), (), tokens=TOKENS), ("a",) * 4, torch.device("cpu")),
        "hf:/gone",
        {},
    )
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).model(ids), model(ids))


def test_texts_and_images_are_told_apart(vit: Path, bert: Path) -> None:
    cases: list[tuple[Path, tuple[int, ...], Tokens | None, str]] = [
        (bert, RGB, None, "reads texts, these rows are images"),
        (vit, (10,), TOKENS, "takes no texts"),
        (
            bert,
            (10,),
            dataclasses.replace(TOKENS, tokenizer="words"),
            "needs its own tokenizer.*source.text.tokenizer=hf:",
        ),
        (bert, (20,), dataclasses.replace(TOKENS, length=20), "texts of 20 ids, this network takes 12"),
    ]
    for folder, shape, tokens, message in cases:
        with pytest.raises(UserError, match=message):
            build_model(f"hf:{folder}", shape, 4, tokens)


def test_damaged_and_dangerous_folders(vit: Path, tmp_path: Path) -> None:
    config = json.loads((vit / "config.json").read_text())
    whole = (vit / "model.safetensors").read_bytes()
    own_code = {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForImageClassification": "code.M"}}
    for name, made, weights in (
        ("pickle", config, b""),
        ("cut", config, whole[:-100]),
        ("unknown", {**config, "model_type": "no-such-kind"}, whole),
        ("code", {**config, **own_code}, whole),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(made))
        (folder / ("model.safetensors" if weights else "pytorch_model.bin")).write_bytes(weights or b"pickled things")
        (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        with pytest.raises(UserError, match="cannot be loaded"):
            build_model(f"hf:{folder}", RGB, 4)
    assert not (tmp_path / "ran").exists()
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds no settings"):
        build_model(f"hf:{folder}", RGB, 4)


# ---- first weights -------------------------------------------------------------------------------------------------


def weights_file(folder: Path, state: dict[str, Any], suffix: str) -> Path:
    path = folder / f"first{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_body_is_taken_and_the_head_is_new(suffix: str, tmp_path: Path) -> None:
    other = build_model("timm:test_resnet", RGB, 9)
    path, notes = weights_file(tmp_path, other.state_dict(), suffix), []
    model = build_model("timm:test_resnet", RGB, 4, start=str(path), notes=notes)
    theirs, ours = other.state_dict(), model.state_dict()
    same = {n for n in ours if ours[n].shape == theirs[n].shape and torch.equal(ours[n], theirs[n])}
    assert set(ours) - same == {"fc.weight", "fc.bias"}
    assert "new head (fc.weight, fc.bias)" in notes[0]
    full = build_model("timm:test_resnet", RGB, 9, start=str(path), notes=notes)
    assert all(torch.equal(a, b) for a, b in zip(full.state_dict().values(), theirs.values()))
    assert "new head" not in notes[1]


def test_a_grey_image_gives_what_it_gave_as_rgb(tmp_path: Path) -> None:
    other = build_model("torchvision:resnet18", RGB, 4).eval()
    notes: list[str] = []
    path = weights_file(tmp_path, other.state_dict(), ".safetensors")
    model = build_model("torchvision:resnet18", GREY, 4, start=str(path), notes=notes).eval()
    x = torch.randn(2, *GREY)
    with torch.no_grad():
        assert torch.allclose(model(x), other(x.expand(-1, 3, -1, -1)), atol=1e-4)
    assert "3 input channels made 1" in notes[0]


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = weights_file(tmp_path, build_model("small_cnn", GREY, 4).state_dict(), ".safetensors")
    with pytest.raises(UserError, match=r"do not fit the network: .*conv1.* is missing; .* and \d+ more"):
        build_model("torchvision:resnet18", GREY, 4, start=str(path))
    for doubled, axis in (("features.0.0", 0), ("features.1.0", 1)):  # only the input's channels may differ
        wider = str(weights_file(tmp_path, _doubled(doubled, axis), ".safetensors"))
        with pytest.raises(UserError, match=r"fit the network: [\w.]+ has \[\d+, .*\] for \["):
            build_model("small_cnn", (1, 8, 8), 4, start=wider)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    torch.save({"code": print}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (
        ("gone.pth", "no such file"),
        ("bad.safetensors", "cannot be read"),
        ("code.pth", "cannot be read"),
        ("list.pth", "no weights in this file"),
    ):
        with pytest.raises(UserError, match=message):
            build_model("small_cnn", GREY, 4, start=str(tmp_path / name))


def _doubled(layer: str, axis: int) -> dict[str, Any]:
    state = build_model("small_cnn", (1, 8, 8), 4).state_dict()
    assert f"{layer}.weight" in state
    return {n: torch.cat([t, t], axis) if n == f"{layer}.weight" else t for n, t in state.items()}


# ---- networks from Python ------------------------------------------------------------------------------------------


def importable(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), num_classes))


def test_a_module_is_copied_with_its_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    one, other = (build_given(as_factory(model), given_name(model), (1, 8, 8), 4) for _ in range(2))
    assert one[1].weight is not model[1].weight  # type: ignore[index]
    for copied in (one, other):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copied.parameters()))
    with pytest.raises(UserError, match="cannot take these rows"):
        build_given(as_factory(model), given_name(model), (1, 9, 9), 4)
    with pytest.raises(UserError, match=r"'Sequential' gives \[2, 4\] for 2 rows. It must give logits \[2, 3\]"):
        build_given(as_factory(model), given_name(model), (1, 8, 8), 3)


def test_the_check_leaves_each_layer_in_its_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64).eval(), nn.Dropout(), nn.Linear(64, 4))
    made = build_given(as_factory(model), "net", (1, 8, 8), 4)
    assert [m.training for m in made.modules()] == [True, True, False, True, True]


def test_two_nets_that_start_alike_have_nothing_to_teach_each_other() -> None:
    method = METHODS["co_training"]
    model = importable((1, 8, 8), 4)
    with pytest.warns(UserWarning, match="start from the same weights"):
        method(method.Config(), Context(lambda: copy.deepcopy(model), 4, OptimConfig(), 5))
    method(method.Config(), Context(lambda: importable((1, 8, 8), 4), 4, OptimConfig(), 5))


def test_factories_have_their_own_name_or_ask_to_be_given_again(tmp_path: Path) -> None:
    name, shape = given_name(importable), (1, 8, 8)
    assert name == f"{__name__}:importable"
    comes_back(build_given(importable, name, shape, 4), name, image_rows(shape), tmp_path, trust_code=True)

    def nameless() -> nn.Module:
        return importable(shape, 4)

    name = given_name(nameless)
    model = build_given(nameless, name, shape, 4)
    comes_back(model, name, image_rows(shape), tmp_path, network=nameless)
    comes_back(model, name, image_rows(shape), tmp_path, network=importable(shape, 4))
    with pytest.raises(UserError, match=r"given as a Python object.*network="):
        load_model(tmp_path)
    with pytest.raises(UserError, match="model is a str"):
        as_factory("net")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 80)])
def test_two_nets_of_torchvision_scale_pixels_as_their_weights_want(
    name: str, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchvision builds them for its own weights: the same answers, for grey images as for RGB."""
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda weight, *rest, **more: nn.init.normal_(weight, 0, 0.05)
    )  # seconds less
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    given = {"aux_logits": False, "init_weights": False, "transform_input": True}
    own = models.get_model(name, weights=None, num_classes=4, **given)
    for (
        module
    ) in own.modules():  # statistics of a trained net, without which random weights give the same for any image
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        own.train()(torch.randn(8, 3, side, side))
    own.eval()
    path = weights_file(tmp_path, own.state_dict(), ".safetensors")
    x = torch.randn(3, 3, side, side)
    for rows in (x, x[:, :1]):
        model = build_model(f"torchvision:{name}", tuple(rows.shape[1:]), 4, start=str(path)).eval()
        with torch.no_grad():
            expected = own(rows.expand(-1, 3, -1, -1))
            assert torch.allclose(model(rows), expected, atol=1e-5, rtol=1e-4)
        assert expected.std(0).max() > 1e-4
    comes_back(model, f"torchvision:{name}", image_rows((1, side, side)), tmp_path / "model")
    two = build_model(f"torchvision:{name}", (2, side, side), 4).eval()
    assert two(torch.randn(2, 2, side, side)).isfinite().all()

    takes = image_rows((1, side, side))
    encoder = build_encoder(
        f"torchvision:{name}", takes, weights_file=str(path), spec=InputSpec((side, side), MEAN, STD, 3)
    )
    encoder.bfloat16 = False  # where the processor has it, answers are rougher
    raw = torch.randint(0, 255, (3, 1, side, side), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    own.fc = nn.Identity()
    with torch.no_grad():
        expected = own((raw.expand(-1, 3, -1, -1) / 255 - mean) / std)
    # Channels lie last in an encoder, so sums are rounded in another order.
    assert torch.allclose(encoder.encode(raw), expected, atol=1e-3, rtol=1e-3)
