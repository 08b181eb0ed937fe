"""The joints: the types that pass between data, methods and the loop. No logic lives here.

Shapes: b labelled rows and B unlabelled rows in a batch, C classes. Rows as a source gives them ("raw" rows):

- image: uint8 [channels, height, width]
- table: float32 [columns]; a number, or the level's number in a categorical column; NaN where the value is missing
- text: int32 [length] token ids, padded at the end
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]  # of one row
Kind = str  # of rows: a name in data.modalities.MODALITIES ("image", "table", "text", or a registered one)
View = Literal["weak", "strong"]
Resize = Literal["cover", "stretch", "pad"]  # how an image is brought to another shape: data/images.py
RESIZES: tuple[Resize, ...] = ("cover", "stretch", "pad")


class Levels(NamedTuple):
    """The lowest and the highest value of the training images that have more than 8 bits per value.

    They become 0 and 255, in new images too. None where training had no such images, or where an earlier version
    trained: whole numbers are then divided by 257, and floats taken for 0..1 or 0..255.
    """

    whole: tuple[float, float] | None = None
    floats: tuple[float, float] | None = None


NO_LEVELS = Levels()


@dataclass(frozen=True)
class Column:
    """One column of a table: numbers, or one of ``levels`` (then its values are 0, 1, ... into them).

    Attributes:
        offset: what is subtracted from numbers before they become float32, so that no digit of long ones is lost.
    """

    name: str
    levels: tuple[str, ...] = ()
    offset: float = field(default=0.0, repr=False)  # fingerprints of 0.1.0 do not know it


@dataclass(frozen=True)
class Tokens:
    """How a text becomes a row of token ids, and which ids views treat in a special way.

    Attributes:
        tokenizer: ``"words"`` (hashed words, nothing to download) or ``"hf:FOLDER"``.
        length: ids per row; longer texts are cut.
        pad: id of padding. mask: id that stands for a hidden token.
        special: ids that are never dropped, hidden or moved (beginning and end of a text).
        sha256: of the vocabulary and rules of a tokenizer in a folder; "" for ``words``, or if not known.
    """

    tokenizer: str
    length: int
    pad: int = 0
    mask: int = 1
    special: tuple[int, ...] = ()
    sha256: str = ""


@runtime_checkable
class Source(Protocol):
    """A data set before it is split: rows, labels where there are some, class names, fingerprint.

    Attributes:
        name: short name for messages and run folders.
        kind: ``"image"``, ``"table"``, ``"text"``, or one that was registered (docs/modalities.md).
        columns: tables: one per feature; () where all are numbers without names.
        tokens: texts: how they were turned into ids; None for other kinds.
        class_names: C names; label k means ``class_names[k]``.
        ids: [N] one stable id per row (a relative path, or the row number as text).
        labels: [N] int64, -1 where the row has no label.
        is_test: [N] bool, True for rows that the data set itself sets aside for testing.
        problems: (id, reason) of every row that could not be read and was left out.
        notes: what a user should know about how the rows were read.

    A source may offer more, see ``metapl.data.traits``: rows held in memory, rows that are read ahead, how images
    were brought to their size.
    """

    name: str
    kind: Kind
    columns: tuple[Column, ...]
    tokens: Tokens | None
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray[Any, Any]
    is_test: np.ndarray[Any, Any]
    problems: list[tuple[str, str]]
    notes: tuple[str, ...]

    def rows(self, index: np.ndarray[Any, Any]) -> Tensor:
        """Return the raw rows at ``index``, one tensor [n, ...] on the CPU."""
        ...

    def readable(self, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the part of ``index`` [n] int64 whose rows can be read; the others are entered in ``problems``."""
        ...

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) over what identifies the data: ids, labels and contents or sizes."""
        ...


@dataclass(frozen=True)
class Split:
    """Which row plays which part: four arrays of row numbers into one ``Source``.

    ``labeled`` [n] train with their label; ``unlabeled`` [N] train without; ``validation`` were taken from the
    labelled rows and are in neither of the two; ``test`` are opened by ``evaluate`` alone.
    """

    labeled: np.ndarray[Any, Any]
    unlabeled: np.ndarray[Any, Any]
    validation: np.ndarray[Any, Any]
    test: np.ndarray[Any, Any]
    seed: int
    sha: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(getattr(self, k))} {k}" for k in ("labeled", "unlabeled", "validation", "test"))
        return f"Split({parts}, seed {self.seed})"


@dataclass(frozen=True)
class SemiBatch:
    """One step's rows, normalised floats on the training device. A view that no method asked for is None.

    Attributes:
        x_l: [b, ...] labelled rows, weak view.
        y_l: [b] int64 class numbers.
        u_weak: [B, ...] or None.
        u_strong: [B, ...] or None, the strong view of the same rows.
        u_index: [B] int64, position of each row in ``Split.unlabeled`` (for methods that remember rows).
    """

    x_l: Tensor
    y_l: Tensor
    u_weak: Tensor | None
    u_strong: Tensor | None
    u_index: Tensor


@dataclass(frozen=True)
class StepReport:
    """Measurements of one step: detached 0-d tensors by name. Only the loop reads their values (``.item()``)."""

    values: Mapping[str, Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """How a raw row becomes the input of the model; stored beside the weights.

    Attributes:
        shape: one raw row's shape.
        mean, std: per channel (images, on the 0..1 scale) or per column (0 and 1 for categories); () for texts.
        columns: as in ``Source``.
        missing: tables: positions of the columns of numbers in which training rows lacked a value; each becomes one
            more input that says so.
        tokens: as in ``Source``.
        resize: images: how they were brought to ``shape``, and new ones are.
        white: images: white level of float training rows, 1 or 255; 0 if they were whole numbers or files.
        resized: images: whether training rows were brought to ``shape``, so that new ones of other sizes are, too.
        levels: images: see ``Levels``.
    """

    kind: Kind
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    columns: tuple[Column, ...] = ()
    missing: tuple[int, ...] = ()
    tokens: Tokens | None = None
    resize: Resize = "cover"
    white: int = 0
    resized: bool = False
    levels: Levels = NO_LEVELS

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return one row's shape as the network sees it: categories are spread over their levels."""
        levels = sum(len(column.levels) - 1 for column in self.columns if column.levels)
        return (self.shape[0] + levels + len(self.missing),) if self.columns or self.missing else self.shape


@dataclass(frozen=True)
class ModelInput:
    """What a trained model asks of new rows. They are read by it, and nothing is learnt from them.

    Attributes:
        takes: kind, shape, columns and tokens of the raw rows.
        class_names: C names of the model's classes.
        labels: whether labels in a file are read, too; they must then be among ``class_names``.
        widths: files without a header, whose columns go by their place: the fields that a row may have, the training's
            number first; () where there was a header, or where it is not known.
    """

    takes: Preprocessing
    class_names: tuple[str, ...]
    labels: bool = False
    widths: tuple[int, ...] = ()


class Pool(Protocol):
    """The unlabelled rows once through, in order, a chunk at a time: for methods that label or remember every row."""

    def __call__(self, view: Literal["plain", "weak", "strong"] = "plain", draw: int = 0) -> Iterable[PoolChunk]:
        """Yield chunks ``(positions, rows)``: int64 [n] as in ``SemiBatch.u_index``, and the rows' view [n, ...].

        ``draw`` numbers independent random views; the same (view, draw) gives the same rows again.
        """
        ...


PoolChunk = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PoolPasses:
    """How often a method passes over its whole pool in a run of any length.

    Attributes:
        rounds: for a method with rounds: number of passes, from step 1 on, at most one per step.
        every: for a method with epochs: number of steps from one pass to the next, the first at step 0; 0 = no passes.
        networks: rows that a network is shown in one pass, as a multiple of the pool.
    """

    rounds: int = 0
    every: int = 0
    networks: float = 1.0

    def count(self, steps: int) -> int:
        """Return the passes in a main phase of ``steps`` steps."""
        return min(self.rounds, max(0, steps - 1)) + (-(-steps // self.every) if self.every else 0)

    def last(self, steps: int) -> int:
        """Return a step that begins with a pass: the last one of ``steps``."""
        return (steps - 1) // self.every * self.every if self.every else steps - 1


@dataclass(frozen=True)
class Context:
    """Everything that a method is built from, beside its own config.

    Attributes:
        build_model: makes one fresh network (logits [*, C]) on the training device; each call draws new weights.
        num_classes: C.
        optim: the ``OptimConfig`` shared by the method's networks.
        steps: length of the main phase, for schedules and ramps.
        pool_size: number of unlabelled rows; ``SemiBatch.u_index`` is below it.
        pool: passes over these rows; None where a method runs without data, as in some unit tests.
        row_shape: one row's shape as networks see it: [channels, height, width] or [features]; () where not known.
        build_teacher: as ``build_model``, for a method's teacher where that is another network; None = as the others.
        labeled: gives all labelled rows, normalised without a view [n, ...], and their classes [n].
        steps_to_look: gives how many steps follow step t until averages are judged or fine-tuned; 0: they may be used
            after any step.
    """

    build_model: Callable[[], nn.Module]
    num_classes: int
    optim: Any
    steps: int
    pool_size: int = 0
    pool: Pool | None = None
    row_shape: tuple[int, ...] = ()
    build_teacher: Callable[[], nn.Module] | None = None
    labeled: Callable[[], tuple[Tensor, Tensor]] | None = None
    steps_to_look: Callable[[int], int] = lambda t: 0


@runtime_checkable
class Fitted(Protocol):
    """A network that is fitted to all labelled rows at once, instead of trained in steps."""

    def fit(self, x: Tensor, y: Tensor, pool: Iterable[Tensor], trust: float) -> None:
        """Fit to labelled rows x [n, ...] with classes y [n]; ``pool``: batches of unlabelled rows.

        ``trust``: how much the labelled rows count against the size of the weights.
        """
        ...


class Method(Protocol):
    """A training method: owns its networks, optimisers and update order.

    The loop owns time, device, evaluation and disk. ``needs`` names the unlabelled views that must be made;
    ``extra_steps`` come after ``Context.steps`` (MPL's fine-tuning) and count on from there.
    """

    needs: frozenset[View]
    extra_steps: int

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        """Make update t = 0, 1, ...; report detached scalars."""
        ...

    def eval_model(self) -> nn.Module:
        """Return the network to judge at this moment."""
        ...

    def candidates(self) -> dict[str, nn.Module]:
        """Return the networks at the end of the training, preferred first; validation rows, if any, choose one."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that ``state_dict`` gave, exactly."""
        ...


@runtime_checkable
class Passing(Protocol):
    """An optional part of a method that passes over the pool: by it the cost of a run is estimated.

    Without it, a pass over the pool in the measured steps counts as a part of every step.
    """

    def pool_passes(self, epoch: int) -> PoolPasses:
        """Return when the method passes over the pool; ``epoch``: number of steps whose batches hold the pool once."""
        ...


@runtime_checkable
class Scoring(Protocol):
    """An optional part of a method whose labelled rows give feedback to pseudo labels."""

    def feedback_scores(self) -> Tensor:
        """Return [N] the mean score of each unlabelled row (F1 in ``methods/parts.py``); NaN without a score."""
        ...


Judge = Callable[[nn.Module], tuple[Tensor, Tensor]]
"""Shows a network the validation rows: logits [draws, n, C] of weak views in eval mode, and true classes [n] int64."""


@runtime_checkable
class Calibrated(Protocol):
    """An optional part of a method: a fit on the validation rows during training.

    The loop calls ``calibrate`` at fixed steps, those at which it judges the validation rows, if ``needs_validation``;
    a run without validation rows is then refused before it starts. What was fitted belongs to ``state_dict``.
    """

    @property
    def needs_validation(self) -> bool:
        """Return whether these settings cannot do without validation rows."""
        ...

    def calibrate(self, judge: Judge) -> None:
        """Fit. Change no network, and draw nothing from the global generator."""
        ...
