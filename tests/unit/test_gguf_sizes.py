"""Sizes of published GGUF files by catalog id and quant name, the way every command gets them.

tests/unit/test_gguf_mixes.py has the rules behind them, tensor by tensor.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from moeplan.api.resolve import Session
from moeplan.readers.catalog import Catalog

PUBLISHED = Path(__file__).parents[1] / "data" / "quants" / "published_gguf.csv"
LINES = [line for line in PUBLISHED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
IDS = {
    "Llama-3-8B": "llama-3.1-8b",
    "Mixtral-8x22B": "mixtral-8x22b",
    "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "DeepSeek-V3": "deepseek-r1",
}
FILES = [(IDS[row["model"]], row["ftype"], float(row["published_bpw"])) for row in csv.DictReader(LINES)]
# llama.cpp tools/quantize/README.md. Its 405B in Q4_K_M (4.9101 bit) is left out: that is probably a file of
# the first upload, which had 410e9 parameters (today's quantizer gives 4.79 bit).
FILES.append(("llama-3.1-70b", "q4_k_m", 4.8871))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(Catalog(user=tmp_path_factory.mktemp("home")))


@pytest.mark.parametrize(("model", "quant", "published"), FILES, ids=lambda value: str(value))
def test_a_published_file_is_met_within_one_and_a_half_percent(
    session: Session, model: str, quant: str, published: float
) -> None:
    graph = session.graph(model, quant)
    assert graph.weights_bytes * 8 / graph.params.total == pytest.approx(published, rel=0.015)


# (model, quant, bits of the routed experts, bits of the rest), derived by hand:
# Mixtral-8x22B Q4_K_M: gate and up q4_k (4.5), down q6_k (6.5625) in 7 + 14 + 7 of 56 layers, else q4_k;
# Qwen3-30B-A3B Q5_K_M: q5_k (5.5), down q6_k in 24 of 48 layers; Q8_0: 8.5, routers and norms f32;
# DeepSeek-R1 UD-IQ1_S: experts iq1_s (1.5625). The rest: from another program with its rules.
SPLIT = [
    ("mixtral-8x22b", "q4_k_m", (2 * 4.5 + (4.5 + 6.5625) / 2) / 3, 5.5194),
    ("mixtral-8x22b", "iq3_s", 3.4375, 5.0588),
    ("qwen3-30b-a3b", "q5_k_m", (2 * 5.5 + (5.5 + 6.5625) / 2) / 3, 5.9517),
    ("qwen3-30b-a3b", "q8_0", 8.5, 8.6949),
    ("deepseek-r1", "ud-iq1_s", 1.5625, None),
    ("gpt-oss-120b", "mxfp4_moe", 4.25, None),
]


@pytest.mark.parametrize(("model", "quant", "experts", "other"), SPLIT)
def test_bits_of_the_experts_and_of_the_rest(
    session: Session, model: str, quant: str, experts: float, other: float | None
) -> None:
    graph = session.graph(model, quant)
    if model == "gpt-oss-120b":  # the experts' biases are f32
        assert graph.expert_bits_per_weight == pytest.approx(experts, rel=0.003)
    else:
        assert graph.expert_bits_per_weight == pytest.approx(experts, rel=1e-6)
    if other is not None:
        assert graph.other_bits_per_weight == pytest.approx(other, rel=5e-4)
    # the two parts are the whole
    routed = graph.params.routed_experts
    whole = (
        routed * graph.expert_bits_per_weight + (graph.params.total - routed) * graph.other_bits_per_weight
    )
    assert whole == pytest.approx(8 * graph.weights_bytes, rel=1e-9)


@pytest.mark.parametrize(
    ("model", "quant", "low_gb", "high_gb"),
    [
        ("yi-34b", "q4_k_m", 19.5, 21),  # "34B at 4 bits in about 20 GB"
        ("mixtral-8x7b", "bf16", 93, 94),  # 46.7e9 parameters of two bytes
        ("mixtral-8x7b", "iq4_xs", 24, 26),  # "24-26 GB at 4 bits"
        ("mixtral-8x7b", "gptq-int4-g128", 23.5, 26),
    ],
)
def test_everyday_sizes(session: Session, model: str, quant: str, low_gb: float, high_gb: float) -> None:
    assert low_gb <= session.graph(model, quant).weights_bytes / 1e9 <= high_gb


# Published sizes of Unsloth's dynamic files, as their pages, load logs and downloads state them.
@pytest.mark.parametrize(
    ("model", "quant", "published_gb", "apart"),
    [
        ("qwen3-30b-a3b", "ud-q4_k_xl", 16.493 * 1.024**3, 0.03),
        ("qwen3-235b-a22b", "ud-q3_k_xl", 96.59 * 1.024**3, 0.03),
        ("deepseek-v3", "ud-q4_k_xl", 357.623 * 1.024**3, 0.03),
        ("deepseek-v3", "ud-q3_k_xl", 275.91 * 1.024**3, 0.03),
        # of 2026: 8 bits beside the experts, whose down projection is a step above
        ("qwen3.5-35b-a3b", "ud-q3_k_xl", 16.601, 0.015),
        ("qwen3.5-35b-a3b", "ud-q4_k_xl", 22.242, 0.015),
        ("qwen3.5-35b-a3b", "ud-q5_k_xl", 26.386, 0.015),
        ("qwen3.5-122b-a10b", "ud-q5_k_xl", 91.928, 0.015),
        ("qwen3.5-122b-a10b", "ud-q6_k_xl", 112.401, 0.015),
        ("qwen3.5-397b-a17b", "ud-q4_k_xl", 245.272, 0.015),
        ("qwen3.5-397b-a17b", "ud-iq3_xxs", 140.334, 0.05),
        ("qwen3.5-27b", "ud-q4_k_xl", 17.621, 0.02),
        ("qwen3.5-27b", "ud-q5_k_xl", 20.171, 0.02),
        ("minimax-m2.7", "ud-q3_k_s", 87.2 * 1.024**3, 0.02),
        ("gemma-4-26b-a4b", "ud-q4_k_xl", 17.01, 0.02),
    ],
)
def test_dynamic_files(session: Session, model: str, quant: str, published_gb: float, apart: float) -> None:
    assert session.graph(model, quant).file_bytes / 1e9 == pytest.approx(published_gb, rel=apart)


def test_what_is_beside_the_experts_of_dynamic_files_by_year(session: Session) -> None:
    # log of Qwen3-30B-A3B UD-Q4_K_XL: 290 of 338 matrices are q4_k, and the head is q6_k
    of_2025 = session.graph("qwen3-30b-a3b", "ud-q4_k_xl")
    assert {t.qtype for t in of_2025.tensors if t.role == "attn_q"} == {"q4_k"}
    # log of Qwen3.5-35B-A3B UD-Q6_K_XL; Qwen3.6's down projections beside q4_k (sparkinfer PR 224)
    of_2026 = session.graph("qwen3.5-35b-a3b", "ud-q4_k_xl")
    assert {t.qtype for t in of_2026.tensors if t.role in ("attn_q", "head", "shared_up")} == {"q8_0"}
    assert {t.qtype for t in of_2026.tensors if t.role == "expert_down"} == {"q5_k"}
    assert {t.qtype for t in of_2026.tensors if t.role == "expert_up"} <= {"q4_k"}
