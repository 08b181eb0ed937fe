"""Embedding mode: a frozen encoder turns every row into features once, and a small head is trained on the features.

Features are kept on disk, outside the data, so that the next run has them at once; all sets together take at most
``LIMIT`` bytes. A row is encoded when it is first asked for: test rows by ``evaluate`` alone. The source's fingerprint
covers the contents of training rows, but only the size of test files. So a test row is read again, and its stored
features are used only if they were made of the same row.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from metapl.data.images.options import ImageOptions
from metapl.data.memory.arrays import check_sized
from metapl.data.modalities import modality_of
from metapl.data.options import SourceOptions
from metapl.data.traits import traits
from metapl.errors import UserError
from metapl.hardware.device import pick_device
from metapl.models.encoders import FrozenEncoder, InputSpec, build_encoder, own_input_spec
from metapl.models.probe import alike
from metapl.types import Array, Column, Kind, Preprocessing, Source, Tokens
from metapl.utils.cache import LIMIT, cache_folder, has_room, locked_cache, tidy, used
from metapl.utils.files import write_with
from metapl.utils.names import split_name
from metapl.utils.progress import clock, silent

PIECE = 1024  # rows encoded before they are stored
FEW, SECONDS = 256, 10.0  # fewer rows are encoded without a message; seconds between two messages
VERSION = "metapl features 2"
SETS, OURS = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}\.safetensors|\.[\w.-]+\.tmp")


class EmbeddedSource:
    """A ``types.Source`` of kind features: the rows of another source as an encoder's features.

    Args:
        inner: the source of images or texts.
        encoder: turns them into features.
        cache: keep features on disk.
        tell: called with progress messages.

    Attributes:
        inner, encoder: as given.
    """

    kind: Kind = "features"
    columns: tuple[Column, ...] = ()
    tokens: Tokens | None = None

    def __init__(
        self, inner: Source, encoder: FrozenEncoder, cache: bool = True, tell: Callable[[str], None] | None = None
    ) -> None:
        self.inner, self.encoder, self.name = inner, encoder, inner.name
        self.ids, self.labels, self.is_test, self.class_names = (
            inner.ids,
            inner.labels,
            inner.is_test,
            inner.class_names,
        )
        self.notes: tuple[str, ...] = (*inner.notes, f"rows are {encoder.features} features of {encoder.name}")
        self.problems = inner.problems  # the same list: later problems show, too
        if not encoder.weights and encoder.name.startswith(("timm:", "torchvision:")):
            self.notes += ("the encoder's weights are random: give its file as source.encoder.weights",)
        self.levels, self.widths = traits(inner).levels, traits(inner).widths
        self._features = torch.zeros(len(inner.ids), encoder.features)
        self._done = np.zeros(len(inner.ids), dtype=bool)
        self._fingerprint = ""
        self._cache, self._read = cache, set[str]()
        self._of_row: dict[bytes, Tensor] = {}  # stored features of test rows by the digest of the raw row
        self._tell, self._said_at = tell or silent, 0.0  # when it was last called
        self._began, self._at_first = 0.0, 0  # when the encoding began, and the rows it had before it

    def rows(self, index: Array) -> Tensor:
        """Return float32 [n, D]; rows that have not been encoded yet are encoded now."""
        index = np.asarray(index, dtype=np.int64)
        if not self._done[index].all():
            self._fill(np.unique(index))
        return self._features[torch.from_numpy(index)]

    def readable(self, index: Array) -> Array:
        """Return the rows in ``index`` that the inner source can read."""
        return self.inner.readable(index)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the inner source's fingerprint and the encoder's weights and settings."""
        if not self._fingerprint:
            # (An inner source that has levels puts them into its own fingerprint.)
            parts = f"{VERSION}|{self.inner.fingerprint()}|{self.encoder.identity}"
            self._fingerprint = hashlib.sha256(parts.encode()).hexdigest()
        return self._fingerprint

    def _fill(self, index: Array) -> None:
        """Encode the rows at ``index`` that neither memory nor disk holds, and store them."""
        if not self._cache:
            return self._encode(index[~self._done[index]], None)
        root = cache_folder() / "features"
        made_by = f"{self.fingerprint()}|{self.encoder.versions}"
        folder = root / hashlib.sha256(made_by.encode()).hexdigest()
        with locked_cache(folder):  # processes side by side want the same rows: the first one encodes them
            self._load(folder)
            room = folder.is_dir() and has_room(folder, 4 * self._features.numel(), LIMIT)
            self._encode(index[~self._done[index]], folder if room else None)
        tidy(root, SETS, OURS, LIMIT)

    def _encode(self, missing: Array, folder: Path | None) -> None:
        self._said_at = 0.0  # each call counts its own rows
        for start in range(0, len(missing), PIECE):
            some = missing[start : start + PIECE]
            rows = self.inner.rows(some)
            stored = self._stored(some, rows)
            new = np.flatnonzero(~stored)
            if len(new):
                self._say(len(new), len(missing) - start)
                made = self.encoder.encode(rows[torch.from_numpy(new)])
                self._features[torch.from_numpy(some[new])] = made
                if folder is not None:
                    self._store(folder, some[new], made, rows[torch.from_numpy(new)])
            self._done[some] = True

    def _stored(self, index: Array, rows: Tensor) -> Array:
        """Fill in the stored features of test rows that are unchanged; return [n] bool: which."""
        found = np.zeros(len(index), dtype=bool)
        for k in np.flatnonzero(self.is_test[index]).tolist() if self._of_row else []:
            if (features := self._of_row.get(_row_digest(rows[k]))) is not None:
                self._features[int(index[k])], found[k] = features, True
        return found

    def _say(self, coming: int, left: int) -> None:
        """Report progress: ``coming`` rows are next, ``left`` rows in all, these included."""
        now = time.monotonic()
        if not self._said_at and coming >= FEW:
            kept = f"; features are kept in {cache_folder() / 'features'}" if self._cache else ""
            self._tell(f"encoding {left} rows with {self.encoder.name}, once{kept}")
            self._began, self._at_first = now, left
        elif self._said_at and now - self._said_at > SECONDS:
            done = self._at_first - left
            wait = clock((now - self._began) / done * left) if done > 0 else "?"
            self._tell(f"{done} of {self._at_first} rows are encoded, about {wait} to go")
        else:
            return
        self._said_at = now

    def _load(self, folder: Path) -> None:
        """Load stored features; damaged files and files of other rows are passed over."""
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
            if path.name in self._read:
                continue
            self._read.add(path.name)
            with suppress(OSError, SafetensorError, KeyError, ValueError):
                part = load_file(path)
                index, features = part["index"], part["features"]
                if not alike(part["probe"], self.encoder.probe):
                    continue  # the same weights in other code
                fits = features.shape == (len(index), self.encoder.features) and features.dtype == torch.float32
                fits = fits and torch.equal(part["sha256"], _checksum(features))
                if fits and len(index) and int(index.min()) >= 0 and int(index.max()) < len(self._done):
                    used(path)
                    test = torch.from_numpy(self.is_test)[index]
                    self._features[index[~test]] = features[~test]
                    self._done[index[~test].numpy()] = True
                    self._of_row |= {d.numpy().tobytes(): f for d, f in zip(part["rows"], features[test], strict=True)}

    def _store(self, folder: Path, index: Array, features: Tensor, rows: Tensor) -> None:
        digests = b"".join(_row_digest(rows[k]) for k in np.flatnonzero(self.is_test[index]).tolist())
        tensors = {"index": torch.from_numpy(index), "features": features.contiguous(), "probe": self.encoder.probe}
        tensors["rows"] = torch.from_numpy(np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32).copy())
        content = save({**tensors, "sha256": _checksum(features)})
        whole = hashlib.sha256(index.tobytes() + digests + self.encoder.probe.numpy().tobytes())
        name = f"{whole.hexdigest()[:16]}.safetensors"
        self._read.add(name)
        with suppress(OSError):  # a full or read-only disk costs time, not the run
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_with(folder / name, lambda file: file.write(content))


def _row_digest(row: Tensor) -> bytes:
    return hashlib.sha256(f"{row.dtype} {tuple(row.shape)}|".encode() + row.contiguous().numpy().tobytes()).digest()


def _checksum(features: Tensor) -> Tensor:
    digest = hashlib.sha256(features.contiguous().numpy().tobytes()).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def embed(
    source: Source,
    encoder: str | nn.Module | Callable[..., nn.Module],
    *,
    weights: str = "",
    size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    normalize: bool | None = None,
    pooling: str = "auto",
    device: str = "auto",
    cache: bool = True,
    tell: Callable[[str], None] | None = None,
) -> EmbeddedSource:
    """Return ``source`` with every row replaced by its features from a frozen encoder.

    Args:
        source: images or texts.
        encoder: ``lite0``, ``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER``, ``package.module:factory``, or a module
            or factory that gives [B, D] for images [B, channels, height, width] (0..1, or as mean and std make them)
            or ids.
        weights: a file of its weights (not for ``hf:``).
        size: side or (height, width) for images; None = the encoder's own.
        mean, std: per channel; None = the encoder's own.
        normalize: bring features to length 1; None = as an ``hf:`` folder says, else no.
        pooling: how an ``hf:`` encoder of texts makes one vector: mean, cls, begin (the mean over the first two ids of
            the text: where the first words say most), or auto (as its folder says).
        device: where it runs.
        cache: keep features on disk (``$METAPL_CACHE``, else ``~/.cache/metapl``).
        tell: called with progress messages.

    Raises:
        UserError: no such encoder, or one that does not take these rows.
    """
    shape = tuple(source.rows(np.flatnonzero(~source.is_test)[:1]).shape[1:])
    modality, own = modality_of(source.kind), traits(source)
    if not modality.encodable:
        what = f"an encoder takes images or texts, these rows are {modality.rows}"
        raise UserError(what, "Leave the encoder out.", "encoder")
    plain = not modality.has_tokens
    takes = Preprocessing(
        source.kind,
        shape,
        (0.0,) * shape[0] if plain else (),
        (1.0,) * shape[0] if plain else (),
        tokens=source.tokens,
        resize=own.resize,
        white=own.white,
        resized=own.resized,
        levels=own.levels,
    )
    spec = None
    if plain and not (size is None and mean is None and std is None):
        noted = (own_input_spec(encoder) if isinstance(encoder, str) else None) or InputSpec()
        sides = (size, size) if isinstance(size, int) else size
        spec = InputSpec(sides or noted.size, tuple(mean or noted.mean), tuple(std or noted.std), noted.channels)
    made = build_encoder(encoder, takes, weights_file=weights, spec=spec, normalize=normalize, pooling=pooling)
    return EmbeddedSource(source, made.to(pick_device(device)), cache, tell)


def check_size(given: Source, images: ImageOptions) -> None:
    """Refuse another image size for a source that is open already."""
    if isinstance(given, EmbeddedSource):
        given = given.inner
    check_sized(images, given.kind)
    if images.sides is None or tuple(given.rows(np.flatnonzero(~given.is_test)[:1]).shape[2:]) == images.sides:
        return
    remedy = "Give image_size where the source is made: from_arrays, from_dataset, open_source."
    raise UserError("image_size is set, and the source is made already", remedy, "source.image.size")


def for_encoder(options: SourceOptions) -> SourceOptions:
    """Return ``options`` with the image size and the tokenizer of their encoder in place of "auto".

    Images of one size that is not above the encoder's keep it: the encoder enlarges them a few at a time, so that the
    larger size takes no memory for each of them.

    Raises:
        UserError: an unknown encoder, or an invalid size.
    """
    if split_name(options.encoder.name).prefix == "hf" and options.text.tokenizer == "auto":
        options = replace(options, text=replace(options.text, tokenizer=options.encoder.name))
    sides = options.encoder.sides
    if sides is None and options.encoder.name and (spec := own_input_spec(options.encoder.name)):
        sides = spec.size
    if options.image.size == "auto" and options.encoder.name and sides:
        options = replace(options, image=replace(options.image, size=f"auto:{sides[0]}x{sides[1]}"))
    return options


def as_features(source: Source, options: SourceOptions, progress: Callable[[str], None]) -> Source:
    """Return ``source`` with its rows as features if ``options`` name an encoder; else the source itself.

    Raises:
        UserError: as ``embed``, or settings of an encoder that do not go together.
    """
    encoder = options.encoder
    if not encoder.name or isinstance(source, EmbeddedSource):
        return source
    weights, pooling = encoder.weights, encoder.pooling
    return embed(source, encoder.name, weights=weights, size=encoder.sides, pooling=pooling, tell=progress)


def check_encoder(options: SourceOptions) -> None:
    """Refuse settings of an encoder that do not go together.

    Raises:
        UserError: weights without an encoder, or weights that would have to be fetched.
    """
    encoder = options.encoder
    if encoder.weights and not encoder.name:
        what = "encoder.weights is set, and encoder.name is not"
        raise UserError(what, "Name the encoder.", "source.encoder.weights")
    if options.download and not encoder.weights and encoder.name.startswith(("timm:", "torchvision:")):
        remedy = "Fetch them into a file once (docs/models.md) and give it as source.encoder.weights."
        raise UserError("the weights of an encoder are not fetched", remedy, "source.encoder.name")
