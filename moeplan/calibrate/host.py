"""From what `moeplan profile` measured to coefficients.

Pure: samples in, coefficients out. An engine that was run gives its own rates; one that was not is
predicted from the machine's bandwidth and fp32 rate and what its kernels reach of them elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from moeplan.calibrate.engine_runs import from_engine
from moeplan.calibrate.engine_work import attention_of, last_ffn_of
from moeplan.calibrate.reference import fit_reference
from moeplan.domain.graph import ModelGraph
from moeplan.domain.model import MoeFfn
from moeplan.domain.profile import HostCoefficient, Sample


class Kernels(NamedTuple):
    """What an engine's CPU kernels reach, as shares of one thread's fp32 matrix product rate.

    ``rates[what][type]`` with what of decode, prefill, experts-decode, experts-prefill: FLOP/s per
    FLOP/s of the product, beyond the time of reading the weights. The fixed parts of a decode step are
    given in FLOP, so that a faster core does them faster.
    """

    engine: str
    rates: Mapping[str, Mapping[str, float]]
    layer_flop: float
    moe_layer_flop: float
    """On top of ``layer_flop`` where a layer routes."""
    vocab_flop: float
    """Per entry of the vocabulary, once a step: sampling."""
    source: str


# ── samples -> coefficients ─────────────────────────────────────────────────────────────────────


_ENOUGH_FOR_QUANTILES = 10


def derive(samples: Sequence[Sample], kernels: Iterable[Kernels] = ()) -> dict[str, HostCoefficient]:
    """Every coefficient that ``samples`` support, by name; engines not measured come from ``kernels``."""
    found: dict[str, HostCoefficient] = {}
    for sample in samples:
        threads = sample.setup.get("threads", 0)
        where = f"t{threads}" if threads else str(sample.setup.get("device", ""))
        if sample.name == "read bandwidth":  # measured twice: other programs may have used the memory
            pages = "large-pages." if sample.setup.get("pages") == "large" else ""
            mine, name = _usually(_coefficient(sample), sample), f"read.{where}.{pages}bytes_per_s"
            found[name] = max(mine, found.get(name, mine), key=lambda c: c.value)
        elif sample.name == "node read bandwidth":
            name = f"read.node{sample.setup['node']}.memory{sample.setup['memory']}.bytes_per_s"
            found[name] = _coefficient(sample)
        elif sample.name == "copy" and "way" in sample.setup:
            name = f"copy.{sample.setup['way']}.{sample.setup['memory']}.bytes_per_s".replace(" ", "-")
            found[name.replace(",", "")] = _coefficient(sample)
        elif sample.name == "storage read":
            found[f"storage.{sample.setup['order']}.bytes_per_s"] = _coefficient(sample)
        elif sample.name in ("launch latency", "launch and sync latency"):
            found[f"{sample.name.replace(' ', '-')}.{where}.s"] = _coefficient(sample)
    for dtype in ("float32", "bfloat16", "float16"):
        _best_of(found, samples, "matrix product", dtype, f"product.{dtype}", "flop_per_s")
        _best_of(found, samples, "matrix times row", dtype, f"row.{dtype}", "bytes_per_s")
    for table in kernels:
        found |= _from_kernels(table, found)
    found |= from_engine(samples, found)
    found |= _from_reference(samples)
    return found


def _usually(rate: HostCoefficient, sample: Sample) -> HostCoefficient:
    """``rate`` as memory mostly gives it, of one measured in a quick moment, which stays in the range."""
    if sample.pace == 1.0:
        return rate
    note = f"memory was {sample.pace - 1.0:.0%} quicker meanwhile than in most moments"
    return replace(rate, value=rate.value / sample.pace, low=rate.low / sample.pace, note=note)


def _coefficient(sample: Sample, note: str = "") -> HostCoefficient:
    """The median; where repeats were disturbed the best tenth of them, which the machine did reach."""
    is_rate = sample.unit.endswith("/s")
    disturbed = sample.high if is_rate else sample.low
    if sample.n < _ENOUGH_FOR_QUANTILES:
        disturbed = sample.best
    value = sample.median if sample.stable else disturbed
    low, high = (sample.low, max(sample.high, value)) if is_rate else (min(sample.low, value), sample.high)
    note = note or ("" if sample.stable else "not steady: the best tenth of the repeats")
    return HostCoefficient(value=value, low=low, high=high, unit=sample.unit, n=sample.n, note=note)


def _best_of(
    found: dict[str, HostCoefficient],
    samples: Sequence[Sample],
    name: str,
    dtype: str,
    prefix: str,
    unit: str,
) -> None:
    """Of several sizes the quickest, by number of threads."""
    for sample in samples:
        if sample.name == name and sample.setup.get("dtype") == dtype:
            threads = sample.setup.get("threads", 0)
            where = f"t{threads}" if threads else str(sample.setup.get("device"))
            key = f"{prefix}.{where}.{unit}"
            mine = _coefficient(sample)
            if key not in found or mine.value > found[key].value:
                found[key] = mine


def _from_kernels(table: Kernels, found: Mapping[str, HostCoefficient]) -> dict[str, HostCoefficient]:
    """An engine's rates on this machine from its kernels' shares of the fp32 product rate."""
    base = _per_thread(found)
    if base is None:
        return {}
    made: dict[str, HostCoefficient] = {}

    def put(name: str, factor: float, unit: str, *, over: bool = False) -> None:
        ends = sorted(factor / x if over else factor * x for x in (base.low, base.high, base.value))
        value = factor / base.value if over else factor * base.value
        made[f"{table.engine}.{name}"] = HostCoefficient(
            value=value, low=ends[0], high=ends[-1], unit=unit, n=base.n, note=table.source
        )

    for what, rates in table.rates.items():
        for qtype, share in rates.items():
            put(f"{qtype}.{what}.flop_per_s", share, "FLOP/s")
    put("layer.s", table.layer_flop, "s", over=True)
    put("moe-layer.s", table.moe_layer_flop, "s", over=True)
    put("vocab.s", table.vocab_flop, "s", over=True)
    return made


def _from_reference(samples: Sequence[Sample]) -> dict[str, HostCoefficient]:
    """What the torch decoder takes: by element of a matrix and rows, by layer, expert, value, cached byte."""
    law = fit_reference(samples)
    if law is None:
        return {}
    values = {f"element.rows{n}.s": t for n, t in sorted(law.s_per_element.items())}
    names = {
        "layer.s": law.s_per_layer, "expert.s": law.s_per_expert,
        "expert-of-many.s": law.s_per_expert_of_many, "value.s": law.s_per_value,
        "cache-byte.s": law.s_per_cache_byte, "attention-flop.s": law.s_per_attention_flop,
    }  # fmt: skip
    n = sum(s.name.startswith("reference ") for s in samples)
    return {
        f"torch.{name}": HostCoefficient(
            value=value, low=value, high=value, unit="s", n=n, note="forward passes of the reference decoder"
        )
        for name, value in (values | names).items()
    }


def _per_thread(found: Mapping[str, HostCoefficient]) -> HostCoefficient | None:
    """The fp32 product rate of one thread: alone, or its share of all (a busy sibling slows one alone)."""
    best = None
    for name, c in found.items():
        if name.startswith("product.float32.t"):
            n = int(name.split(".")[2][1:])
            share = replace(c, value=c.value / n, low=c.low / n, high=c.high / n)
            best = share if best is None or share.value > best.value else best
    return best


def work_facts(name: str, graph: ModelGraph) -> dict[str, str | int | float]:
    """What decides an engine's time on a file, as a sample's setup holds it."""
    ffn = next((b.ffn for b in graph.spec.blocks if isinstance(b.ffn, MoeFfn)), None)
    dense = sum(w.dense_bytes for w in graph.layers)
    attention, last = attention_of(graph), last_ffn_of(graph)
    return {
        "model": name,
        "quant": main_type(graph),
        "layers": len(graph.layers),
        "moe_layers": sum(1 for w in graph.layers if w.expert_elements),
        "dense_bytes": dense,
        "dense_elements": sum(w.dense_elements for w in graph.layers),
        "expert_bytes": sum(w.expert_bytes for w in graph.layers),
        "expert_elements": sum(w.expert_elements for w in graph.layers),
        "experts": ffn.n_experts if ffn else 0,
        "active": ffn.n_active if ffn else 0,
        "vocab": graph.spec.vocab_size,
        "head_bytes": graph.head_bytes,
        "head_elements": graph.head_elements,
        "last_dense_elements": last.dense_elements,
        "last_expert_elements": last.expert_elements,
        "heads": attention.heads,
        "decode_heads": attention.decode_heads,
    }


def main_type(graph: ModelGraph) -> str:
    """The type that most bytes of the layers are in."""
    totals: dict[str, int] = {}
    for weights in graph.layers:
        for qtype, n_bytes in weights.bytes_by_qtype:
            totals[qtype] = totals.get(qtype, 0) + n_bytes
    return max(totals, key=lambda qtype: totals[qtype], default=graph.quant)
