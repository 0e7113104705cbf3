"""What an engine runs on, and placements that contradict themselves: refused, never priced like others."""

from __future__ import annotations

from typing import Any

import pytest

import moeplan
from moeplan.engines.machines import lacks
from moeplan.engines.traits import ENGINES, find_engine
from moeplan.errors import NotModelled, SpecError
from moeplan.readers.hardware import resolve_hardware
from tests.support.problems import session


def answer(model: str, hardware: str, **options: Any) -> moeplan.Estimate:
    return moeplan.estimate(model, hardware, calibration="none", **options)


@pytest.mark.parametrize(
    ("engine", "hardware", "why"),
    [
        ("vllm", "ryzen-9-7950x", "needs a GPU"),
        ("exllamav2", "ryzen-9-7950x", "needs a GPU"),
        ("mlx", "h200-sxm-141gb", "unified memory"),
        ("mlx", "dgx-spark", "GPUs of apple"),
        ("ktransformers", "dgx-spark", "memory of their own"),
        ("tensorrt-llm", "rx-7900-xtx", "GPUs of nvidia"),
        ("vllm", "mac-studio-m3-ultra-512gb", "not for Apple M3 Ultra"),
        ("vllm", "tesla-p40", "compute capability 7.0"),
        ("llama.cpp", "tpu7x", "not for TPU7x"),
        ("llama.cpp", "gaudi-3", "not for Gaudi 3"),
        ("exllamav3", "mi300x", "GPUs of nvidia"),
    ],
)
def test_a_machine_without_kernels_is_refused(engine: str, hardware: str, why: str) -> None:
    with pytest.raises(NotModelled, match=why):
        answer("llama-3.2-1b", hardware, engine=engine, quant="bf16" if engine != "llama.cpp" else "q8_0")


@pytest.mark.parametrize(
    ("engine", "hardware"),
    [
        ("vllm", "v100-sxm2-32gb"),
        ("vllm", "gaudi-3"),
        ("vllm", "tpu7x"),
        ("llama.cpp", "arc-b580"),
        ("exllamav2", "rx-7900-xtx"),
        ("transformers", "tesla-p40"),
        ("mlx", "mac-studio-m3-ultra-512gb"),
        ("llama.cpp", "ryzen-9-7950x"),
    ],
)
def test_a_machine_with_kernels_is_not(engine: str, hardware: str) -> None:
    assert lacks(find_engine(engine), resolve_hardware(hardware, catalog=session().catalog)) == ""


def test_the_processor_of_any_machine_runs_llama_cpp() -> None:
    told = answer("llama-3.2-1b", "tpu7x", engine="llama.cpp", quant="q8_0", placement="cpu")
    assert told.placement.kind == "cpu"


def test_the_default_engine_is_one_that_runs() -> None:
    told = answer("llama-3.2-1b", "tesla-p40")
    assert told.workload.engine == "llama.cpp"
    assert any("compute capability" in line for line in told.assumptions)


@pytest.mark.parametrize(
    ("hardware", "engine"),
    [
        ("strix-halo", "llama.cpp"),
        ("radeon-890m", "llama.cpp"),
        ("apple-m4", "llama.cpp"),
        ("dgx-spark", "vllm"),
        ("mi300a", "vllm"),
        ("rtx-4090", "vllm"),
    ],
)
def test_a_desktop_that_shares_its_memory_runs_llama_cpp(hardware: str, engine: str) -> None:
    assert answer("llama-3.2-1b", hardware).workload.engine == engine


def test_chips_of_makers_without_a_published_speed_are_extrapolated() -> None:
    known, other = (
        answer("llama-3.2-1b", name, engine="vllm") for name in ("h100-sxm-80gb", "aws-trainium2")
    )
    assert not known.confidence.extrapolated and not any("of its maker" in n for n in known.not_modelled)
    assert other.confidence.extrapolated and other.confidence.badge == "assumed"
    assert other.confidence.n_reference_setups == 0
    assert any("AWS Trainium2" in note and "of its maker" in note for note in other.not_modelled)

    def width(told: moeplan.Estimate) -> float:
        return told.decode_step_s.high / told.decode_step_s.expected

    assert width(other) > 1.05 * width(known)
    assert answer("llama-3.2-1b", "gaudi-3", engine="vllm").confidence.extrapolated  # not Intel's GPUs


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_has_a_placement_that_the_engine_has(engine: str) -> None:
    for hardware in ("rtx-4090", "2x-rtx-4090", "ryzen-9-7950x", "mac-studio-m3-ultra-512gb", "dgx-spark"):
        try:
            told = answer("llama-3.2-1b", hardware, engine=engine, quant="bf16")
        except NotModelled:
            continue
        assert told.placement.kind in ENGINES[engine].splits


def test_a_second_gpu_that_the_engine_leaves_alone_does_no_harm() -> None:
    """Two GPUs sent ktransformers to the processor: seven times slower than one."""
    one, two = (answer("llama-3.1-8b", name, engine="ktransformers", quant="awq-int4-g128")
                for name in ("rtx-4090", "2x-rtx-4090"))  # fmt: skip
    assert two.decode_step_s == one.decode_step_s
    assert any("one of 2 GPUs used" in line for line in two.assumptions)
    best = moeplan.plan("llama-3.1-8b", "2x-rtx-4090", engine="ktransformers", quant="awq-int4-g128").best
    assert best is not None and best.estimate.placement.kind == "gpu"


@pytest.mark.parametrize(
    "options",
    [
        {"placement": "gpu", "gpu_layers": 10},
        {"placement": "gpu", "cpu_moe": 3},
        {"placement": "gpu", "gpu_layers": 0},
        {"placement": "cpu", "gpu_layers": 10},
        {"placement": "stream", "cpu_moe": 3},
        {"placement": "experts", "gpu_layers": 10},
        {"placement": "experts", "cpu_moe": 0},
        {"placement": "layers", "cpu_moe": 3},
        {"placement": "layers", "gpu_layers": "all"},
        {"placement": "mixed", "gpu_layers": 10, "cpu_moe": 0},
    ],
)
def test_a_placement_that_its_counts_contradict_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="contradict"):
        answer("mixtral-8x7b", "rtx-4090", quant="q4_k_m", **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpu", {"placement": "gpu", "gpu_layers": "all"}),
        ("gpu", {"placement": "gpu", "gpu_layers": 33, "cpu_moe": 0}),
        ("cpu", {"placement": "cpu", "gpu_layers": 0}),
        ("layers", {"placement": "layers", "gpu_layers": 10}),
        ("experts", {"placement": "experts", "cpu_moe": 10}),
        ("mixed", {"placement": "mixed", "gpu_layers": 20, "cpu_moe": 30}),
    ],
)
def test_a_placement_that_its_counts_fit_is_taken(kind: str, options: dict[str, Any]) -> None:
    assert answer("mixtral-8x7b", "rtx-4090", quant="q4_k_m", **options).placement.kind == kind


def test_no_layer_on_a_gpu_that_is_not_there() -> None:
    """It ended in an internal error."""
    for kind in ("gpu", "layer-split", "stream"):
        with pytest.raises(SpecError, match="needs a GPU"):
            answer("llama-3.2-1b", "ryzen-9-7950x", quant="q8_0", placement=kind, gpu_layers=0)


def test_a_split_is_found_where_ram_cannot_hold_the_rest_of_one_layer() -> None:
    """All of Mixtral's experts are too many for 32 GiB, those that four GPUs leave over are not."""
    told = answer(
        "mixtral-8x7b", "gtx-1650-super", n_gpus=4, ram_gib=32, engine="llama.cpp", quant="mxfp4",
        context=32768, batch=4,
    )  # fmt: skip
    assert told.fits and told.placement.kind != "disk"


@pytest.mark.parametrize(
    ("model", "hardware", "engine", "quant"),
    [
        ("switch-base-32", "server-8x-mi355x", "llama.cpp", "q5_0"),
        ("llama-3.2-1b", "a10g", "transformers", "fp8"),
        ("llama-3.2-1b", "rtx-5070-ti", "transformers", "bf16"),
    ],
)
def test_a_model_that_fits_in_vram_is_put_there(model: str, hardware: str, engine: str, quant: str) -> None:
    """The host of the first two decodes as fast, and takes up to ten times as long for a prompt."""
    told = answer(model, hardware, engine=engine, quant=quant, context=4096)
    assert told.placement.kind in ("gpu", "layer-split")


def test_a_processor_beside_a_gpu_is_said_to_be_alone() -> None:
    def notes(*, placement: str = "cpu", engine: str = "llama.cpp", hardware: str = "rtx-4090") -> str:
        told = answer("llama-3.1-8b", hardware, engine=engine, quant="q4_k_m", placement=placement)
        return " ".join(told.not_modelled)

    assert "copies to the GPU: a build with GPU support computes prompts of 32 tokens" in notes()
    assert "copies to the GPU" not in notes(placement="gpu") + notes(hardware="ryzen-9-7950x")
