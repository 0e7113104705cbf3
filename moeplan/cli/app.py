"""The command `moeplan`: the entry point, with a short cut for what needs none of the program."""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from moeplan._version import __version__

if TYPE_CHECKING:
    from moeplan.cli.tree import app as app


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code: 0, 1, 2, 101, or 130 after Ctrl-C."""
    started = time.perf_counter()  # some commands promise how long they take
    args = sys.argv[1:] if args is None else args
    if args == ["--version"] and sys.stdout is not None:
        # Scripts ask for the version often; typer alone would cost them five times the interpreter.
        sys.stdout.write(f"moeplan {__version__}\n")
        sys.exit(0)
    # Most of what is allocated at the start lives to the end: collect less often (4% of the CPU time).
    gc.set_threshold(50_000, 20, 20)
    try:
        import typer.main

        from moeplan.cli.tree import app

        typer.main.get_command(app).main(args, prog_name="moeplan", obj=started)
    except KeyboardInterrupt:  # Ctrl-C before the program is loaded
        sys.exit(130)
    finally:
        # The interpreter looks through all that is left as it ends: with torch loaded a quarter of a second.
        gc.freeze()
    raise AssertionError("main always exits")


def __getattr__(name: str) -> object:
    """``app``, the typer application, loaded when it is asked for."""
    if name == "app":
        from moeplan.cli.tree import app

        return app
    raise AttributeError(name)
