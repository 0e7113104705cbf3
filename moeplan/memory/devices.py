"""Which layers a device plays, and what is copied to it for a pass: the compute buffer of every tier."""

from __future__ import annotations

from moeplan.domain.graph import EXPERT_ROLES, ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import MoeFfn
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.offload import Batch, copies_experts, copies_weights
from moeplan.engines.traits import EngineTraits
from moeplan.memory.activations import F32, Homes
from moeplan.memory.buffers import compute_bytes

_HOST = ("ram", "disk")


def device_compute_bytes(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    tier: str,
) -> int:
    """Compute buffer of ``tier``, the copies of host-resident matrices in it included."""
    on_gpus = placement.streamed or any(t not in _HOST for t in placement.dense_tiers)
    if tier == "ram" and on_gpus and not engine.gguf:
        return 0  # inputs and outputs only
    if tier == "ram":
        return _host_bytes(graph, hardware, workload, placement, engine, alone=not on_gpus)
    blocks = graph.spec.layer_blocks()
    if placement.streamed:
        # All of it is computed there; room for the matrices themselves is `streamed_bytes`.
        return compute_bytes(graph, blocks, workload, engine, with_head=True, on_host=False)
    here = [i for i, home in enumerate(placement.dense_tiers) if home == tier]
    expert_copy, dense_copy = _copies(graph, hardware, workload, placement, engine)
    if tier == "gpu0" and dense_copy:
        # Layers in RAM are computed on the first GPU while their matrices are copied over.
        here = [i for i, home in enumerate(placement.dense_tiers) if home in (tier, *_HOST)]
    homes = [
        Homes(
            dense_copy_bytes=dense_copy if placement.dense_tiers[i] in _HOST else 0,
            expert_copy_bytes=expert_copy if placement.expert_tiers[i] in _HOST else 0,
            experts_away=placement.expert_tiers[i] in _HOST and not expert_copy,
        )
        for i in here
    ]
    return compute_bytes(
        graph,
        [blocks[i] for i in here],
        workload,
        engine,
        with_head=placement.head_tier == tier,
        on_host=False,
        input_copies=engine.pipeline_copies if placement.kind == "layer-split" else 1,
        homes=homes,
    )


def streamed_bytes(graph: ModelGraph) -> int:
    """Room on the GPU for weights that are copied there in turn: the largest layer, or the output head.

    As transformers reserves it (accelerate's get_max_layer_size); llama.cpp copies single matrices.
    """
    return max([graph.head_bytes, *(layer.dense_bytes + layer.expert_bytes for layer in graph.layers)])


def _host_bytes(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    *,
    alone: bool,
) -> int:
    """The CPU's buffer: all layers, or beside GPUs the inputs and what it computes itself."""
    blocks = graph.spec.layer_blocks()
    if alone:
        head = placement.head_tier == "ram"
        return compute_bytes(graph, blocks, workload, engine, with_head=head, on_host=True)
    copies = engine.pipeline_copies if placement.kind == "layer-split" else 1
    inputs = compute_bytes(
        graph, blocks, workload, engine, with_head=False, on_host=True, input_copies=copies, inputs_only=True
    )
    if placement.streamed:
        return inputs
    homes = zip(placement.dense_tiers, placement.expert_tiers, strict=True)
    mine = [i for i, (d, e) in enumerate(homes) if d in _HOST or e in _HOST]
    copied = _copies(graph, hardware, workload, placement, engine)
    if not mine or copied[placement.dense_tiers[mine[0]] in _HOST]:
        return inputs
    # Inputs go once they have been copied to the GPUs: the experts of a layer take their room.
    return max(inputs, _experts_bytes(graph, workload, mine))


def _experts_bytes(graph: ModelGraph, workload: Workload, layers: list[int]) -> int:
    """What the CPU needs for the experts of one layer: their input, inner activations and output, and the
    sum of the layer before on its way to the GPU."""
    hidden, rows = graph.spec.hidden_size, workload.ubatch_tokens
    widths = [0]
    for i in layers:
        ffn = graph.spec.layer_blocks()[i].ffn
        if isinstance(ffn, MoeFfn):
            widths.append(2 * hidden + ffn.n_active * (2 * ffn.expert_intermediate + hidden))
    return max(widths) * rows * F32


def _copies(
    graph: ModelGraph, hardware: HardwareSpec, workload: Workload, placement: Placement, engine: EngineTraits
) -> tuple[int, int]:
    """(largest expert matrix, largest other matrix) in RAM that a pass copies to the GPU."""
    expert = other = 0
    if not any(home in _HOST for home in (*placement.dense_tiers, *placement.expert_tiers)):
        return 0, 0
    for tensor in graph.tensors:
        if tensor.layer < 0 or tensor.owner != "base":
            continue
        if tensor.role in EXPERT_ROLES:
            if placement.expert_tiers[tensor.layer] in _HOST:
                expert = max(expert, tensor.n_bytes)
        elif placement.dense_tiers[tensor.layer] in _HOST:
            other = max(other, tensor.n_bytes)
    batch = Batch.of(engine, workload, hardware, graph.spec, workload.ubatch_tokens)
    return (expert if _copies_experts(graph, batch, placement) else 0, other if copies_weights(batch) else 0)


def _copies_experts(graph: ModelGraph, batch: Batch, placement: Placement) -> bool:
    """Whether ``batch`` has experts of any layer in RAM copied, each by its type."""
    blocks = graph.spec.layer_blocks()
    for i, layer in enumerate(graph.layers):
        ffn = blocks[i].ffn
        if isinstance(ffn, MoeFfn) and placement.expert_tiers[i] in _HOST:
            stored = max(layer.bytes_by_qtype, key=lambda held: held[1], default=("", 0))[0]
            if copies_experts(batch, stored, ffn.n_experts / ffn.n_active):
                return True
    return False
