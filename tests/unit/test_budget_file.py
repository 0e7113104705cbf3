"""moeplan.check.yaml: the matrix, extends, and mistakes with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeplan.domain.budget import BudgetFile
from moeplan.errors import SpecError
from moeplan.readers.budget_file import read_budget_file

GOOD = """\
schema: moeplan/budget@1
models:
  chat: {model: mixtral-8x7b, quant: q4_k_m}
  code: qwen3-30b-a3b
hardware:
  desk: {gpu: rtx-4090, ram_gib: 64}
  prod: a100-sxm-80gb
workloads:
  short: {context: 4096, prompt: 256, output: 64, batch: 2}
  long:
    context: 32768
    budgets:
      decode: {min_tokens_per_s: 5}
budgets:
  memory: {headroom: 5%, max_per_gpu: 20GiB}
  decode: {min_tokens_per_s: 40, confidence: 0.9}
  ttft: {max_ms: 500}
exclude:
  - {model: code, hardware: desk, workload: long}
include:
  - {model: gpt-oss-20b, hardware: l4, budgets: {context: {min_tokens: 8192}}}
deployments:
  - {file: deploy.yaml, hardware: prod, only: chat, prompt: 100}
"""


def read(tmp_path: Path, text: str = GOOD, **others: str) -> BudgetFile:
    """A budget file with this text, beside others."""
    for name, content in others.items():
        (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
    path = tmp_path / "moeplan.check.yaml"
    path.write_text(text, encoding="utf-8")
    return read_budget_file(path, "moeplan.check.yaml")


def test_the_matrix_is_written_out(tmp_path: Path) -> None:
    budgets = read(tmp_path)
    # 2 models x 2 machines x 2 workloads - 1 excluded + 1 included
    assert [case.id for case in budgets.cases] == [
        "chat/desk/short",
        "chat/desk/long",
        "chat/prod/short",
        "chat/prod/long",
        "code/desk/short",
        "code/prod/short",
        "code/prod/long",
        "gpt-oss-20b/l4",
    ]
    case = budgets.cases[0]
    assert (case.request.model, case.request.quant, case.request.batch) == ("mixtral-8x7b", "q4_k_m", 2)
    assert (case.request.machine.gpu, case.request.machine.ram_gib) == ("rtx-4090", 64)
    assert case.line == 3
    assert [b.kind for b in case.budgets] == ["fits", "memory", "decode", "ttft"]


def test_budgets_are_in_si_units_with_their_lines(tmp_path: Path) -> None:
    fits, memory, decode, ttft = read(tmp_path).cases[0].budgets
    assert (fits.kind, fits.line) == ("fits", 3)
    assert (memory.headroom_frac, memory.limit, memory.line) == (0.05, 20 * 2**30, 15)
    assert (decode.limit, decode.confidence, decode.line) == (40, 0.9, 16)
    assert (ttft.limit, ttft.line) == (0.5, 17)


def test_the_nearest_budget_of_a_kind_counts(tmp_path: Path) -> None:
    long = read(tmp_path).cases[1]
    decode = next(b for b in long.budgets if b.kind == "decode")
    assert (decode.limit, decode.confidence, decode.line) == (5, None, 13)
    included = read(tmp_path).cases[-1]
    assert [b.kind for b in included.budgets] == ["fits", "memory", "decode", "ttft", "context"]


def test_deployments_stand_beside_the_file(tmp_path: Path) -> None:
    (entry,) = read(tmp_path).deployments
    assert (entry.file, entry.hardware, entry.only) == (
        str(tmp_path / "deploy.yaml"),
        "a100-sxm-80gb",
        "chat",
    )
    assert (entry.line, entry.overrides and entry.overrides.prompt_tokens) == (23, 100)


def test_a_file_extends_one_other(tmp_path: Path) -> None:
    base = "models: {a: m1, b: m2}\nhardware: [l4]\nbudgets:\n"
    base += "  decode: {min_tokens_per_s: 1}\n  ttft: {max_ms: 9}\n"
    own = "extends: base.yaml\nmodels: {b: m3}\nbudgets:\n  ttft: {max_ms: 7}\n"
    cases = read(tmp_path, own, base=base).cases
    assert {case.id: case.request.model for case in cases} == {"a/l4": "m1", "b/l4": "m3"}
    decode, ttft = cases[0].budgets[1:]
    assert (decode.limit, Path(decode.file).name, decode.line) == (1, "base.yaml", 4)
    assert (ttft.limit, Path(ttft.file).name, ttft.line) == (0.007, "moeplan.check.yaml", 4)


def test_extends_goes_one_level_deep(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="one level deep") as caught:
        read(tmp_path, "extends: base.yaml\n", base="\nextends: other.yaml\n", other="models: [a]\n")
    assert (Path(str(caught.value.path)).name, caught.value.line) == ("base.yaml", 2)
    with pytest.raises(SpecError, match="names the file itself"):
        read(tmp_path, "extends: moeplan.check.yaml\n")
    with pytest.raises(SpecError, match="no such file") as caught:
        read(tmp_path, "models: [a]\nextends: gone.yaml\n")
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("ttft: {max_ms", "ttft: {max_s", 17, "did you mean `max_ms`?"),
        ("decode: {min_tokens_per_s: 40", "decodes: {min_tokens_per_s: 40", 16, "did you mean `decode`?"),
        ("models:", "modles:", 2, "did you mean `models`?"),
        ("min_tokens_per_s: 40,", "min_tokens_per_s: fast,", 16, "expected a number"),
        ("min_tokens_per_s: 40,", "min_tokens_per_s: -1,", 16, "> 0.0"),
        ("confidence: 0.9", "confidence: 1.9", 16, "confidence"),
        ("headroom: 5%", "headroom: 5 parrots", 15, "unknown unit 'parrots'"),
        ("headroom: 5%", "headroom: 105%", 15, "0% to 99%"),
        ("20GiB}", "20GiB, confidence: 0.9}", 15, "not modelled yet: `memory.confidence`"),
        ("{model: code, hardware: desk,", "{model: cod, hardware: desk,", 19, "did you mean `code`?"),
        ("prod: a100-sxm-80gb", "prod: local", 7, "another answer on every runner"),
        ("desk: {gpu: rtx-4090, ram_gib: 64}", "desk: {ram_gib: 64}", 6, "another answer on every runner"),
        ("ttft: {max_ms: 500}", "cost: {usd_per_hour: 4}", 17, "not modelled yet: budget `cost` (prices)"),
        ("ttft: {max_ms: 500}", "training: {max_days: 4}", 17, "budget `training` (training)"),
        ("ttft: {max_ms: 500}", "fine-tuning: {}", 17, "budget `fine-tuning` (fine-tuning)"),
        ("ttft: {max_ms: 500}", "tpot: {max_ms: 50}", 17, "(latency under load)"),
        ("ttft: {max_ms: 500}", "ttft: {p95_ms: 500}", 17, "budget `ttft.p95_ms` (latency under load)"),
        ("decode: {min_tokens_per_s: 5}", "energy: {max_w: 5}", 13, "(power and energy)"),
        ("context: {min_tokens: 8192}", "latency: {max_ms: 1}", 21, "(latency under load)"),
    ],
)
def test_mistakes_have_a_line_and_a_hint(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(SpecError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert message in f"{caught.value.message} ({caught.value.hint})"
    assert caught.value.line == line


def test_a_file_that_asks_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="asks nothing"):
        read(tmp_path, "models: [mixtral-8x7b]\n")
    with pytest.raises(SpecError, match="needs `headroom` or `max_per_gpu`"):
        read(tmp_path, "models: [a]\nhardware: [b]\nbudgets: {memory: {}}\n")


def test_a_matrix_without_end_is_refused(tmp_path: Path) -> None:
    names = ", ".join(f"m{i}" for i in range(80))
    with pytest.raises(SpecError, match="more than 5,000 cases"):
        read(tmp_path, f"models: [{names}]\nhardware: [{names}]\n")
