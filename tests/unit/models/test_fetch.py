"""Pretrained weights by file or package: renamed where they match in order, refused where they do not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from metapl.errors import UserError
from metapl.models import encoders, lite0
from metapl.models.encoders import build_encoder
from metapl.models.fetch import fetch_weights
from metapl.models.vision import build_timm
from metapl.models.weights import in_order, load_body, read_weights
from metapl.types import Preprocessing

timm = pytest.importorskip("timm")
NAME = "timm:test_resnet"
packed = pytest.mark.skipif(not lite0.is_installed(), reason="the package of lite0 is not installed")


def state() -> dict[str, Tensor]:
    """A trained test_resnet, as it were."""
    torch.manual_seed(1)
    weights: dict[str, Tensor] = timm.create_model("test_resnet", pretrained=False).state_dict()
    return weights


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"layer{k}.{name.rpartition('.')[2]}": value for k, (name, value) in enumerate(tensors.items())}


@pytest.mark.parametrize("how", ["same names", "other names", "other names without counters", "wrapped"])
def test_a_file_that_fits_gets_the_librarys_names(how: str, tmp_path: Path) -> None:
    tensors, file = state(), tmp_path / "given.pth"
    given: Any = tensors
    if how.startswith("other"):
        kept = {n: t for n, t in tensors.items() if "counters" not in how or not n.endswith("num_batches_tracked")}
        given = renamed(kept)
    if how == "wrapped":
        given = {"state_dict": {f"module.{name}": value for name, value in tensors.items()}}
    torch.save(given, file)
    facts = fetch_weights(NAME, tmp_path / "new" / "out.safetensors", file)
    stored = load_file(facts["file"])
    assert list(stored) == sorted(tensors) or set(stored) == set(tensors)
    for name, value in tensors.items():
        assert name.endswith("num_batches_tracked") or torch.equal(stored[name], value), name
    assert facts["tensors"] == len(tensors)
    assert facts["sha256"] == hashlib.sha256(Path(facts["file"]).read_bytes()).hexdigest()
    network = build_timm("test_resnet", (3, 32, 32), 0, False)
    load_body(network, read_weights(facts["file"]), 0, facts["file"])  # an encoder finds them by name


def test_a_file_that_does_not_fit_is_refused_with_the_cause(tmp_path: Path) -> None:
    tensors, out = state(), tmp_path / "out.safetensors"
    short = dict(list(renamed(tensors).items())[:-3])
    other = timm.create_model("test_vit", pretrained=False).state_dict()
    swapped = list(renamed(tensors).items())
    swapped[0], swapped[1] = swapped[1], swapped[0]
    mean, bias = (list(tensors).index(f"conv1.1.{name}") for name in ("running_mean", "bias"))
    turned = list(renamed(tensors).items())  # the same shape, another meaning
    turned[mean], turned[bias] = turned[bias], turned[mean]
    wrong = {**tensors, next(iter(tensors)): torch.zeros(2, 2)}
    cases = (short, "tensors, the network has"), (other, "the network"), (dict(swapped), "tensor 1 is .*weight")
    for given, cause in (*cases, (dict(turned), r"is '.*\.running_mean'"), (wrong, "has the shape")):
        torch.save(given, tmp_path / "given.pth")
        with pytest.raises(UserError, match=cause) as caught:
            fetch_weights(NAME, out, tmp_path / "given.pth")
        assert "Give the file of this network" in str(caught.value)
    save_file(renamed(tensors), tmp_path / "given.safetensors")
    with pytest.raises(UserError, match="does not keep the order"):
        fetch_weights(NAME, out, tmp_path / "given.safetensors")
    torch.save(tensors, tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        fetch_weights(NAME, out, tmp_path / "cut.pth")
    assert not out.exists()
    assert not list(tmp_path.glob(".*tmp"))


def test_mistakes_around_the_file_are_named(tmp_path: Path) -> None:
    file, out = tmp_path / "given.safetensors", tmp_path / "out.safetensors"
    save_file(state(), file)
    with pytest.raises(UserError, match=r"does not end in \.safetensors"):
        fetch_weights(NAME, tmp_path / "out.pth", file)
    with pytest.raises(UserError, match="exists already"):
        fetch_weights(NAME, file, file)
    with pytest.raises(UserError, match="no weights to fetch"):
        fetch_weights("resnet18", out, file)
    with pytest.raises(UserError, match="timm has no network 'test_resnt'"):
        fetch_weights("timm:test_resnt", out, file)
    with pytest.raises(UserError, match="no such file of weights"):
        fetch_weights(NAME, out, tmp_path / "none.pth")


def test_an_encoder_file_with_other_names_is_told_the_way(tmp_path: Path) -> None:
    network = build_timm("test_resnet", (3, 32, 32), 0, False)
    with pytest.raises(UserError, match="models fetch NAME --from FILE"):
        load_body(network, renamed(state()), 0, "given.pth")
    with pytest.raises(UserError, match=r"which this network has not\. It is another network's"):
        load_body(network, timm.create_model("test_vit", pretrained=False).state_dict(), 0, "given.pth")


def test_an_encoder_does_not_begin_with_a_file_that_does_not_fit(tmp_path: Path) -> None:
    """What the user of ``source.encoder.weights`` reads: the cause, the file and what to do."""
    tensors, file = state(), tmp_path / "given.pth"
    first = next(iter(tensors))
    named = (renamed(tensors), f"{first} is missing", "models fetch NAME --from FILE")
    shaped = ({**tensors, first: torch.zeros(2, 2)}, rf"{first} has \[2, 2\] for", "another network's")
    other = (timm.create_model("test_vit", pretrained=False).state_dict(), "and .* more", "another network's")
    for given, cause, remedy in (named, shaped, other):
        torch.save(given, file)
        _refused(file, f"do not fit the network: .*{cause}", remedy)
    torch.save({**tensors, first: torch.full_like(tensors[first], float("nan"))}, file)
    _refused(file, f"not finite, in 1 of .* tensors, such as {first}", "Give another one")
    torch.save({"numbers": np.zeros(3)}, file)
    _refused(file, r"cannot be read \(it is damaged, or holds more than weights\)", "a state dict and nothing else")
    file.write_text("hello")
    _refused(file, r"cannot be read \(it is damaged", "a state dict and nothing else")
    for name in ("cut.pth", "cut.safetensors"):
        (torch.save if name == "cut.pth" else save_file)(tensors, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        _refused(tmp_path / name, "cannot be read", "Give a .safetensors file, or a .pth file")


def _refused(file: Path, cause: str, remedy: str) -> None:
    takes = Preprocessing("image", (3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(UserError, match=cause) as caught:
        build_encoder(NAME, takes, weights_file=str(file))
    assert remedy in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.skipif(not encoders._has_bfloat16(), reason="no instructions for bfloat16")
def test_images_are_encoded_in_bfloat16_and_kept_apart_from_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Preprocessing("image", (3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    rows = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    half, own = build_encoder(NAME, takes), build_encoder(timm.create_model("test_resnet", num_classes=0), takes)
    monkeypatch.setattr(encoders, "_has_bfloat16", lambda: False)
    full = build_encoder(NAME, takes)
    assert (half.bfloat16, full.bfloat16, own.bfloat16) == (True, False, False), "a network of the user's own is not"
    assert half.encode(rows).dtype == torch.float32
    assert not torch.equal(half.encode(rows), full.encode(rows))
    assert torch.cosine_similarity(half.encode(rows), full.encode(rows)).min() > 0.999
    assert torch.equal(half.probe, full.probe), "it is the same encoder"
    assert half.versions != full.versions, "the cache keeps their features apart"


def test_equal_names_are_matched_by_name_whatever_their_order() -> None:
    tensors = state()
    found = in_order(tensors, dict(reversed(list(tensors.items()))), "x")
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@packed
def test_lite0_is_a_pretrained_encoder(tmp_path: Path) -> None:
    takes = Preprocessing("image", (3, 64, 64), (0.0,) * 3, (1.0,) * 3)
    made = build_encoder("lite0", takes)
    assert (made.name, made.features, made.spec.size, made.spec.mean) == ("lite0", 1280, (224, 224), (0.5,) * 3)
    facts = fetch_weights("lite0", tmp_path / "lite0.safetensors")
    same = build_encoder("timm:tf_efficientnet_lite0", takes, weights_file=facts["file"])
    rows = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.encode(rows), same.encode(rows))
    assert made.encode(rows).std() > 0.1
    with pytest.raises(UserError, match="does not go with lite0"):
        build_encoder("lite0", takes, weights_file=facts["file"])


@packed
def test_another_file_in_the_place_of_lite0_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = lite0.weights_file()
    assert own is not None
    content = bytearray(own.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "other.pth").write_bytes(content)
    monkeypatch.setattr(lite0, "weights_file", lambda: tmp_path / "other.pth")
    with pytest.raises(UserError, match="damaged, or another file"):
        lite0.build_lite0()


def test_lite0_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "find_spec", lambda name: None)
    assert not lite0.is_installed()
    with pytest.raises(UserError, match=r"metapl\[photos\]"):
        lite0.build_lite0()
