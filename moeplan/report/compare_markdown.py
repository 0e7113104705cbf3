"""A comparison as GitHub-flavoured Markdown."""

from __future__ import annotations

from moeplan.domain.comparison import Comparison
from moeplan.report import compare_words as cw
from moeplan.report.markdown import md_list, md_table
from moeplan.report.words import machine_facts, workload_facts


def render(c: Comparison) -> str:
    """The whole answer: facts, batches, verdicts, and what they rest on."""
    e = c.models[0].estimate
    sides = cw.sides(c.models)
    names = [f"{mark} {model.label}" for mark, model in sides]
    head = cw.batch_head(sides)
    parts = [
        f"### {cw.title(c)}\n",
        f"{machine_facts(e.hardware)}; {workload_facts(e)}\n",
        md_table(
            (f"{c.level:.0%} interval", *names),
            "l" + "r" * len(names),
            [(label, *cells) for label, cells in cw.fact_rows(c)],
        ),
        md_table(head, "r" * len(head), cw.batch_rows(sides)),
        f"By batch: {cw.batch_note(c)}.\n",
        md_table(("axis", "verdict"), "ll", [(v.axis, cw.verdict_words(v, c.models)) for v in c.verdicts]),
        *(
            f"{label}: {text}\n"
            for label, text in (
                ("Offloaded", cw.offload_words(c.models)),
                ("Twin", cw.twin_words(c.models)),
                ("Scores", cw.score_words(c.models)),
            )
            if text
        ),
        md_list("Assumed", c.assumptions),
        md_list("Not modelled", c.not_modelled),
    ]
    return "\n".join(part for part in parts if part)
