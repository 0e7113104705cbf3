"""Sizes of the work: defaults filled in, said aloud, and checked against each other."""

from __future__ import annotations

from moeplan.domain.model import ModelSpec
from moeplan.domain.request import EstimateRequest
from moeplan.domain.workload import Workload
from moeplan.engines.kv import kv_type
from moeplan.engines.traits import EngineTraits
from moeplan.errors import SpecError

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_PROMPT_TOKENS = 512
DEFAULT_OUTPUT_TOKENS = 128
# Far above the 768 threads of the largest machine in the catalog (two sockets of 192 cores).
MOST_THREADS = 4096


def build_workload(
    request: EstimateRequest, spec: ModelSpec, engine: EngineTraits, assumptions: list[str]
) -> Workload:
    """The workload of ``request``; defaults used are added to ``assumptions`` as one line.

    Raises SpecError naming the option whose value makes no sense.
    """
    defaults: list[str] = []

    def count(value: int | None, default: int, option: str, what: str) -> int:
        if value is None:
            defaults.append(f"{what} {default:,}")
            return default
        if value < 1:
            raise SpecError(f"{option} must be at least 1, got {value}")
        return value

    if request.depth_tokens < 0:
        raise SpecError(f"--depth must not be negative, got {request.depth_tokens}")
    asked = spec.context_tokens if request.context == "max" else request.context
    context = count(asked, _default_context(request, spec), "--context", "context")
    if context > spec.context_tokens:
        assumptions.append(
            f"context {context:,} is beyond the {spec.context_tokens:,} tokens {spec.id} was made for: "
            "it needs position scaling, which changes neither memory nor speed here"
        )
    room = max(2, context - request.depth_tokens)
    prompt = count(request.prompt_tokens, min(DEFAULT_PROMPT_TOKENS, room // 2), "--prompt", "prompt")
    left = max(1, room - prompt)
    output = count(request.output_tokens, min(DEFAULT_OUTPUT_TOKENS, left), "--output-tokens", "output")
    if request.depth_tokens + prompt + output > context:
        raise SpecError(
            f"--depth + --prompt + --output-tokens ({request.depth_tokens + prompt + output:,}) "
            f"exceed the context of {context:,} tokens"
        )
    if request.threads is not None and request.threads > MOST_THREADS:
        raise SpecError(f"--threads must be at most {MOST_THREADS:,}, got {request.threads:,}")
    type_k, type_v = _kv_types(request.kv_type)
    # Where a prompt is not chunked it has no effect on speed, and is no default to tell.
    ubatch = engine.ubatch_tokens
    if engine.chunks_prefill or request.ubatch is not None:
        ubatch = count(request.ubatch, ubatch, "--ubatch", "micro-batch")
    n_sequences = 1 if request.batch in (None, "max") else count(int(request.batch), 1, "--batch", "")
    if defaults:
        assumptions.append(f"{', '.join(defaults)} tokens: defaults")
    return Workload(
        context_tokens=context,
        prompt_tokens=prompt,
        output_tokens=output,
        n_sequences=n_sequences,
        kv_type_k=type_k,
        kv_type_v=type_v,
        engine=engine.asked,
        ubatch_tokens=ubatch,
        batch_tokens=max(ubatch, 2048),
        flash_attention=True if request.flash_attention is None else request.flash_attention,
        threads=None if request.threads is None else count(request.threads, 1, "--threads", ""),
        depth_tokens=request.depth_tokens,
        n_slots=0 if request.slots is None else count(request.slots, 1, "--slots", ""),
        kv_unified=request.kv_unified,
        swa_full=request.swa_full,
        output_rows=None if request.output_rows is None else count(request.output_rows, 1, "output_rows", ""),
        repack=request.repack is not False,
        kv_offload=request.kv_offload is not False,
    )


def _default_context(request: EstimateRequest, spec: ModelSpec) -> int:
    """8192 or the model's own limit, but never less than what the other options need.

    Behind a depth there is room for the usual prompt and answer too, where the model takes that many.
    """
    depth, prompt = request.depth_tokens, request.prompt_tokens or 0
    output = request.output_tokens or (DEFAULT_OUTPUT_TOKENS if prompt else 0)
    context = max(min(DEFAULT_CONTEXT_TOKENS, spec.context_tokens), depth + prompt + output)
    # Of what is left behind the depth half at most is prompt.
    usual = depth + max(2 * DEFAULT_PROMPT_TOKENS, DEFAULT_PROMPT_TOKENS + output)
    if depth and not prompt and (usual <= spec.context_tokens or depth + output >= context):
        return max(context, usual)
    return context


def _kv_types(asked: str | None) -> tuple[str, str]:
    """K and V cache types of ``f16`` or ``q8_0,f16``."""
    parts = (asked or "f16").split(",")
    if len(parts) > 2:
        raise SpecError(f"--kv-type takes one type or K,V, got {asked!r}")
    return kv_type(parts[0]), kv_type(parts[-1])
