from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from moeplan.domain.result import Range
from moeplan.provenance import Term
from moeplan.report.estimate_json import render
from tests.support.report_sample import GIB, sample

REPO = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((REPO / "configs/schema/estimate.json").read_text(encoding="utf-8"))

# The fields that other programs rely on, written down apart from the code.
_RANGES = ["decode.tokens_per_s", "decode.tokens_per_s_per_sequence", "decode.step_ms"]
_RANGES += ["prefill.tokens_per_s", "prefill.ttft_ms", "load_s"]
_PARTS = ["weights", "kv", "state", "compute", "output", "overhead", "total", "capacity"]
PROMISED = [
    *("schema", "interval.level", "hardware.id", "workload", "engine", "fits"),
    *("model.id", "model.params_total", "model.params_active", "model.params_active_no_input_embedding"),
    *("model.params_active_no_embeddings", "model.weights_bytes"),
    *("placement.kind", "placement.gpu_layers", "placement.cpu_moe"),
    "memory.devices.0.device",
    *(f"memory.devices.0.{part}_bytes" for part in _PARTS),
    *("flops.prefill", "flops.decode_per_token"),
    *("traffic.decode_bytes_per_step", "traffic.experts_touched_per_layer"),
    *(f"{name}.{end}" for name in _RANGES for end in ("low", "expected", "high")),
    *("decode.bound", "prefill.bound"),
    *("confidence.badge", "confidence.regime", "confidence.n_reference_setups"),
    *("confidence.extrapolated", "confidence.engine_status"),
    *("not_modelled", "assumptions", "explain"),
]


def strict(text: str) -> Any:
    """JSON without the NaN and Infinity that Python would accept."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in JSON")

    return json.loads(text, parse_constant=refuse)


def at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[int(step)] if step.isdigit() else value[step]
    return value


@pytest.mark.parametrize("path", PROMISED)
def test_every_promised_field_is_there(path: str) -> None:
    at(strict(render(sample())), path)


@pytest.mark.parametrize(
    "estimate",
    [
        sample(),
        sample(gpus=(30.0,)),
        sample(n_sequences=16, explain=()),
        sample(experts_touched_per_layer=None, flop_prefill=math.nan, load_s=math.inf),
    ],
    ids=["fits", "does not fit", "batch", "gaps"],
)
def test_it_is_valid_by_the_shipped_schema(estimate: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(strict(render(estimate)), SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("decode.tokens_per_s.low", -1),
        ("memory.devices.0.weights_bytes", -1),
        ("confidence.badge", "guessed"),
        ("placement.kind", "elsewhere"),
        ("interval.level", 1.5),
        ("schema", "moeplan/estimate@2"),
    ],
)
def test_the_schema_refuses_nonsense(path: str, value: object) -> None:
    document = strict(render(sample()))
    *parents, last = path.split(".")
    owner = at(document, ".".join(parents)) if parents else document
    assert last in owner
    owner[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_figures() -> None:
    got = strict(render(sample(n_sequences=4)))
    # A step of 80 ms (62.5 to 100) gives 12.5 tokens/s to each of 4 sequences: 50 together.
    assert got["decode"]["step_ms"] == {"low": 62.5, "expected": 80.0, "high": 100.0}
    assert got["decode"]["tokens_per_s_per_sequence"] == {"low": 10.0, "expected": 12.5, "high": 16.0}
    assert got["decode"]["tokens_per_s"] == {"low": 40.0, "expected": 50.0, "high": 64.0}
    # Prefill covers the prompts of all sequences: 4 x 512 tokens in 1.28 s (1.024 to 1.6).
    assert got["prefill"]["tokens_per_s"] == {"low": 1280.0, "expected": 1600.0, "high": 2000.0}
    assert got["prefill"]["ttft_ms"] == {"low": 1024.0, "expected": 1280.0, "high": 1600.0}
    gpu = got["memory"]["devices"][0]
    # 10 + 1 + 0.75 + 0.5 GiB of 24
    assert gpu["total_bytes"] == 12.25 * GIB
    assert gpu["headroom_bytes"] == 11.75 * GIB


def test_parts_sum_to_the_total_of_each_device() -> None:
    parts = ("weights", "kv", "state", "compute", "output", "overhead")
    for device in strict(render(sample(gpus=(1.0, 2.0, 3.0))))["memory"]["devices"]:
        assert sum(device[f"{part}_bytes"] for part in parts) == device["total_bytes"]


def test_what_is_not_finite_is_null_with_its_reason() -> None:
    bad = Term("part", math.nan, "s", inputs={"rate": math.inf, "count": 3, "name": "x"})
    got = strict(render(sample(flop_prefill=math.nan, load_s=math.inf, explain=(bad,))))
    assert got["flops"]["prefill"] is None
    assert got["load_s"]["expected"] is None
    assert got["explain"][0]["value"] is None
    assert got["explain"][0]["inputs"] == {"rate": None, "count": 3, "name": "x"}
    text = "\n".join(got["not_modelled"])
    assert "flops.prefill: not a finite number" in text
    assert "load_s: not a finite number" in text
    assert "explain: part: not a finite number" in text


def test_a_model_that_does_not_fit_has_no_speed() -> None:
    got = strict(render(sample(gpus=(30.0,))))
    unknown = {"low": None, "expected": None, "high": None}
    assert got["fits"] is False
    assert got["fix"] == "--cpu-moe 26"
    assert got["decode"]["tokens_per_s"] == got["prefill"]["ttft_ms"] == got["load_s"] == unknown
    assert any("does not fit" in reason for reason in got["not_modelled"])
    # what it needs is known all the same
    assert got["memory"]["devices"][0]["headroom_bytes"] < 0
    assert got["flops"]["decode_per_token"] == 25.8e9


def test_explain_is_a_tree_with_sources() -> None:
    term = strict(render(sample()))["explain"][0]
    assert term["name"] == "decode step"
    assert sum(child["value"] for child in term["children"]) == pytest.approx(term["value"])
    assert term["children"][0]["source"] == {
        "kind": "fitted",
        "ref": "calibration of 2026-11",
        "retrieved": "2026-11-20",
        "note": "",
    }


def test_low_is_never_above_high() -> None:
    exact = Range(low=0.05, expected=0.05, high=0.05)
    got = strict(render(replace(sample(), decode_step_s=exact)))
    assert got["decode"]["tokens_per_s"] == {"low": 20.0, "expected": 20.0, "high": 20.0}
