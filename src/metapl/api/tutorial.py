"""The training loop of the widely read tutorial, working: pseudo-labelling in epochs, over anybody's DataLoaders.

T1  every epoch: labels = filter(generate(f, pool), judge)                       (G1, G2 in ``pseudo_labels``)
T2  every step:  loss = criterion(f(x_l), y_l) + alpha * criterion(f(x_u), label)
T3  after it:    average <- d * average + (1 - d) * f, buffers included           (``optim.EMA``)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from metapl.errors import UserError, nearest
from metapl.optim import EMA
from metapl.pseudo_labels import (
    PseudoLabels,
    class_logits,
    device_of,
    filter_pseudo_labels,
    generate_pseudo_labels,
    judging,
    keeping_modes,
    require_not_negative,
)
from metapl.utils.loaders import LoadedRows, check_loader, indexed, read_rows, unpack, whole

JudgeName = Literal["ema", "views", "none"]
Batch = tuple[Tensor, Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class EpochReport:
    """What one epoch measured; as text, the line that is printed.

    Attributes:
        epoch, epochs: this one (from 1) and how many there are.
        steps: updates made in it.
        seen, generated, kept: unlabelled rows looked at, labelled by T1, and left by the judge.
        loss, supervised, pseudo: means over the steps of T2, its first term, and its second before alpha (0 if none).
        train_accuracy: right among the labelled rows trained on, in train mode.
        val_rows, val_loss, val_accuracy: the averaged weights on ``val_loader``, per row; None without rows.
    """

    epoch: int
    epochs: int
    steps: int
    seen: int
    generated: int
    kept: int
    loss: float
    supervised: float
    pseudo: float
    train_accuracy: float
    val_rows: int
    val_loss: float | None
    val_accuracy: float | None

    def __str__(self) -> str:
        parts = [
            f"epoch {self.epoch:>{len(str(self.epochs))}}/{self.epochs}",
            f"pseudo labels {self.kept} of {self.seen} ({self.generated} before the filter)",
            f"loss {self.loss:.4f} (labelled {self.supervised:.4f}, pseudo {self.pseudo:.4f})",
            f"train accuracy {100 * self.train_accuracy:.2f} %",
        ]
        if self.val_accuracy is not None:
            parts.append(f"EMA: validation loss {self.val_loss:.4f}, accuracy {100 * self.val_accuracy:.2f} %")
        return "  ".join(parts)


def train_mpl(
    train_loader: Iterable[Any],
    unlabeled_loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    criterion: Criterion,
    num_epochs: int,
    threshold: float = 0.95,
    alpha: float = 0.75,
    *,
    model: nn.Module,
    val_loader: Iterable[Any] | None = None,
    device: torch.device | str | None = None,
    ema_decay: float = 0.99,
    judge: JudgeName | nn.Module = "ema",
    views: int = 2,
    augment: Callable[[Tensor], Tensor] | Literal["loader"] | None = None,
    scheduler: Any = None,
    ignore_labels: bool = False,
    verbose: bool = True,
    on_epoch: Callable[[EpochReport], object] | None = None,
) -> nn.Module:
    """Train ``model`` by the tutorial's loop (T1 to T3) and give its averaged weights, in eval mode.

    Despite the name, this is plain pseudo-labelling: nothing feeds the student's result back to the teacher, and there
    is no second network. Meta Pseudo Labels is ``metapl.train`` with ``method="mpl"``; the name is the
    tutorial's.

    An epoch goes once through the labelled rows and once through the rows that hold a pseudo label, side by side: both
    terms of T2 belong to the same update, so that ``alpha`` scales the gradient under every optimiser (a step on the
    second term alone is undone by Adam's own scaling). If there are more batches of pseudo-labelled rows, the labelled
    rows are gone through again; with ``alpha=0``, or where no row is labelled, the epoch is supervised training,
    exactly. The two batches go through the network together where their rows have one shape.

    Args:
        train_loader: batches (x, y). Rows with y = -1 are left out, so a loader over a ``SemiSupervisedDataset`` will
            do.
        unlabeled_loader: what ``generate_pseudo_labels`` takes. Each pseudo-labelled row is fetched again to be trained
            on, in random order, if the loader's data set can be indexed; else the loader is gone through once more, and
            the rows it keeps are put together to batches as large as its own.
        optimizer: holds every weight of ``model`` that is to be trained.
        criterion: any callable (logits [n, C], y [n]) -> 0-d loss.
        num_epochs: at least 1.
        threshold: of T1, for the model and for the judge; above 1 none passes.
        alpha: weight of the pseudo-labelled rows.
        model: any classifier that gives logits [n, C]; trained in place.
        val_loader: batches (x, y) on which the averaged weights are judged every epoch.
        device: where the model is (default).
        ema_decay: of T3, per step; less at the start.
        judge: who filters. "ema": the averaged weights; "views": the model itself, over ``views`` random views of each
            row, made by ``augment``; "none": nobody; or another network.
        views: how many views must agree, for "views".
        augment: see ``filter_pseudo_labels``.
        scheduler: a learning-rate scheduler, stepped after every epoch.
        ignore_labels: label unlabelled rows whatever y they carry, for a pool whose true labels are to be hidden.
        verbose: print a line per epoch.
        on_epoch: called with every epoch's ``EpochReport``.

    Raises:
        UserError: arguments that do not fit each other, loaders or batches that cannot be read, no labelled row, or a
            loss that is no longer finite.
    """
    require_not_negative(threshold)
    loaders = {"train_loader": train_loader, "unlabeled_loader": unlabeled_loader}
    loaders |= {} if val_loader is None else {"val_loader": val_loader}
    limits = {
        "num_epochs": (num_epochs, num_epochs >= 1), "alpha": (alpha, 0 <= alpha < math.inf),
        "ema_decay": (ema_decay, 0 <= ema_decay < 1), "views": (views, views >= 1),
    }  # fmt: skip
    _check(loaders, optimizer, model, judge, augment, limits)
    device = device_of(model, device)
    loop = _Loop(model, EMA(model, ema_decay), optimizer, criterion, alpha, device)
    pool = unlabeled_loader if alpha > 0 else ()  # without weight no row is even read
    with keeping_modes(model):
        if not model.training:  # where it is, parts frozen in eval mode stay so
            model.train()
        for epoch in range(1, num_epochs + 1):
            generated = generate_pseudo_labels(model, pool, device, threshold, ignore_labels=ignore_labels)
            kept = _judged(generated, loop, judge, pool, threshold, views, augment)  # T1
            trained = loop.epoch(train_loader, _pseudo_batches(kept, pool), epoch)
            counts = {"seen": generated.seen, "generated": len(generated), "kept": len(kept)}
            report = EpochReport(epoch=epoch, epochs=num_epochs, **counts, **trained, **loop.validate(val_loader))
            if scheduler is not None:
                scheduler.step()
            if verbose:
                print(report, flush=True)
            if on_epoch is not None:
                on_epoch(report)
    for average, weight in zip(loop.ema.model.parameters(), model.parameters()):
        average.requires_grad_(weight.requires_grad)  # as trainable as the model, for whoever goes on from here
    return loop.ema.model


@dataclass
class _Loop:
    """The network in training, its average, and its optimiser."""

    model: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    criterion: Criterion
    alpha: float
    device: torch.device
    steps: int = 0

    def epoch(self, labeled: Iterable[Any], pseudo: Iterable[Batch], number: int) -> dict[str, Any]:
        """Train one epoch (T2 and T3); return its number of steps and the means over them."""
        names, start = ("loss", "supervised", "pseudo", "right", "rows"), self.steps
        sums = {name: torch.zeros((), device=self.device) for name in names}
        for pair, more in _side_by_side(labeled, pseudo):
            for name, value in self._step(pair, more).items():
                sums[name] += value
        total, steps = {name: float(value) for name, value in sums.items()}, self.steps - start
        if not math.isfinite(total["loss"]):
            remedy = "Lower the learning rate, or clip the gradients."
            raise UserError(f"training diverged in epoch {number}: the loss is not finite", remedy)
        means = {name: total[name] / steps for name in names[:3]}
        return {"steps": steps, **means, "train_accuracy": total["right"] / total["rows"]}

    def _step(self, labeled: Batch, pseudo: Batch | None) -> dict[str, Tensor | int]:
        (x_l, y_l), (x_u, y_u) = self._moved(labeled), self._moved(pseudo) if pseudo else (None, None)
        z_l, z_u = self._logits(x_l, x_u)
        supervised = loss = self._loss(z_l, y_l)
        term = torch.zeros_like(loss)
        if z_u is not None and y_u is not None:
            term = self._loss(z_u, y_u)
            loss = supervised + self.alpha * term  # T2
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.ema.update(self.model, self.steps)  # T3
        self.steps += 1
        parts = {"loss": loss, "supervised": supervised, "pseudo": term, "right": _right(z_l, y_l)}
        return {name: value.detach() for name, value in parts.items()} | {"rows": len(z_l)}

    def validate(self, loader: Iterable[Any] | None) -> dict[str, Any]:
        """Return the averaged weights on the labelled rows of ``loader``."""
        rows, loss, right = 0, 0.0, 0
        with judging(self.ema.model, self.device):
            for x, y in () if loader is None else map(self._moved, _labeled(loader)):
                z = class_logits(self.ema.model, x)
                loss, right, rows = loss + len(x) * float(self._loss(z, y)), right + int(_right(z, y)), rows + len(x)
        figures = (loss / rows, right / rows) if rows else (None, None)
        return {"val_rows": rows, "val_loss": figures[0], "val_accuracy": figures[1]}

    def _moved(self, pair: Batch) -> Batch:
        return pair[0].to(self.device), pair[1].to(self.device)

    def _logits(self, x_l: Tensor, x_u: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the logits of both batches, from one forward (joint BatchNorm statistics) if shape and type agree."""
        try:
            if x_u is None:
                return class_logits(self.model, x_l), None
            if x_l.shape[1:] != x_u.shape[1:] or x_l.dtype != x_u.dtype:
                return class_logits(self.model, x_l), class_logits(self.model, x_u)
            z = class_logits(self.model, torch.cat([x_l, x_u]))
            return z[: len(x_l)], z[len(x_l) :]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            remedy = "Give the loader drop_last=True, or another batch size."
            raise UserError("BatchNorm cannot learn from a batch of one row", remedy, "train_loader") from error

    def _loss(self, z: Tensor, y: Tensor) -> Tensor:
        loss = self.criterion(z, y)
        if not isinstance(loss, Tensor) or loss.ndim:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"the criterion gives {got}, not one number", "Take reduction='mean'.", "criterion")
        return loss


def _judged(
    labels: PseudoLabels,
    loop: _Loop,
    judge: JudgeName | nn.Module,
    loader: Iterable[Any],
    threshold: float,
    views: int,
    augment: Callable[[Tensor], Tensor] | Literal["loader"] | None,
) -> PseudoLabels:
    """Keep the pseudo labels that the judge agrees with: the second half of T1."""
    if judge == "none":
        return labels
    if judge == "views":
        return filter_pseudo_labels(
            labels, loop.model, loop.device, threshold, loader=loader, views=views, augment=augment
        )
    network = judge if isinstance(judge, nn.Module) else loop.ema.model
    return filter_pseudo_labels(labels, network, loop.device, threshold, loader=loader)


def _pseudo_batches(labels: PseudoLabels, loader: Iterable[Any]) -> Iterator[Batch]:
    """Yield every pseudo-labelled row once, fetched again, in random order where that is possible."""
    if not len(labels):
        return
    places = labels.positions[torch.randperm(len(labels))] if indexed(loader) else labels.positions
    for x, positions in _refilled(read_rows(loader, places)):
        yield x, labels.labels[torch.searchsorted(labels.positions, positions)]


def _refilled(parts: Iterable[LoadedRows]) -> Iterator[Batch]:
    """Yield (rows, positions) in batches as large as the loader's; the rest of a stream's batch waits for the next one.

    The rest is smaller than a batch. Rows of another shape or type begin a new batch.
    """
    size, waiting = 1, list[Batch]()  # one pair or none
    for rows in parts:
        size, pair = max(size, rows.size), (rows.x, rows.positions)
        for x, positions in waiting:
            if x.shape[1:] == rows.x.shape[1:] and x.dtype == rows.x.dtype:
                pair = torch.cat([x, rows.x]), torch.cat([positions, rows.positions])
            else:
                yield x, positions
        *full, rest = zip(torch.split(pair[0], size), torch.split(pair[1], size))
        yield from full if len(rest[0]) < size else [*full, rest]
        waiting = [rest] if len(rest[0]) < size else []
    yield from waiting


def _side_by_side(labeled: Iterable[Any], pseudo: Iterable[Batch]) -> Iterator[tuple[Batch, Batch | None]]:
    """Yield each labelled batch beside a pseudo-labelled one; repeat the labelled ones until all others have come."""
    rest = iter(pseudo)
    more, first = next(rest, None), True
    while first or more is not None:
        count = 0
        for pair in _labeled(labeled):
            yield pair, more
            count, more = count + 1, next(rest, None) if more is not None else None
            if more is None and not first:
                return
        if not count:
            raise UserError("there are no labelled rows to train on", "Label some rows.", "train_loader")
        first = False


def _labeled(loader: Iterable[Any]) -> Iterator[Batch]:
    """Yield batches (x, y) without the rows whose y is -1."""
    for batch in loader:
        x, y, _ = unpack(batch)
        if y is None:
            raise UserError("a batch brings rows without labels", "Batches are (x, y).", "train_loader or val_loader")
        if whole(y):
            keep = y >= 0
            x, y = x[keep.to(x.device)], y[keep]
        if len(x):
            yield x, y


def _right(z: Tensor, y: Tensor) -> Tensor:
    """Return how many rows are right; y [n] class numbers, or [n, C] shares of the classes."""
    return (z.argmax(-1) == (y if y.ndim == 1 else y.argmax(-1))).sum()


def _check(
    loaders: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    judge: Any,
    augment: Any,
    numbers: dict[str, tuple[Any, bool]],
) -> None:
    for name, loader in loaders.items():
        check_loader(loader)
        if isinstance(loader, Iterator):
            raise UserError("it can be gone through only once", "Give a DataLoader or a list of batches.", name)
    for name, (value, good) in numbers.items():
        if not good:
            raise UserError(f"{name} is {value}", "See the text of train_mpl.", name)
    if not isinstance(model, nn.Module):
        raise UserError(f"the model is a {type(model).__name__}", "Give an nn.Module.", "model")
    _check_judge(judge, model, augment)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    held = {id(p) for group in getattr(optimizer, "param_groups", []) for p in group["params"]}
    missing = [name for name, p in trained.items() if id(p) not in held]
    if missing or not trained:
        what = f"it does not hold {len(missing)} of the model's {len(trained)} weights, such as {' '.join(missing[:1])}"
        remedy = "Make it from model.parameters(); freeze what is not to be trained by requires_grad_(False)."
        raise UserError(what if missing else "the model has no weights to train", remedy, "optimizer")


def _check_judge(judge: Any, model: nn.Module, augment: Any) -> None:
    if judge is model:
        remedy = "It would confirm every label. Give 'ema', 'views', 'none' or another network."
        raise UserError("the model would judge its own labels", remedy, "judge")
    if not isinstance(judge, nn.Module) and judge not in get_args(JudgeName):
        raise UserError(
            f"unknown judge {judge!r}", f"{nearest(str(judge), get_args(JudgeName))} Or a network.", "judge"
        )
    if judge == "views" and augment is None:
        remedy = 'Give augment=FUNCTION, or augment="loader" if the data set of unlabeled_loader augments.'
        raise UserError("views of the same rows ask the same question", remedy, "judge")
