"""What a server under steady load adds to a decode step: the prompts of the other requests."""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.domain.workload import Placement
from moeplan.engines.kv import SCHEDULED_TOKENS
from moeplan.predict.phases import overlap_frac, prefill_steps
from moeplan.predict.problem import Problem


def stall_ops(
    problem: Problem, placement: Placement, prompt_tokens: int, *, equal_lengths: bool = False
) -> list[Op]:
    """Work of other requests' prompts in one decode step of steady continuous batching.

    While one of ``n_sequences`` requests produces its ``output_tokens``, each of the others finishes and is
    replaced about once, so a step carries (n - 1) / output prompts on average. How much of their time the
    answer waits for (prompts that start together do not wait for each other) is the coefficient
    ``*.stall_time``. Source: the schedule itself; evidence in docs/design/003-speed-law.md.

    ``equal_lengths``: all prompts and all answers are as long as each other. Where prompts go first, all
    requests then start and end together, and an answer waits only for those that are behind its own.
    """
    graph, hardware, work, engine, _ = problem
    others = work.n_sequences - 1
    if others < 1 or prompt_tokens < 1:
        return []
    alone = replace(work, n_sequences=1, prompt_tokens=prompt_tokens, depth_tokens=0)
    waits: float = others
    if equal_lengths and engine.prompts_first:
        waits = _behind(work.n_sequences, prompt_tokens)
    share = overlap_frac(graph.spec, alone, placement, engine) * waits / max(1, work.output_tokens)
    family = engine.family
    names = (f"{family}.stall_time", f"{family}.engine.{engine.id}.stall_time")
    return [
        op._replace(
            term=f"prompts of others: {op.term}",
            moving=(*op.moving, *names) if op.moving else names,
            computing=(*op.computing, *names) if op.computing else op.computing,
            drawing=(*op.drawing, *names) if op.drawing else op.drawing,
            waiting=(*op.waiting, *names) if op.waiting else op.waiting,
            unpacking=(*op.unpacking, *names) if op.unpacking else op.unpacking,
        ).times(n * share)
        for step, n in prefill_steps(graph.spec, alone, engine)
        for op in step_ops(graph, hardware, alone, placement, engine, step)[0]
    ]


def _behind(n_sequences: int, prompt_tokens: int) -> float:
    """Prompts that the mean answer waits for when all start together: half of those in other batches.

    >>> _behind(16, 1024)  # two batches of eight: half of the answers wait for eight prompts
    4.0
    """
    batches = max(1, round(n_sequences * prompt_tokens / SCHEDULED_TOKENS))
    return n_sequences * (batches - 1) / (2 * batches)
