"""How rows are read: the settings ``source``, in groups, and the flat names that 0.1.0 had for them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from metapl.data.images.options import ImageOptions
from metapl.data.memory.published import PublishedOptions
from metapl.data.tables.options import AUTO, NONE, TableOptions
from metapl.errors import nearest
from metapl.utils.fields import Help, Settings
from metapl.utils.minilm import MINILM, SPEC


@dataclass(frozen=True)
class TextOptions(Settings, group="source.text"):
    """How texts become rows of token ids."""

    tokenizer: Annotated[
        str, "words (hashed, nothing to download), hf:FOLDER, or auto (the model's own, else words)"
    ] = "auto"
    max_tokens: Annotated[
        int | str, "token ids per text, or auto (the longest text's, at most 256); longer texts are cut"
    ] = "auto"


@dataclass(frozen=True)
class EncoderOptions(Settings, group="source.encoder"):
    """A frozen network whose features stand for the rows."""

    name: Annotated[
        str,
        "lite0, minilm, timm:NAME, torchvision:NAME, hf:FOLDER or package.module:factory; empty: rows as they are",
    ] = ""
    weights: Annotated[str, "a file of its weights, .safetensors or .pth"] = ""
    size: Annotated[
        int | str, Help("side that images are brought to for it, HxW, or auto (what it was trained on)", "pixels")
    ] = "auto"
    pooling: Annotated[
        str,
        "texts: mean (over all words), cls, begin (the first two: for questions and the like), or auto "
        "(as its folder says)",
    ] = "auto"

    def __post_init__(self) -> None:
        if self.name == MINILM:  # its tokenizer and its network come out of one folder, as with any hf: encoder
            object.__setattr__(self, "name", SPEC)
        super().__post_init__()

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width) that images are brought to; None for auto."""
        return None if self.size == "auto" else ImageOptions(self.size).sides


@dataclass(frozen=True, init=False)
class SourceOptions(Settings, group="source"):
    """How rows are read, and which further files belong to them."""

    image: ImageOptions = field(default_factory=ImageOptions)
    table: TableOptions = field(default_factory=TableOptions)
    text: TextOptions = field(default_factory=TextOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    unlabeled: Annotated[str, "a second file, of rows without labels"] = ""
    test: Annotated[str, "a further file, of test rows"] = ""
    labels: Annotated[
        str, ".npy files: the file of labels, one per row: .npy, .npz or text with one label per line"
    ] = ""
    root: Annotated[
        str,
        "the folder that paths in a file start from, by default the file's own; for torchvision: and hf: the "
        "folder of the data, by default one in ~/.cache/metapl",
    ] = ""
    no_label: Annotated[
        str,
        "labels that say that a row has none, between commas, such as -1,unknown; also names of class folders. "
        "auto: an empty cell alone, and a label that may mean none is asked about; empty: an empty cell alone",
    ] = AUTO
    label_map: Annotated[str, "labels that are one class, as text:class between commas, such as <=50K.:<=50K"] = ""
    corrections: Annotated[
        str,
        "a CSV file with the columns id and label: labels that are laid over those of the data; an empty one takes the "
        "label away",
    ] = ""
    download: Annotated[bool, "torchvision: and hf:, fetch the data where they are not on this machine"] = False

    def __init__(
        self,
        *,
        image: ImageOptions | None = None,
        table: TableOptions | None = None,
        text: TextOptions | str | None = None,
        encoder: EncoderOptions | str | None = None,
        unlabeled: str = "",
        test: str = "",
        labels: str = "",
        root: str = "",
        no_label: str = AUTO,
        label_map: str = "",
        corrections: str = "",
        download: bool = False,
        **flat: Any,
    ) -> None:
        """Take the groups, or settings by the flat names that 0.1.0 had (``image_size=32``).

        Raises:
            TypeError: an unknown name.
        """
        old = flat | {k: v for k, v in (("text", text), ("encoder", encoder)) if isinstance(v, str)}
        if unknown := old.keys() - FLAT.keys():
            raise TypeError(f"SourceOptions takes no '{min(unknown)}'. {nearest(min(unknown), FLAT)}")
        groups: dict[str, Any] = {
            "image": image or ImageOptions(),
            "table": table or TableOptions(),
            "text": text if isinstance(text, TextOptions) else TextOptions(),
            "encoder": encoder if isinstance(encoder, EncoderOptions) else EncoderOptions(),
        }
        for name, value in old.items():
            group, _, key = FLAT[name].partition(".")
            groups[group] = replace(groups[group], **{key: value})
        more: dict[str, Any] = {"unlabeled": unlabeled, "test": test, "labels": labels, "root": root}
        more |= {"no_label": no_label, "label_map": label_map, "corrections": corrections, "download": download}
        for name, value in (groups | more).items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    @property
    def published(self) -> PublishedOptions:
        """The options of ``torchvision:`` and ``hf:``."""
        asked = [name for name in (self.table.path, self.table.text) if name not in (AUTO, NONE)]
        label = "" if self.table.label in (AUTO, NONE) else self.table.label
        return PublishedOptions(self.root, self.download, self.arguments, label, asked[0] if asked else "")

    @property
    def arguments(self) -> dict[str, Any]:
        """The options that ``from_arrays`` and ``from_dataset`` take as arguments."""
        image, text = self.image, self.text
        return {
            "image_size": image.size,
            "resize": image.resize,
            "tokenizer": text.tokenizer,
            "max_tokens": text.max_tokens,
        }


# The flat names of 0.1.0 and the keys, below ``source``, that took their place.
FLAT: dict[str, str] = {
    "image_size": "image.size",
    **{name: f"image.{name}" for name in ("resize", "memory", "prefetch", "allow_bad", "cache")},
    **{name: f"table.{name}" for name in ("label", "path", "text", "features", "ignore", "categorical", "id", "split")},
    **{name: f"table.{name}" for name in ("delimiter", "encoding", "decimal", "skip_bad_rows")},
    **{name: f"table.{name}" for name in ("header", "quotes", "suffix")},
    **{name: f"text.{name}" for name in ("tokenizer", "max_tokens")},
    "encoder": "encoder.name",
    **{f"encoder_{name}": f"encoder.{name}" for name in ("weights", "size", "pooling")},
}
