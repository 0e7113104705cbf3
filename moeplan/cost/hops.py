"""What a step sends between devices beside its work: scores to the host, activations to the next GPU."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from moeplan.cost.ops import Op
from moeplan.domain.hardware import LinkSpec

_LOGIT_BYTES = 4
# A guess to start from: a copy of a few kB and two waits, 100 us where a step has 500 us beside its work.
_HAND_OVER_STEPS = 0.2


def logits_op(link: LinkSpec, n_rows: float, vocab_size: int) -> Op:
    """FP32 scores of every output row, which ggml's engines copy to a sampler on the host (llama_get_logits).

    Microseconds in a full slot, but a millisecond on one lane of PCIe 3.0.
    """
    n_bytes = n_rows * vocab_size * _LOGIT_BYTES
    return Op(
        "logits over PCIe",
        n_bytes / link.effective_bytes_per_s,
        (),
        n_bytes=n_bytes,
        formula="rows x vocabulary x 4 B / link",
        inputs={"link": link.id, "effective_bytes_per_s": link.effective_bytes_per_s},
    )


def hand_over_op(family: str, gpu_tiers: Iterable[str]) -> Op | None:
    """The waits of GPUs for the activations of another, ``gpu_tiers`` being those of the layers in order."""
    n = sum(one != other for one, other in pairwise(gpu_tiers))
    if not n:
        return None
    names = (f"{family}.step_s", f"{family}.hand_over.step_time")
    formula, inputs = "hand-overs x 0.2 x s per step", {"hand_overs": n}
    return Op("hand-over between GPUs", _HAND_OVER_STEPS * n, names, formula=formula, inputs=inputs)
