"""From whatever goes wrong to one clear error on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from moeplan.errors import MoeplanError

USAGE, INTERNAL, INTERRUPTED, PIPE_CLOSED = 2, 101, 130, 141
"""Exit codes; 141 is what a shell reports of a program that SIGPIPE ended."""


# Options that other programs have, and what they are called here.
_MEANT = {"--json": "--format json", "--markdown": "--format markdown", "--ctx": "--context"}


class PipeClosed(Exception):
    """The reader of stdout is gone; typer would turn a BrokenPipeError into exit code 1."""


def guarded(run: Callable[[], Any]) -> int:
    """The exit code of ``run()``: what it returns when that is a code, else by what it raises."""
    try:
        code = run()
        flush()
    except (BrokenPipeError, PipeClosed):
        return close_stdout()
    except KeyboardInterrupt:
        return INTERRUPTED
    except MoeplanError as error:
        return _expected(error)
    except OSError as error:
        return _system(error)
    except Exception as error:  # noqa: BLE001 - the last net: a bug is one line and exit code 101
        return _usage(error) if callable(getattr(error, "format_message", None)) else _bug(error)
    return code if isinstance(code, int) else 0


def flush() -> None:
    """Write what is left of stdout, so that a failure shows here and not while Python exits."""
    if sys.stdout is not None:
        sys.stdout.flush()


def close_stdout() -> int:
    """The reader is gone: point stdout at nothing, so that Python's own flush at exit stays quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _expected(error: MoeplanError) -> int:
    from moeplan.report.errors import error_lines

    _debug()
    _show(error_lines(error, width()))
    return error.exit_code


def _usage(error: Any) -> int:
    """A wrong use of the command line, as typer reports it."""
    from moeplan.report.errors import message_lines

    context = getattr(error, "ctx", None)
    meant = _MEANT.get(getattr(error, "option_name", ""))
    if meant is not None:
        error.possibilities = [meant]
    message = str(error.format_message())
    if type(error).__name__ == "NoArgsIsHelpError":
        _write(message + "\n")
        return USAGE
    path = context.command_path if context is not None else "moeplan"
    _show(message_lines(message.rstrip("."), help=f"{path} --help"))
    return USAGE


def _system(error: OSError) -> int:
    from moeplan.report.errors import message_lines

    _debug()
    where = f"{error.filename}: " if error.filename else ""
    _show(message_lines(f"{where}{error.strerror or error}"))
    return USAGE


def _bug(error: Exception) -> int:
    from moeplan.report.errors import message_lines

    _debug()
    _show(
        message_lines(
            f"internal error: {type(error).__name__}: {error}",
            help="this is a bug, please report it; MOEPLAN_DEBUG=1 shows where it happened",
        )
    )
    return INTERNAL


def _debug() -> None:
    if os.environ.get("MOEPLAN_DEBUG") == "1":
        import traceback

        traceback.print_exc()


def _show(lines: list[list[tuple[str, str]]]) -> None:
    from moeplan.report.layout import plain

    _write(plain(lines))


def _write(text: str) -> None:
    if sys.stderr is None:
        return
    encoding = sys.stderr.encoding or "utf-8"
    with suppress(OSError):  # nobody is listening
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding))


def width() -> int:
    """Columns to lay text out in: the terminal's, or 80 without one; COLUMNS overrides both."""
    from shutil import get_terminal_size

    return min(max(get_terminal_size((80, 24)).columns, 40), 200)
