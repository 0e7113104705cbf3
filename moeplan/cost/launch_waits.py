"""The time that an eager engine's host takes to start a layer, beside the GPU's work on it."""

from __future__ import annotations

from moeplan.cost.ops import OVERLAP, SUM, Names, Op
from moeplan.engines.eager import waits_for_products

_FORMULA = ", or layers x s per layer where launching them takes longer"


def add_waits(
    ops: list[Op],
    first: int,
    tier: str,
    halves: list[tuple[float, Names]],
    quant: str,
    date: str,
    n_layers: int,
) -> None:
    """Join the launches of a group of layers with its work, the operations on ``tier`` from ``first`` on.

    The GPU works on what was started while the host starts the rest: the longer of the two counts, of all of
    the layer's kernels. Each operation has as much of the launches beside it as it has of the work on paper,
    which comes to the same. Where the host waits for each product the first one, the weights, has them all.
    """
    n = sum(n for n, _ in halves)
    # One wait a layer: the half with more kernels names it.
    names = max(halves, key=lambda half: half[0], default=(0.0, ()))[1]
    alone = waits_for_products(quant, date)
    # Copies of weights from the host come before the launches of what they are for.
    here = [first] if alone else [at for at in range(first, len(ops)) if ops[at].term.startswith(tier)]
    works = [max(ops[at].moving_s, ops[at].computing_s) for at in here]
    whole = sum(works)
    for at, work in zip(here, works, strict=True):
        op = ops[at]
        ops[at] = op._replace(
            waiting_s=n * (work / whole if whole else 1.0 / len(here)),
            waiting=names,
            formula=f"{op.formula}{_FORMULA}",
            inputs={**op.inputs, "layers": n_layers},
            waiting_norm=SUM if alone else OVERLAP,
        )
