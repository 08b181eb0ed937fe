"""Seeds by name: every random draw in the data path has its own seed, derived from its purpose."""

from __future__ import annotations

import hashlib

import torch

_MASK = (1 << 63) - 1


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order; the same in every process and on every
    platform.

    Parts are tagged by type and length, so that ``("a", "bc")`` and ``("ab", "c")``, or ``1`` and ``"1"``, differ.

    Raises:
        TypeError: a part is neither a whole number nor a text.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if not isinstance(part, int | str):
            raise TypeError(f"a seed part must be an int or a str, not {type(part).__name__}")
        text = (part if isinstance(part, str) else str(int(part))).encode("utf-8", "surrogateescape")
        digest.update(f"{'s' if isinstance(part, str) else 'i'}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "little") & _MASK


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """Return a fresh generator on ``device``, seeded by ``derive_seed(*parts)``."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))
