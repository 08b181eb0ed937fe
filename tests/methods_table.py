"""One row per way of running a method: what it is called, what turns it off, and who owns which loss term.

A new method adds its row here; ``unit/methods/test_methods.py`` then trains it, cuts and resumes it, reduces it to
supervised training and checks that each loss term moves its owner's weights and nobody else's. If the row has a naive
loss, ``numeric/test_methods_naive.py`` compares whole training steps with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import naive
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.batches.seeds import derive_seed
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.batches.stream import BatchConfig, Stream
from metapl.data.batches.views import ViewConfig
from metapl.data.memory.digits import open_digits
from metapl.data.modalities import make_views
from metapl.methods import METHODS
from metapl.methods.parts import FineTuner
from metapl.optim import Learner, OptimConfig
from metapl.runs import checkpoint
from metapl.types import Context, Method, SemiBatch

STEPS = 8  # length of the main phase in every test
SEED = 3
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Term:
    """A loss term, its owner, and the settings under which it is the owner's only unlabelled or meta term.

    ``owner`` is a name in ``networks``. With ``silence_supervised`` the test also takes the labelled term away.
    """

    name: str
    owner: str
    settings: Settings = field(default_factory=dict)
    silence_supervised: bool = True


@dataclass(frozen=True)
class Row:
    """A method with settings; ``off`` are settings that each make ``twin`` equal to supervised training.

    ``naive`` computes the loss of step t from the equations alone, by loops over plain tensors, for a method with one
    network: it gets the hand-written network, the settings, the batch and t. Methods with several networks have tests
    of their own in ``numeric``.
    """

    name: str
    method: str
    settings: Settings = field(default_factory=dict)
    optim: Settings = field(default_factory=dict)
    off: tuple[Settings, ...] = ()
    twin: str = "net"
    terms: tuple[Term, ...] = ()
    naive: Callable[[naive.Player, Any, SemiBatch, int], Tensor] | None = None


def supervised_loss(player: naive.Player, c: Any, b: SemiBatch, t: int) -> Tensor:
    return naive.ce(player.see(b.x_l), b.y_l, c.label_smoothing)


def mean_teacher_loss(player: naive.Player, c: Any, b: SemiBatch, t: int) -> Tensor:
    assert b.u_weak is not None
    assert b.u_strong is not None
    mine, other = (b.u_strong, b.u_weak) if c.student_view == "strong" else (b.u_weak, b.u_strong)
    if c.teacher_mode == "eval":
        answer = naive.judged(player.average, player.average_stats, other)
    else:
        answer = naive.forward(player.average, other)[0]
    z = player.see(torch.cat([b.x_l, mine]))
    p, q = torch.exp(naive.log_p(z[len(b.x_l) :])), torch.exp(naive.log_p(answer))
    term = torch.zeros(())
    for i in range(len(p)):
        for k in range(p.shape[1]):
            if c.consistency == "mse":
                term = term + (p[i, k] - q[i, k]) ** 2 / len(p)
            else:
                term = term + q[i, k] * (torch.log(q[i, k]) - torch.log(p[i, k])) / len(p)
    rise = math.exp(-5 * (1 - naive.rise(t, c.ramp)) ** 2)
    return naive.ce(z[: len(b.x_l)], b.y_l, c.label_smoothing) + c.weight * rise * term


SUPERVISED = Term("supervised", "net", silence_supervised=False)
UNLABELED = Term("unlabeled", "net", {"threshold": 0.0})
FIXED = {"finetune_steps": 0}
QUIET = {"uda_weight": 0.0, "feedback": "none"}
MPL_TERMS = (
    Term("supervised", "teacher", QUIET, silence_supervised=False),
    Term("uda", "teacher", {"feedback": "none", "uda_threshold": 0.0}),
    Term("feedback", "teacher", {"uda_weight": 0.0}),
    Term("feedback", "teacher", {"uda_weight": 0.0, "feedback": "sampled", "baseline": 0.0}),
    Term("student", "student", {"uda_weight": 0.0}),
    Term("finetune", "finetuned", silence_supervised=False),
)
MPL_OFF = (
    {"feedback": "none", "uda_weight": 0.0},
    {"feedback": "none", "uda_threshold": 1.01},
    {"feedback_weight": 0.0, "uda_weight": 0.0},
)

ROWS = (
    Row("supervised", "supervised", off=({},), terms=(SUPERVISED,), naive=supervised_loss),
    Row(
        "supervised-smoothed-adamw",
        "supervised",
        {"label_smoothing": 0.1},
        {"name": "adamw", "lr": 0.003},
        naive=supervised_loss,
    ),
    Row(
        "pseudo_label",
        "pseudo_label",
        {"threshold": 0.3},
        off=({"weight": 0.0}, {"threshold": 1.01}),
        terms=(SUPERVISED, Term("unlabeled", "net", {"threshold": 0.0, "ramp": 0.0})),
    ),
    Row(
        "uda",
        "uda",
        {"threshold": 0.3, "ramp": 0.5},
        off=({"weight": 0.0}, {"threshold": 1.01}),
        terms=(SUPERVISED, Term("unlabeled", "net", {"threshold": 0.0, "ramp": 0.0})),
    ),
    Row(
        "fixmatch",
        "fixmatch",
        {"threshold": 0.3},
        off=({"weight": 0.0}, {"threshold": 1.01}),
        terms=(SUPERVISED, UNLABELED),
    ),
    Row("fixmatch-precision", "fixmatch", {"threshold": "precision=0.3"}, off=({"weight": 0.0}, {"threshold": 1.01})),
    Row("fixmatch-curriculum", "fixmatch", {"threshold": 0.3, "selection": "curriculum"}, off=({"weight": 0.0},)),
    Row("pseudo_label-soft", "pseudo_label", {"selection": "soft", "selection_decay": 0.5}, off=({"weight": 0.0},)),
    Row(
        "pseudo_label-epoch",
        "pseudo_label",
        {"schedule": "epoch", "epoch_steps": 3, "threshold": 0.12},
        off=({"weight": 0.0}, {"threshold": 1.01}),
        terms=(SUPERVISED, Term("unlabeled", "net", {"threshold": 0.0, "ramp": 0.0})),
    ),
    Row(
        "pseudo_label-epoch-views",
        "pseudo_label",
        {"schedule": "epoch", "epoch_steps": 3, "threshold": 0.1, "judge": "views", "ramp": 0.0},
    ),
    Row("uda-adaptive", "uda", {"selection": "adaptive", "selection_decay": 0.5}, off=({"weight": 0.0},)),
    Row(
        "mean_teacher",
        "mean_teacher",
        {"ramp": 0.5, "weight": 3.0},
        off=({"weight": 0.0},),
        terms=(SUPERVISED, Term("unlabeled", "net", {"ramp": 0.0})),
        naive=mean_teacher_loss,
    ),
    Row(
        "mean_teacher-weak-eval",
        "mean_teacher",
        {"ramp": 0.0, "teacher_mode": "eval", "student_view": "weak", "label_smoothing": 0.1},
        naive=mean_teacher_loss,
    ),
    Row("mean_teacher-kl", "mean_teacher", {"ramp": 0.4, "consistency": "kl"}, naive=mean_teacher_loss),
    Row("flexmatch", "flexmatch", {"threshold": 0.3}, off=({"weight": 0.0},), terms=(SUPERVISED, UNLABELED)),
    Row(
        "freematch",
        "freematch",
        {"decay": 0.5},
        off=({"weight": 0.0, "fairness": 0.0},),
        terms=(
            SUPERVISED,
            Term("unlabeled", "net", {"fairness": 0.0}),
            Term("unfair", "net", {"weight": 0.0, "fairness": 1.0}),
        ),
    ),
    Row("softmatch", "softmatch", {"decay": 0.5}, off=({"weight": 0.0},), terms=(SUPERVISED, Term("unlabeled", "net"))),
    Row("softmatch-unaligned", "softmatch", {"decay": 0.5, "align": False, "n_sigma": 1.0}),
    Row(
        "self_training",
        "self_training",
        {"threshold": 0.1},
        off=({"rounds": 1}, {"weight": 0.0}, {"threshold": 1.01}),
        terms=(SUPERVISED, Term("unlabeled", "net"), Term("unlabeled", "net", {"labels": "soft"})),
    ),
    Row(
        "self_training-weak-balanced",
        "self_training",
        {"threshold": 0.1, "student_view": "weak", "balance": True, "rounds": 2},
        terms=(Term("unlabeled", "net"),),
    ),
    Row(
        "self_training-goes-on",
        "self_training",
        {"labels": "soft", "keep_weights": True, "threshold": 0.12},
        {"warmup": 1},
    ),
    Row(
        "co_training",
        "co_training",
        {"ramp": 0.5},
        off=({"weight": 0.0}, {"share": 0.0}, {"select": "threshold", "threshold": 1.01}),
        terms=(
            SUPERVISED,
            Term("supervised", "second", silence_supervised=False),
            Term("unlabeled", "net", {"ramp": 0.0}),
            Term("unlabeled", "second", {"ramp": 0.0}),
        ),
    ),
    Row(
        "co_training-threshold",
        "co_training",
        {"select": "threshold", "threshold": 0.1, "learn_view": "weak"},
        {"name": "adamw", "lr": 0.003},
    ),
    Row("mpl-exact", "mpl", {"finetune_steps": 4}, off=MPL_OFF, twin="teacher", terms=MPL_TERMS),
    Row("mpl-exact-late", "mpl", {"feedback_start": 0.5, "student_wait": 0.25, "uda_ramp": 0.5, **FIXED}),
    Row("mpl-exact-strong-labels", "mpl", {"label_view": "strong", **FIXED}, off=MPL_OFF, twin="teacher"),
    Row("mpl-exact-adamw", "mpl", FIXED, {"name": "adamw", "lr": 0.003}, off=MPL_OFF, twin="teacher"),
    Row("mpl-exact-clip", "mpl", FIXED, {"clip": 0.2, "nesterov": True}, off=MPL_OFF, twin="teacher"),
    Row("mpl-difference", "mpl", {"derivative": "difference", **FIXED}),
    Row("mpl-sampled", "mpl", {"feedback": "sampled", "finetune_steps": 4}),
    Row("mpl-official", "mpl", {"feedback": "official", **FIXED}),
    Row("mpl-curriculum", "mpl", {"uda_selection": "curriculum", **FIXED}, off=({**QUIET},), twin="teacher"),
    Row("mpl-soft", "mpl", {"uda_selection": "soft", "uda_selection_decay": 0.5, "feedback": "none", **FIXED}),
    Row("mpl-precision", "mpl", {"uda_threshold": "precision=0.3", **FIXED}, off=({**QUIET},), twin="teacher"),
    Row("mpl-none", "mpl", {"feedback": "none", **FIXED}),
    Row(
        "self_mpl",
        "self_mpl",
        off=({"pseudo_weight": 0.0, "uda_weight": 0.0}, {"pseudo_weight": 0.0, "uda_threshold": 1.01}),
        terms=(
            Term("supervised", "net", {"pseudo_weight": 0.0, "uda_weight": 0.0}, silence_supervised=False),
            Term("uda", "net", {"pseudo_weight": 0.0, "uda_threshold": 0.0}),
            Term("feedback", "net", {"uda_weight": 0.0}),
            Term("feedback", "net", {"uda_weight": 0.0, "feedback": "sampled", "baseline": 0.0}),
        ),
    ),
    Row("self_mpl-adamw-clip", "self_mpl", {"pseudo_weight": 0.5}, {"name": "adamw", "lr": 0.003, "clip": 0.2}),
    Row("self_mpl-sampled", "self_mpl", {"feedback": "sampled", "uda_ramp": 0.5}, {"nesterov": True}),
    Row(
        "mpl_reduced",
        "mpl_reduced",
        {"finetune_steps": 4},
        off=({"teacher_share": 1.0, "uda_weight": 0.0}, {"teacher_share": 1.0, "uda_threshold": 1.01}),
        terms=(
            Term("supervised", "net", {"teacher_share": 1.0, "uda_weight": 0.0}, silence_supervised=False),
            Term("uda", "net", {"teacher_share": 1.0, "uda_threshold": 0.0}),
            Term("student", "net"),
            Term("feedback", "calibrator"),
            Term("finetune", "finetuned", silence_supervised=False),
        ),
    ),
    Row("mpl_reduced-adamw-clip", "mpl_reduced", FIXED, {"name": "adamw", "lr": 0.003, "clip": 0.2, "warmup": 1}),
    Row("mpl_reduced-none", "mpl_reduced", {"feedback": "none", "teacher_share": 0.5, **FIXED}),
    Row("self_mpl-precision", "self_mpl", {"uda_threshold": "precision=0.3", "uda_ramp": 0.5}),
    Row("self_mpl-curriculum", "self_mpl", {"uda_selection": "curriculum", "uda_threshold": 0.3}),
    Row("mpl_reduced-precision", "mpl_reduced", {"uda_threshold": "precision=0.3", "teacher_share": 0.5, **FIXED}),
    Row("mpl_reduced-soft", "mpl_reduced", {"uda_selection": "soft", "uda_selection_decay": 0.5, **FIXED}),
    Row("self_mpl-none", "self_mpl", {"feedback": "none", "label_smoothing": 0.1}),
)
BY_NAME = {row.name: row for row in ROWS}


class NoisyNet(nn.Module):
    """Convolution, BatchNorm and dropout: everything that a resume could get wrong in a network."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(6 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).flatten(1))
        return logits


def noisy_net() -> nn.Module:
    """In the memory layout that the loop uses."""
    return NoisyNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def plain_net() -> nn.Module:
    return NoisyNet(dropout=0.0).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@cache
def digits_stream(labeled: int = 8, unlabeled: int = 12) -> Stream:
    """The digits with two labels per class, through the real split, views and stream."""
    source = open_digits()
    split = make_split(source, SplitConfig(labels=2, validation="none"), SEED)
    preprocessing = fit_preprocessing(source, np.union1d(split.labeled, split.unlabeled))
    return Stream(source, split, BatchConfig(labeled, unlabeled), make_views(ViewConfig(), preprocessing), SEED)


def build(
    row: Row, extra: Settings | None = None, net: Callable[[], nn.Module] = noisy_net, **optim: Any
) -> tuple[Method, Stream]:
    """A fresh method of ``row`` (with ``extra`` settings) as the loop would build it, and the stream that feeds it."""
    torch.manual_seed(SEED)
    cls, stream = METHODS[row.method], digits_stream()
    config = cls.Config(**{**row.settings, **(extra or {})})
    optimizer = OptimConfig(**{**row.optim, **optim})
    context = Context(net, 10, optimizer, STEPS, stream.pool_size, stream.pool, (1, 8, 8))
    return cls(config, context), stream


def run(method: Method, stream: Stream, start: int, stop: int) -> list[dict[str, Tensor]]:
    """Steps ``start`` to ``stop`` as the loop makes them; the reports."""
    reports = []
    for t in range(start, stop):
        batch = stream(t, method.needs if t < STEPS else frozenset())
        torch.manual_seed(derive_seed(SEED, "step", t))
        reports.append(dict(method.step(batch, t).values))
    return reports


def networks(method: Method) -> dict[str, nn.Module]:
    """Every trained network of a method by the name that ``Row.twin`` and ``Term.owner`` use."""
    found: dict[str, nn.Module] = {n: v.model for n, v in vars(method).items() if isinstance(v, Learner)}
    for part in vars(method).values():
        if isinstance(part, FineTuner) and part.model is not None:
            found["finetuned"] = part.model
    return found


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """Every tensor of a state tree by its path; numbers become tensors."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, Mapping):
        return {k: t for key, v in value.items() for k, t in tensors(v, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: t for i, v in enumerate(value) for k, t in tensors(v, f"{name}/{i}").items()}
    return {name: torch.tensor(value)} if isinstance(value, bool | int | float) else {}


def assert_same(a: Any, b: Any) -> None:
    """Two trees hold the same tensors, bit for bit."""
    one, other = tensors(a), tensors(b)
    assert one.keys() == other.keys()
    different = [n for n in one if one[n].dtype != other[n].dtype or not torch.equal(one[n], other[n])]
    assert not different


def through_disk(state: dict[str, Any], folder: Any) -> dict[str, Any]:
    """What a checkpoint gives back."""
    return checkpoint.load(checkpoint.save(folder, 1, state))
