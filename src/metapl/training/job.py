"""A run in memory: data, views, method and stream put together, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from metapl.config.settings import RunConfig
from metapl.data.batches.seeds import derive_seed, generator
from metapl.data.batches.stream import Stream
from metapl.data.modalities import make_views, modality_of
from metapl.data.traits import traits
from metapl.errors import UserError
from metapl.hardware.device import pick_device, seed_step
from metapl.hardware.divided import divide
from metapl.hardware.precision import keep_logits_wide, mixed, pick_precision
from metapl.methods import fits_once, method_class
from metapl.models import Factory, auto_name, build_given, build_model
from metapl.models.pretrained import MOST_ROWS, as_pretrained, keep_statistics, start_head
from metapl.models.weights import brings_head
from metapl.runs.model_folder import CHUNK, Predictor
from metapl.training.prepared import Prepared
from metapl.types import Calibrated, Context, Method, Passing, PoolPasses, Preprocessing, Source, Split, StepReport

ONLY_FITTED = ("tfidf", "forest")  # networks that no optimiser can train
JUDGED_VIEWS = 256  # few validation rows are shown to ``calibrate`` several times, to about this many views in all


@dataclass
class Job:
    """A run in memory.

    Attributes:
        notes: messages about loading first weights.
    """

    config: RunConfig
    prepared: Prepared
    method: Method
    stream: Stream
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> Source:
        return self.prepared.source

    @property
    def split(self) -> Split:
        return self.prepared.split

    @property
    def device(self) -> torch.device:
        return self.prepared.device

    @property
    def total(self) -> int:
        return self.config.steps + self.extra_steps

    @property
    def extra_steps(self) -> int:
        """Return the method's extra steps; 0 without validation rows, which choose whether their result is used."""
        return self.method.extra_steps if len(self.split.validation) else 0

    @property
    def pool_passes(self) -> PoolPasses | None:
        """Return when the method passes over the whole pool; None if it does not say."""
        epoch = max(1, math.ceil(self.stream.pool_size / self.config.batch.unlabeled))
        return self.method.pool_passes(epoch) if isinstance(self.method, Passing) else None

    def predictor(self, model: nn.Module) -> Predictor:
        own, names, files = traits(self.source), self.source.class_names, self.config.source.table.written
        files |= {"widths": ",".join(map(str, own.widths))} if own.widths else {}
        return Predictor(model, self.prepared.preprocessing, names, self.device, own.encoder, files)

    def step(self, t: int) -> Mapping[str, Tensor]:
        """Make step t. Before it, every ``loop.eval_every`` steps, fit what the method fits on validation rows."""
        method, judged = self.method, 0 < t < self.config.steps and due(t, self.config.loop.eval_every, self.total)
        if judged and isinstance(method, Calibrated) and method.needs_validation:
            method.calibrate(self.judge)
        needs = method.needs if t < self.config.steps else frozenset()
        seed_step(derive_seed(self.config.seed, "step", t), self.device)
        batch = self.stream(t, needs)
        with mixed(self.config.precision, self.device):
            report: Any = method.step(batch, t)
        if not isinstance(report, StepReport):
            what = f"step gave back a {type(report).__name__}"
            raise UserError(what, 'Return metapl.types.StepReport({"loss": loss.detach(), ...}).', self.config.method)
        return report.values

    @torch.no_grad()
    def judge(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return logits [draws, n, C] and classes [n] as ``types.Judge`` asks; the same views at every call."""
        index, weak = self.source.readable(self.split.validation), self.stream.views.weak
        draws, was_training, parts = max(1, JUDGED_VIEWS // max(1, len(index))), model.training, list[Tensor]()
        model.eval()
        for k, start in enumerate(range(0, len(index), CHUNK)):
            raw = self.source.rows(index[start : start + CHUNK]).to(self.device)
            seeds = [generator(self.device, self.config.seed, "judge", k, draw) for draw in range(draws)]
            parts.append(torch.stack([model(weak(raw, seed)).float() for seed in seeds]))
        model.train(was_training)
        logits = torch.cat(parts, dim=1) if parts else torch.zeros(draws, 0, len(self.source.class_names))
        return logits, torch.from_numpy(self.source.labels[index].astype(np.int64)).to(self.device)


def with_steps(config: RunConfig, source: Source) -> RunConfig:
    """Return the config with the number of steps that ``steps=0`` means for these rows."""
    return replace(config, steps=config.steps or modality_of(source.kind).steps)


def resolved(config: RunConfig, preprocessing: Preprocessing) -> RunConfig:
    """Return the config with the network, optimiser, precision and norms that ``auto`` means for these rows.

    Raises:
        UserError: a network that the method cannot train.
    """
    fitted = fits_once(config.method)
    model = modality_of(preprocessing.kind).model if config.model == "auto" and not fitted else config.model
    model = auto_name(preprocessing.input_shape, preprocessing.tokens, fitted) if model == "auto" else model
    if model in ONLY_FITTED and not fitted:
        raise UserError(
            f"the network {model} is fitted, not trained", "Use method=linear, or leave model=auto.", "model"
        )
    precision = pick_precision(config.precision, pick_device(config.device), model)
    optim = config.optim.resolved(model, config.finetunes)
    norms: Literal["weights", "data"] = "weights" if config.finetunes else "data"
    return replace(config, model=model, optim=optim, precision=precision, norms=norms)


def build_job(config: RunConfig, prepared: Prepared, watch: Callable[[nn.Module], None] | None = None) -> Job:
    """Build the run in memory, before its first step; ``watch`` is called with each new network.

    Raises:
        UserError: settings or data that cannot make a run.
    """
    config = with_steps(config, prepared.source)
    known = resolved(config, prepared.preprocessing)
    config = replace(config, precision=known.precision, norms=known.norms)
    if config.finetunes:
        prepared = replace(prepared, preprocessing=as_pretrained(prepared.preprocessing, known.model))
    notes, asked = list[str](), list[str]()
    source, split, preprocessing = prepared.source, prepared.split, prepared.preprocessing

    def build(
        name: str = config.model, start: str = config.weights, given: Factory | None = prepared.network
    ) -> nn.Module:
        model = _network(name, start, config.download, prepared, notes, given)
        if config.finetunes and (start or config.download):
            keep_statistics(model)
            if not start or not brings_head(model, start, len(source.class_names)):
                start_head(model, *labeled(MOST_ROWS), len(source.class_names))
        model = divide(model)
        if config.precision != "fp32":
            keep_logits_wide(model)
        if watch is not None:
            watch(model)
        return model

    def teacher() -> nn.Module:
        asked.append(config.teacher_model)
        return build(config.teacher_model, config.teacher_weights, None)

    def labeled(most: int | None = None) -> tuple[Tensor, Tensor]:
        index = source.readable(split.labeled)
        if most is not None:
            index = index[:: -(-len(index) // most)]
        rows = views.plain(source.rows(index).to(prepared.device))
        return rows, torch.from_numpy(source.labels[index].astype(np.int64)).to(prepared.device)

    def steps_to_look(t: int) -> int:
        every = interval(config.loop.eval_every, job.total)
        return min((t // every + 1) * every, config.steps) - 1 - t

    views = make_views(config.views, preprocessing)
    stream = Stream(source, split, config.batch, views, config.seed, prepared.device)
    torch.manual_seed(derive_seed(config.seed, "weights"))
    context = Context(
        build_model=build,
        num_classes=len(source.class_names),
        optim=known.optim,
        steps=config.steps,
        pool_size=stream.pool_size,
        pool=stream.pool,
        row_shape=preprocessing.input_shape,
        build_teacher=teacher if config.teacher_model else None,
        labeled=labeled,
        steps_to_look=steps_to_look,
    )
    method = method_class(config.method)(config.settings, context)
    if isinstance(method, Calibrated) and method.needs_validation and not len(split.validation):
        raise nothing_to_fit_on(config.method, "there are none")
    if config.teacher_model and not asked:
        notes.append(f"{config.method} has no teacher network of its own: teacher_model is not used")
    job = Job(config, prepared, method, stream, tuple(dict.fromkeys(notes)))
    return job


def nothing_to_fit_on(method: str, why: str) -> UserError:
    """Return the error of a method that is fitted on validation rows and has none."""
    return UserError(
        f"a target precision is kept by means of validation rows, and {why}",
        "Set --validation N (rows per class, out of the labelled ones), or give a plain number as the threshold.",
        method,
    )


def _network(
    name: str, start: str, download: bool, prepared: Prepared, notes: list[str], given: Factory | None
) -> nn.Module:
    """Build one fresh network on the training device; messages about its first weights go to ``notes``."""
    shape, tokens = prepared.preprocessing.input_shape, prepared.preprocessing.tokens
    num_classes = len(prepared.source.class_names)
    if given is not None:
        model = build_given(given, name, shape, num_classes, tokens, start=start, notes=notes)
    else:
        model = build_model(name, shape, num_classes, tokens, start=start, download=download, notes=notes)
    # Convolutions run up to twice as fast in this memory layout, on CPUs too.
    layout: dict[str, Any] = {"memory_format": torch.channels_last} if len(shape) == 3 else {}
    moved: nn.Module = model.to(prepared.device).to(**layout)
    return moved


def interval(every: int, total: int) -> int:
    """Return ``every``; for 0 a tenth of ``total`` steps, at least one."""
    return every or max(1, math.ceil(total / 10))


def due(done: int, every: int, total: int) -> bool:
    """Return whether something is to happen after ``done`` of ``total`` steps; ``every`` 0: a tenth of them."""
    return done == total or done % interval(every, total) == 0
