"""What does `predict` cost beside decoding the images of a folder and the network's bare forward?

    python benchmarks/reading.py --images 4000 --networks small_cnn
    python benchmarks/reading.py --images 192 --side 224 --networks --encoders lite0
    python benchmarks/reading.py --images 200000 --networks --scan --repetitions 1

Writes smooth random JPEGs into a temporary folder. Decoding is Pillow's alone, one image after the other; the forward
is the network's alone, over rows that are in memory; a bare encoder is its network alone, over batches that are scaled
and in memory. Scanning opens the folder as a run does, but decodes nothing. The blocks alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side
import torch
from PIL import Image

from metapl.config.settings import make_config
from metapl.data.embedded import EmbeddedSource
from metapl.data.sources import open_source, read_ref
from metapl.inference.predict import predict_folder
from metapl.models import build_model
from metapl.models.encoders import BATCH
from metapl.runs.model_folder import CHUNK, Predictor
from metapl.types import Preprocessing


def write_images(folder: Path, count: int, side: int) -> list[Path]:
    """Write ``count`` JPEGs of side x side pixels, smooth as photographs are."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for k in range(count):
        small = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{k:06d}.jpg", quality=90)
    return sorted(folder.iterdir())


def plain_decode(files: list[Path]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def measure(folder: Path, files: list[Path], network: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of decoding, of the bare forward and of ``predict_folder``, and the ratio of the last."""
    shape = (3, arguments.side, arguments.side)
    model = build_model(network, shape, 10).eval()
    takes = Preprocessing("image", shape, (0.5,) * 3, (0.25,) * 3, resized=True)
    predictor = Predictor(model, takes, tuple(str(k) for k in range(10)), torch.device("cpu"))
    rows = torch.from_numpy(plain_decode(files)).permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def forward() -> None:
        for chunk in rows.split(CHUNK):
            model((chunk.float().div_(255) - 0.5) / 0.25)

    things: dict[str, Callable[[], Any]] = {
        "decode": lambda: plain_decode(files),
        "forward": forward,
        "predict": lambda: sum(len(chunk.ids) for chunk in predict_folder(predictor, folder)),
    }
    times = side_by_side.seconds(things, arguments.repetitions, side_by_side.clock(arguments.clock))
    base = [a + b for a, b in zip(times["decode"], times["forward"])]
    seconds = {name: statistics.median(found) for name, found in times.items()}
    return {"network": network, **seconds, **side_by_side.ratio(times["predict"], base)}


def measure_encoder(folder: Path, rows: torch.Tensor, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of the bare encoder and of encoding the folder with decoding and all, and their ratio."""
    options = make_config(str(folder), options={"source.encoder.name": name, "source.image.cache": False}).source
    whole = open_source(read_ref(str(folder)), options)
    assert isinstance(whole, EmbeddedSource)
    encoder = whole.encoder
    batches = [encoder._image(chunk).to(memory_format=encoder.layout) for chunk in rows.split(BATCH)]

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            encoder._batch(batch)

    # Each call has a folder of its own that has decoded nothing yet.
    opened = [open_source(read_ref(str(folder)), options) for _ in range(arguments.repetitions + 1)]

    def encode() -> None:
        inner = opened.pop().inner  # type: ignore[attr-defined]
        EmbeddedSource(inner, encoder, cache=False).rows(np.arange(len(inner.ids)))

    times = side_by_side.seconds(
        {"bare": bare, "encode": encode}, arguments.repetitions, side_by_side.clock(arguments.clock)
    )
    seconds = {key: statistics.median(found) for key, found in times.items()}
    return {"encoder": name, **seconds, **side_by_side.ratio(times["encode"], times["bare"])}


def measure_scan(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds until a folder of images is open, beside those of listing its files."""
    things: dict[str, Callable[[], Any]] = {
        "list": lambda: [entry.stat() for entry in os.scandir(folder / "a")],
        "open": lambda: open_source(read_ref(str(folder)), make_config(str(folder)).source),
    }
    times = side_by_side.seconds(things, arguments.repetitions, side_by_side.clock(arguments.clock))
    return {key: statistics.median(found) for key, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--networks", nargs="*", default=["small_cnn"])
    parser.add_argument("--encoders", nargs="*", default=[])
    parser.add_argument("--scan", action="store_true", help="also time the opening of the folder")
    side_by_side.add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        files = write_images(Path(name) / "a", arguments.images, arguments.side)
        (Path(name) / "b").mkdir()  # a second class
        files[0].rename(Path(name) / "b" / files[0].name)
        files[0] = Path(name) / "b" / files[0].name
        rows = [measure(Path(name), files, network, arguments) for network in arguments.networks]
        pixels = torch.from_numpy(plain_decode(files)).permute(0, 3, 1, 2).contiguous() if arguments.encoders else None
        rows += [measure_encoder(Path(name), pixels, encoder, arguments) for encoder in arguments.encoders]
        rows += [measure_scan(Path(name), arguments)] if arguments.scan else []
    text = json.dumps({"hardware": side_by_side.hardware(), "images": arguments.images, "rows": rows}, indent=1)
    print(text)
    if arguments.json and arguments.json != "-":
        Path(arguments.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
