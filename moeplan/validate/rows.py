"""From a row of a speed corpus to the question moeplan would have been asked."""

from __future__ import annotations

import re

from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import MoeplanError
from moeplan.readers.corpus import SpeedRow

# Measured prompts and answers of rows that do not state them, as llama-bench's defaults (pp512, tg128).
_PROMPT_TOKENS, _GEN_TOKENS = 512, 128


_BASES = ("theoretical", "measured", "stated")


class Unpredictable(MoeplanError):
    """A row whose setup is not stated well enough, or not modelled; it is listed as skipped."""


def request_of(row: SpeedRow, cpu: str) -> EstimateRequest:
    """The request whose speed the row measured, on the processor ``cpu``. Raises Unpredictable."""
    _check(row, cpu)
    decode = row.phase == "decode" and not row.whole_request
    prompt = 1 if decode else row.prompt_tokens or _PROMPT_TOKENS
    output = (row.gen_tokens or _GEN_TOKENS) if row.phase != "prefill" else 1
    if row.tp is not None and row.n_gpus > row.tp:
        raise Unpredictable(f"{row.n_gpus} GPUs with tensor parallelism over {row.tp}")
    split: dict[str, int | str | None] = {"gpu_layers": None, "cpu_moe": None, "placement": row.placement}
    whole_layers = row.placement == "tensor-parallel" and row.engine.casefold().startswith("hf transformers")
    if whole_layers:
        split["placement"] = "layer-split"  # its device map puts whole layers on each GPU
    if row.placement == "stream":  # unified memory: these layers are on the GPU, fit or not
        split["gpu_layers"] = row.gpu_layers
    if row.placement in ("layers", "mixed", "experts"):
        split = {"gpu_layers": row.gpu_layers, "cpu_moe": row.cpu_moe, "placement": None}
        if row.placement == "experts" and row.cpu_moe is None:
            split["cpu_moe"] = "all"
    machine = MachineFlags(
        gpu=row.gpu or None,
        n_gpus=row.n_gpus if row.gpu and "+" not in row.gpu and row.n_gpus > 1 else None,
        cpu=cpu or None,
        ram_gbs=row.ram_gbps if row.placement != "unified" else None,
        ram_basis=row.ram_basis if row.ram_basis in _BASES else "stated",  # type: ignore[arg-type]
        pcie=_pcie(row.pcie, cpu),
    )
    return EstimateRequest(
        model=row.model,
        machine=machine,
        quant=quant_of(row),
        engine=row.engine,
        tensor_parallel=None if whole_layers else row.tp,
        prompt_tokens=prompt,
        output_tokens=output,
        batch=row.batch,
        kv_type=row.kv_type or None,
        ubatch=row.ubatch,
        flash_attention=row.flash_attn,
        threads=row.threads,
        depth_tokens=row.depth_tokens,
        context=row.depth_tokens + prompt + output,
        **split,  # type: ignore[arg-type]
    )


def _check(row: SpeedRow, cpu: str) -> None:
    """Raise Unpredictable for what no default may stand in for."""
    if row.phase not in ("decode", "prefill", "request"):
        raise Unpredictable(f"phase {row.phase!r}")
    if not row.model:
        raise Unpredictable("no model given")
    if row.value <= 0:
        raise Unpredictable(f"{row.metric}: no value above zero was measured")
    if row.power_limit_w is not None and row.power_limit_w <= 0:
        raise Unpredictable(f"power_limit_w: {row.power_limit_w:g} W is no limit")
    if row.placement == "layers" and row.gpu_layers is None:
        raise Unpredictable("placement layers without the number of layers on the GPU")
    if row.placement == "mixed" and row.gpu_layers is None and row.cpu_moe is None:
        raise Unpredictable("placement mixed without layers on the GPU or experts on the CPU")
    if row.placement in ("layer-split", "tensor-parallel") and row.n_gpus < 2 and "+" not in row.gpu:
        raise Unpredictable(f"placement {row.placement} without the number of GPUs")
    if not row.gpu and not cpu:
        raise Unpredictable(f"no known GPU or CPU ({row.cpu_raw or 'none stated'})")


# Of lanes that are stated without their generation: the Pi 5 has one, run as PCIe 3.0 for GPUs
# (jeffgeerling.com, "Big GPUs don't need big PCs", December 2025).
_LANES_OF = {("raspberry-pi-5", "x1"): "gen3x1"}


def _pcie(text: str, cpu: str) -> str | None:
    """``gen4x16`` from "gen4" or "gen4 x16"; of several ("x16/x4/x1") the first GPU's, which copies go to.

    One that names neither generation nor several links is the host's.
    """
    if (cpu, text) in _LANES_OF:
        return _LANES_OF[cpu, text]
    first, *others = text.split("/")
    if others and re.fullmatch(r"x\d+", first):
        return first
    found = re.fullmatch(r"(gen\d) ?(x\d+)?", first)
    return f"{found[1]}{found[2] or 'x16'}" if found else None


def quant_of(row: SpeedRow) -> str:
    """The quantisation id; of a private mix the type of most weights, which the file's size then scales."""
    if not row.quant.startswith("mix-"):
        return row.quant
    if row.file_gib is None:
        raise Unpredictable(f"{row.quant}: a private mix of types without the size of its file")
    return row.quant.removeprefix("mix-").split("-")[0]


def about(row: SpeedRow) -> str:
    """The setup in a few words: what was run on what."""
    many = f"{row.n_gpus}x " if row.n_gpus > 1 and "+" not in row.gpu else ""
    machine = f"{many}{row.gpu}" if row.gpu else row.cpu or row.cpu_raw
    batch = f", batch {row.batch}" if row.batch > 1 else ""
    return f"{row.model} {row.quant}, {row.engine}, {machine}{batch}"


def regime_of(row: SpeedRow) -> str:
    """``phase/placement/arch_class``, or ``metric/concurrency/arch_class`` of a serving row."""
    if row.metric == "tokens_per_s":
        return f"{row.phase}/{row.placement}/{row.arch_class}"
    band = next((f"<={limit}" for limit in _BANDS if row.batch <= limit), f">{_BANDS[-1]}")
    return f"{row.metric}/{band}/{row.arch_class}"


_BANDS = (1, 16, 64)
