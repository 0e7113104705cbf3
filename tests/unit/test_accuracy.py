"""docs/accuracy.md from a small made-up corpus: what is left out, ranges, shapes, other formulas."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from moeplan.api import accuracy_formulas
from moeplan.api.accuracy import accuracy_markdown, held_out_by_regime
from moeplan.api.calibrate import Fit, fit_calibration
from moeplan.api.coverage import Ranges
from moeplan.api.held_out import stretches
from moeplan.api.resolve import Session
from moeplan.readers.catalog import Catalog
from moeplan.units import GIB
from moeplan.validate.baselines import Facts, simple_law_with
from moeplan.validate.score import binomial_band

HEAD = (
    "id,setup,model,arch_class,quant,engine,gpu,n_gpus,placement,cpu_moe,phase,depth_tokens,ubatch,"
    "prompt_tokens,tokens_per_s,grade,source,batch,gen_tokens,date"
)
# (setup, model, quant, gpu, depth, tokens/s, source): two series that start shallow, of two sources.
DECODE = (
    ("a", "llama-3-8b", "q4_k_m", "rtx-4090", 0, 130.0, "one"),
    ("a", "llama-3-8b", "q4_k_m", "rtx-4090", 8192, 100.0, "one"),
    ("b", "llama-3-8b", "q8_0", "rtx-3090", 0, 85.0, "two"),
    ("b", "llama-3-8b", "q8_0", "rtx-3090", 8192, 70.0, "two"),
    ("c", "qwen3-8b", "q4_k_m", "rtx-3090", 0, 110.0, "three"),
    ("d", "qwen3-8b", "q8_0", "rtx-4090", 0, 100.0, "four"),
)
# Flagged, so never fitted: (micro-batch, tokens/s). A fourth is graded A: fitted, and not shown with them.
UBATCHES = ((256, 240.0), (512, 380.0), (2048, 1113.0))
LLAMA = {"arch": "llama", "n_layer": 12, "n_ff": 2048, "n_head": 12, "n_head_kv": 12, "n_vocab": 32000}
RUNS_HEAD = "model,threads,fa,kv,mode,B_or_n,depth,wall_best_ms,stream_read_GBs"


def _write(folder: Path, scale: float = 1.0) -> Path:
    """The corpus in ``folder``, the speeds of source "four" times ``scale``."""
    lines = [HEAD]
    for i, (setup, model, quant, gpu, depth, speed, source) in enumerate(DECODE):
        told = speed * (scale if source == "four" else 1.0)
        lines.append(
            f"d{i},{setup},{model},dense,{quant},llama.cpp,{gpu},1,gpu,,decode,{depth},,,{told},A,{source},1,128,2026-01"
        )
    for ubatch, speed, grade in (*((u, s, "C") for u, s in UBATCHES), (1024, 700.0, "A")):
        lines.append(
            f"u{ubatch},u,gpt-oss-120b,moe,mxfp4,llama.cpp,rtx-3090,1,experts,25,prefill,0,{ubatch},4096,{speed},"
            f"{grade},flags,1,,2026-01"
        )
    folder.mkdir(exist_ok=True)
    (folder / "speed.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    runs = folder / "runs"
    runs.mkdir(exist_ok=True)
    models = {"small": {**LLAMA, "n_embd": 768}, "large": {**LLAMA, "n_embd": 1536}}
    (runs / "models.json").write_text(json.dumps(models), encoding="utf-8")
    times = {"small-Q4_K_M": 9.0, "small-Q8_0": 15.0, "large-Q4_K_M": 22.0, "large-Q8_0": 36.0}
    rows = [f"{name}.gguf,2,1,f16,tg,1,0,{ms},21.0" for name, ms in times.items()]
    (runs / "speed.csv").write_text("\n".join([RUNS_HEAD, *rows]) + "\n", encoding="utf-8")
    return folder


def _fit(folder: Path) -> Fit:
    return fit_calibration([folder], Session(Catalog(None)), id="t", date="2026-11-30")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return _fit(_write(tmp_path_factory.mktemp("corpus")))


def _table(text: str, title: str) -> list[list[str]]:
    """Cells of the rows of the first table under the heading that begins with ``title``."""
    part = text.split(f"## {title}", 1)[1]
    rows = re.findall(r"^\| (.*) \|$", part.split("\n## ")[0], re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def test_each_way_leaves_out_what_it_names(fitted: Fit) -> None:
    runs = [i for i, s in enumerate(fitted.samples) if s.source == "engine runs"]
    assert len(runs) == 4
    for way in ("run file", "run type"):
        left = {i for i, error in enumerate(fitted.errors[way]) if error}
        assert left == set(runs)
    # a file's own model tells more of it than another model does, and every way leaves something out
    rows = {way: [fitted.errors[way][i] for i in runs] for way in ("run file", "model", "run type")}
    assert len({tuple(values) for values in rows.values()}) == 3
    assert all(a != b for a, b in zip(fitted.in_sample, fitted.errors["model"], strict=True))


def test_engine_runs_are_told_by_what_was_left_out(fitted: Fit) -> None:
    rows = _table(accuracy_markdown(fitted), "Engine runs")
    assert [row[0] for row in rows] == ["a file (model and type)", "a model", "a type"]
    errors = sorted(
        math.expm1(abs(e))
        for e, s in zip(fitted.errors["model"], fitted.samples, strict=True)
        if s.regime[:4] == "runs"
    )
    assert rows[1][1].startswith(f"{(errors[1] + errors[2]) / 2:.0%} / ") and rows[1][1].endswith(" (4)")
    assert rows[1][4:] == ["", rows[1][1]]  # no prefill; all of it is dense decode


def test_falls_with_depth_are_relative_to_the_same_series(fitted: Fit) -> None:
    (every, gpu) = _table(accuracy_markdown(fitted), "Shape: decode against depth")
    assert every[:4] == ["8,192", "all", "2", "2"] and gpu[:4] == ["8,192", "gpu", "2", "2"]
    # log(measured / predicted time) deep less shallow = log of predicted over measured relative speed
    falls = [fitted.in_sample[1] - fitted.in_sample[0], fitted.in_sample[3] - fitted.in_sample[2]]
    assert float(every[4]) == pytest.approx(math.exp(sum(falls) / 2), abs=6e-4)
    assert every[4] != every[5]


def test_micro_batches_are_relative_to_512_on_rows_that_no_fit_saw(fitted: Fit) -> None:
    assert [s.id for s in fitted.samples if s.id.startswith("u")] == ["u1024"]
    rows = _table(accuracy_markdown(fitted), "Shape: prompts against micro-batch")
    assert [row[0] for row in rows] == ["256", "512", "2048"]
    assert [row[3] for row in rows] == ["0.63", "1.00", "2.93"]  # 240 / 380, 1, 1113 / 380
    assert rows[1][4:] == ["1.00", "+0%"] and float(rows[0][4]) < 1.0 < float(rows[2][4])


def test_a_margin_is_claimed_only_with_setups_and_sources_enough(fitted: Fit) -> None:
    text = accuracy_markdown(fitted)
    assert "No regime has setups and sources enough" in text
    assert "models out" in text


def test_the_range_of_a_source_does_not_know_its_errors(tmp_path: Path, fitted: Fit) -> None:
    """Tenfold errors of one source widen the ranges of the others and not its own."""
    same = _fit(_write(tmp_path / "same"))
    errors = {way: list(values) for way, values in same.errors.items()}
    mine = next(i for i, s in enumerate(same.samples) if s.source == "four")
    other = next(i for i, s in enumerate(same.samples) if s.source == "one")
    for way in errors:
        errors[way][mine] *= 10.0
    before, after = Ranges(same), Ranges(same._replace(errors=errors))
    assert before.of(mine, "source") == after.of(mine, "source")
    assert before.of(other, "source") != after.of(other, "source")
    # the same files give the same bytes
    assert accuracy_markdown(same) == accuracy_markdown(fitted)


def test_rows_alone_in_their_architecture_or_type_ask_for_wider_ranges(fitted: Fit) -> None:
    wider = stretches(fitted.samples, fitted.traced, fitted.calibration, lambda s: s.id)
    # leaving single rows out, "a" at 8192 tokens keeps a row of the same model, type and GPU
    assert wider[1] == 1.0
    by_gpu = stretches(fitted.samples, fitted.traced, fitted.calibration, lambda s: s.device)
    assert by_gpu[0] > 1.0  # no other row is of Ada


def test_shares_are_of_setups_and_both_ways(fitted: Fit) -> None:
    found = {h.regime: h for h in held_out_by_regime(fitted)}
    gpu = found["decode/gpu/dense"]
    assert (gpu.setups, gpu.sources, gpu.devices) == (4, 4, 2)
    assert len(gpu.widths) == 8 and gpu.covered * 8 == round(gpu.covered * 8)
    assert gpu.published and not found["runs-decode/cpu/dense"].published


def test_binomial_bands() -> None:
    # of 10 with 0.8: P(<= 4) = 0.6%, P(<= 5) = 3.3%, P(<= 9) = 89%: 5 to 10 hold the middle 95%
    assert binomial_band(10, 0.8) == (0.5, 1.0)
    assert binomial_band(1, 0.8) == (0.0, 1.0)
    low, high = binomial_band(1000, 0.8)
    assert low == pytest.approx(0.8 - 1.96 * math.sqrt(0.16 / 1000), abs=2e-3)
    assert high == pytest.approx(0.8 + 1.96 * math.sqrt(0.16 / 1000), abs=2e-3)
    assert binomial_band(20_000, 0.8) == (pytest.approx(0.7945, abs=1e-3), pytest.approx(0.8055, abs=1e-3))


def test_the_simple_law_is_fitted_again_without_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sources hold to one pair of constants, a fourth to another: that is met by theirs."""
    laws = {"one": (1.1, 2e-3), "two": (1.1, 2e-3), "three": (1.1, 2e-3), "odd": (0.7, 4e-3)}
    facts, traced, samples = [], [], []
    for source, constants in laws.items():
        for gib in (2, 4, 8, 16):
            f = Facts(
                params=1e9, active_params=1e9, weights_bytes=gib * GIB, active_bytes=gib * GIB, kv_bytes=0.0,
                gpu_bytes_per_s=1e12, ram_bytes_per_s=5e10, gpu_share=1.0, moe=False, n_gpus=1, n_layers=32,
                cpu_moe_layers=0, quant="q4_k_m", vendor="nvidia", unified=False, peak_flop_per_s=1e14,
            )  # fmt: skip
            speed = simple_law_with(f, *constants)
            assert speed is not None
            facts.append(f)
            traced.append(SimpleNamespace(measured_s=1 / speed, index=len(traced)))
            samples.append(SimpleNamespace(source=source, device="d"))
    monkeypatch.setattr(accuracy_formulas, "facts_of", lambda item: facts[item.index])
    fit = SimpleNamespace(traced=traced, samples=samples)
    errors = accuracy_formulas._refitted(fit, {str(i): [i] for i in range(len(facts))}, "source")
    assert errors[:12] == pytest.approx([0.0] * 12, abs=1e-9)
    met = [math.log(simple_law_with(f, 1.1, 2e-3) / simple_law_with(f, 0.7, 4e-3)) for f in facts[12:]]
    assert errors[12:] == pytest.approx(met, abs=1e-9)
