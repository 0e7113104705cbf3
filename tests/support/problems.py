"""Small models and machines with round numbers, so that a test's arithmetic fits in a comment."""

from __future__ import annotations

from functools import cache

from moeplan.api.resolve import Session
from moeplan.domain.calibration import Calibration, Coefficient, Residuals
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec, HostSpec, LinkSpec, StorageSpec
from moeplan.domain.model import Block, DenseFfn, GqaAttention, ModelSpec, MoeFfn
from moeplan.domain.workload import Workload
from moeplan.graph.inventory import build_tensors, summarise
from moeplan.graph.quantise import assign_types
from moeplan.provenance import Source
from moeplan.readers.catalog import Catalog
from moeplan.readers.quants import load_quants
from moeplan.units import GB, GIB

TEST = Source("assumed", "made up for a test")


@cache
def session() -> Session:
    """One shared session: specifications are read once for the whole test run."""
    return Session(Catalog())


def attention(
    n_heads: int = 8, n_kv_heads: int = 2, head_dim: int = 64, window: int | None = None
) -> GqaAttention:
    """GQA of width n_heads x head_dim."""
    return GqaAttention(
        n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, v_head_dim=head_dim, window_tokens=window
    )


def dense_spec(
    n_layers: int = 4, hidden: int = 512, intermediate: int = 1024, vocab: int = 1024
) -> ModelSpec:
    """A llama-like dense model of ``n_layers`` equal layers."""
    block = Block(name="dense", mixer=attention(), ffn=DenseFfn(intermediate=intermediate))
    return spec_of((block,), (0,) * n_layers, hidden=hidden, vocab=vocab)


def moe_spec(
    n_layers: int = 4, n_experts: int = 8, n_active: int = 2, expert: int = 256, n_dense: int = 0
) -> ModelSpec:
    """A Mixtral-like model; the first ``n_dense`` layers are dense."""
    blocks = (
        Block(name="dense", mixer=attention(), ffn=DenseFfn(intermediate=1024)),
        Block(
            name="moe",
            mixer=attention(),
            ffn=MoeFfn(n_experts=n_experts, n_active=n_active, expert_intermediate=expert),
        ),
    )
    return spec_of(blocks, (0,) * n_dense + (1,) * (n_layers - n_dense))


def spec_of(
    blocks: tuple[Block, ...], layout: tuple[int, ...], hidden: int = 512, vocab: int = 1024
) -> ModelSpec:
    """A model of these blocks in this order."""
    return ModelSpec(
        id="tiny",
        name="Tiny",
        architecture="llama",
        hidden_size=hidden,
        vocab_size=vocab,
        context_tokens=32768,
        blocks=blocks,
        layout=layout,
    )


def graph_of(spec: ModelSpec, quant: str = "f16") -> ModelGraph:
    """The typed inventory of ``spec``."""
    return summarise(
        spec, quant, assign_types(spec, build_tensors(spec), quant, load_quants(), gguf=True), "rules"
    )


def gpu(
    memory_gib: float = 8, bandwidth_gbps: float = 500, tflops: float = 50, unified: bool = False
) -> GpuSpec:
    """A GPU with round numbers."""
    return GpuSpec(
        id="gpu",
        name="Test GPU",
        vendor="nvidia",
        segment="consumer",
        architecture="Test",
        memory_bytes=round(memory_gib * GIB),
        bandwidth_bytes_per_s=bandwidth_gbps * GB,
        peak_flop_per_s={"fp16": tflops * 1e12},
        unified_memory=unified,
        sources=(TEST,),
    )


def machine(
    gpus: tuple[GpuSpec, ...] = (),
    ram_gib: float = 64,
    ram_gbps: float = 50,
    pcie_gbps: float = 20,
    disk_gbps: float = 5,
    cores: int = 8,
) -> HardwareSpec:
    """A machine with round numbers."""
    cpu = CpuSpec(
        id="cpu",
        name="CPU",
        segment="desktop",
        sockets=1,
        cores=cores,
        threads=2 * cores,
        isa=("avx2",),
        base_hz=2.5e9,
    )
    return HardwareSpec(
        id="box",
        name="Box",
        gpus=gpus,
        host=HostSpec(
            cpu=cpu,
            ram_bytes=round(ram_gib * GIB),
            ram_bytes_per_s=ram_gbps * GB,
            ram_basis="stated",
            storage=StorageSpec(id="disk", name="Disk", read_bytes_per_s=disk_gbps * GB),
        ),
        pcie=LinkSpec(
            id="pcie", name="PCIe", bytes_per_s=pcie_gbps * GB, effective_bytes_per_s=pcie_gbps * GB
        ),
    )


def workload(**changes: object) -> Workload:
    """512 tokens in, 128 out, one sequence, f16 cache."""
    values: dict[str, object] = {
        "context_tokens": 4096,
        "prompt_tokens": 512,
        "output_tokens": 128,
        "n_sequences": 1,
        "kv_type_k": "f16",
        "kv_type_v": "f16",
        "engine": "llama.cpp",
        "ubatch_tokens": 512,
        "batch_tokens": 2048,
        "flash_attention": True,
    }
    return Workload(**(values | changes))  # type: ignore[arg-type]


_UNIT_VALUES = {
    "local.bandwidth": 1.0,
    "local.cache.bandwidth": 1.0,
    "local.compute": 1.0,
    "local.int8": 1.0,
    "local.vector": 1.0,
    "local.attention.compute": 1.0,
    "local.attention.vector": 1.0,
    "local.experts.compute": 0.5,
    "local.flop_per_joule": 1e15,
    "local.layer_s": 1e-4,
    "local.eager_layer_s": 1e-4,
    "local.step_s": 1e-3,
    "local.moe.layer_time": 3.0,
    "local.ram.bandwidth": 1.0,
    "local.ram.cache.bandwidth": 0.5,
    "local.cpu.layer_s": 1e-4,
    "local.cpu.flop_per_s_per_core.avx2": 10e9,
    "local.cpu.experts.compute": 0.5,
    "local.cpu_moe_layer_s": 1e-4,
    "local.expert_product_s": 1e-5,
    "local.stream.bandwidth": 1.0,
    "local.staged.bandwidth": 1.0,
    "local.disk.moe_read_time": 5.0,
    "server.bandwidth": 1.0,
    "server.cache.bandwidth": 1.0,
    "server.compute": 1.0,
    "server.attention.compute": 1.0,
    "server.experts.compute": 0.5,
    "server.flop_per_joule": 1e15,
    "server.layer_s": 1e-4,
    "server.step_s": 1e-3,
    "server.all_reduce_s": 1e-5,
    "server.all_reduce.bandwidth": 1.0,
}


def calibration() -> Calibration:
    """Coefficients of one or a half, and a spread of -50% to +100% in time."""
    spread = Residuals(
        n_setups=10, n_sources=2, levels=(0.1, 0.5, 0.9), log_ratios=(-0.693, 0.0, 0.693), source=TEST
    )
    return Calibration(
        id="test",
        date="2026-11-22",
        coefficients={name: Coefficient(value=v, unit="", source=TEST) for name, v in _UNIT_VALUES.items()},
        residuals={"decode/*/*": spread, "prefill/*/*": spread},
        sources=(TEST,),
    )
