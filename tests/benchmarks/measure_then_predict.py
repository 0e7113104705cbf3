"""How close predictions come to runs that `moeplan profile` never made, with and without its calibration.

    python tests/benchmarks/measure_then_predict.py llama --calibration FILE    a real llama.cpp, random GGUFs
    python tests/benchmarks/measure_then_predict.py torch --calibration FILE    the torch decoder, other sizes
    python tests/benchmarks/measure_then_predict.py stream --program ./stream   bandwidth and reference decode
    python tests/benchmarks/measure_then_predict.py llama --truth A.json B.json --calibration FILE

The last measures nothing: the passes in files of earlier runs (--json) are the truth.

Measure first: `moeplan profile --quick --output FILE`. `llama` needs llama-bench on PATH or the package
xllamacpp. `stream` needs a STREAM-like program that takes threads, MiB and repeats and prints
``read_med=X GB/s``.
Errors are factors: max(predicted / measured, measured / predicted) - 1. Of several passes the quickest
counts: on a shared machine the same run may take a third longer a minute later, with no program to blame.
``middle`` has the errors beside the median of the passes instead.
Every run prints the cores that other programs kept busy: with more than 0.3 of them a figure says little.
`llama` also has a look at the canary before and after each measurement and prints the slower of both as a
share of its usual speed: a figure whose passes were all slow (below 0.75) is left out of `clear`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

import moeplan  # noqa: E402
from moeplan.measure.random_gguf import Shape  # noqa: E402

# None of these is a shape that profile runs.
SHAPES = {
    "dense-1536": Shape(hidden=1536, layers=8, heads=24, kv_heads=8, width=4096, vocab=8192),
    "dense-2048": Shape(hidden=2048, layers=5, heads=32, kv_heads=4, width=5632, vocab=16384),
    "moe-1536": Shape(1536, 6, 24, 8, 512, 8192, n_experts=48, n_active=6),
    "moe-1280": Shape(1280, 8, 20, 4, 1792, 8192, n_experts=8, n_active=2),
}
QTYPES = ("f16", "q8_0", "q4_k")
PROMPT, OUTPUT = 128, 24


# glibc asks for large pages then: the program on the pages that `read_bandwidth` reads last.
_LARGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def error(predicted: float, measured: float) -> float:
    """As a factor, so that guessing low is no cheaper than guessing high."""
    return max(predicted / measured, measured / predicted) - 1.0


def llama(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Decode and prefill of every file with one and two threads; the quickest of the passes counts."""
    from moeplan.measure.canary import Watch, torch_canary
    from moeplan.measure.device import cpu_device
    from moeplan.measure.llama_cpp import find_llama_cpp, measure_gguf
    from moeplan.measure.random_gguf import write_random_gguf

    engine, rows, watch = (
        find_llama_cpp(),
        dict[str, dict[str, Any]](),
        Watch(torch_canary(cpu_device(), (1, 2))),
    )
    for _ in range(arguments.passes):
        for (shape_name, shape), qtype in product(SHAPES.items(), QTYPES):
            with tempfile.TemporaryDirectory(prefix="moeplan-score-") as folder:
                path = Path(folder) / f"{shape_name}-{qtype}.gguf"
                write_random_gguf(path, shape, qtype)
                for threads in (1, 2):
                    before = watch.look()
                    runs = measure_gguf(
                        engine, path, threads, vocab=shape.vocab, repeats=arguments.repeats,
                        prompt_tokens=PROMPT, output_tokens=OUTPUT,
                    )  # fmt: skip
                    looks = before, watch.look()
                    without, own = (_predicted(path, threads, c) for c in ("none", arguments.calibration))
                    for run in runs:
                        phase = run.name.removeprefix("engine ")
                        key = f"{path.stem} {phase} t{threads}"
                        row = rows.setdefault(key, {"id": key, "threads": threads, "passes": [], "looks": []})
                        row["passes"].append(run.median)
                        row["looks"].append(looks)
                        row |= {"without": without[phase][1], "with": own[phase][1], "load": run.load}
                        row |= {"range": own[phase]}
                        row["measured"] = max(row["passes"])
                        _judge([row], watch.looks)
                        print(_line(row), file=sys.stderr)
    return _judge(list(rows.values()), watch.looks)


def _told_again(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of earlier runs, all their passes together, beside what is predicted now."""
    from moeplan.measure.random_gguf import write_random_gguf

    rows: dict[str, dict[str, Any]] = {}
    for row in (row for name in arguments.truth for row in json.loads(Path(name).read_text())):
        known = rows.setdefault(row["id"], {**row, "passes": [], "clear": False})
        known["passes"] += row["passes"]
        known["clear"] = known["clear"] or row["clear"]
    for (name, shape), qtype in product(SHAPES.items(), QTYPES):
        with tempfile.TemporaryDirectory(prefix="moeplan-score-") as folder:
            path = Path(folder) / f"{name}-{qtype}.gguf"
            write_random_gguf(path, shape, qtype)
            for threads in (1, 2):
                without, own = (_predicted(path, threads, c) for c in ("none", arguments.calibration))
                for phase, span in own.items():
                    row = rows[f"{path.stem} {phase} t{threads}"]
                    row |= {"without": without[phase][1], "with": span[1], "range": span}
                    row["measured"] = max(row["passes"])
    return list(rows.values())


def _judge(rows: list[dict[str, Any]], looks: list[Any]) -> list[dict[str, Any]]:
    """``rows`` with the machine's speed beside the quickest pass, and whether any pass was a clear one."""
    from moeplan.measure.looks import SLOW_FRAC, speed, usual

    good = usual(looks)
    for row in rows:
        speeds = [min(speed(look, good, row["threads"]) for look in pair) for pair in row["looks"]]
        row["canary"] = round(speeds[row["passes"].index(row["measured"])], 2)
        row["clear"] = max(speeds) >= SLOW_FRAC
    return rows


def _predicted(path: Path, threads: int, calibration: str) -> dict[str, tuple[float, float, float]]:
    """Tokens per second of both phases: low, expected, high."""
    answer = moeplan.estimate(
        str(path), engine="llama.cpp", threads=threads, context=PROMPT + OUTPUT + 64, prompt_tokens=PROMPT,
        output_tokens=OUTPUT, calibration=calibration,
    )  # fmt: skip
    rates = {"decode": (1.0, answer.decode_step_s), "prefill": (PROMPT, answer.prefill_s)}
    return {name: (n / t.high, n / t.expected, n / t.low) for name, (n, t) in rates.items()}


def torch_decoder(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The reference decoder at sizes that profile does not run."""
    from moeplan.calibrate.reference import fit_reference
    from moeplan.measure import reference as ref
    from moeplan.measure.device import cpu_device
    from moeplan.measure.micro import usable_threads
    from moeplan.measure.work import work_in
    from moeplan.readers.calibration_host import read_host_calibration

    law = fit_reference(read_host_calibration(Path(arguments.calibration)).samples)
    if law is None:
        raise SystemExit("the calibration has no runs of the reference decoder")
    specs = [
        ref.dense_shape(768, 6), ref.dense_shape(1536, 5), ref.dense_shape(2560, 3, 16384),
        ref.moe_shape(768, 6, 8, 2, 1536), ref.moe_shape(1024, 5, 64, 4, 768),
        ref.moe_shape(1536, 3, 24, 6, 512), ref.moe_shape(1280, 4, 12, 2, 2048),
    ]  # fmt: skip
    runs = [ref.Run("decode", 1, 64), ref.Run("decode", 4, 256), ref.Run("prefill", 1, 96),
            ref.Run("prefill", 1, 256)]  # fmt: skip
    rows = []
    for spec in specs:
        model = ref.Reference(spec, cpu_device(), usable_threads())
        for run in runs:
            sample = model.measure(run, arguments.seconds)
            work = work_in(sample.setup)
            assert work is not None
            rows.append(
                {"id": f"{spec.id} {run.phase} b{run.batch} d{run.depth}", "measured": 1 / sample.median,
                 "best": 1 / sample.best, "load": sample.load, "with": 1 / law.seconds(work),
                 "work": work._asdict()}
            )  # fmt: skip
            print(_line(rows[-1]), file=sys.stderr)
    return rows


def stream(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Read bandwidth and batch-1 decode of the reference models, each between two runs of the program."""
    from moeplan.measure import reference as ref
    from moeplan.measure.device import cpu_device
    from moeplan.measure.micro import read_bandwidth, thread_counts, usable_threads

    device, rows = cpu_device(), []
    specs = [ref.dense_shape(), *(ref.moe_shape(n_experts=n) for n in (8, 32, 128))]
    for threads in thread_counts(usable_threads()):
        for round_ in range(arguments.rounds):
            before, before_large = (_program(arguments.program, threads, env) for env in ({}, _LARGE))
            read, *large = read_bandwidth(device, (threads,), arguments.seconds)
            rows.append(_beside(f"read t{threads} #{round_}", read, before, arguments.program, threads))
            print(json.dumps(rows[-1]), file=sys.stderr)
            for sample in large:
                name = f"read large pages t{threads} #{round_}"
                rows.append(_beside(name, sample, before_large, arguments.program, threads, _LARGE))
                print(json.dumps(rows[-1]), file=sys.stderr)
            for spec in specs:
                model = ref.Reference(spec, device, threads)
                before = _program(arguments.program, threads)
                step = model.measure(ref.Run("decode", 1, 64), arguments.seconds)
                rate = ref.bandwidth_sample(step)
                name = f"{spec.id} t{threads} #{round_}"
                row = _beside(name, rate, before, arguments.program, threads)
                rows.append(row | {"step_ms": step.median * 1e3})
                print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def _beside(
    name: str, sample: Any, before: float, program: str, threads: int, env: dict[str, str] | None = None
) -> dict[str, Any]:
    """A rate in B/s against the mean of the program's readings before and after."""
    after = _program(program, threads, env or {})
    return {"id": name, "measured": sample.median, "best": sample.best, "load": sample.load, "before": before,
            "after": after, "ratio": sample.median / ((before + after) / 2)}  # fmt: skip


def _program(program: str, threads: int, env: dict[str, str] | None = None) -> float:
    done = subprocess.run(
        [program, str(threads), "512", "8"], capture_output=True, text=True, check=True,
        env=os.environ | (env or {}),
    )  # fmt: skip
    found = re.search(r"read_med=([\d.]+)", done.stdout)
    if found is None:
        raise SystemExit(f"{program} printed no read_med=")
    return float(found.group(1)) * 1e9


def _line(row: dict[str, Any]) -> str:
    parts = [f"{row['id']:44} {row['measured']:9.2f} /s"]
    parts += [
        f"{k} {row[k]:9.2f} ({row[k] / row['measured'] - 1:+.0%})" for k in ("without", "with") if k in row
    ]
    parts += [f"canary {row['canary']:.2f}"] if "canary" in row else []
    return "  ".join([*parts, f"load {row['load']:.1f}"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst of each kind of prediction."""
    found: dict[str, Any] = {"n": len(rows)}
    for kind in ("without", "with"):
        errors = [error(row[kind], row["measured"]) for row in rows if kind in row]
        if errors:
            found[kind] = {"median": round(median(errors), 3), "worst": round(max(errors), 3)}
    middle = [error(row["with"], median(row["passes"])) for row in rows if "passes" in row]
    if middle:
        found["middle"] = {"median": round(median(middle), 3), "worst": round(max(middle), 3)}
    clear = [error(row["with"], row["measured"]) for row in rows if row.get("clear")]
    if clear:
        found["clear"] = {"n": len(clear), "median": round(median(clear), 3), "worst": round(max(clear), 3)}
    ranges = [row["range"][0] <= row["measured"] <= row["range"][2] for row in rows if "range" in row]
    if ranges:
        found["in_range_frac"] = round(sum(ranges) / len(ranges), 3)
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if "ratio" in row:
            ratios.setdefault(str(row["id"]).rpartition(" #")[0], []).append(row["ratio"])
    for kind, values in ratios.items():
        found[kind] = [round(value, 2) for value in (median(values), min(values), max(values))]
    return found


def main() -> None:
    """Run one part, print its rows and their summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("llama", "torch", "stream"))
    parser.add_argument("--calibration", default="none")
    parser.add_argument("--program", default="./stream")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--passes", type=int, default=2, help="over all files, minutes apart: llama")
    parser.add_argument("--rounds", type=int, default=1, help="of every comparison: stream")
    parser.add_argument("--seconds", type=float, default=0.8, help="for each run")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--truth", nargs="+", help="files of earlier runs: measure nothing, llama")
    arguments = parser.parse_args()
    part = {"llama": llama, "torch": torch_decoder, "stream": stream}[arguments.part]
    rows = (_told_again if arguments.truth else part)(arguments)
    if arguments.json:
        kept = [{key: value for key, value in row.items() if key != "looks"} for row in rows]
        Path(arguments.json).write_text(json.dumps(kept, indent=1))
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
