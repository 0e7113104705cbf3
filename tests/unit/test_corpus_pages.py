"""What a page says of its rows beside their columns."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from moeplan.readers.corpus import SpeedRow, read_speed
from moeplan.validate.rows import request_of

_COLUMNS = [
    *(
        "id",
        "setup",
        "model",
        "model_raw",
        "quant",
        "quant_raw",
        "engine",
        "gpu",
        "n_gpus",
        "pcie",
        "placement",
        "phase",
        "cpu",
        "cpu_raw",
        "threads",
    ),
    *("tokens_per_s", "grade", "source", "notes", "date", "prompt_tokens", "depth_tokens"),
    *("ram_gbps", "ram_gbps_basis", "threads", "flash_attn"),
]
_ROW = {
    "id": "a", "setup": "s", "model": "llama-3-8b", "quant": "q4_k_m", "engine": "llama.cpp",
    "gpu": "rtx-4090", "n_gpus": "1", "placement": "gpu", "phase": "decode",
    "tokens_per_s": "130", "grade": "A",
}  # fmt: skip


def _read(tmp_path: Path, *rows: dict[str, str]) -> tuple[SpeedRow, ...]:
    path = tmp_path / "speed.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows({**dict.fromkeys(_COLUMNS, ""), **_ROW, **row} for row in rows)
    return read_speed(path)


def test_a_table_that_grew_dates_each_row_by_when_it_was_added(tmp_path: Path) -> None:
    table = "geerlingguy/ai-benchmarks:README.md"
    sources = (
        f"{table} (issues/1)",
        f"{table} (pull/11)",
        table,
        f"{table} (issues/999)",
        "other (issues/1)",
    )
    rows = _read(tmp_path, *({"source": source, "date": "2025-12-18"} for source in sources))
    assert [row.date for row in rows] == [
        "2024-11-18",
        "2025-01-30",
        "2024-10-28",
        "2025-12-18",
        "2025-12-18",
    ]


def test_notes_name_the_backend(tmp_path: Path) -> None:
    notes = ("backend=vulkan_radv fa=1", "backend=llama.cpp-vulkan_amdvlk", "backend=rocm-7_2_3", "no vulkan")
    rows = _read(
        tmp_path, *({"notes": text} for text in notes), {"engine": "llama.cpp (Vulkan)", "notes": notes[0]}
    )
    named, plain = "llama.cpp (Vulkan)", "llama.cpp"
    assert [row.engine for row in rows] == [named, named, plain, plain, named]


def test_answers_after_a_prompt_are_as_deep_as_it_is_long(tmp_path: Path) -> None:
    def submission(id: str, notes: str) -> list[dict[str, str]]:
        common = {"source": f"site submission {id}", "notes": notes}
        return [{**common, "phase": "prefill", "prompt_tokens": "8192"}, {**common, "depth_tokens": "0"}]

    rows = _read(tmp_path, *submission("1", "llama-bench; user Sandberg; x"), *submission("2", "user Other;"))
    assert [(row.phase, row.depth_tokens) for row in rows] == [
        ("prefill", 0), ("decode", 8192), ("prefill", 0), ("decode", 0),
    ]  # fmt: skip


def test_files_for_mlx_name_the_type_of_what_is_no_expert(tmp_path: Path) -> None:
    raw = {"model_raw": "gpt-oss-20b-MXFP4-Q4", "quant": "mxfp4"}
    rows = _read(
        tmp_path, {**raw, "engine": "mlx-lm"}, raw, {**raw, "engine": "mlx-lm", "model_raw": "gpt-oss-20b"}
    )
    assert [row.quant for row in rows] == ["mlx-mxfp4-q4", "mxfp4", "mxfp4"]


def test_unsloths_files_are_of_its_own_recipe(tmp_path: Path) -> None:
    raw = {"quant": "iq3_s", "quant_raw": "IQ3_S (unsloth UD)"}
    rows = _read(tmp_path, raw, {**raw, "quant_raw": "IQ3_S custom"})
    assert [row.quant for row in rows] == ["ud-iq3_s", "iq3_s"]


def test_builds_date_rows_that_state_no_day(tmp_path: Path) -> None:
    rows = _read(
        tmp_path,
        {"engine": "llama.cpp b8125"},
        {"engine": "llama.cpp b8125", "date": "2026-04-02"},
        {"engine": "llama.cpp"},
    )
    assert [row.date for row in rows] == ["2026-02-21", "2026-04-02", ""]


def test_the_lane_of_a_pi_is_of_the_third_generation(tmp_path: Path) -> None:
    (row,) = _read(tmp_path, {"pcie": "x1"})
    assert request_of(row, "raspberry-pi-5").machine.pcie == "gen3x1"
    assert request_of(row, "core-i9-13900k").machine.pcie is None


def test_authors_state_their_memory_elsewhere(tmp_path: Path) -> None:
    ik = "ikawrakow/ik_llama.cpp:github-data/"
    known = {"ram_gbps": "576", "ram_gbps_basis": "theoretical"}
    rows = _read(
        tmp_path,
        {**known, "source": f"{ik}discussions/357 - Qwen3.md L1", "notes": "by AesSedai; -t 48"},
        {**known, "source": f"{ik}discussions/357 - Qwen3.md L2", "notes": "by ubergarm; -t 16"},
        {"source": f"{ik}discussions/357 - Qwen3.md L3", "notes": "by ikawrakow; -t 16"},
        {**known, "source": f"{ik}discussions/385 - Qwen3.md L67", "notes": "by Gaolingx"},
        {"ram_gbps": "360", "ram_gbps_basis": "stated", "source": "x PR #1 (fairydreaming)"},
        {**known, "source": f"{ik}discussions/3579 - other.md", "notes": "by AesSedai"},
    )
    assert [(row.ram_gbps, row.ram_basis) for row in rows] == [
        (500.0, "measured"),  # read in the VM that ran the row
        (576.0, "theoretical"),  # another author's host
        (64.0, "theoretical"),
        (pytest.approx(8 * 8 * 2.666, rel=0.001), "theoretical"),  # 16 modules on 12 channels
        (360.0, "measured"),  # 12 channels of DDR5-4800 carry 460.8
        (576.0, "theoretical"),
    ]


def test_a_page_shows_threads_and_switches_once(tmp_path: Path) -> None:
    page = "LostRuins/koboldcpp issue #557 (someone)"
    rows = _read(tmp_path, {"source": page}, {"source": page, "threads": "4"}, {"source": "other"})
    assert [row.threads for row in rows] == [8, 4, None]
    shown = "https://huggingface.co/ubergarm/GLM-4.5-GGUF/discussions/7 via a copy"
    rows = _read(tmp_path, {"source": shown}, {"source": shown, "flash_attn": "0"}, {"source": "other"})
    assert [row.flash_attn for row in rows] == [True, False, None]


def test_a_client_that_times_whole_requests_times_their_prompts_too(tmp_path: Path) -> None:
    note = "bench; client end-to-end rate incl. short prompt"
    server, ollama = _read(tmp_path, {"notes": note}, {"notes": note, "engine": "ollama"})
    assert server.whole_request
    assert request_of(server, "").prompt_tokens == 30
    assert not ollama.whole_request  # its own clock leaves the prompt out
    assert request_of(ollama, "").prompt_tokens == 1


def test_a_page_of_two_builds_dates_the_earlier_one_by_what_came_between(tmp_path: Path) -> None:
    page = "ikawrakow/ik_llama.cpp:github-data/pull_requests/370 - x.md L1"
    rows = _read(
        tmp_path,
        {"source": page, "date": "2025-05-03", "notes": "llama-sweep-bench by ubergarm; main"},
        {"source": page, "date": "2025-05-03", "notes": "llama-sweep-bench by ubergarm; PR370 GQA FA"},
    )
    assert [row.date for row in rows] == ["2025-05-02", "2025-05-03"]


_IK = "ikawrakow/ik_llama.cpp:github-data/"


def test_what_interleaves_rows_at_loading_is_read_from_notes_and_pages(tmp_path: Path) -> None:
    said = ("FA rtr fmoe q8_0 KV; -t 16", "-rtr -fmoe", "threads=31 rtr=1", "rtr=0", "-fmoe", "partrtr")
    rows = _read(tmp_path, *({"engine": "ik_llama.cpp", "notes": text} for text in said))
    assert [row.engine.endswith("(rtr)") for row in rows] == [True, True, True, False, False, False]
    pages = (
        f"{_IK}discussions/357 - Qwen3.md L2187", f"{_IK}issues/490 - Bug.md L192",
        f"{_IK}issues/476 - Research_ performance divergence.md L156",
        f"{_IK}issues/476 - Research_ performance divergence.md L280",
    )  # fmt: skip
    rows = _read(tmp_path, *({"engine": "ik_llama.cpp", "source": page} for page in pages))
    assert [row.engine.endswith("(rtr)") for row in rows] == [True, False, True, False]
    assert _read(tmp_path, {"source": pages[0]})[0].engine == "llama.cpp"


def test_threads_of_prompts_and_cores_of_virtual_machines(tmp_path: Path) -> None:
    notes = {"notes": "numactl -N0; -t 88/128", "threads": "88"}
    virtual = {"cpu_raw": "EPYC 9355 (VM, 56 of 64 threads)", "threads": "48"}
    rows = _read(
        tmp_path, {**notes, "phase": "prefill"}, notes, {**virtual, "phase": "prefill"}, virtual,
        {**virtual, "threads": "16"}, {"threads": "48", "phase": "prefill", "notes": "-t 48"},
    )  # fmt: skip
    # 56 hardware threads are 28 cores
    assert [row.threads for row in rows] == [128, 88, 28, 28, 16, 48]


def test_commands_that_copies_of_rows_left_out(tmp_path: Path) -> None:
    glm = "https://huggingface.co/ubergarm/GLM-4.5-GGUF/discussions/7 via x"
    batched = (
        f"{_IK}discussions/258 - Quick-start Guide coming over from llama.cpp and ktransformers_.md L9852"
    )
    gemma = f"{_IK}pull_requests/332 - Better TG performance.md L71"
    rows = _read(
        tmp_path, {"source": glm}, {"source": batched}, {"source": gemma, "gpu": "", "cpu": "ryzen-9-7950x"},
        {"source": f"{_IK}discussions/385 - Qwen3 235B.md L67", "gpu": ""}, {"source": "x", "gpu": ""},
    )  # fmt: skip
    assert [row.ubatch for row in rows] == [4096, None, None, None, None]
    assert [row.flash_attn for row in rows] == [True, True, True, True, None]
    assert [row.kv_type for row in rows] == ["q8_0", "", "q8_0", "", ""]
