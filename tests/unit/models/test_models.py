"""Networks: shapes, the tutorial's net layer by layer, parameter counts, names and factories."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metapl.errors import UserError
from metapl.models import MLP, MODELS, ConvNet, SmallCNN, WideResNet, auto_name, build_model

NETS = [n for n, entry in MODELS.items() if not entry.texts and n != "forest"]  # those: test_ngram.py, test_forest.py
IMAGES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 17, 5), (4, 64, 48), (2, 4, 4)]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_shapes(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(name, shape, 7)
    x = torch.randn(3, *shape)
    for training in (True, False):
        logits = model.train(training)(x)
        assert logits.shape == (3, 7)
        assert torch.isfinite(logits).all()
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.load_state_dict(copy.deepcopy(build_model(name, shape, 7).state_dict()))


@pytest.mark.parametrize("features", [1, 4, 200])
@pytest.mark.parametrize("classes", [2, 11])
@pytest.mark.parametrize("name", [n for n in NETS if not MODELS[n].images_only])
def test_feature_rows(name: str, features: int, classes: int) -> None:
    assert build_model(name, (features,), classes)(torch.randn(5, features)).shape == (5, classes)


def test_every_call_draws_new_weights_from_the_global_generator() -> None:
    for name in (n for n in NETS if n != "head"):  # which begins at zero
        torch.manual_seed(0)
        one, other = build_model(name, (1, 8, 8), 3), build_model(name, (1, 8, 8), 3)
        torch.manual_seed(0)
        again = build_model(name, (1, 8, 8), 3)
        assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters()))


def test_convnet_is_the_tutorials_net_layer_by_layer() -> None:
    layers = [m for m in ConvNet().modules() if not list(m.children())]
    kinds = [nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    kinds += [nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert [type(m) for m in layers] == kinds
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [(3, 32), (32, 64)]
    assert all((m.kernel_size, m.padding, m.stride) == ((3, 3), (1, 1), (1, 1)) for m in convolutions)
    assert all(m.kernel_size == m.stride == 2 for m in layers if isinstance(m, nn.MaxPool2d))
    linear = [m for m in layers if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64 * 8 * 8, 128), (128, 10)]
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == [0.5]
    assert all(m.bias is not None for m in [*convolutions, *linear])


class Tutorial(nn.Module):
    """The net as the tutorial prints it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(64 * 8 * 8, 128), nn.Linear(128, 10)
        self.pool, self.dropout = nn.MaxPool2d(2, 2), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = x.view(-1, 64 * 8 * 8)
        return self.fc2(self.dropout(torch.relu(self.fc1(x))))


def test_convnet_computes_what_the_tutorials_net_computes() -> None:
    theirs, ours = Tutorial(), ConvNet()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        a.data.copy_(b.data)
    x = torch.randn(4, 3, 32, 32)
    for training in (False, True):
        torch.manual_seed(2)
        expected = theirs.train(training)(x)
        torch.manual_seed(2)
        assert torch.equal(ours.train(training)(x), expected)


def test_convnet_refuses_images_that_are_too_small() -> None:
    assert ConvNet(1, (4, 9), 2)(torch.randn(1, 1, 4, 9)).shape == (1, 2)
    with pytest.raises(UserError, match=r"got images of 3 x 9\. Give at least 4 x 4 pixels"):
        ConvNet(1, (3, 9), 2)


def test_wide_resnet_28_2_has_the_papers_size() -> None:
    """Counted by hand: stem, three stages of four blocks, last norm, head."""
    stages = 0
    for inputs, outputs in ((16, 32), (32, 64), (64, 128)):
        first = 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs**2 + inputs * outputs
        stages += first + 3 * (2 * 2 * outputs + 2 * 9 * outputs**2)
    expected = 3 * 16 * 9 + stages + 2 * 128 + 128 * 10 + 10
    assert parameters(WideResNet()) == expected == 1_467_610
    assert f"{expected / 1e6:.2f} million" in (WideResNet.__doc__ or "")
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in WideResNet().modules()) == 25
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        WideResNet(depth=27)


def test_wide_resnet_halves_twice() -> None:
    model = WideResNet()
    assert model.blocks(model.stem(torch.randn(1, 3, 32, 32))).shape == (1, 128, 8, 8)


def test_small_cnn_and_mlp_options() -> None:
    assert SmallCNN(1, (8, 8)).features(torch.randn(2, 1, 8, 8)).shape == (2, 64, 4, 4)
    assert SmallCNN(1, (16, 16)).features(torch.randn(2, 1, 16, 16)).shape == (2, 128, 2, 2)
    kinds = [type(m) for m in MLP((4,), 3, hidden=(5,), dropout=0.2).layers]
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert parameters(MLP((4,), 3, hidden=())) == 15


@pytest.mark.parametrize(
    ("shape", "gpu", "expected"),
    [
        ((9,), False, "mlp"),
        ((9,), True, "mlp"),
        ((1, 8, 8), False, "small_cnn"),
        ((3, 32, 32), True, "small_cnn"),
        ((3, 33, 32), True, "wrn-28-2"),
        ((3, 224, 224), False, "small_cnn"),
    ],
)
def test_auto(shape: tuple[int, ...], gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert auto_name(shape) == expected
    assert type(build_model("auto", shape, 2)) is type(build_model(expected, shape, 2))


# ---- factories, reached as ``test_models:NAME`` -----------------------------------------------------------------


def good_factory(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))


def wrong_classes(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return good_factory(shape, num_classes + 1)


def wrong_input(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Linear(3, num_classes)


def odd_signature(size: int) -> nn.Module:
    return nn.Linear(size, size)


def no_module(shape: tuple[int, ...], num_classes: int) -> object:
    return "net"


class _Two(nn.Module):
    def forward(self, x: torch.Tensor) -> object:
        return x, x


def a_tuple(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return _Two()


NUMBER = 3
SHAPE = (1, 8, 8)


def test_a_factory_by_name() -> None:
    model = build_model(f"{__name__}:good_factory", SHAPE, 4)
    assert model.training
    assert model(torch.randn(2, *SHAPE)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal_cnn", "Did you mean 'small_cnn'"),
        ("no_such_package:net", "cannot import"),
        ("torch:no_such_name", "cannot import"),
        (":net", "cannot import"),
        (".relative:net", "cannot import"),
        (f"{__name__}:NUMBER", "is a int, not a function"),
        (f"{__name__}:odd_signature", "cannot be called .*unexpected keyword"),
        (f"{__name__}:no_module", "gave a str, not an nn.Module"),
        (f"{__name__}:wrong_classes", r"gives \[2, 5\] for 2 rows. It must give logits \[2, 4\]"),
        (f"{__name__}:wrong_input", "cannot take these rows"),
        (f"{__name__}:a_tuple", "gives tuple for 2 rows"),
    ],
)
def test_unusable_names_and_factories(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(name, SHAPE, 4)


@pytest.mark.parametrize("name", [n for n, entry in MODELS.items() if entry.images_only])
def test_image_nets_refuse_feature_rows(name: str) -> None:
    with pytest.raises(UserError, match="takes images"):
        build_model(name, (9,), 2)
