"""What a command costs before it answers: CPU time as a multiple of ``python -c pass``.

    python tests/benchmarks/cold_start.py            print the ratios
    python tests/benchmarks/cold_start.py --check    exit 1 when one is over its limit

CPU time (user + system of the child) instead of wall time, as a ratio to the bare interpreter measured in
the same run, taking turns: so neither the machine nor its load decides. Bytecode is cached, as it is after
an installation; the code run is that of the console script.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[2]
ENTRY = "import sys; from moeplan.cli.app import main; sys.exit(main())"
ESTIMATE = "estimate mixtral-8x7b --hardware rtx-4090 --quant q4_k_m --format json"

# name -> (arguments of the interpreter, limit as a multiple of the bare interpreter)
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": (["-c", "pass"], None),
    "moeplan --version": (["-c", ENTRY, "--version"], 8.0),
    f"moeplan {ESTIMATE}": (["-c", ENTRY, *ESTIMATE.split()], 14.0),
}


class Row(NamedTuple):
    """The cost of one command."""

    command: str
    cpu_ms: float
    ratio: float
    limit: float | None


def cpu_seconds(arguments: list[str]) -> float:
    """User + system time of one run of this interpreter with ``arguments``; raises if the run fails."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # 1 means "does not fit", an answer like any other
    if done.returncode not in (0, 1) or not (done.stdout or arguments == ["-c", "pass"]):
        raise SystemExit(f"{' '.join(arguments)} failed with {done.returncode}:\n{done.stderr}")
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def measure(rounds: int) -> dict[str, float]:
    """Median CPU seconds of each command over ``rounds`` interleaved runs, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, (arguments, _) in COMMANDS.items():
            spent = cpu_seconds(arguments)
            if turn > 0:
                seconds[name].append(spent)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> int:
    """Measure, print, and with --check judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="runs of each command (default: 15)")
    parser.add_argument("--check", action="store_true", help="exit 1 when a ratio is over its limit")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    medians = measure(options.rounds)
    bare = medians["python -c pass"]
    rows = [Row(name, medians[name] * 1e3, medians[name] / bare, COMMANDS[name][1]) for name in COMMANDS]
    over = [row for row in rows if row.limit is not None and row.ratio > row.limit]
    if options.json:
        print(json.dumps({"rounds": options.rounds, "rows": [row._asdict() for row in rows]}))
    else:
        print(f"{'CPU ms':>8}  {'ratio':>6}  {'limit':>6}  command  (median of {options.rounds})")
        for row in rows:
            limit = f"{row.limit:.0f}x" if row.limit else ""
            print(f"{row.cpu_ms:8.1f}  {row.ratio:5.1f}x  {limit:>6}  {row.command}")
    for row in over:
        print(f"over the limit: {row.command}", file=sys.stderr)
    return 1 if over and options.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
