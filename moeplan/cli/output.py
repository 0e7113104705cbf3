"""Where results go: the terminal, a pipe, or a file that is replaced only as a whole."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from moeplan.cli.failure import PipeClosed, width
from moeplan.errors import SpecError

if TYPE_CHECKING:
    from moeplan.report.layout import Line, Screen
    from moeplan.report.listing import Card, Listing


def emit_lines(draw: Callable[[Screen], Iterable[Line]], output: str | None) -> None:
    """Lay lines out for where they go and write them there; colour only on a terminal that wants it."""
    from moeplan.report.layout import Screen, painted, plain

    if output is None and wants_color():
        from rich.console import Console

        Console(highlight=False).print(painted(draw(Screen(width(), True))), soft_wrap=True, end="")
        return
    emit(plain(draw(Screen(width(), False, _is_whole(output)))), output)


def emit(text: str, output: str | None) -> None:
    """Write ``text`` to stdout, or to the file ``output``."""
    if output is not None:
        write_file(output, text)
        return
    if sys.stdout is None:
        raise SpecError("standard output is closed")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    except BrokenPipeError:
        raise PipeClosed from None


def emit_listing(
    listing: Callable[[], Listing], json: Callable[[], object], format: str, output: str | None
) -> None:
    """A list in the format asked for."""
    from moeplan.report.listing import listing_lines, listing_markdown

    if format == "json":
        emit_json(json(), output)
    elif format == "markdown":
        emit(listing_markdown(listing()), output)
    else:
        emit_lines(lambda screen: listing_lines(listing(), screen), output)


def emit_card(card: Callable[[], Card], json: Callable[[], object], format: str, output: str | None) -> None:
    """One entry in the format asked for."""
    from moeplan.report.listing import card_lines, card_markdown

    if format == "json":
        emit_json(json(), output)
    elif format == "markdown":
        emit(card_markdown(card()), output)
    else:
        emit_lines(lambda screen: card_lines(card(), screen), output)


def _is_whole(output: str | None) -> bool:
    """Whether rows go to a program or a file, which want them whole, and nobody said how wide (COLUMNS)."""
    return (output is not None or not is_terminal()) and not os.environ.get("COLUMNS")


def emit_json(value: object, output: str | None) -> None:
    """A wire value as JSON."""
    from moeplan.report.estimate_json import pretty

    emit(pretty(value), output)


def is_terminal() -> bool:
    """Whether somebody looks at stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def wants_color() -> bool:
    """Whether stdout is a terminal that takes colour (NO_COLOR and TERM=dumb say no)."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def note(text: str) -> None:
    """A remark for whoever watches: stderr, never part of the result."""
    from moeplan.report.layout import printable

    if sys.stderr is not None:
        sys.stderr.write(printable(text) + "\n")


def write_picture(path: str, svg: str) -> None:
    """Write the picture described by ``svg`` to the file of ``--plot``: as it is, or as PNG."""
    from moeplan.report.picture import content

    write_file(path, content(path, svg), "--plot")


def write_file(path: str, text: str | bytes, option: str = "--output") -> None:
    """Write ``path`` so that it is never seen half-written: a new file takes its place when complete.

    A device or pipe is written as it is. SpecError when it cannot be written.
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    try:
        target = Path(path).resolve()
        if target.is_dir():
            raise IsADirectoryError(21, "it is a directory")
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"{option}: cannot be written: {reason}", path=path) from None


def _replace(target: Path, data: bytes) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
