"""The encoding of a text file: by its byte order mark, or as the user says; it is never guessed."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from metapl.data.images.scan import missing, shown
from metapl.errors import UserError
from metapl.utils.limits import check_lines

AUTO = "auto"
COMMON = ("utf-8", "cp1252", "latin-1", "cp1250", "cp1251", "cp850", "mac-roman", "utf-16")  # for messages
_BLOCK = 1 << 20
_MARKS = (  # byte order marks; UTF-32 first, since its mark begins like that of UTF-16
    ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
    ((codecs.BOM_UTF8,), "utf-8"),
)
_WIDE = ("utf-16", "utf-32")  # a wrong byte makes all later rows unreadable
_OTHER = ("idna", "unicode_escape", "raw_unicode_escape")  # codecs of Python that are not for text files
_CONTROLS = re.compile(b"[\x80-\x9f]")  # control characters in Latin-1; euro sign, dashes and quotes in Windows-1252
_ENDS = re.compile(rb"[\s,;|\"']")


@dataclass(frozen=True)
class Encoding:
    """How a file is decoded.

    Attributes:
        codec: Python's name of the encoding.
        odd: whether the file holds NUL bytes or bytes that are not text.
        notes: notes for the user.
    """

    codec: str
    odd: bool = False
    notes: tuple[str, ...] = ()


Complaint = tuple[str, str, str]  # what is wrong, the remedy, and a setting that helps, too


@dataclass(frozen=True)
class _Scan:
    """The result of a pass over the whole file: the first byte that is not text, if any, and its line."""

    bad: Complaint | None = None
    line: int = 0
    ascii: bool = True
    controls: bool = False


def find_encoding(path: Path, asked: str, skip_bad: bool) -> Encoding:
    """Find the encoding: by the byte order mark, else ``asked``; "auto" is UTF-8. The whole file is checked.

    A file of valid UTF-8 beyond ASCII is read as UTF-8, even if ``asked`` is an encoding of single bytes.

    Raises:
        UserError: it cannot be opened, no such encoding, or (unless ``skip_bad``) bytes that are not text in it.
    """
    name = shown(path.name)
    if path.is_dir():
        raise UserError("this is a folder, not a file", "Give a file.", shown(path))
    codec = known(asked)
    try:
        check_lines(path, name)
        with open(path, "rb") as file:
            start = file.read(4)
        marked = next((made for marks, made in _MARKS if start.startswith(marks)), "")
        if marked or codec == "utf-8":
            return _checked(path, name, marked or codec, asked, skip_bad)
        if _single(codec):
            unicode = _scan(path, "utf-8")
            if unicode.bad is None and not unicode.ascii:
                return Encoding("utf-8", notes=(f"{name}: is in UTF-8, not in {asked}, and read as that",))
        return _checked(path, name, codec, asked, skip_bad)
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        what = f"it cannot be opened ({error.strerror})"
        raise UserError(what, "Check the path.", shown(path)) from error


def _checked(path: Path, name: str, codec: str, asked: str, skip_bad: bool) -> Encoding:
    found = _scan(path, codec)
    if found.bad is not None and (not skip_bad or codec.startswith(_WIDE)):
        what, remedy, setting = found.bad
        raise UserError(what, remedy, f"{name}, line {found.line}" if found.line else name, setting)
    notes: tuple[str, ...] = ()
    if asked != AUTO and not _same(codec, known(asked)):
        notes = (f"{name}: is in {codec.upper()} by its first bytes, not in {asked}, and read as that",)
    elif found.controls and codec.startswith(("iso8859", "latin")):
        notes = (f"{name}: holds bytes that are control characters in {asked}: is it in cp1252?",)
    return Encoding(codec, found.bad is not None, notes)


def known(asked: str) -> str:
    """Python's name of the encoding.

    Raises:
        UserError: Python does not know it, or it encodes commas and line ends otherwise than ASCII.
    """
    if asked == AUTO:
        return "utf-8"
    printable = bytes(range(32, 127))
    try:
        codec = codecs.lookup(asked).name
        if codec.replace("-", "_") in _OTHER:
            raise LookupError(codec)
        if codec.startswith(_WIDE) or printable.decode(codec) == printable.decode():
            return "utf-8" if codec == "utf-8-sig" else codec
    except (LookupError, ValueError, TypeError):
        pass
    remedy = f"Give auto, {', '.join(COMMON)}, or another name that Python knows."
    raise UserError(f"encoding is {asked!r}", remedy, "source.table.encoding")


def _same(one: str, other: str) -> bool:
    return one == other or (one in _WIDE and other.startswith(one))


def _single(codec: str) -> bool:
    """Return whether every byte is a character of its own."""
    return len(bytes(range(256)).decode(codec, "replace")) == 256


def _scan(path: Path, codec: str) -> _Scan:
    decoder = codecs.getincrementaldecoder(codec)()
    seen, line = _Scan(), 1
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                line += _lines_in(error.object[: error.start].decode(codec, "replace"))
                return replace(seen, bad=_no_text(error, codec), line=line)
            except UnicodeError:  # utf-16 and utf-32 alone, where the file must say which of the two it is
                return replace(seen, bad=_unmarked(codec))
            if (nul := text.find("\0")) >= 0:
                return replace(seen, bad=_nul(text), line=line + _lines_in(text[:nul]))
            line += _lines_in(text)
            controls = seen.controls or _CONTROLS.search(block) is not None
            seen = replace(seen, ascii=seen.ascii and block.isascii(), controls=controls)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return replace(
            seen, bad=("the file ends in the middle of a character", "It is cut: fetch or write it again.", "")
        )
    return seen


def _unmarked(codec: str) -> Complaint:
    what = f"the file does not begin with the mark that tells which {codec.upper()} it is in"
    return what, "Save it as UTF-8.", f"or set source.table.encoding={codec}-le (as on Windows) or {codec}-be."


def _no_text(error: UnicodeDecodeError, codec: str) -> Complaint:
    """Return the complaint about a byte that is not valid in ``codec``."""
    what = f"byte 0x{error.object[error.start]:02x} is not valid {codec.upper()}"
    if codec != "utf-8":
        return what, "Save it as UTF-8.", "or set source.table.encoding to what it is in."
    word, likely = _word(error.object, error.start), "cp1252"
    try:
        read = word.decode(likely)
    except UnicodeDecodeError:  # five bytes mean nothing in it
        likely = "cp850"
        read = word.decode(likely)
    what += f" (in {likely} the word is '{shown(read)}')"
    return what, "Save it as UTF-8.", f"or set source.table.encoding={likely} or what else it is in."


def _nul(text: str) -> Complaint:
    what = "the file holds a NUL byte"
    if text[1:2] == "\0" or text[:1] == "\0":
        return what, "Is it in UTF-16? Save it as UTF-8.", "or set source.table.encoding=utf-16-le or utf-16-be."
    return what, "It is damaged, or not a text file: write it again, as UTF-8.", ""


def _word(data: bytes, at: int, most: int = 20) -> bytes:
    """Return the bytes around position ``at``, up to a blank, a quote or a delimiter on both sides."""
    before = _ENDS.split(data[max(0, at - most) : at])[-1]
    return before + _ENDS.split(data[at : at + most])[0]


def _lines_in(text: str) -> int:
    """Return the number of line ends in ``text``: LF, CRLF or CR."""
    return text.count("\n") or text.count("\r")


def open_text(path: Path, encoding: Encoding) -> IO[str]:
    """Return the file as text with its line ends as they are; bytes that are not text become lone surrogates."""
    codec = "utf-8-sig" if encoding.codec == "utf-8" else encoding.codec
    return open(path, encoding=codec, errors="surrogateescape", newline="")
