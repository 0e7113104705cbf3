"""Terms of the explanation that are not part of a sum of memory or time: sizes, work, rates, ranges."""

from __future__ import annotations

from typing import NamedTuple

from moeplan.cost.coverage import expected_experts
from moeplan.domain.calibration import Residuals
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import MoeFfn
from moeplan.domain.result import DeviceMemory, MemoryReport, PhaseTime, Range
from moeplan.domain.workload import Placement
from moeplan.predict.interval import quantile
from moeplan.predict.problem import Problem
from moeplan.provenance import DERIVED, Ledger, NullLedger, Source, Term


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
    padding = {"padding by the engine": graph.padding_bytes} if graph.padding_bytes else {}
    ledger.close(f"weights in {graph.quant}", graph.weights_bytes, "B", inputs=padding, source=origin)


_ORIGINS = {
    "file": "the file's own tensor table",
    "rules": "type rules of the quantisation (configs/quants.yaml)",
}


def explain_machine(problem: Problem, ledger: Ledger) -> None:
    """Sizes and rates of the machine, with where each was read."""
    if isinstance(ledger, NullLedger):
        return
    hardware, host = problem.hardware, problem.hardware.host
    for gpu in {gpu.id: gpu for gpu in hardware.gpus}.values():
        origin = gpu.sources[0] if gpu.sources else DERIVED
        ledger.note(f"memory of a {gpu.name}", gpu.memory_bytes, "B", "nominal size", {}, origin)
        ledger.note(f"bandwidth of a {gpu.name}", gpu.bandwidth_bytes_per_s, "B/s", "", {}, origin)
    if hardware.unified:
        return
    said = Source("assumed" if host.ram_basis == "assumed" else "derived", _RAM_ORIGIN)
    data_sheet = host.ram_basis == "theoretical" and host.cpu.sources
    origin = host.cpu.sources[0] if data_sheet else said
    ledger.note("installed RAM", host.ram_bytes, "B", "", {}, said)
    ledger.note("RAM bandwidth", host.ram_bytes_per_s, "B/s", f"{host.ram_basis} rate", {}, origin)


def explain_request(problem: Problem, placement: Placement, ledger: Ledger) -> None:
    """What was asked or assumed, and the placement: counts that no formula makes."""
    if isinstance(ledger, NullLedger):
        return
    spec, work = problem.graph.spec, problem.workload
    origin = spec.sources[0] if spec.sources else DERIVED
    ledger.note("layers", spec.n_layers, "layers", "", {}, origin)
    for block in spec.blocks:
        ffn = block.ffn
        if isinstance(ffn, MoeFfn):
            counts = {"active per token": ffn.n_active, "shared": ffn.n_shared}
            ledger.note(f"experts of a layer ({block.name})", ffn.n_experts, "experts", "", counts, origin)
    asked = "as asked, else the default listed under assumed"
    ledger.note("context", work.context_tokens, "tokens", asked, {}, _REQUEST)
    ledger.note("prompt", work.prompt_tokens, "tokens", asked, {}, _REQUEST)
    ledger.note("output", work.output_tokens, "tokens", asked, {}, _REQUEST)
    ledger.note("sequences", work.n_sequences, "", asked, {}, _REQUEST)
    tiers = list(zip(placement.dense_tiers, placement.expert_tiers, strict=True))
    on_gpu = [expert.startswith("gpu") for dense, expert in tiers if dense.startswith("gpu")]
    how = "as asked, else all in VRAM, else the fastest to decode of the deepest splits that fit"
    away = {"of them with experts in RAM": on_gpu.count(False)}
    ledger.note("layers on GPUs", len(on_gpu), "layers", how, away, _REQUEST)


def explain_room(problem: Problem, memory: MemoryReport, ledger: Ledger) -> None:
    """Capacity and headroom of every device."""
    if isinstance(ledger, NullLedger):
        return
    for device in memory.devices:
        total, capacity = device.total_bytes, device.capacity_bytes
        formula, inputs = _capacity(problem, device)
        ledger.note(f"capacity of {device.device}", capacity, "B", formula, inputs)
        left: dict[str, object] = {"capacity": capacity, "total": total, "margin": device.margin_bytes}
        formula = "capacity - total - margin"
        if device.droppable_bytes:
            left["droppable"] = device.droppable_bytes
            formula = "capacity - (total - droppable pages of the mapped file) - margin"
        if capacity:
            left["total / capacity"] = total / capacity
        ledger.note(f"headroom of {device.device}", device.headroom_bytes, "B", formula, left)


def _capacity(problem: Problem, device: DeviceMemory) -> tuple[str, dict[str, object]]:
    hardware = problem.hardware
    if device.device == "disk":
        return "what is mapped", {}
    if device.device == "ram":
        installed, reserve = hardware.host.ram_bytes, hardware.reserve_ram_bytes
        kept = max(0, installed - reserve - device.capacity_bytes)
        inputs: dict[str, object] = {"installed": installed, "system": kept, "reserve": reserve}
        return "installed - what is kept for the system - the reserve asked for", inputs
    gpu, reserve = hardware.gpus[int(device.device[3:]) % len(hardware.gpus)], hardware.reserve_vram_bytes
    inputs = {"nominal": gpu.memory_bytes, "usable": gpu.usable_bytes, "reserve": reserve}
    if gpu.unified_memory:
        inputs["system"] = max(0, gpu.usable_bytes - reserve - device.capacity_bytes)
        return "usable - what is kept for the system - the reserve asked for", inputs
    inputs["share"] = problem.engine.memory_utilization_frac
    return "usable x the share the engine fills - the reserve asked for", inputs


_REQUEST = Source("derived", "the request, and the defaults of docs/cli.md")
_RAM_ORIGIN = "the machine's description, an option, or what is usual for it (then listed under assumed)"


class Spread(NamedTuple):
    """What the range around a time was made from."""

    regime: str
    residuals: Residuals
    stand_in: bool
    """Whether the regime itself has no measured setups, so that a wider one stands in."""
    level: float
    stretch: float
    floor_s: float
    guess_log: float = 0.0


def explain_speed(
    problem: Problem, phase: str, time: PhaseTime, span: Range, spread: Spread, ledger: Ledger
) -> None:
    """Work of ``phase`` (decode or prefill), its rate, and where the range around it comes from."""
    if isinstance(ledger, NullLedger):
        return
    work = problem.workload
    decode = phase == "decode"
    n = work.n_sequences * (1 if decode else work.prompt_tokens)
    per = "step" if decode else "prompt"
    sums = [t for t in ledger.terms if t.children and t.name.partition(" ")[0] == phase]
    flop, n_bytes = _parts(sums, "FLOP", time.flop), _parts(sums, "bytes", time.bytes_read)
    ledger.note(
        f"{phase} FLOPs per {per}", time.flop, "FLOP", "2 x elements x tokens + attention, by term", flop
    )
    if decode:
        ledger.note("decode FLOPs per token", time.flop / n, "FLOP", "FLOPs per step / sequences", {"n": n})
    ledger.note(
        f"{phase} bytes read per {per}",
        time.bytes_read,
        "B",
        "weights + touched experts + cache, by term",
        n_bytes,
    )
    if decode:
        _explain_experts(problem, ledger)
    _explain_range("decode step" if decode else "first token", time.seconds, span, spread, ledger)
    source = spread.residuals.source
    rates = {"tokens": n, "seconds": time.seconds, "low": n / span.high, "high": n / span.low}
    ledger.note(f"{phase} speed", n / time.seconds, "tokens/s", "tokens / seconds", rates, source)
    if decode and n > 1:
        one = {"seconds": time.seconds, "low": 1 / span.high, "high": 1 / span.low}
        ledger.note("decode speed per sequence", 1 / time.seconds, "tokens/s", "1 / seconds", one, source)


def _explain_range(name: str, seconds: float, span: Range, spread: Spread, ledger: Ledger) -> None:
    """The ends of a range. q: log(measured/predicted) in the regime at the tail of the level."""
    source, tail = spread.residuals.source, (1 - spread.level) / 2
    same: dict[str, object] = {
        "regime": spread.regime,
        "setups": spread.residuals.n_setups,
        "stretch": spread.stretch,
    }
    if spread.guess_log:
        same["guesses, joined as independent: log of a factor"] = spread.guess_log
    low: dict[str, object] = {
        "expected": seconds,
        f"q at {tail:.0%}": quantile(spread.residuals, tail),
        "floor: all at data-sheet rates": spread.floor_s,
    }
    high: dict[str, object] = {
        "expected": seconds,
        f"q at {1 - tail:.0%}": quantile(spread.residuals, 1 - tail),
    }
    what = ", q = log(measured/predicted)"
    ledger.note(
        f"{name}, low", span.low, "s", f"max(floor, expected x exp(q x stretch)){what}", low | same, source
    )
    ledger.note(f"{name}, high", span.high, "s", f"expected x exp(q x stretch){what}", high | same, source)


def _parts(sums: list[Term], key: str, total: float) -> dict[str, object]:
    """What each term of the last of ``sums`` adds to ``total``; nothing where they do not make it up."""
    # Terms without FLOPs are copies and collectives: they read nothing of the model a second time.
    terms = [t for t in sums[-1].children if t.inputs.get("FLOP")] if sums else []
    parts = {t.name: v for t in terms if isinstance(v := t.inputs.get(key), int | float) and v}
    return dict(parts) if parts and abs(sum(parts.values()) - total) <= 1e-6 * total else {}


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
    inputs = {"bytes": graph.file_bytes, "storage_bytes_per_s": storage.read_bytes_per_s}
    ledger.note("load time", load_s, "s", "weights / storage bandwidth", inputs, source)
