"""What a search costs: CPU time as a multiple of a fixed loop measured in the same run.

    python tests/benchmarks/plan_speed.py            print the ratios
    python tests/benchmarks/plan_speed.py --check    exit 1 when one is over its limit

The targets: 10 s for 100,000 candidates on one core of a 2-core x86 machine, and 3 s and 300 MB for a whole
plan of 61 layers x 256 experts on four GPUs. There the loop takes 0.125 s: the limits are 80 and 24 loops.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))
PROBE = """
import atexit, resource, sys
atexit.register(lambda: sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)))
"""
ENTRY = "import sys; from moeplan.cli.app import main; sys.exit(main())"
PLAN = "plan deepseek-v3 --gpu rtx-3090 --n-gpus 4 --ram-gib 768 --ram-gbs 300 --context 32768 --format json"
LOOP_TURNS = 3_000_000
N_CANDIDATES = 100_000
LIMITS = {"100,000 candidates": 80.0, "plan, 61 layers x 256 experts, 4 GPUs": 24.0}
MAX_RSS_BYTES = 300 * 10**6


def loop_s() -> float:
    """CPU seconds of a fixed loop of integer work."""
    start = time.process_time()
    total = 0
    for i in range(LOOP_TURNS):
        total += i & 7
    assert total > 0
    return time.process_time() - start


def candidates_s() -> tuple[float, int]:
    """CPU seconds of searching at least N_CANDIDATES layouts of DeepSeek-V3 beside one GPU, and how many."""
    from moeplan.api.plan_space import Space
    from moeplan.api.resolve import Session
    from moeplan.domain.plan import Limits, PlanRequest
    from moeplan.domain.request import EstimateRequest, MachineFlags
    from moeplan.readers.catalog import Catalog
    from moeplan.search.search import Search, Variant

    machine = MachineFlags(gpu="rtx-3090", ram_gib=768, ram_gbs=300)
    base = EstimateRequest(model="deepseek-v3", machine=machine, prompt_tokens=4096)
    space = Space(Session(Catalog()), PlanRequest(base=base), None)

    def variants() -> Iterator[Variant]:
        for context in (8192, 16384, 32768, 65536, 131072):
            for kv in ("f16", "q8_0"):
                yield from space.variants(context=context, kv_types=(kv,), narrower=True)

    search = Search("decode", Limits())
    start = time.process_time()
    for variant in variants():
        search.run([variant])
        if search.n_candidates >= N_CANDIDATES:
            break
    assert search.n_candidates >= N_CANDIDATES and search.best is not None
    return time.process_time() - start, search.n_candidates


def plan_s() -> tuple[float, int]:
    """CPU seconds of the whole command in a process of its own, and the most memory it held, in bytes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PROBE + ENTRY, *PLAN.split()],
        cwd=REPO,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return spent, int(done.stderr.split()[-1]) * 1024


def main() -> int:
    """Measure, print, and with --check judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of the plan (default: 3)")
    parser.add_argument("--check", action="store_true", help="exit 1 when something is over its limit")
    options = parser.parse_args()

    loops = [loop_s()]
    searched_s, n = candidates_s()
    loops.append(loop_s())
    plans = []
    for _ in range(options.rounds):
        plans.append(plan_s())
        loops.append(loop_s())
    loop = statistics.median(loops)
    rows = {
        "100,000 candidates": searched_s * N_CANDIDATES / n,
        "plan, 61 layers x 256 experts, 4 GPUs": statistics.median(seconds for seconds, _ in plans),
    }
    print(f"the loop: {loop:.3f} s of CPU")
    over = False
    for name, seconds in rows.items():
        print(f"{name}: {seconds:.2f} s, {seconds / loop:.1f} loops (limit {LIMITS[name]:.0f})")
        over = over or seconds / loop > LIMITS[name]
    rss = max(size for _, size in plans)
    print(f"memory of the plan: {rss / 1e6:.0f} MB (limit {MAX_RSS_BYTES / 1e6:.0f})")
    return 1 if options.check and (over or rss > MAX_RSS_BYTES) else 0


if __name__ == "__main__":
    raise SystemExit(main())
