"""Turn texts into rows of token ids: by hashed words, without a vocabulary, or by the tokenizer of a model folder."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metapl.errors import UserError
from metapl.types import Tokens
from metapl.utils.minilm import local_folder

WORDS = "words"
HF = "hf:"
FIRST = 2  # words' smallest real id: 0 is padding, 1 stands for a hidden word
STEM = 5  # characters of a word's beginning that its id tells apart from the rest
STEM_SHIFT = 16  # a word's id: 15 bits of its beginning's hash above 16 bits of its own
LOOKED_AT = 64  # characters read per token, on average: bounds the work for a very long text
LONGEST = 256  # most tokens that "auto" gives a text
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"


class Tokenizer(Protocol):
    """Turns texts into rows."""

    @property
    def tokens(self) -> Tokens:
        """Return the description of the rows."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return int32 [n, length] on the CPU: one row per text, cut or padded at its end."""
        ...


def make_tokenizer(spec: str, length: int) -> Tokenizer:
    """Return the tokenizer that ``spec`` names: ``auto`` or ``words``, or ``hf:FOLDER`` (extra ``text``; never a
    download).

    Raises:
        UserError: unknown name, no such folder, transformers is missing, or ``length`` is too small.
    """
    if isinstance(length, bool) or length < 1:
        raise UserError(f"{length} tokens per text", "Give at least 1.", "source.text.max_tokens")
    if spec in ("auto", WORDS):
        return Words(length)
    if spec.startswith(HF):
        return HfTokenizer(spec, length)
    raise UserError(f"unknown tokenizer '{spec}'", "Use auto, words or hf:FOLDER.", "source.text.tokenizer")


def tokenizer_of(tokens: Tokens) -> Tokenizer:
    """Return the tokenizer that made ``tokens``, for new texts.

    Raises:
        UserError: the tokenizer is missing, or has changed since.
    """
    made = make_tokenizer(tokens.tokenizer, tokens.length)
    now = made.tokens if tokens.sha256 else replace(made.tokens, sha256="")
    if now != tokens:
        rest = "its vocabulary or its rules have changed" if replace(now, sha256=tokens.sha256) == tokens else ""
        what = f"the tokenizer is not the one the model was trained with{rest and f' ({rest})'}"
        raise UserError(what, "Bring back the folder as it was, or train again.", tokens.tokenizer)
    return made


def encode_texts(texts: Sequence[str], spec: str, max_tokens: int | str) -> tuple[Tensor, Tokens, tuple[str, ...]]:
    """Return rows for a source: ids [n, length], their ``Tokens``, and notes for the user.

    ``max_tokens`` ``"auto"``: as many as the longest text has, at most ``LONGEST``, rounded up to a multiple of 8.

    Raises:
        UserError: as ``make_tokenizer``.
    """
    if max_tokens == "auto":
        ids = make_tokenizer(spec, LONGEST)
        rows = ids.encode(texts)
        length = min(LONGEST, -(-max(1, _longest(rows, ids.tokens.pad)) // 8) * 8)
    elif isinstance(max_tokens, int):
        length, rows = max_tokens, torch.zeros(0, 0)
    else:
        raise UserError(f"{max_tokens!r} tokens per text", "Give a number, or auto.", "source.text.max_tokens")
    tokenizer = make_tokenizer(spec, length)
    rows = rows[:, :length].contiguous() if max_tokens == "auto" else tokenizer.encode(texts)
    full = int((rows[:, -1] != tokenizer.tokens.pad).sum())
    # A text that fills its row to the last id may have gone on; "auto" leaves that only to texts of LONGEST tokens.
    cut = full > 0.01 * len(rows) and (max_tokens != "auto" or length == LONGEST)
    note = f"texts that fill all {length} tokens and may be cut: {full} of {len(rows)} (source.text.max_tokens)"
    return rows, tokenizer.tokens, (note,) if cut else ()


def _longest(rows: Tensor, pad: int) -> int:
    used = (rows != pad).any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def split_words(text: str) -> Iterable[str]:
    """Return the words and punctuation marks of ``text``, compatibility-normalised and without case (NFKC, casefold).

    Scripts that are written without spaces (Chinese, Japanese, Thai, ...) give one token per character.
    """
    pattern, drop = _pattern()
    clean = unicodedata.normalize("NFKC", text.translate(drop)).casefold()
    return (match.group() for match in pattern.finditer(unicodedata.normalize("NFKC", clean)))


@functools.cache
def _pattern() -> tuple[re.Pattern[str], dict[int, str | None]]:
    """Return the pattern of a token, and the table for invisible characters: format characters go, controls become
    spaces."""
    drop: dict[int, str | None] = {}
    marks = []
    for point in (*range(0x1F000), *range(0xE0000, 0xE0200)):
        category = unicodedata.category(chr(point))
        if category == "Cf":
            drop[point] = None
        elif category == "Cc":
            drop[point] = " "
        elif category[0] == "M":
            marks.append(chr(point))
    mark = "".join(re.escape(m) for m in marks)
    # A mark belongs to the character before it; what is neither space nor word is a token of its own.
    token = f"[{_UNSPACED}][{mark}]*|(?:(?![{_UNSPACED}])\\w)(?:(?![{_UNSPACED}])[\\w{mark}])*|[^\\w\\s]"
    return re.compile(token), drop


def word_pattern() -> str:
    """Return the regular expression of one token, for programs without metapl; see examples/onnx_predict.py."""
    return _pattern()[0].pattern


@functools.lru_cache(maxsize=1 << 17)
def word_id(word: str) -> int:
    """Return the id of one token, FIRST .. 2^31 - 1; words that begin alike share the bits from ``STEM_SHIFT`` up."""
    made = _hash(word[:STEM]) >> 17 << STEM_SHIFT | _hash("\0" + word) & ((1 << STEM_SHIFT) - 1)
    return max(made, FIRST)


def _hash(text: str) -> int:
    """Return 32 bits, the same on every machine and in every run."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little")


class Words:
    """Hashed words, for any Unicode text: without a vocabulary, a fit or a download."""

    def __init__(self, length: int) -> None:
        self.tokens = Tokens(WORDS, length)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """int32 [n, length]."""
        length = self.tokens.length
        rows = np.full((len(texts), length), self.tokens.pad, dtype=np.int32)
        for row, text in zip(rows, texts):
            ids = [word_id(word) for word in islice(split_words(text[: LOOKED_AT * length]), length)]
            row[: len(ids)] = ids
        return torch.from_numpy(rows)


class HfTokenizer:
    """The tokenizer in a local folder, as transformers loads it; no code of the folder's is run, nothing is fetched."""

    def __init__(self, spec: str, length: int) -> None:
        self._inner, sha256 = _load(spec.removeprefix(HF))
        inner = self._inner
        if length <= (own := inner.num_special_tokens_to_add()):
            what = f"{length} tokens per text leave no room for words: the tokenizer adds {own} of its own"
            raise UserError(what, f"Give more than {own}.", _LENGTH)
        special = [inner.cls_token_id, inner.sep_token_id, inner.bos_token_id, inner.eos_token_id]
        known = dict.fromkeys(int(k) for k in special if k is not None)  # in order, each once
        pad = _first(inner.pad_token_id, inner.eos_token_id, 0)
        mask = _first(inner.mask_token_id, inner.unk_token_id, pad)
        self.tokens = Tokens(spec, length, pad, mask, tuple(k for k in known if k != pad), sha256)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """int32 [n, length]."""
        length = self.tokens.length
        rows = np.full((len(texts), length), self.tokens.pad, dtype=np.int32)
        for start in range(0, len(texts), 1024):  # bounds what the tokenizer holds beside the ids
            sound = [_sound(text[: LOOKED_AT * length]) for text in texts[start : start + 1024]]
            found = self._inner(sound, truncation=True, max_length=length)["input_ids"]
            for row, ids in zip(rows[start:], found):
                row[: len(ids)] = ids
        return torch.from_numpy(rows)


def tokenizer_json(tokens: Tokens) -> str:
    """Return the tokenizer of a folder as the library ``tokenizers`` reads it, cutting texts to ``tokens.length``.

    Raises:
        UserError: it is written in Python, and has no such form.
    """
    inner, _ = _load(tokens.tokenizer.removeprefix(HF))
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is None:
        raise UserError("this tokenizer has no tokenizer.json", "Use one of the fast tokenizers.", tokens.tokenizer)
    stored = json.loads(backend.to_str())
    cut = {"direction": "Right", "max_length": tokens.length, "strategy": "LongestFirst", "stride": 0}
    return json.dumps({**stored, "truncation": cut, "padding": None}, ensure_ascii=False)


_LENGTH = "source.text.max_tokens"
_PROBE = "Who's THE first naïve Ünïcode-tester, e.g. at 12,345.67 €? 你好 don't re-open\tthe  unbelievably_long e-mail!"


def _first(*ids: int | None) -> int:
    return int(next(k for k in ids if k is not None))


def _sound(text: str) -> str:
    """Return the text without lone surrogates, which tokenizers in other languages cannot take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _digest(inner: Any) -> str:
    """Return the SHA-256 (hex) over the vocabulary, the merges and the ids of a text that many rules apply to.

    Not over the files: other versions of the library write the same tokenizer otherwise.
    """
    ids = inner(_PROBE, truncation=True, max_length=128)["input_ids"]
    whole: list[Any] = [sorted(inner.get_vocab().items()), list(map(int, ids))]
    if (backend := getattr(inner, "backend_tokenizer", None)) is not None:
        merges = json.loads(backend.to_str())["model"].get("merges") or []
        whole.append([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
        clean = backend.normalizer.normalize_str(_PROBE) if backend.normalizer else _PROBE
        whole += [
            clean,
            [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(clean)] if backend.pre_tokenizer else 0,
        ]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


@functools.lru_cache(maxsize=4)
def _load(folder: str) -> tuple[Any, str]:
    """Return the tokenizer in ``folder``, and its digest."""
    if not folder or not local_folder(folder).is_dir():
        remedy = "Give hf:FOLDER, a folder that holds a tokenizer; nothing is downloaded."
        raise UserError(f"there is no folder '{folder}'", remedy, "source.text.tokenizer")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        remedy = "pip install 'metapl[text]', or use source.text.tokenizer=words."
        raise UserError(f"hf:FOLDER needs transformers ({error})", remedy, "source.text.tokenizer") from error
    try:
        path = str(local_folder(folder))
        made = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        return made, _digest(made)
    except Exception as error:  # whatever transformers raises for a folder it cannot use
        what = f"no tokenizer can be loaded ({' '.join(str(error).split())[:200]})"
        raise UserError(what, "The folder must hold what save_pretrained of a tokenizer wrote.", folder) from error
