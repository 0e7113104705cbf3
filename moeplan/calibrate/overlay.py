"""What was measured on this machine in place of what holds for machines like it: names of the cost law."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from moeplan.calibrate.engine_runs import FIXED, HEAD, PROMPT_HEAD, RATES
from moeplan.calibrate.engine_work import ROW_HEADS, Attention, Parts
from moeplan.calibrate.steadiness import unsteady_log, widened
from moeplan.cost.rates import Rates
from moeplan.domain.calibration import Calibration, Coefficient
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.profile import HostCalibration, HostCoefficient
from moeplan.provenance import Source


def measured_machine(hardware: HardwareSpec, host: HostCalibration) -> HardwareSpec:
    """``hardware`` with the bandwidths that were measured on it, in place of those of the catalog."""
    read = _widest_read(host)
    storage = host.coefficients.get("storage.sequential.bytes_per_s")
    machine = hardware.host
    if read is not None:
        machine = replace(machine, ram_bytes_per_s=read.value, ram_basis="measured")
    if storage is not None:
        scattered = host.coefficients.get("storage.random.bytes_per_s")
        disk = replace(
            machine.storage,
            id="measured",
            name="disk of this machine",
            read_bytes_per_s=storage.value,
            random_read_bytes_per_s=scattered.value if scattered else None,
            sources=(_source(host, storage),),
        )
        machine = replace(machine, storage=disk)
    return replace(hardware, host=machine)


def _widest_read(host: HostCalibration) -> HostCoefficient | None:
    counts = [n for n in range(1, 1025) if f"read.t{n}.bytes_per_s" in host.coefficients]
    return host.coefficients[f"read.t{counts[-1]}.bytes_per_s"] if counts else None


class Target(NamedTuple):
    """What is predicted: coefficients differ by each of these."""

    engine: str
    quant: str
    """Type that most of the weights are in."""
    threads: int
    has_gpu: bool
    vocab: int
    law: tuple[Rates, ...]
    """Of the CPU in each phase: the names that the law multiplies."""
    attention: Attention | None = None
    prompt_frac: Parts = Parts(1.0, 1.0)
    """Of the work that the law counts for a prompt, what the engine does."""
    clock_frac: float = 1.0
    """What the law multiplies the rate of a core by."""


def overlay(calibration: Calibration, host: HostCalibration, target: Target) -> Calibration:
    """``calibration`` with what was measured on this machine in place of what holds for machines like it.

    What was not measured keeps its shipped value. With a GPU only the CPU's own names change. Ranges are
    wider where the machine's own speed moved while it was measured.
    """
    draft = _Draft(calibration, host, target)
    draft.set_bandwidth()
    draft.set_rates()
    draft.set_attention()
    draft.set_fixed()
    if not draft.put:
        return calibration
    unsteady = unsteady_log(host.samples, target.threads)
    return replace(
        calibration,
        id=f"{calibration.id} + this machine",
        coefficients=draft.coefficients,
        residuals=widened(calibration.residuals, unsteady) if unsteady else calibration.residuals,
    )


class _Draft:
    """Coefficients while they are being replaced."""

    def __init__(self, calibration: Calibration, host: HostCalibration, target: Target) -> None:
        self.coefficients = dict(calibration.coefficients)
        self.host, self.target = host, target
        self.put: set[str] = set()

    def set_bandwidth(self) -> None:
        """Of the threads in use, relative to all (what ``measured_machine`` states)."""
        widest = _widest_read(self.host)
        read = self._run("read.bytes_per_s")
        read = read or self.host.coefficients.get(f"read.t{self.target.threads}.bytes_per_s")
        if read is not None and widest is not None:
            self._put(
                "local.ram.bandwidth",
                replace(read, unit="1"),
                read.value / widest.value,
            )
            self._neutralise(name for rates in self.target.law for name in rates.weights[0])

    def set_rates(self) -> None:
        """Decode and experts relative to prefill, which is the base rate of the law's CPU."""
        rates = {what: self._own(f"{self.target.quant}.{what}.flop_per_s") for what in RATES}
        base, decode = self._base(), rates["decode"]
        if base is None or decode is None:
            return
        # one name for each instruction set that the law has for prompts, single rows and attention
        for name in sorted({n[1][0] for law in self.target.law for n in (law.weights, law.cache)}):
            self._put(name, base, base.value / self.target.clock_frac)
        self._put("host.decode.compute", replace(decode, unit="1"), decode.value / base.value)
        passed = self.target.prompt_frac.expert_elements if self._was_run() else 1.0
        for phase, dense, share in (("decode", decode.value, 1.0), ("prefill", base.value, passed)):
            experts = rates[f"experts-{phase}"]
            if experts is not None:
                self._put(
                    f"host.experts.{phase}.compute",
                    replace(experts, unit="1"),
                    experts.value / share / dense,
                )
        # with no rate of experts, what the law has for them beside the dense matrices still holds
        routed = any(rates[f"experts-{phase}"] for phase in ("decode", "prefill"))
        for law in self.target.law:
            self._neutralise((law.experts if routed else law.weights)[1])
        # measured in the type that most weights have, for one row and for several: holds for the others too
        by_type = ("cpu_compute", "cpu_row_compute")
        self._neutralise(n for n in self.coefficients if n.startswith("local.quant") and n.endswith(by_type))

    def set_attention(self) -> None:
        """Heads and rows of the cache, as the FLOPs and bytes that the law counts for this model's."""
        model, base = self.target.attention, self._base()
        head, read = self._run(HEAD), self._run("read.bytes_per_s")
        if model is None or not model.heads or base is None or head is None or not head.value:
            return
        if "host.decode.compute" not in self.put:  # then the rate of a core is the shipped one
            return
        core = base.value * self.target.threads
        engine = f"local.engine.{self.target.engine}.cpu_attention_compute"
        known = (self.coefficients.get(name) for name in ("local.cpu.attention.compute", engine))
        shipped = math.prod(c.value for c in known if c is not None)
        decode = model.decode_flop / (model.heads * head.value) / core
        self._put("local.cpu.attention.compute", replace(head, unit="1"), decode)
        prompt = self._run(PROMPT_HEAD)
        rate = model.prompt_flop / (model.heads * prompt.value) / core if prompt else shipped
        self._put("host.attention.prefill.compute", replace(prompt or head, unit="1"), rate / decode)
        if read is not None:
            rate = model.cache_bytes / (model.rows * ROW_HEADS * head.value)
            self._put("local.ram.cache.bandwidth", replace(head, unit="1"), rate / read.value)
        self._neutralise([engine])

    def set_fixed(self) -> None:
        """What a step takes beside its weights; the law's factor for MoE applies to half a layer."""
        layer, moe, entry = (self._fixed(name) for name in FIXED)
        if layer is None or not layer.value:
            return
        self._put("local.cpu.layer_s", layer, layer.value)
        self._neutralise(name for rates in self.target.law for name in rates.fixed)
        if self.target.has_gpu:
            return
        # of a step and of a layer that routes, wherever they run: `cost.law` has these beside the tier's own
        run = f"local.engine.{self.target.engine}"
        dated = [n for n in self.coefficients if n.startswith(f"{run}.") and n.endswith(".step_time")]
        self._neutralise((f"{run}.layer_time", f"{run}.moe.layer_time", *dated))
        if moe is not None:
            self._put("local.moe.layer_time", replace(moe, unit="1"), 1.0 + 2.0 * moe.value / layer.value)
        if entry is not None:
            self._put("local.step_s", entry, entry.value * self.target.vocab)

    def _base(self) -> HostCoefficient | None:
        """Dense matrices of a prompt: the law counts all of them, the engine passes through a part."""
        base = self._own(f"{self.target.quant}.prefill.flop_per_s")
        if base is None or not self._was_run():
            return base
        share = self.target.prompt_frac.dense_elements
        return replace(base, value=base.value / share, low=base.low / share, high=base.high / share)

    def _was_run(self) -> bool:
        return self._run(f"{self.target.quant}.prefill.flop_per_s") is not None

    def _own(self, name: str) -> HostCoefficient | None:
        """Of the engine with as many threads, or as near as was run; else what holds for any number."""
        return self._run(name) or self.host.coefficients.get(f"{self.target.engine}.{name}")

    def _run(self, name: str) -> HostCoefficient | None:
        known = {}
        for key, c in self.host.coefficients.items():
            head, _, rest = key.removeprefix(f"{self.target.engine}.").partition(".")
            if key.startswith(f"{self.target.engine}.t") and rest == name and head[1:].isdigit():
                known[int(head[1:])] = c
        if not known:
            return None
        return known[min(known, key=lambda n: abs(math.log(n / self.target.threads)))]

    def _fixed(self, name: str) -> HostCoefficient | None:
        """Seconds of a step: measured with these threads, or spread over them."""
        run = self._run(name)
        spread = self.host.coefficients.get(f"{self.target.engine}.{name}")
        if run is not None or spread is None:
            return run
        n = self.target.threads
        return replace(spread, value=spread.value / n, low=spread.low / n, high=spread.high / n)

    def _put(self, name: str, c: HostCoefficient, value: float) -> None:
        self.coefficients[name] = Coefficient(
            value=value, unit=c.unit, source=_source(self.host, c), n_setups=c.n
        )
        self.put.add(name)

    def _neutralise(self, names: Iterable[str]) -> None:
        """One, beside the names that were set: what is measured is the whole rate."""
        part = Source(
            "measured",
            f"moeplan profile on this machine, {self.host.date}",
            self.host.date[:10],
            "in the rate measured",
        )
        for name in set(names) - self.put:
            if name in self.coefficients:
                self.coefficients[name] = replace(self.coefficients[name], value=1.0, source=part)


def _source(host: HostCalibration, c: HostCoefficient) -> Source:
    return Source("measured", f"moeplan profile on this machine, {host.date}", host.date[:10], c.note)
