"""What a server under steady load adds to a decode step: the prompts of the other requests."""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.domain.workload import Placement
from moeplan.predict.phases import overlap_frac, prefill_steps
from moeplan.predict.problem import Problem


def stall_ops(problem: Problem, placement: Placement, prompt_tokens: int) -> list[Op]:
    """Work of other requests' prompts in one decode step of steady continuous batching.

    While one of ``n_sequences`` requests produces its ``output_tokens``, each of the others finishes and is
    replaced about once, so a step carries (n - 1) / output prompts on average. How much of their time the
    answer waits for (prompts that start together do not wait for each other) is the coefficient
    ``*.stall_time``. Source: the schedule itself; evidence in docs/design/003-speed-law.md.
    """
    graph, hardware, work, engine, _ = problem
    others = work.n_sequences - 1
    if others < 1 or prompt_tokens < 1:
        return []
    alone = replace(work, n_sequences=1, prompt_tokens=prompt_tokens, depth_tokens=0)
    share = overlap_frac(graph.spec, alone, placement, engine) * others / max(1, work.output_tokens)
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
