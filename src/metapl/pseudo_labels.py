"""Make labels for unlabelled rows from a network's logits: in a batch, and for a whole pool.

Shapes as in ``losses``: B rows, C classes, p [B, C] rows that sum to 1.

G1  generate: p = softmax f(x), y = argmax p; the row gets the label y if max p >= threshold
G2  filter, by a judge h over k views v of the row: the label stays if
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
from metapl.types import Context
from metapl.utils.loaders import LoadedRows, read_rows

Loader = Iterable[Any]
CHUNK = 256  # rows per forward if the rows themselves were kept


def sharpen(logits: Tensor, temperature: float) -> Tensor:
    """Return ``softmax(logits / temperature)`` [B, C] without gradient; a temperature below 1 sharpens."""
    return torch.softmax(logits.detach() / temperature, dim=-1)


def confidence_mask(p: Tensor, threshold: float) -> Tensor:
    """Return [B] 1.0 for rows whose largest probability is at least ``threshold``, else 0.0."""
    return (p.amax(dim=-1) >= threshold).to(p.dtype)


def sample_labels(p: Tensor) -> Tensor:
    """Draw [B] int64, one label per row from its distribution (MPL, Pham et al. 2021, section 2), by the global RNG."""
    return torch.multinomial(p.detach(), 1).squeeze(-1)


def surest_per_class(p: Tensor, count: int) -> Tensor:
    """Return [B] 1.0 for the ``count`` surest rows of each class (by ``argmax p``), else 0.0.

    A class with fewer rows gets them all. In co-training (Blum & Mitchell 1998) each classifier labels its most
    confident rows of each class.
    """
    confidence, y = p.max(-1)
    by_class = torch.zeros_like(p).scatter(-1, y[:, None], confidence[:, None])
    value, row = by_class.topk(min(count, len(p)), dim=0)
    return torch.zeros_like(confidence).index_put((row[value > 0],), torch.ones_like(confidence[:1]))


def class_balance(p: Tensor, mask: Tensor) -> Tensor:
    """Return [N] weights that give every predicted class an equal share of the rows in ``mask``.

    K is the mean number of masked rows per predicted class (by ``argmax p``), rounded down. A class with more rows
    keeps its K surest at weight 1. In a class with n < K rows each weighs K / n, as if it were repeated (Noisy Student,
    Xie et al. 2020, section 3.1).

    Args:
        p: [N, C].
        mask: [N] in {0, 1}.
    """
    confidence, y = p.max(-1)
    counts = torch.bincount(y[mask > 0], minlength=p.shape[1])
    share = int(counts.sum()) // max(1, int((counts > 0).sum()))  # K
    weights = torch.zeros_like(mask)
    for c in counts.nonzero().flatten().tolist():
        rows = ((y == c) & (mask > 0)).nonzero().flatten()
        surest = rows[confidence[rows].argsort(descending=True, stable=True)[:share]]
        weights[surest] = share / len(surest)
    return weights


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Labels that a network gave to k rows of a pool; all tensors are on the CPU.

    Attributes:
        ids: [k] int64, the ids in the batches; ``positions`` if the batches have none.
        positions: [k] int64, ascending: index of the row in the loader's data set (or its place in the loader's order).
        labels: [k] int64 class numbers.
        confidence: [k] float32, probability of the label by the network (after a filter: by the judge).
        seen: number of rows that the network predicted, whether they got a label or not.
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
        """Return the labels at ``keep`` [k] bool."""
        ids, positions, labels, confidence = (t[keep] for t in (self.ids, self.positions, self.labels, self.confidence))
        rows = None if self.rows is None else self.rows[keep.to(self.rows.device)]
        return PseudoLabels(ids, positions, labels, confidence, self.seen, rows)

    def dataset(self, dataset: Any) -> PseudoLabeledRows:
        """Return the labelled rows of ``dataset``, the loader's own, as pairs (x, label) for a DataLoader."""
        return PseudoLabeledRows(dataset, self.positions, self.labels)


class PseudoLabeledRows(Dataset[tuple[Any, int]]):
    """A map-style data set of (x, pseudo label): the rows of ``dataset`` at ``positions``, each read when it is needed.

    Args:
        dataset: any object with ``[k]`` and ``len``; items x, (x,), (x, y), (id, x) or (id, x, y). Their y is dropped.
        positions: [k] int64.
        labels: [k] int64.

    Raises:
        UserError: a position outside ``dataset``, or a data set that cannot be indexed.
    """

    def __init__(self, dataset: Any, positions: Tensor, labels: Tensor) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UserError(f"rows of a {type(dataset).__name__} cannot be fetched by index", "Give a map-style one.")
        if len(positions) and int(positions.max()) >= len(dataset):
            problem = f"row {int(positions.max())} holds a pseudo label, the data set has {len(dataset)} rows"
            raise UserError(problem, "Give the data set that was labelled.")
        self._dataset, self._positions, self._labels = dataset, positions, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        item = self._dataset[int(self._positions[index])]
        if isinstance(item, tuple | list):
            has_id = len(item) > 1 and _is_number(item[0]) and not _is_number(item[1])
            item = item[1] if has_id else item[0]
        return item, int(self._labels[index])


def _is_number(value: Any) -> bool:
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
    """Label every row of ``loader`` by G1, batch by batch; keep the labels that pass, but not the rows.

    Meanwhile the model is in eval mode. Afterwards every part of it is in its own mode again, and torch's global
    generators are as they were. To train on the result use ``labels.dataset(loader.dataset)``, or ``train_mpl``.

    Args:
        model: returns logits [n, C]; its weights do not change.
        loader: a DataLoader, or any iterable of batches x, (x,), (x, y), (x, y, ids), (ids, x) or (ids, x, y).
            Positions do not depend on shuffling: see ``metapl.utils.loaders.read_rows``. Rows with a label y >= 0 are
            skipped.
        device: the device of the model, by default where it is; the rows are moved there.
        threshold: least confidence of a pseudo label; 0 keeps every row, a value above 1 none.
        ignore_labels: label every row, whatever its y: for a pool whose true labels stay hidden.
        keep_rows: also keep the rows that pass, in memory.

    Raises:
        UserError: a loader or batch that cannot be read, only labelled rows, a model that returns no logits [n, C] or
            is on another device, or a negative threshold.
    """
    require_not_negative(threshold)
    device, seen, skipped, kept = device_of(model, device), 0, 0, list[PseudoLabels]()
    with judging(model, device):
        for rows in read_rows(loader):
            count = len(rows.positions)
            rows = rows if ignore_labels else rows.without_label()
            skipped += count - len(rows.positions)
            if not len(rows.positions):
                continue
            seen += len(rows.positions)
            p = probabilities(model, rows.x.to(device))
            confidence, labels = p.max(-1)
            keep = confidence_mask(p, threshold).bool().cpu()
            if keep.any():
                kept.append(_labels(rows, labels.cpu(), confidence.float().cpu(), keep_rows).select(keep))
    if skipped and not seen:
        remedy = "Pseudo labels are for rows without a label (y = -1). Set ignore_labels=True to hide the labels."
        raise UserError("every row of the loader carries a label", remedy, "loader")
    return _joined(kept, seen)


@torch.no_grad()
def label_pool(model: nn.Module, context: Context) -> Tensor:
    """Return [N, C] probabilities of every row of the pool, plain view, by ``model`` in its present mode.

    Raises:
        ValueError: the context has no pool.
    """
    if context.pool is None:
        raise ValueError("this method labels the whole pool: Context.pool must be given")
    return torch.cat([torch.softmax(model(rows), -1) for _, rows in context.pool("plain")])


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
    """Keep the labels that ``model`` confirms (G2). The confidence of the result is the judge's.

    The model that wrote the labels confirms all of them if it sees the same rows again. So let another network judge
    (the averaged weights, a second network), or show it other views of the rows.

    Args:
        pseudo_labels: the result of ``generate_pseudo_labels``.
        model: the judge. Its modes and torch's generators are restored, as there.
        device: the device of the judge, by default where it is.
        threshold: least mean confidence in the label.
        loader: reads the rows again: the loader that was labelled, or another whose data set has the same rows in the
            same places, or a function that returns the loader of view 0, 1, .... If the data set can be indexed, only
            the labelled rows are read. Not needed if the rows were kept.
        views: k, how many views of each row must agree.
        augment: makes a random view of rows [n, ...] on ``device``; "loader" means that the loader's data set does so.

    Raises:
        UserError: no rows to judge, rows that do not come again, or several views that are all the same.
    """
    require_not_negative(threshold)
    if views < 1 or (views > 1 and augment is None and not callable(loader)):
        remedy = 'Give augment=FUNCTION, augment="loader" if its data set augments, or loader=FUNCTION of the view.'
        raise UserError(f"{views} views of the same rows ask the same question", remedy, "views")
    device, count = device_of(model, device), len(pseudo_labels)
    agree, total = torch.ones(count, dtype=torch.bool), torch.zeros(count)
    with judging(model, device):
        # Draw anew: with the draws of ``generate_pseudo_labels`` a data set that augments would give the same views.
        torch.default_generator.manual_seed(int(torch.randint(2**62, ())))
        for view in range(views if count else 0):
            present = torch.zeros(count, dtype=torch.bool)
            for at, x in _again(pseudo_labels, loader(view) if callable(loader) else loader):
                x = x.to(device)
                p = probabilities(model, augment(x) if callable(augment) else x).cpu()
                y = pseudo_labels.labels[at]
                agree[at] &= p.argmax(-1) == y
                total[at] += p.gather(1, y[:, None])[:, 0].float()
                present[at] = True
            if not present.all():
                problem = f"{int((~present).sum())} of {count} rows with a pseudo label did not come again"
                raise UserError(problem, "Give the loader that was labelled.", "loader")
    judged = replace(pseudo_labels, confidence=total / views)
    return judged.select(agree & (judged.confidence >= threshold))


def _again(labels: PseudoLabels, loader: Loader | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (indices into ``labels``, rows): every labelled row once."""
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


def _labels(rows: LoadedRows, labels: Tensor, confidence: Tensor, keep_rows: bool) -> PseudoLabels:
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


# ---- predictions that leave the network as it was ---------------------------------------------------------------


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every part of the model after the block: parts frozen in eval mode stay in eval mode."""
    modes, training = [(m, m.training) for m in model.modules()], model.training
    try:
        yield
    finally:
        model.train(training)
        for module, mode in modes:
            module.training = mode


@contextmanager
def judging(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run a block in eval mode without gradient; then restore the model's modes and torch's global generators."""
    generators = [device] if device.type == "cuda" else []
    with keeping_modes(model), torch.no_grad(), torch.random.fork_rng(generators):
        model.eval()
        yield


def class_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return ``model(x)`` after a check of its shape.

    Raises:
        UserError: the result is not a tensor [n, C] with C of at least 2.
    """
    z = model(x)
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(x) or z.shape[1] < 2:
        got = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise UserError(
            f"the model gives {got} for {len(x)} rows", "It must give one logit per class, [n, C].", "model"
        )
    return z


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """Return softmax of ``model(x)`` [n, C], in at least float32."""
    z = class_logits(model, x)
    return torch.softmax(z, -1, dtype=torch.promote_types(z.dtype, torch.float32))


def device_of(model: nn.Module, device: torch.device | str | None = None) -> torch.device:
    """Return ``device``, or the device of the model's first tensor.

    Raises:
        UserError: the model is not on ``device``.
    """
    devices = [t.device for t in chain(model.parameters(), model.buffers())] or [torch.device("cpu")]
    if device is None:
        return devices[0]
    device = torch.device(device)
    if not any(d.type == device.type and device.index in (None, d.index) for d in devices):
        remedy = f"Move it first: model.to('{device}'), before its optimizer is made."
        raise UserError(f"the model is on {devices[0]}, the device is {device}", remedy, "device")
    return device


def require_not_negative(threshold: float) -> None:
    """Raise UserError unless ``threshold`` is at least 0."""
    if not threshold >= 0:
        raise UserError(f"the threshold is {threshold}", "Give at least 0.", "threshold")
