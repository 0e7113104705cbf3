"""The rules of the verdicts, on comparisons written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moeplan.advise.compare import lead, verdicts
from moeplan.domain.comparison import BatchPoint, ComparedModel, Coverage, Lora, LoraCount, Verdict
from moeplan.domain.result import Range
from tests.support.report_sample import sample


def rates(low: float, expected: float, high: float, batch: int = 1) -> Range:
    """The step time of ``batch`` sequences at these tokens per second."""
    return Range(low=low, expected=expected, high=high).inverse(batch)


def point(batch: int, step_s: Range | None, **changes: Any) -> BatchPoint:
    """A batch of a dense model; without a time it does not fit."""
    values: dict[str, Any] = {
        "batch": batch,
        "coverage_frac": None,
        "flop_per_token": 1e9,
        "bytes_per_step": 1e9,
        "fits": step_s is not None,
        "placement": "gpu",
        "step_s": step_s,
    }
    return BatchPoint(**(values | changes))


def model(key: str, decode: Range | None, points: tuple[BatchPoint, ...], **changes: Any) -> ComparedModel:
    """A model that decodes one sequence at ``decode``; None: it does not fit."""
    e = sample(decode_step_s=decode) if decode else sample(gpus=(40.0,))
    count = LoraCount(n_adapters=10, trainable_params=1000)
    values: dict[str, Any] = {
        "key": key,
        "label": key.upper(),
        "estimate": e,
        "sizes": (),
        "by_batch": points,
        "coverage": None,
        "offloaded": None,
        "largest_context_tokens": 8192,
        "textbook": None,
        "lora": Lora(rank=16, n_expert_ffns=0, n_ffns=10, unfused=count, fused=count),
    }
    return ComparedModel(**(values | changes))


def verdict(axis: str, *models: ComparedModel) -> Verdict:
    """The verdict on one axis."""
    return next(v for v in verdicts(models) if v.axis == axis)


FAST, SLOW = rates(40, 50, 60), rates(8, 10, 12)


def test_ranges_apart_decide() -> None:
    v = verdict("single-user speed", model("a", SLOW, ()), model("b", FAST, ()))
    assert (v.better, v.within_uncertainty) == ("b", False)
    assert v.by == pytest.approx(5)
    assert v.why == "50.0 tok/s (40.0 to 60.0) against 10.0 tok/s (8.00 to 12.0)"


def test_ranges_that_overlap_say_so() -> None:
    v = verdict("single-user speed", model("a", rates(20, 30, 41), ()), model("b", FAST, ()))
    assert v.better == "b"
    assert v.within_uncertainty
    assert v.why.startswith("within the uncertainty, ")


def test_what_does_not_fit_is_out_of_the_race() -> None:
    v = verdict("single-user speed", model("a", None, ()), model("b", SLOW, ()))
    assert (v.better, v.by) == ("b", None)
    assert "does not fit: A" in v.why
    nobody = verdict("single-user speed", model("a", None, ()), model("b", None, ()))
    assert (nobody.better, nobody.by) == (None, None)


def test_three_models_are_measured_against_the_second() -> None:
    runners = (model("a", SLOW, ()), model("b", FAST, ()), model("c", rates(20, 25, 30), ()))
    v = verdict("single-user speed", *runners)
    assert v.better == "b"
    assert v.by == pytest.approx(2)


def test_equal_sizes_have_no_winner() -> None:
    v = verdict("memory", model("a", FAST, ()), model("b", SLOW, ()))
    assert (v.better, v.by) == (None, None)
    assert v.why.startswith("even: ")


def test_equal_speeds_have_no_winner() -> None:
    v = verdict("single-user speed", model("a", FAST, ()), model("b", FAST, ()))
    assert (v.better, v.by) == (None, None)
    assert v.why.startswith("even: ")


def test_the_fewer_adapters_win_and_both_layouts_are_named() -> None:
    unfused = LoraCount(n_adapters=768, trainable_params=226_492_416)
    fused = LoraCount(n_adapters=512, trainable_params=209_715_200)
    lora = Lora(rank=16, n_expert_ffns=256, n_ffns=256, unfused=unfused, fused=fused)
    v = verdict("fine-tuning", model("a", FAST, ()), model("b", SLOW, (), lora=lora))
    assert v.better == "a"
    assert v.by == pytest.approx(226_492.416)
    assert "226M in 768 adapters (fused 210M in 512)" in v.why


def moe_beside_dense() -> tuple[ComparedModel, ComparedModel]:
    """A MoE whose lead falls from 4x to 1.5x, and which holds a batch that the dense model does not."""
    dense = model("dense", SLOW, (point(1, SLOW), point(8, rates(70, 80, 90, 8)), point(64, None)))
    points = (
        point(1, rates(30, 40, 50), coverage_frac=0.25),
        point(8, rates(85, 120, 150, 8), coverage_frac=0.9),
        point(64, rates(400, 500, 600, 64), coverage_frac=1.0),
    )
    return dense, model("moe", FAST, points, coverage=Coverage(batch_50=3, batch_90=9, batch_99=17))


def test_the_best_batches_meet_and_coverage_is_told() -> None:
    v = verdict("batch throughput", *moe_beside_dense())
    # 500 tok/s at batch 64 against 80 at batch 8
    assert v.better == "moe"
    assert v.by == pytest.approx(500 / 80)
    assert "at batch 64 against" in v.why
    # 40 / 10 and 120 / 80, where 85 to 150 overlaps 70 to 90
    assert "4.0x as fast at 1, where a step reads 25%" in v.why
    assert "1.5x at 8 (within the uncertainty)" in v.why
    assert "90%" in v.why


def test_lead_needs_both() -> None:
    dense, moe = moe_beside_dense()
    assert lead(moe, dense, 8) == pytest.approx(1.5)
    assert lead(moe, dense, 64) is None


def test_batches_read_from_disk_do_not_count() -> None:
    disk = model("a", SLOW, (point(1, SLOW), point(8, rates(900, 1000, 1100, 8), placement="disk")))
    v = verdict("batch throughput", disk, model("b", FAST, (point(1, FAST), point(8, None))))
    assert v.better == "b"
    assert v.by == pytest.approx(5)


def test_without_an_offloaded_form_there_is_no_verdict() -> None:
    v = verdict("offload", model("a", FAST, ()), model("b", SLOW, ()))
    assert (v.better, v.why) == (None, "no offloaded form here: A, B")
