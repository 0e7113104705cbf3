"""What the textbook rules leave out, each with its number computed beside it."""

from __future__ import annotations

from collections.abc import Iterator

from moeplan.cost.textbook import ADAM_BYTES_PER_PARAM
from moeplan.domain.textbook import TextbookInputs, TextbookModel
from moeplan.units import GIB, fmt_number, fmt_params, fmt_seconds

LARGE_BATCH = 32
"""The batch that articles call compute-bound."""


def caveats(inputs: TextbookInputs, dense: TextbookModel, moe: TextbookModel) -> Iterator[str]:
    """The caveats of one pair, most important first."""
    if inputs.moe_params_active < inputs.moe_params_total:
        yield _reads_all_experts(inputs, moe)
    yield _crossover(dense, moe)
    yield (
        "In between, the bytes read follow the number of experts that a batch touches, which these "
        "numbers do not say; moeplan compare counts them"
    )
    speedup = dense.train_flop_per_token / moe.train_flop_per_token
    if speedup > 1:
        yield (
            f"The training speed-up of {fmt_number(speedup, 2)}x holds at equal MFU. Routing, all-to-all and "
            f"small matrices lower a MoE's: below {inputs.mfu_frac / speedup:.1%} it is the slower of the two"
        )
    states = [n * ADAM_BYTES_PER_PARAM / GIB for n in (inputs.dense_params, inputs.moe_params_total)]
    yield (
        f"Memory is that of the weights alone: mixed-precision Adam holds {ADAM_BYTES_PER_PARAM} bytes a "
        f"parameter (arXiv:1910.02054), {states[0]:,.1f} GiB dense and {states[1]:,.1f} GiB MoE, before "
        "activations"
    )
    yield (
        "Bandwidth and peak are data-sheet rates, and the KV cache, attention, launches and collectives are "
        "left out: real steps are slower"
    )


def _reads_all_experts(inputs: TextbookInputs, moe: TextbookModel) -> str:
    memory_s = moe.weights_bytes / inputs.bandwidth_bytes_per_s
    return (
        f"The rule reads all experts at batch 1: {_ms(memory_s)} for {fmt_params(moe.params_total)} "
        f"parameters. One token needs the {fmt_params(moe.params_active)} active ones alone: "
        f"{_ms(moe.active_read_s)}, {fmt_number(memory_s / moe.active_read_s, 2)} times less"
    )


def _crossover(dense: TextbookModel, moe: TextbookModel) -> str:
    text = f"Under the rule itself the dense model is compute-bound {_from(dense)}, the MoE {_from(moe)}"
    if all(m.crossover_batch is None or m.crossover_batch > LARGE_BATCH for m in (dense, moe)):
        text += f": batch {LARGE_BATCH} makes neither compute-bound"
    return text


def _from(model: TextbookModel) -> str:
    batch = model.crossover_batch
    return "at no batch" if batch is None else f"from batch {batch:,} on"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if 1e-3 <= seconds < 10 else fmt_seconds(seconds)
