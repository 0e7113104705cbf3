"""What the scripts of a published sweep say of its rows and the rows themselves do not.

InferenceX (SemiAnalysisAI/InferenceX, formerly InferenceMAX), read from its history on 2026-11-30:
``benchmarks/*.sh`` for launches, ``utils/process_result.py`` for what a result records,
``utils/bench_serving/benchmark_serving.py`` for the load.
"""

from __future__ import annotations

from typing import NamedTuple

_SWEEP = "inferencex"

# Every run asks for --random-range-ratio 0.8: lengths are drawn evenly from 0.8 of the nominal one to all of
# it (sample_random_requests), so that their mean is nine tenths.
_MEAN_FRAC = 0.9

# aiconfigurator's own sweeps: genai-perf with a standard deviation of 0 for prompts and answers and the end
# token ignored (src/aiconfigurator/eval/benchmarks/genai_perf_runner.py, read 2026-11-30).
_EQUAL_LENGTHS = frozenset({"aic-gap-analysis"})


_QWEN_PAGES = "qwen-docs"


class _Launch(NamedTuple):
    """Launches of one kind, while they were so. Empty fields fit any row."""

    engine: str
    gpu: str
    """What the GPU's slug begins with."""
    model: str
    precision: str
    since: str = ""
    until: str = "9999"
    """The first date, YYYY-MM-DD, on which it was otherwise."""

    def fits(self, engine: str, gpu: str, model: str, precision: str, date: str) -> bool:
        """Whether a row is of such a launch."""
        return (
            self.engine == engine
            and gpu.startswith(self.gpu)
            and model.startswith(self.model)
            and precision.startswith(self.precision)
            and self.since <= date < self.until
        )


# Results record the expert-parallel degree since 2025-11-04 (pull request 145); before, these launches set it
# to the number of GPUs, from so many sequences on. SGLang's --enable-ep-moe did the same unrecorded until
# 2025-11-11 (pull request 204).
_EXPERT_PARALLEL = (
    (_Launch("TensorRT-LLM", "h200", "deepseek", "fp8", until="2025-11-04"), 1),
    (_Launch("TensorRT-LLM", "b200", "deepseek", "fp8", until="2025-11-04"), 1),
    (_Launch("TensorRT-LLM", "h200", "gpt-oss", "", until="2025-11-04"), 1),
    (_Launch("TensorRT-LLM", "b200", "deepseek", "fp4", until="2025-11-04"), 33),
    (_Launch("SGLang", "b200", "deepseek", "fp4", until="2025-11-11"), 1),
)
# One of them did so earlier where 8 GPUs had prompts of 1,024 tokens: nominal answer -> sequences.
_EARLIER = {1024: 9, 8192: 17}
# Launches with an FP8 cache; others leave its type to the engine, which takes that of the model.
_FP8_CACHE = (
    _Launch("TensorRT-LLM", "", "deepseek", ""),
    _Launch("TensorRT-LLM", "", "llama-3.1-70b", ""),
    _Launch("TensorRT-LLM", "b200", "gpt-oss", ""),
    _Launch("vLLM", "b200", "gpt-oss", "", since="2025-12-05"),
    _Launch("SGLang", "b200", "deepseek", ""),
    _Launch("SGLang", "b200", "qwen3.5", "fp8"),
    _Launch("SGLang", "b200", "qwen3.5", "fp4"),
)
# (launch, (GPUs of tensor, of expert parallelism), sequences from, up to, longest nominal prompt): layouts
# that the sweep's list of configurations (.github/configs/nvidia-master.yaml) had with spec-decoding alone
# while the rows were made. All other rows graded A or B were found there without it.
_SPECULATIVE = (
    (_Launch("SGLang", "b200", "qwen3.5", "fp8", "2026-03-20", "2026-04-30"), (4, 1), 4, 256, 8192),
    (_Launch("TensorRT-LLM", "b200", "deepseek", "fp4", "2026-01-14", "2026-02-06"), (4, 4), 16, 16, 1024),
)


# Qwen's page of 2025 has an environment of its own for AWQ, that of AutoAWQ 0.2.9
# (docs/source/getting_started/speed_benchmark.md), and its memory grows by 512 bytes a token and layer more
# than in bf16: 64 complex numbers, the table of rotations in each of AutoAWQ's fused layers. That of 2024
# (AutoAWQ 0.2.6 within transformers) grows by the cache alone.
_FUSED_AWQ = _Launch("HF transformers", "h20", "qwen3", "int4-awq", since="2025-05")


def launched_engine(source_family: str, launch: tuple[str, str, str, str, str]) -> str:
    """The engine of a row, with what its page says of how that was run.

    ``launch``: (engine, GPU, model, precision, date).
    """
    fused = source_family == _QWEN_PAGES and _FUSED_AWQ.fits(*launch)
    return f"{launch[0]} (AutoAWQ)" if fused else launch[0]


def mean_tokens(source_family: str, nominal: int) -> int:
    """Mean length of prompts or answers that a row calls ``nominal`` tokens."""
    return round(_MEAN_FRAC * nominal) if source_family == _SWEEP else nominal


def lengths_are_equal(source_family: str) -> bool:
    """Whether all prompts, and all answers, of a sweep's load had one length."""
    return source_family in _EQUAL_LENGTHS


def unrecorded_ranks(
    source_family: str,
    launch: tuple[str, str, str, str, str],
    n_gpus: int,
    concurrency: int,
    nominal: tuple[int, int],
) -> bool:
    """Whether experts were spread over all GPUs though the result does not say so.

    ``launch``: (engine, GPU, model, precision, date). ``nominal``: (prompt, answer) tokens as in the row.
    """
    if source_family != _SWEEP:
        return False
    for kind, least in _EXPERT_PARALLEL:
        earlier = least > 1 and n_gpus == 8 and nominal[0] == 1024
        if kind.fits(*launch) and concurrency >= (_EARLIER.get(nominal[1], least) if earlier else least):
            return True
    return False


def cache_type(source_family: str, launch: tuple[str, str, str, str, str]) -> str:
    """The KV cache type of the launch, "" where it is the engine's own choice."""
    return "fp8" if source_family == _SWEEP and any(kind.fits(*launch) for kind in _FP8_CACHE) else ""


def is_speculative(
    source_family: str,
    launch: tuple[str, str, str, str, str],
    ranks: tuple[int, int],
    concurrency: int,
    nominal_prompt: int,
) -> bool:
    """Whether a step yields drafted tokens too, though the row does not say so.

    ``ranks``: GPUs of (tensor, expert) parallelism.
    """
    return source_family == _SWEEP and any(
        kind.fits(*launch) and ranks == layout and least <= concurrency <= most and nominal_prompt <= longest
        for kind, layout, least, most, longest in _SPECULATIVE
    )
