"""Placements an engine can be asked for, and the choice of one when the user left it open."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import ModelSpec, MoeFfn
from moeplan.domain.workload import Placement, PlacementKind
from moeplan.engines.shards import takes_whole_experts
from moeplan.engines.traits import EngineTraits
from moeplan.errors import NotModelled, OptionError, SpecError
from moeplan.memory.capacity import gpu_capacity_bytes, ram_capacity_bytes


def moe_layers(spec: ModelSpec) -> tuple[int, ...]:
    """Indices of the layers that route to experts."""
    return tuple(i for i, block in enumerate(spec.layer_blocks()) if isinstance(block.ffn, MoeFfn))


def on_gpus(graph: ModelGraph, hardware: HardwareSpec, engine: EngineTraits) -> Placement:
    """Everything on the GPUs: one, several by layers, or one shard of every matrix on each.

    Experts that cannot be cut into equal slices are shared as whole ones where the engine has that.
    """
    spec, n_gpus = graph.spec, len(hardware.gpus)
    # llama.cpp keeps the input embedding in host memory; only rows of it are read.
    embedding = "ram" if engine.family == "local" and not hardware.unified and engine.gguf else "gpu0"
    if hardware.unified and n_gpus == 1:
        return _uniform(spec, "unified", "gpu0", embedding)
    if n_gpus == 1:
        return _uniform(spec, "gpu", "gpu0", embedding)
    if engine.multi_gpu == "tensor-parallel":
        placement = _replace(_uniform(spec, "tensor-parallel", "gpu0", embedding), tensor_parallel=n_gpus)
        whole = takes_whole_experts(spec, engine, n_gpus, graph.expert_group)
        return experts_whole(placement) if whole else placement
    tiers = _spread(range(spec.n_layers), hardware, engine)
    return Placement(
        kind="layer-split",
        dense_tiers=tiers,
        expert_tiers=tiers,
        embedding_tier=embedding,
        head_tier=tiers[-1],
        gpu_layers=spec.n_layers + 1,
    )


def experts_whole(placement: Placement) -> Placement:
    """``placement`` over tensor-parallel GPUs, each with a part of the routed experts instead of a slice of
    each."""
    return _replace(placement, expert_parallel=placement.tensor_parallel)


def on_cpu(graph: ModelGraph) -> Placement:
    """Everything in RAM, computed by the CPU."""
    return _uniform(graph.spec, "cpu", "ram", "ram", gpu_layers=0)


def streamed(graph: ModelGraph) -> Placement:
    """Weights in RAM, copied to the GPU layer by layer as they are needed."""
    placement = _uniform(graph.spec, "stream", "ram", "ram", gpu_layers=0)
    return _replace(placement, streamed=True)


def oversubscribed(
    graph: ModelGraph, hardware: HardwareSpec, engine: EngineTraits, gpu_layers: int | str | None
) -> Placement:
    """Layers on the GPU whether or not it has room for them: CUDA's unified memory pages them in.

    llama.cpp has no other way to compute weights in RAM on the GPU, prompts apart.
    """
    n_layers = graph.spec.n_layers
    on_gpu = n_layers + 1 if gpu_layers in (None, "all") else int(gpu_layers)
    return _replace(split(graph, hardware, engine, on_gpu, 0), kind="stream")


def split(
    graph: ModelGraph, hardware: HardwareSpec, engine: EngineTraits, gpu_layers: int, cpu_moe: int
) -> Placement:
    """Both at once: first layers in RAM as a whole, experts of the next ``cpu_moe`` MoE layers in RAM."""
    spec = graph.spec
    gpu_layers = min(gpu_layers, spec.n_layers + 1)
    if gpu_layers <= 0:
        return on_cpu(graph)
    first_gpu = max(0, spec.n_layers + 1 - gpu_layers)
    on_gpu = _spread(range(first_gpu, spec.n_layers), hardware, engine)
    dense = ("ram",) * first_gpu + on_gpu
    hosted = set(moe_layers(spec)[:cpu_moe])
    experts = tuple("ram" if i in hosted else tier for i, tier in enumerate(dense))
    cpu_moe_layers = sum(1 for i in hosted if dense[i] != "ram")
    kind: PlacementKind = "gpu" if len(hardware.gpus) == 1 else "layer-split"
    if first_gpu and cpu_moe_layers:
        kind = "mixed"
    elif first_gpu:
        kind = "layers"
    elif cpu_moe_layers:
        kind = "experts"
    return Placement(
        kind=kind,
        dense_tiers=dense,
        expert_tiers=experts,
        embedding_tier="ram",
        head_tier=on_gpu[-1] if on_gpu else "gpu0",
        gpu_layers=gpu_layers,
        cpu_moe=cpu_moe_layers,
    )


def mapped(graph: ModelGraph, base: Placement, ram_for_weights_bytes: int) -> Placement:
    """``base`` with the weights that RAM cannot hold left on disk (last RAM layers first).

    ``base`` itself where RAM holds them all.
    """
    dense, experts = list(base.dense_tiers), list(base.expert_tiers)
    held = sum(
        (w.dense_bytes if d == "ram" else 0) + (w.expert_bytes if e == "ram" else 0)
        for w, d, e in zip(graph.layers, dense, experts, strict=True)
    )
    held += graph.embedding_bytes if base.embedding_tier == "ram" else 0
    held += graph.outside_bytes - graph.embedding_bytes if base.head_tier == "ram" else 0
    for take_dense in (False, True):  # experts first: they are read less often than the rest
        for i in reversed(range(len(dense))):
            if held <= ram_for_weights_bytes:
                break
            if experts[i] == "ram" and graph.layers[i].expert_bytes:
                experts[i] = "disk"
                held -= graph.layers[i].expert_bytes
            if take_dense and dense[i] == "ram":
                dense[i] = "disk"
                held -= graph.layers[i].dense_bytes
                if not graph.layers[i].expert_bytes:
                    experts[i] = "disk"
    if "disk" not in (*dense, *experts):
        return base
    return _replace(base, kind="disk", dense_tiers=tuple(dense), expert_tiers=tuple(experts))


def candidates(
    graph: ModelGraph,
    hardware: HardwareSpec,
    engine: EngineTraits,
    fits: Callable[[Placement], bool],
    ram_for_weights_bytes: int,
) -> Iterator[Placement]:
    """Placements worth pricing, each of them feasible: the deepest split of every kind that fits."""
    if hardware.gpus:
        whole = on_gpus(graph, hardware, engine)
        if whole.kind in engine.splits and fits(whole):
            yield whole
    if hardware.unified:
        # The CPU has no memory that the GPU has not. It is used where it is asked for: it takes many times as
        # long for a prompt, and engines leave nothing to it unless told to.
        return
    in_memory = False
    if hardware.gpus:
        for hybrid in _hybrids(graph, hardware, engine, fits):
            in_memory = True
            yield hybrid
    if "cpu" in engine.splits:
        cpu = on_cpu(graph)
        if fits(cpu):
            in_memory = True
            yield cpu
    if not in_memory and "disk" in engine.splits and engine.mmap:
        yield from _mapped(graph, hardware, engine, fits, ram_for_weights_bytes)


def unfit(
    graph: ModelGraph, hardware: HardwareSpec, engine: EngineTraits, gpus_fit: Callable[[Placement], bool]
) -> Iterator[Placement]:
    """Placements that RAM or a GPU may be too small for: what an engine would try first, then every kind of
    split with as little in RAM as the GPUs allow, and the one with all experts there."""
    if not hardware.gpus:
        yield on_cpu(graph)
        return
    yield on_gpus(graph, hardware, engine)
    if hardware.unified:
        return
    yield from _hybrids(graph, hardware, engine, gpus_fit)
    if n_moe := len(moe_layers(graph.spec)) if "experts" in engine.splits else 0:
        yield split(graph, hardware, engine, graph.spec.n_layers + 1, n_moe)
    if "cpu" in engine.splits:
        yield on_cpu(graph)


def _mapped(
    graph: ModelGraph,
    hardware: HardwareSpec,
    engine: EngineTraits,
    fits: Callable[[Placement], bool],
    ram_for_weights_bytes: int,
) -> Iterator[Placement]:
    """What neither VRAM nor RAM can hold stays on disk: under the CPU alone, and under a full GPU."""

    def spilled(base: Placement) -> Placement:
        return mapped(graph, base, ram_for_weights_bytes)

    if fits(spilled(on_cpu(graph))):
        yield spilled(on_cpu(graph))
    if not hardware.gpus:
        return
    for hybrid in _hybrids(graph, hardware, engine, lambda base: fits(spilled(base))):
        yield spilled(hybrid)


def _hybrids(
    graph: ModelGraph, hardware: HardwareSpec, engine: EngineTraits, fits: Callable[[Placement], bool]
) -> Iterator[Placement]:
    """Whole layers in RAM, experts in RAM, or both where even all experts in RAM are not enough."""
    n_layers, n_moe = graph.spec.n_layers, len(moe_layers(graph.spec))
    hosted = None
    if n_moe and "experts" in engine.splits:
        hosted = _least(n_moe, lambda n: fits(split(graph, hardware, engine, n_layers + 1, n)))
        if hosted is not None:
            counts = {max(hosted, 1), n_moe} if engine.hosts_any_layer else {n_moe}
            yield from (split(graph, hardware, engine, n_layers + 1, n) for n in counts)
    if "layers" in engine.splits:
        off = _least(n_layers, lambda n: fits(split(graph, hardware, engine, n_layers + 1 - n, 0)))
        if off is not None:
            yield split(graph, hardware, engine, n_layers + 1 - off, 0)
    if n_moe and hosted is None and "mixed" in engine.splits:
        off = _least(n_layers, lambda n: fits(split(graph, hardware, engine, n_layers + 1 - n, n_moe)))
        if off is not None:
            yield split(graph, hardware, engine, n_layers + 1 - off, n_moe)


def requested(
    graph: ModelGraph,
    hardware: HardwareSpec,
    engine: EngineTraits,
    *,
    kind: str | None,
    gpu_layers: int | str | None,
    cpu_moe: int | str | None,
    ram_for_weights_bytes: int,
) -> Placement | None:
    """The placement that options spell out, or None where the choice is left to moeplan."""
    n_layers, n_moe = graph.spec.n_layers, len(moe_layers(graph.spec))
    if kind is None and gpu_layers is None and cpu_moe is None:
        return None
    needs_gpu = (kind or "gpu") not in ("cpu", "disk") and (gpu_layers != 0 or kind is not None)
    if needs_gpu and not hardware.gpus:
        raise SpecError(f"placement {kind or 'on a GPU'!r} needs a GPU, and this machine has none")
    if kind is not None and kind not in engine.splits:
        raise OptionError(
            f"{engine.id} has no placement {kind!r}",
            field="placement",
            hint=f"it has: {', '.join(sorted(engine.splits))}",
        )
    _check_agreement(kind, gpu_layers, cpu_moe, n_layers, pages=engine.gguf)
    if hardware.unified and _divides(kind, gpu_layers, cpu_moe, n_layers):
        raise NotModelled(
            "a model divided between GPU and CPU of one memory",
            "leave it to the GPU (--gpu-layers all) or to the CPU (--placement cpu)",
        )
    if kind == "cpu":
        return on_cpu(graph)
    if kind == "stream":
        _check_pages(hardware, engine)
        return oversubscribed(graph, hardware, engine, gpu_layers) if engine.gguf else streamed(graph)
    if kind == "disk":
        return mapped(graph, on_cpu(graph), ram_for_weights_bytes)
    if kind in ("experts", "mixed", "layers") and gpu_layers is None and cpu_moe is None:
        return None  # the depth of the split is moeplan's to choose
    if kind in ("gpu", "unified", "layer-split", "tensor-parallel"):
        return on_gpus(graph, hardware, engine)
    if cpu_moe is not None and not n_moe:
        raise SpecError(f"--cpu-moe: {graph.spec.id} has no MoE layers")
    on_gpu = n_layers + 1 if gpu_layers in (None, "all") else int(gpu_layers)
    hosted = n_moe if cpu_moe == "all" else int(cpu_moe or 0)
    if on_gpu > n_layers and not hosted:
        return on_gpus(graph, hardware, engine)
    return split(graph, hardware, engine, on_gpu, hosted)


def _check_pages(hardware: HardwareSpec, engine: EngineTraits) -> None:
    """Raise where more on the GPU than it holds has not been measured: of ggml's backends CUDA's alone has.

    Vulkan falls back to memory of the host, "not really intended to be used regularly" (llama.cpp PR 17436);
    HIP's managed memory stays on the host without XNACK, and SYCL's on request (docs/build.md, ggml 0.26).
    """
    if engine.gguf and (engine.backend or any(gpu.vendor != "nvidia" for gpu in hardware.gpus)):
        raise NotModelled(
            "weights beyond the memory of a GPU other than by CUDA's unified memory",
            "leave layers or experts in RAM (--gpu-layers N, --cpu-moe N)",
        )


def _check_agreement(
    kind: str | None, gpu_layers: int | str | None, cpu_moe: int | str | None, n_layers: int, *, pages: bool
) -> None:
    """Raise where counts of layers contradict the kind of placement: one of them would be passed over.

    ``pages``: streaming is unified memory under the layers on the GPU, not a copy of all layers.
    """
    whole = gpu_layers in (None, "all") or (isinstance(gpu_layers, int) and gpu_layers > n_layers)
    fine = {
        None: True,
        "cpu": gpu_layers in (None, 0) and cpu_moe in (None, 0, "all"),
        "disk": gpu_layers in (None, 0) and cpu_moe in (None, 0, "all"),
        "stream": (gpu_layers != 0 if pages else gpu_layers in (None, 0)) and cpu_moe in (None, 0),
        "experts": whole and cpu_moe != 0,
        "layers": cpu_moe in (None, 0) and (gpu_layers is None or (not whole and gpu_layers != 0)),
        "mixed": (not whole or gpu_layers is None) and gpu_layers != 0 and cpu_moe != 0,
    }
    if not fine.get(kind, whole and cpu_moe in (None, 0)):
        counts = (("--gpu-layers", gpu_layers), ("--cpu-moe", cpu_moe))
        given = " ".join(f"{option} {count}" for option, count in counts if count is not None)
        raise SpecError(f"--placement {kind} and {given} contradict each other", hint="leave one of them out")


def _divides(
    kind: str | None, gpu_layers: int | str | None, cpu_moe: int | str | None, n_layers: int
) -> bool:
    """Whether options leave a part of the layers or experts to the CPU while a GPU has the others."""
    if kind in ("cpu", "disk") or gpu_layers == 0:
        return False
    some = isinstance(gpu_layers, int) and gpu_layers <= n_layers
    return kind in ("layers", "experts", "mixed", "stream") or some or cpu_moe not in (None, 0)


def usable_ram_bytes(hardware: HardwareSpec) -> int:
    """RAM that weights may take (capacity after the reserve of the running system)."""
    return ram_capacity_bytes(hardware)


def _least(most: int, ok: Callable[[int], bool]) -> int | None:
    """Smallest n in 0..most for which ``ok``; None if never.

    ``ok`` turns from False to True once, unless RAM is too small for all of them: then it turns back.
    """
    if not ok(most):
        return next((n for n in range(most) if ok(n)), None)
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if ok(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _spread(layers: range, hardware: HardwareSpec, engine: EngineTraits) -> tuple[str, ...]:
    """Tiers of consecutive layers over the GPUs, in proportion to their memory as llama.cpp does.

    The output layer counts as one more, so that the last GPU gets fewer of the others
    (llama-model.cpp, get_layer_buft_list).
    """
    room = [gpu_capacity_bytes(gpu, hardware, engine) for gpu in hardware.gpus]
    total, n = sum(room), len(layers)
    if total <= 0:
        return ("gpu0",) * n
    ends, filled = [], 0
    for size in room:
        filled += size
        ends.append((n + 1) * filled / total)
    return tuple(f"gpu{next((g for g, end in enumerate(ends) if i < end), len(room) - 1)}" for i in range(n))


def _uniform(
    spec: ModelSpec, kind: PlacementKind, tier: str, embedding: str, gpu_layers: int | None = None
) -> Placement:
    tiers = (tier,) * spec.n_layers
    return Placement(
        kind=kind,
        dense_tiers=tiers,
        expert_tiers=tiers,
        embedding_tier=embedding,
        head_tier=tier,
        gpu_layers=spec.n_layers + 1 if gpu_layers is None else gpu_layers,
    )


def _replace(placement: Placement, **changes: object) -> Placement:
    from msgspec.structs import replace

    return replace(placement, **changes)
