"""The live check: a GGUF file loaded by a real llama.cpp, buffer by buffer beside the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moeplan.domain.request import EstimateRequest
from moeplan.domain.result import BufferCheck
from moeplan.domain.workload import Workload
from moeplan.engines.traits import as_built, find_engine
from moeplan.errors import SpecError
from moeplan.readers.catalog import Catalog


def verify(
    request: EstimateRequest, catalog: Catalog, *, binary: str | None = None, timeout_s: float = 300.0
) -> tuple[BufferCheck, ...]:
    """Predicted and allocated bytes of every buffer of ``request.model`` loaded into RAM.

    The file is loaded by the processor alone, whatever placement is asked for; nothing is decoded. What is
    larger than the free RAM is allocated dry where the engine offers it (the package xllamacpp): caches and
    buffers are reserved, no tensor is read, and weights are not compared. Raises SpecError for what is not a
    GGUF file, MissingExtra without an engine, MeasurementError when it fails.
    """
    from moeplan.api.resolve import Session
    from moeplan.hw.detect import free_ram_bytes
    from moeplan.measure.llama_cpp_memory import LoadSettings, load
    from moeplan.memory.buffers import compute_bytes, output_bytes
    from moeplan.memory.cache import layer_kv_bytes, layer_state_bytes
    from moeplan.memory.capacity import host_process_bytes
    from moeplan.memory.repack import repackable_bytes, still_mapped_bytes

    if not request.model.lower().endswith(".gguf") or not Path(request.model).is_file():
        raise SpecError(f"--verify-with-engine: {request.model} is not a .gguf file")
    problem = Session(catalog, request.calibration).problem(request, [])
    graph, work = problem.graph, _as_served(problem.workload)
    n = work.n_reserved
    dry = binary is None and graph.weights_bytes > free_ram_bytes()
    found = load(
        LoadSettings(
            model=request.model,
            context_tokens=work.context_tokens * (work.n_sequences if work.kv_unified else n),
            ubatch_tokens=work.ubatch_tokens,
            batch_tokens=work.batch_tokens,
            n_sequences=n,
            kv_type_k=work.kv_type_k,
            kv_type_v=work.kv_type_v,
            flash_attention=work.flash_attention,
            kv_unified=work.kv_unified,
            swa_full=work.swa_full,
            repack=work.repack,
            mmap=problem.engine.mmap,
            dry=dry,
        ),
        binary=binary,
        timeout_s=timeout_s,
    )
    blocks = graph.spec.layer_blocks()
    engine = as_built(find_engine("llama.cpp"), found.build if binary else _wheel_build())
    repacked = repackable_bytes(graph) if "CPU_REPACK" in found.weights else 0
    kept = still_mapped_bytes(graph) if repacked else graph.weights_bytes
    if repacked and not problem.engine.mmap:  # the original is given up
        kept = graph.weights_bytes - repacked
    kv = round(sum(layer_kv_bytes(block, work, engine) for block in blocks))
    state = sum(layer_state_bytes(block, n) for block in blocks)
    compute = compute_bytes(graph, blocks, work, engine, with_head=True)
    output = output_bytes(graph, work)
    checks = [
        *([] if dry else [BufferCheck("weights", kept + repacked, sum(found.weights.values()))]),
        BufferCheck("KV cache", kv, found.kv_bytes),
        BufferCheck("state", state, found.state_bytes),
        BufferCheck("compute", compute, sum(found.compute.values())),
        BufferCheck("output", output, found.output_bytes),
    ]
    if found.peak_rss_bytes is not None:
        # Nothing has been computed: the compute buffer is reserved, not resident.
        process = host_process_bytes(graph.spec.vocab_size)
        held = kept + repacked + kv + state + output + process
        checks.append(BufferCheck("resident", held, found.peak_rss_bytes))
    return tuple(checks)


def _as_served(work: Workload) -> Workload:
    """The server reserves logits for one row a slot."""
    from msgspec.structs import replace

    return replace(work, output_rows=work.n_reserved)


def _wheel_build() -> int:
    """Number of the llama.cpp build inside the installed xllamacpp: the last part of its version."""
    from importlib.metadata import version

    last = version("xllamacpp").rpartition(".")[2]
    return int(last) if last.isdigit() else 0


def verdict(checks: Sequence[BufferCheck]) -> str:
    """The buffers that were predicted too small by more than 1%, in words; empty when none was."""
    low = [c.name for c in checks if c.name != "resident" and c.allocated_bytes > c.predicted_bytes * 1.01]
    return ", ".join(low)
