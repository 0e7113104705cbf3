"""What a page says of its rows and the rows themselves do not: builds, backends, switches, memory, dates.

Each entry names the page, by what the ``source`` of its rows has in it, and where the fact stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Pages that name the commit to run, whenever a row was added. 4167 asks for 8e672efe, the head of 2023-11-22
# (llama.cpp issue 4171 calls it the latest that day). Pull request 16991 is of November 2025 (16884 of 31
# October), and so is the table in it.
_PINNED_BUILDS = {
    "ggml-org/llama.cpp/discussions/4167": "2023-11",
    "ggml-org/llama.cpp PR #16991": "2025-11",
}
# Builds of undated rows: 8084 is of 17 February 2026 (ik_llama.cpp PR 1278), and eleven are made a day.
_BUILD_DATES = {"b8125": "2026-02-21"}
# Pages of one backend: 10879 is "Performance of llama.cpp with Vulkan".
# The table at line 235 of issue 437 is headed "llama.cpp bench"; ik_llama.cpp's follows.
_PINNED_ENGINES = {
    "ggml-org/llama.cpp/discussions/10879": "llama.cpp (Vulkan)",
    "support intel amx for further accelerate.md L235": "llama.cpp",
}
# Pages that measure the build before ik_llama.cpp's PR 461 beside the newest (24c010b3; issues 476 and 490),
# or that before its PR 370 beside it, and what the notes of those rows say.
_EARLIER_BUILDS = {
    ("ik_llama.cpp:github-data/issues/490", "24c010b3"): "2025-05-25",
    ("ik_llama.cpp:github-data/issues/490", "CPU-side expert matmul"): "2025-05-25",
    ("ik_llama.cpp:github-data/issues/476", "good build"): "2025-05-25",
    ("ik_llama.cpp:github-data/pull_requests/370", "by ubergarm; main"): "2025-05-02",
}
# Pages on which every command with weights in RAM has -rtr, which interleaves their rows ("Repacked 264
# tensors"), and a table whose command has it (issue 476); notes say it as "-rtr", "rtr" or "rtr=1".
_INTERLEAVED_PAGES = (
    "ik_llama.cpp:github-data/issues/629",
    "ik_llama.cpp:github-data/discussions/357",
    "ik_llama.cpp:github-data/pull_requests/370",
    "issues/476 - Research_ performance divergence.md L156",
)
_INTERLEAVED_NOTE = re.compile(r"\brtr\b(?!=0)")
# Notes that give two numbers of threads: those of single tokens, and those of prompts (--threads-batch).
_PROMPT_THREADS = re.compile(r"-t \d+/(\d+)\b")
# A virtual machine with a part of the hardware threads, two of which share a core.
_VIRTUAL = re.compile(r"\bVM, (\d+) of \d+ threads")
# Pages on which every command for a GPU has -fa, and single commands that have it: of createthis in
# discussion 258, and of the record that a row of GLM-4.5 was copied from ("-ctk q8_0 -ctv q8_0", "-fa -b 4096
# -ub 4096").
_GLM_RECORD = "ubergarm/GLM-4.5-GGUF/discussions/7"
_FUSED_PAGES = (
    "ik_llama.cpp:github-data/discussions/357", "ik_llama.cpp:github-data/pull_requests/370",
    "coming over from llama.cpp and ktransformers_.md L9852", _GLM_RECORD,
)  # fmt: skip
# Pages on which every command has -fa, those without a GPU too, and types of the cache in commands.
_GEMMA_PAGE = "ik_llama.cpp:github-data/pull_requests/332"
_FUSED_ANYWHERE = (_GEMMA_PAGE, "ik_llama.cpp:github-data/discussions/385")
_CACHES = {_GEMMA_PAGE: "q8_0", _GLM_RECORD: "q8_0"}
# Pages on which every command has -fa 1 -ub 2048, as the copy that rows were taken from says too.
_UBATCH_PAGES = ("llama.cpp/discussions/15396", "llama.cpp/issues/17917", "dgx-spark/dgx-spark.md")
_UBATCHES = {_GLM_RECORD: 4096, **dict.fromkeys(_UBATCH_PAGES, 2048)}
# Memory that the author of a page states there or elsewhere, by page and a word of the row's notes:
# - OCCT reads 598 GB/s from 12 x DDR5-6400 (discussion 258, 28 June 2025); Intel mlc reads 512 GiB/s
#   (discussion 201): 549.8 GB/s and no round 512; likwid-bench reads 500 GB/s in the VM of a contributor to
#   357 and 370 (357, 3 May 2025), whose channels carry 576.
# - 360 GB/s of an EPYC 9374F with all 12 slots filled (llama.cpp issue 6434), which carry 460.8: measured.
# - 385: 16 equal modules on 12 channels, so that four channels hold half of all and the rest waits for them:
#   8 channels of DDR4-2666 (Dell, "Balanced Memory with 2nd Generation Xeon Scalable": a third is lost).
# - "64 GB/s theoretical" of ikawrakow's Ryzen 7950X, "60 GB/s is the best one gets in practice" (PR 232).
_IK = "ikawrakow/ik_llama.cpp:github-data/"
_PINNED_RAM = {
    (f"{_IK}issues/629 ", ""): (598.0, "measured"),
    (f"{_IK}issues/296 ", ""): (549.8, "measured"),
    (f"{_IK}pull_requests/315 ", ""): (549.8, "measured"),
    (f"{_IK}discussions/357 ", "by AesSedai"): (500.0, "measured"),
    (f"{_IK}pull_requests/370 ", "by AesSedai"): (500.0, "measured"),
    ("(fairydreaming)", ""): (360.0, "measured"),
    (f"{_IK}discussions/385 ", ""): (170.6, "theoretical"),
    (_IK, "by ikawrakow"): (64.0, "theoretical"),
}
# Threads of the one configuration that a page shows for all of its rows ("threads": 8, of 12 cores).
_PINNED_THREADS = {"LostRuins/koboldcpp issue #557": 8}
# A page that says of its own row that layers and cache did not fit into VRAM together (its footnote 2, C-11).
_PAGING = "FedericoTs/quantprobe:MACHINE_LADDER.md (context depth)"
# Tables that grew for years and are dated by their last edit: when each row was added (the file's history,
# read 2026-11-30).
_ADDED = {
    "geerlingguy/ai-benchmarks:README.md": {
        "": "2024-10-28", "issues/1": "2024-11-18", "issues/2": "2024-11-12", "issues/5": "2024-12-11",
        "issues/9": "2025-01-29", "issues/10": "2025-01-29", "issues/12": "2025-01-30",
        "issues/13": "2025-05-06", "pull/11": "2025-01-30", "issues/17": "2025-02-06",
        "pull/18": "2025-02-07", "issues/21": "2025-08-07", "issues/23": "2025-09-22",
        "issues/25": "2025-09-30", "issues/26": "2025-10-08", "issues/27": "2025-10-10",
        "issues/29": "2025-10-20", "issues/32": "2025-11-10", "issues/33": "2025-11-12",
        "issues/34": "2025-11-22", "issues/35": "2025-11-24", "issues/36": "2025-11-28",
        "issues/39": "2025-11-28", "issues/40": "2025-12-11", "issues/42": "2025-12-07",
        "issues/43": "2025-12-11", "issues/45": "2025-12-11", "issues/46": "2025-12-18",
    }
}  # fmt: skip
# A contributor whose submissions state one length for prompt and context: from 512 to 131,072 tokens answers
# slow down as that many tokens of cache are to be read (2.9 ms for 2.1 GB at 16,384 of Phi-4 mini).
_AFTER_PROMPT = "user Sandberg;"
# llmfit times requests to OpenAI-compatible servers from outside (llmfit-core/src/bench.rs: tokens over the
# whole request's time; Ollama's own figures leave the prompt out). Its first three prompts have 11, 18 and 24
# tokens, and templates a dozen more.
_CLIENT_NOTE, _CLIENT_PROMPT_TOKENS = "client end-to-end rate", 30
_VULKAN_NOTE = re.compile(r"\bbackend=\S*vulkan")


def quant_of(quant: str, engine: str, model_raw: str, quant_raw: str) -> str:
    """The type; files for MLX say in their name that what is no expert has 4 bits as well, and Unsloth's
    dynamic ones that they are."""
    if "unsloth UD" in quant_raw:
        return f"ud-{quant}"
    mlx = engine.startswith("mlx") and quant == "mxfp4" and "MXFP4-Q4" in model_raw
    return "mlx-mxfp4-q4" if mlx else quant


def engine_of(source: str, engine: str, notes: str) -> str:
    """The engine, with its backend where notes or page say so, or a switch of ik_llama.cpp's that decides
    where its prompts are computed."""
    engine = _pinned(_PINNED_ENGINES, source) or engine
    if _VULKAN_NOTE.search(notes) and "(" not in engine:
        return f"{engine} (Vulkan)"
    asked = _INTERLEAVED_NOTE.search(notes) or _is_of(_INTERLEAVED_PAGES, source)
    return f"{engine} (rtr)" if asked and engine == "ik_llama.cpp" else engine


def fuses_attention(source: str, said: str, gpu: str) -> bool | None:
    """Whether attention was fused, by the row or by its page; None where neither says so."""
    if said:
        return said not in ("0", "false")
    pages = _FUSED_ANYWHERE + (_FUSED_PAGES + _UBATCH_PAGES if gpu else ())
    return True if _is_of(pages, source) else None


def ubatch_of(source: str) -> int | None:
    """Tokens of a micro-batch in all commands of a page."""
    return next((n for page, n in _UBATCHES.items() if page in source), None)


def cache_of(source: str, kv_type: str) -> str:
    """The cache's type, by the row or by the commands of its page."""
    return kv_type or _pinned(_CACHES, source)


def threads_of(source: str, threads: int | None, notes: str, cpu_raw: str, phase: str) -> int | None:
    """Threads of the CPU, by the row or its page; those of this phase where the notes tell prompts apart; no
    more than there are cores for."""
    threads = threads or next((n for page, n in _PINNED_THREADS.items() if page in source), None)
    apart = _PROMPT_THREADS.search(notes) if phase == "prefill" else None
    threads = int(apart[1]) if apart else threads
    virtual = _VIRTUAL.search(cpu_raw)
    return min(threads or int(virtual[1]), int(virtual[1]) // 2) if virtual else threads


def ram_of(source: str, notes: str, gbps: float | None, basis: str) -> tuple[float | None, str]:
    """(GB/s, how that is known) of the host, where its author states it elsewhere; else as in the row."""
    known = (ram for (page, word), ram in _PINNED_RAM.items() if page in source and word in notes)
    return next(known, (gbps, basis))


def grade_of(source: str, grade: str) -> str:
    """C where a page says that its rows paged."""
    return "C" if _PAGING in source else grade


def is_after_prompt(notes: str) -> bool:
    """Whether a contributor's answers were generated in the context of the prompt that they state."""
    return _AFTER_PROMPT in notes


def client_prompt_of(notes: str, engine: str) -> int:
    """Tokens of the prompt whose time is inside a speed that a client took; 0 where none is."""
    return _CLIENT_PROMPT_TOKENS if _CLIENT_NOTE in notes and engine != "ollama" else 0


def build_date(source: str, notes: str, engine: str, date: str) -> str:
    """When the build was made, as far as known: no later than the row's ``date``."""
    earlier = (known for (page, word), known in _EARLIER_BUILDS.items() if page in source and word in notes)
    page, _, part = source.partition(" (")
    added = _ADDED.get(page, {}).get(part.removesuffix(")"), "")
    build = _BUILD_DATES.get(engine.rpartition(" ")[2], "")
    return next(earlier, "") or added or date or _pinned(_PINNED_BUILDS, source) or build


def _is_of(pages: tuple[str, ...], source: str) -> bool:
    return any(page in source for page in pages)


def _pinned(pages: Mapping[str, str], source: str) -> str:
    """What the page of ``source`` asks all its contributors for; "" where it is none of ``pages``."""
    return next((value for page, value in pages.items() if page in source), "")
