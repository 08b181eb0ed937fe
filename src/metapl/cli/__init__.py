"""The command line: a thin face. Everything slow to import is imported inside the commands."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from metapl._version import __version__
from metapl.cli import checking as checking
from metapl.cli import comparing as comparing
from metapl.cli import deploying as deploying
from metapl.cli import labelling as labelling
from metapl.cli import listing as listing
from metapl.cli import reporting as reporting
from metapl.cli import reviewing as reviewing
from metapl.cli import running as running
from metapl.cli import tuning as tuning
from metapl.cli import using as using
from metapl.cli.app import app as app
from metapl.cli.app import say
from metapl.cli.options import State
from metapl.errors import Silenced, UserError
from metapl.utils import printing
from metapl.utils.signals import end_by_sigterm, stopped

_ClickException: Any = typer.BadParameter.__mro__[2]  # the base of usage errors, wherever this typer keeps it

_MEMORY = "memory ran out. Use smaller batches (batch.labeled, batch.unlabeled), smaller rows or a smaller network."
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in PyTorch's errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: 0 done, 2 a mistake in the input, 130 or 143 stopped, 1 a bug."""
    State.debug, State.folder = False, None
    State.argv = tuple(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m metapl` does, so that --model file:function finds the file
    with warnings.catch_warnings():
        warnings.showwarning = _warned  # type: ignore[assignment]
        end_by_sigterm()  # a training takes the signal over, and saves its state
        try:
            command = typer.main.get_command(app)
            code = command.main(_at_home(State.argv), "metapl", standalone_mode=False)
            return code if isinstance(code, int) else 0
        except UserError as error:
            return _failed(str(error), 2)
        except Silenced:
            return 2
        except KeyboardInterrupt as stop:
            return stopped(stop)
        except BrokenPipeError:  # the reader of a pipe went away, such as `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:  # a full disk, a folder that may not be written to
            return _failed(f"{_place(error)}{error}. Check the path, its permissions and the free space.", 2)
        except MemoryError:
            return _failed(_MEMORY, 2)
        except Exception as error:
            if isinstance(error, _ClickException):
                return _failed(_usage(error), 2)
            if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
                return _failed(_MEMORY, 2)
            return _crashed(error)


def _at_home(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` with the home folder for a leading ``~`` of a path: shells leave the one of ``--out=~/x``."""

    def full(word: str) -> str:
        option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
        return f"{option}{sign}{os.path.expanduser(value)}"

    return [full(word) for word in argv]


def _usage(error: Any) -> str:
    ctx = getattr(error, "ctx", None)
    text = printing.one_line(error.format_message())
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} See `{ctx.command_path if ctx else 'metapl'} --help`."


def _failed(text: str, code: int) -> int:
    if State.debug:
        traceback.print_exc()
    say(f"error: {printing.one_line(text)}")
    return code


def _place(error: OSError) -> str:
    """Return the folder at work, for an error that names no file."""
    return f"{State.folder}: " if State.folder is not None and error.filename is None else ""


def _own_code(error: Exception) -> str:
    """Return ``FILE, line N`` of the user's innermost line on the way to ``error``; empty where only installed code
    ran.

    Methods, networks and factories of one's own run inside metapl: their mistakes are not its bugs.
    """
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    theirs = (str(Path(__file__).parents[1]), *map(str, installed))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_file()]
    own = [f for f in frames if not any(Path(f.filename).is_relative_to(place) for place in theirs)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""


def _crashed(error: Exception) -> int:
    """Return a bug: the traceback goes to a file, in the run folder if there is one, and its name to the screen."""
    inside = State.folder if State.folder is not None and (State.folder / "config.yaml").is_file() else None
    with tempfile.NamedTemporaryFile(
        "w",
        prefix="metapl-error-",
        suffix=".log",
        dir=inside,
        delete=False,
        encoding="utf-8",
        errors="backslashreplace",
    ) as log:
        log.write(f"metapl {__version__}, python {sys.version}\n{sys.argv}\n\n{traceback.format_exc()}")
    if place := _own_code(error):
        return _failed(f"{place}: {type(error).__name__}: {error}. The traceback is in {log.name}", 2)
    return _failed(f"unexpected {type(error).__name__}: {error}. This is a bug; the traceback is in {log.name}", 1)


def _warned(message: Warning | str, *place: Any) -> None:
    say(f"note: {printing.one_line(message)}")
