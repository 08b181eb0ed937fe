"""From a network's logits to labels for unlabelled rows: in a batch, and for a whole pool.

Shapes as in ``losses``: B rows, C classes, p [B, C] rows that sum to 1.

G1  generate: p = softmax f(x), y = argmax p; the row is labelled where max p >= threshold
G2  filter, by a judge h over k views v of the row: the label stays where
    argmax h(v(x)) = y in every view and mean_v softmax h(v(x))[y] >= threshold
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from metapl.errors import UserError
from metapl.utils.loaders import Rows, read_rows

Loader = Iterable[Any]
CHUNK = 256  # rows per forward where rows were kept


def sharpen(logits: Tensor, temperature: float) -> Tensor:
    """``softmax(logits / temperature)`` without gradient; a temperature below 1 sharpens."""
    return torch.softmax(logits.detach() / temperature, dim=-1)


def confidence_mask(p: Tensor, threshold: float) -> Tensor:
    """[B] 1.0 where the largest probability of the row is at least ``threshold``, else 0.0."""
    return (p.amax(dim=-1) >= threshold).to(p.dtype)


def sample_labels(p: Tensor) -> Tensor:
    """[B] int64, one draw per row from the row's distribution (MPL, Pham et al. 2021, section 2), global RNG."""
    return torch.multinomial(p.detach(), 1).squeeze(-1)


def surest_per_class(p: Tensor, count: int) -> Tensor:
    """[B] 1.0 for the ``count`` surest rows of each class (by ``argmax p``; fewer where there are fewer), else 0.0.

    Co-training (Blum & Mitchell 1998) lets each classifier label its most confident rows of each class.
    """
    confidence, y = p.max(-1)
    own = torch.zeros_like(p).scatter(-1, y[:, None], confidence[:, None])
    value, row = own.topk(min(count, len(p)), dim=0)
    return torch.zeros_like(confidence).index_put((row[value > 0],), torch.ones_like(confidence[:1]))


def class_balance(p: Tensor, mask: Tensor) -> Tensor:
    """[N] weights that give every class found its equal share of the rows in ``mask`` (Noisy Student, section 3.1).

    K is the number of masked rows per class found (by ``argmax p``). A class with more keeps its K surest rows at
    weight 1; in one with n < K each weighs K / n, as if repeated. p is [N, C], mask [N] in {0, 1}.
    """
    confidence, y = p.max(-1)
    counts = torch.bincount(y[mask > 0], minlength=p.shape[1])
    each = int(counts.sum()) // max(1, int((counts > 0).sum()))
    weights = torch.zeros_like(mask)
    for c in counts.nonzero().flatten().tolist():
        rows = ((y == c) & (mask > 0)).nonzero().flatten()
        surest = rows[confidence[rows].argsort(descending=True, stable=True)[:each]]
        weights[surest] = each / len(surest)
    return weights


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Labels that a network gave to some rows of a pool; k rows, on the CPU.

    Attributes:
        ids: [k] int64, the ids that the batches brought; without any, ``positions``.
        positions: [k] int64, ascending: index of the row in the loader's data set (or its place in the loader's order).
        labels: [k] int64 class numbers.
        confidence: [k] float32, probability that the network (after a filter: the judge) gave to the label.
        seen: rows that were looked at, labelled or not.
        rows: [k, ...] the rows themselves, only if asked for.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    confidence: Tensor
    seen: int
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, keep: Tensor) -> PseudoLabels:
        """Those at ``keep`` [k] bool."""
        ids, positions, labels, confidence = (t[keep] for t in (self.ids, self.positions, self.labels, self.confidence))
        rows = None if self.rows is None else self.rows[keep.to(self.rows.device)]
        return PseudoLabels(ids, positions, labels, confidence, self.seen, rows)

    def dataset(self, dataset: Any) -> PseudoLabeledRows:
        """The labelled rows of ``dataset`` (the one behind the loader) as pairs (x, label), ready for a DataLoader."""
        return PseudoLabeledRows(dataset, self.positions, self.labels)


class PseudoLabeledRows(Dataset[tuple[Any, int]]):
    """A map-style data set of (x, pseudo label): the rows of ``dataset`` at ``positions``, read when asked for.

    Args:
        dataset: anything with ``[k]`` and ``len``; items x, (x,), (x, y), (id, x) or (id, x, y). Their y is dropped.
        positions: [k] int64.
        labels: [k] int64.

    Raises:
        UserError: a position that is not in ``dataset``, or nothing to index.
    """

    def __init__(self, dataset: Any, positions: Tensor, labels: Tensor) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UserError(f"rows of a {type(dataset).__name__} cannot be fetched by index", "Give a map-style one.")
        if len(positions) and int(positions.max()) >= len(dataset):
            what = f"row {int(positions.max())} holds a pseudo label, the data set has {len(dataset)} rows"
            raise UserError(what, "Give the data set that was labelled.")
        self._dataset, self._positions, self._labels = dataset, positions, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        item = self._dataset[int(self._positions[index])]
        if isinstance(item, tuple | list):
            item = item[1] if len(item) > 1 and _number(item[0]) and not _number(item[1]) else item[0]
        return item, int(self._labels[index])


def _number(value: Any) -> bool:
    return isinstance(value, int) or getattr(value, "ndim", 1) == 0


def generate_pseudo_labels(
    model: nn.Module,
    loader: Loader,
    device: torch.device | str | None = None,
    threshold: float = 0.95,
    *,
    ignore_labels: bool = False,
    keep_rows: bool = False,
) -> PseudoLabels:
    """G1 for every row of ``loader``, batch by batch; only what passes is kept, and of that no row.

    The model is in eval mode meanwhile, every part of it is put back into its own mode, and torch's global generators
    are left as they were. To train on the result: ``labels.dataset(loader.dataset)``, or ``train_mpl``.

    Args:
        model: gives logits [n, C]; its weights are not touched.
        loader: a DataLoader, or any iterable of batches x, (x,), (x, y), (x, y, ids), (ids, x) or (ids, x, y).
            Positions do not depend on shuffling: see ``metapl.utils.loaders.read_rows``. A row that carries a label
            y >= 0 has one and is passed over.
        device: where the model is (default) and the rows are moved to.
        threshold: least confidence of a pseudo label; 0 keeps every row, above 1 none passes.
        ignore_labels: label every row, whatever its y: for a pool whose true labels are to be hidden.
        keep_rows: keep the rows that pass, too; memory then grows with them.

    Raises:
        UserError: a loader or batch that cannot be read, only labelled rows, a model that gives no logits [n, C] or is
            elsewhere, or a negative threshold.
    """
    check_threshold(threshold)
    device, seen, passed, kept = device_of(model, device), 0, 0, list[PseudoLabels]()
    with judging(model, device):
        for rows in read_rows(loader):
            count = len(rows.positions)
            rows = rows if ignore_labels else rows.without_label()
            passed += count - len(rows.positions)
            if not len(rows.positions):
                continue
            seen += len(rows.positions)
            p = probabilities(model, rows.x.to(device))
            confidence, labels = p.max(-1)
            keep = confidence_mask(p, threshold).bool().cpu()
            if keep.any():
                kept.append(_labels(rows, labels.cpu(), confidence.float().cpu(), keep_rows).select(keep))
    if passed and not seen:
        remedy = "Pseudo labels are for rows without (y = -1). Say ignore_labels=True if these are to be hidden."
        raise UserError("every row of the loader carries a label", remedy, "loader")
    return _joined(kept, seen)


def filter_pseudo_labels(
    pseudo_labels: PseudoLabels,
    model: nn.Module,
    device: torch.device | str | None = None,
    threshold: float = 0.95,
    *,
    loader: Loader | Callable[[int], Loader] | None = None,
    views: int = 1,
    augment: Callable[[Tensor], Tensor] | Literal["loader"] | None = None,
) -> PseudoLabels:
    """G2: what ``model`` confirms. The confidence of the result is the judge's.

    The model that wrote the labels confirms every one of them when it is asked the same question again. So let another
    one judge (the averaged weights, a second network), or ask about other views of the rows.

    Args:
        pseudo_labels: what ``generate_pseudo_labels`` gave.
        model: the judge; treated as there.
        device: where it is (default).
        threshold: least mean confidence in the label.
        loader: brings the rows again: the loader that was labelled, or another whose data set holds the same rows in
            the same places; or a function that gives the loader of view 0, 1, .... Only the labelled rows are fetched
            where the data set can be indexed. Not needed if the rows were kept.
        views: k, how many views of each row must agree.
        augment: makes a random view of rows [n, ...] on ``device``; "loader" says that the loader's data set does so.

    Raises:
        UserError: no rows to judge by, rows that do not come again, several views without anything to tell them apart.
    """
    check_threshold(threshold)
    if views < 1 or (views > 1 and augment is None and not callable(loader)):
        remedy = 'Give augment=FUNCTION, augment="loader" if its data set augments, or loader=FUNCTION of the view.'
        raise UserError(f"{views} views of the same rows ask the same question", remedy, "views")
    device, count = device_of(model, device), len(pseudo_labels)
    agree, total = torch.ones(count, dtype=torch.bool), torch.zeros(count)
    with judging(model, device):
        # Other draws than while generating, or a data set that augments would show the very same views again.
        torch.default_generator.manual_seed(int(torch.randint(2**62, ())))
        for view in range(views if count else 0):
            found = torch.zeros(count, dtype=torch.bool)
            for at, x in _again(pseudo_labels, loader(view) if callable(loader) else loader):
                x = x.to(device)
                p = probabilities(model, augment(x) if callable(augment) else x).cpu()
                y = pseudo_labels.labels[at]
                agree[at] &= p.argmax(-1) == y
                total[at] += p.gather(1, y[:, None])[:, 0].float()
                found[at] = True
            if not found.all():
                what = f"{int((~found).sum())} of {count} rows with a pseudo label did not come again"
                raise UserError(what, "Give the loader that was labelled.", "loader")
    judged = replace(pseudo_labels, confidence=total / views)
    return judged.select(agree & (judged.confidence >= threshold))


def _again(labels: PseudoLabels, loader: Loader | None) -> Iterator[tuple[Tensor, Tensor]]:
    """(indices into ``labels``, rows), every labelled row once."""
    if loader is None:
        if labels.rows is None:
            remedy = "Give loader=..., or generate with keep_rows=True."
            raise UserError("the rows are needed again", remedy, "filter_pseudo_labels")
        yield from zip(torch.split(torch.arange(len(labels)), CHUNK), torch.split(labels.rows, CHUNK))
        return
    for rows in read_rows(loader, labels.positions):
        at = torch.searchsorted(labels.positions, rows.positions)
        if rows.ids is not None and not torch.equal(rows.ids, labels.ids[at]):
            remedy = "The loader must give the same rows in the same order every time."
            raise UserError("rows came again under other ids", remedy, "loader")
        yield at, rows.x


def _labels(rows: Rows, labels: Tensor, confidence: Tensor, keep_rows: bool) -> PseudoLabels:
    ids = rows.positions if rows.ids is None else rows.ids
    return PseudoLabels(ids, rows.positions, labels, confidence, 0, rows.x if keep_rows else None)


def _joined(parts: list[PseudoLabels], seen: int) -> PseudoLabels:
    none = torch.zeros(0, dtype=torch.int64)
    if not parts:
        return PseudoLabels(none, none, none, torch.zeros(0), seen)
    ids, positions, labels, confidence = (
        torch.cat([getattr(p, n) for p in parts]) for n in ("ids", "positions", "labels", "confidence")
    )
    rows = [p.rows for p in parts if p.rows is not None]
    return PseudoLabels(ids, positions, labels, confidence, seen, torch.cat(rows) if rows else None)


# ---- asking a network without leaving a trace -------------------------------------------------------------------


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards every part of the model is in the mode it was in: what was frozen in eval mode stays so."""
    modes, training = [(m, m.training) for m in model.modules()], model.training
    try:
        yield
    finally:
        model.train(training)
        for module, mode in modes:
            module.training = mode


@contextmanager
def judging(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode and no gradient; afterwards the model's modes and torch's global generators are as they were."""
    generators = [device] if device.type == "cuda" else []
    with keeping_modes(model), torch.no_grad(), torch.random.fork_rng(generators):
        model.eval()
        yield


def class_logits(model: nn.Module, x: Tensor) -> Tensor:
    """``model(x)``, looked at.

    Raises:
        UserError: no tensor [n, C] with C of at least 2.
    """
    z = model(x)
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(x) or z.shape[1] < 2:
        got = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise UserError(
            f"the model gives {got} for {len(x)} rows", "It must give one logit per class, [n, C].", "model"
        )
    return z


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """softmax of ``model(x)`` [n, C], in at least float32."""
    z = class_logits(model, x)
    return torch.softmax(z, -1, dtype=torch.promote_types(z.dtype, torch.float32))


def device_of(model: nn.Module, device: torch.device | str | None = None) -> torch.device:
    """``device``, or where the model's first tensor is.

    Raises:
        UserError: the model is not on ``device``.
    """
    own = [t.device for t in chain(model.parameters(), model.buffers())] or [torch.device("cpu")]
    if device is None:
        return own[0]
    device = torch.device(device)
    if not any(d.type == device.type and device.index in (None, d.index) for d in own):
        remedy = f"Move it first: model.to('{device}'), before its optimizer is made."
        raise UserError(f"the model is on {own[0]}, the device is {device}", remedy, "device")
    return device


def check_threshold(threshold: float) -> None:
    """Raises UserError unless ``threshold`` is at least 0."""
    if not threshold >= 0:
        raise UserError(f"the threshold is {threshold}", "Give at least 0.", "threshold")
