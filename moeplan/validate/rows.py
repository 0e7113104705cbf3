"""From a row of a speed corpus to the question moeplan would have been asked."""

from __future__ import annotations

from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import MoeplanError
from moeplan.readers.corpus import SpeedRow

# Measured prompts and answers of rows that do not state them, as llama-bench's defaults (pp512, tg128).
_PROMPT_TOKENS, _GEN_TOKENS = 512, 128


class Unpredictable(MoeplanError):
    """A row whose setup is not stated well enough, or not modelled; it is listed as skipped."""


def request_of(row: SpeedRow) -> EstimateRequest:
    """The request whose decode or prefill speed the row measured. Raises Unpredictable."""
    if row.phase not in ("decode", "prefill"):
        raise Unpredictable(f"phase {row.phase!r}")
    if row.placement in ("layers", "mixed") and row.gpu_layers is None:
        raise Unpredictable(f"placement {row.placement} without the number of layers on the GPU")
    if not row.gpu and not row.cpu:
        raise Unpredictable("neither GPU nor CPU is stated")
    decode = row.phase == "decode"
    prompt = 1 if decode else row.prompt_tokens or _PROMPT_TOKENS
    output = (row.gen_tokens or _GEN_TOKENS) if decode else 1
    if row.tp is not None and row.n_gpus > row.tp:
        raise Unpredictable(f"{row.n_gpus} GPUs with tensor parallelism over {row.tp}")
    split: dict[str, int | str | None] = {"gpu_layers": None, "cpu_moe": None, "placement": row.placement}
    if row.placement in ("layers", "mixed", "experts"):
        split = {"gpu_layers": row.gpu_layers, "cpu_moe": row.cpu_moe, "placement": None}
        if row.placement == "experts" and row.cpu_moe is None:
            split["cpu_moe"] = "all"
    machine = MachineFlags(
        gpu=row.gpu or None,
        n_gpus=row.n_gpus if row.gpu and "+" not in row.gpu and row.n_gpus > 1 else None,
        cpu=row.cpu or None,
        ram_gbs=row.ram_gbps,
        pcie=row.pcie if row.pcie.startswith("gen") and " " not in row.pcie and "x" in row.pcie else None,
    )
    return EstimateRequest(
        model=row.model,
        machine=machine,
        quant=row.quant,
        engine=row.engine,
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


def regime_of(row: SpeedRow) -> str:
    """``phase/placement/arch_class``, the key of summaries."""
    return f"{row.phase}/{row.placement}/{row.arch_class}"
