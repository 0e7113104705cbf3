"""Terms of the explanation that are not part of a sum of memory or time: sizes, work, rates, ranges."""

from __future__ import annotations

from collections.abc import Mapping

from moeplan.cost.coverage import expected_experts
from moeplan.domain.calibration import Residuals
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import MoeFfn
from moeplan.domain.result import PhaseTime, Range
from moeplan.predict.interval import quantile
from moeplan.predict.problem import Problem
from moeplan.provenance import DERIVED, Ledger, NullLedger, Source


def explain_model(graph: ModelGraph, ledger: Ledger) -> None:
    """Parameters and bytes of the model, by role."""
    if isinstance(ledger, NullLedger):
        return
    source = graph.spec.sources[0] if graph.spec.sources else DERIVED
    ledger.open()
    for role, n in sorted(graph.params.by_role.items(), key=lambda item: -item[1]):
        ledger.note(role, n, "parameters", "sum of the shapes of its tensors", {}, source)
    ledger.close("parameters", graph.params.total, "parameters", source=source)
    unused = graph.params.total - graph.params.active
    inputs: dict[str, object] = {"total": graph.params.total, "not chosen": unused}
    ledger.note("active parameters", graph.params.active, "parameters",
                "total - routed experts x (1 - n_active / n_experts)", inputs)  # fmt: skip
    by_role: dict[str, int] = {}
    for tensor in graph.tensors:
        if tensor.owner == "base":
            by_role[tensor.role] = by_role.get(tensor.role, 0) + tensor.n_bytes
    origin = Source("measured" if graph.origin == "file" else "derived", _ORIGINS[graph.origin])
    ledger.open()
    for role, n_bytes in sorted(by_role.items(), key=lambda item: -item[1]):
        ledger.note(role, n_bytes, "B", "elements in whole blocks of the tensor's type", {}, origin)
    ledger.close(f"weights in {graph.quant}", graph.weights_bytes, "B", source=origin)


_ORIGINS = {
    "file": "the file's own tensor table",
    "rules": "type rules of the quantisation (configs/quants.yaml)",
}


def explain_speed(
    problem: Problem,
    time: PhaseTime,
    span: Range,
    residuals: Residuals,
    level: float,
    ledger: Ledger,
    *,
    prefill: bool = False,
) -> None:
    """Work of a phase, its rate, and where the range around the rate comes from."""
    if isinstance(ledger, NullLedger):
        return
    work = problem.workload
    n = work.n_sequences * (work.prompt_tokens if prefill else 1)
    name = "prefill" if prefill else "decode"
    per = "prompt" if prefill else "step"
    ledger.note(
        f"{name} FLOPs per {per}",
        time.flop,
        "FLOP",
        "2 x elements x tokens + attention, over layers and head",
    )
    ledger.note(f"{name} bytes read per {per}", time.bytes_read, "B", "weights + touched experts + cache")
    if not prefill:
        _explain_experts(problem, ledger)
    tail = (1 - level) / 2
    inputs: Mapping[str, object] = {
        "tokens": n,
        "seconds": time.seconds,
        "low": n / span.high,
        "high": n / span.low,
        f"log(measured/predicted) at {tail:.0%}": quantile(residuals, tail),
        f"log(measured/predicted) at {1 - tail:.0%}": quantile(residuals, 1 - tail),
        "setups": residuals.n_setups,
    }
    formula = "tokens / seconds; range: seconds x exp(quantile)"
    ledger.note(f"{name} speed", n / time.seconds, "tokens/s", formula, inputs, residuals.source)


def _explain_experts(problem: Problem, ledger: Ledger) -> None:
    for block in problem.graph.spec.blocks:
        ffn = block.ffn
        if isinstance(ffn, MoeFfn):
            touched = expected_experts(ffn.n_experts, ffn.n_active, problem.workload.n_sequences)
            inputs = {"N": ffn.n_experts, "k": ffn.n_active, "T": problem.workload.n_sequences}
            ledger.note(
                f"experts touched per layer ({block.name})", touched, "experts", "N (1 - (1 - k/N)^T)", inputs
            )


def explain_load(graph: ModelGraph, hardware: HardwareSpec, load_s: float, ledger: Ledger) -> None:
    """Time to read the weights from storage."""
    storage = hardware.host.storage
    source = storage.sources[0] if storage.sources else DERIVED
    inputs = {"bytes": graph.weights_bytes, "storage_bytes_per_s": storage.read_bytes_per_s}
    ledger.note("load time", load_s, "s", "weights / storage bandwidth", inputs, source)
