"""What a step sends between devices beside its work: scores to the host, activations to the next GPU."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from moeplan.cost.ops import Op
from moeplan.domain.hardware import HardwareSpec

_LOGIT_BYTES = _ACTIVATION_BYTES = 4
# A guess to start from: a copy of a few kB and two waits, 100 us where a step has 500 us beside its work.
_HAND_OVER_STEPS = 0.2


def logits_ops(hardware: HardwareSpec, n_rows: float, vocab_size: int) -> tuple[Op, ...]:
    """FP32 scores of every output row, which ggml's engines copy to a sampler on the host (llama_get_logits).

    Microseconds in a full slot, but a millisecond on one lane of PCIe 3.0.
    """
    link = hardware.pcie
    if link is None or hardware.gpus[0].unified_memory:
        return ()
    n_bytes = n_rows * vocab_size * _LOGIT_BYTES
    op = Op(
        "logits over PCIe",
        n_bytes / link.effective_bytes_per_s,
        (),
        n_bytes=n_bytes,
        formula="rows x vocabulary x 4 B / link",
        inputs={"link": link.id, "effective_bytes_per_s": link.effective_bytes_per_s},
    )
    return (op,)


def hand_over_ops(family: str, tiers: Iterable[str]) -> tuple[Op, ...]:
    """The waits of GPUs for the activations of another, ``tiers`` being those of the layers in order."""
    n = sum(one != other for one, other in pairwise(t for t in tiers if t.startswith("gpu")))
    if not n:
        return ()
    names = (f"{family}.step_s", f"{family}.hand_over.step_time")
    formula, inputs = "hand-overs x 0.2 x s per step", {"hand_overs": n}
    return (Op("hand-over between GPUs", _HAND_OVER_STEPS * n, names, formula=formula, inputs=inputs),)


def expert_hop_ops(
    hardware: HardwareSpec, engine_id: str, n_layers: int, n_tokens: float, hidden: int
) -> tuple[Op, ...]:
    """Activations to the CPU and back around its experts in ``n_layers`` layers, and the wait for both."""
    names = ("local.cpu_moe_layer_s", f"local.engine.{engine_id}.cpu_layer_time")
    formula, inputs = "layers x s per layer", {"layers": n_layers}
    wait = Op("CPU expert synchronisation", float(n_layers), names, formula=formula, inputs=inputs)
    link = hardware.pcie
    if link is None:
        return (wait,)
    n_bytes = 2.0 * n_layers * n_tokens * hidden * _ACTIVATION_BYTES
    seconds, formula = n_bytes / link.effective_bytes_per_s, "2 x tokens x hidden x 4 B x layers / link"
    rate = {"link": link.id, "effective_bytes_per_s": link.effective_bytes_per_s}
    return (wait, Op("activations over PCIe", seconds, (), n_bytes=n_bytes, formula=formula, inputs=rate))
