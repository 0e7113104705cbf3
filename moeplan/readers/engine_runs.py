"""Runs of an engine on one machine over small models of known hyperparameters (models.json, speed.csv).

The models are not in any catalog: their specifications are built from the hyperparameters beside the runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moeplan.domain.model import Block, DenseFfn, GqaAttention, Mixer, MlaAttention, ModelSpec, MoeFfn
from moeplan.domain.value import Value
from moeplan.errors import SpecError
from moeplan.readers.corpus import SpeedRow
from moeplan.readers.csv_rows import Cells, lines

_COLUMNS = ("model", "threads", "mode", "B_or_n", "depth", "wall_best_ms", "stream_read_GBs")
# In Gemma 3 every sixth layer sees the whole context, in gpt-oss every second (their config.json).
_FULL_EVERY = {"gemma3": 6, "gpt-oss": 2}


class EngineRun(Value):
    """One measured row and the model it ran."""

    row: SpeedRow
    spec: ModelSpec


def read_engine_runs(folder: Path, *, cpu: str, source: str) -> tuple[EngineRun, ...]:
    """The runs of ``folder``/speed.csv on the processor ``cpu``. Raises SpecError."""
    specs = {name: _spec(name, values) for name, values in _models(folder / "models.json").items()}
    path = folder / "speed.csv"
    runs = []
    for raw, line in lines(path, _COLUMNS):
        row = Cells(raw, path, line)
        name, _, quant = row.text("model").removesuffix(".gguf").partition("-")
        if name not in specs:
            raise SpecError(f"model {name!r} is not in models.json", path=str(path), line=line)
        seconds, n = (row.number("wall_best_ms") or 0.0) / 1000.0, row.count("B_or_n") or 1
        prefill = row.text("mode") == "pp"
        speed = SpeedRow(
            id=f"{source}:{line}",
            setup=f"{row.text('model')}/{row.text('threads')}/{row.text('mode')}/{0 if prefill else n}",
            source_family=source,
            model=name,
            arch_class="moe" if specs[name].is_moe else "dense",
            quant=quant.lower(),
            file_gib=None,
            engine="llama.cpp",
            gpu="",
            n_gpus=0,
            cpu=cpu,
            ram_gbps=row.number("stream_read_GBs"),
            pcie="",
            placement="cpu",
            gpu_layers=0,
            cpu_moe=None,
            batch=1 if prefill else n,
            prompt_tokens=n if prefill else None,
            depth_tokens=row.count("depth") or 0,
            gen_tokens=8,
            ubatch=None,
            flash_attn=row.text("fa") == "1",
            kv_type=row.text("kv"),
            threads=row.count("threads"),
            phase="prefill" if prefill else "decode",
            tokens_per_s=n / seconds,
            grade="A",
            ram_basis="measured",
            value=n / seconds,
        )
        runs.append(EngineRun(row=speed, spec=specs[name]))
    return tuple(runs)


def _models(path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        models = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read the models: {error}", path=str(path)) from error
    if not isinstance(models, dict):
        raise SpecError("expected an object of models", path=str(path))
    return models


def _spec(name: str, p: Mapping[str, Any]) -> ModelSpec:
    blocks, layout = _blocks(p)
    return ModelSpec(
        id=name,
        name=name,
        architecture=p["arch"],
        hidden_size=p["n_embd"],
        vocab_size=p["n_vocab"],
        context_tokens=32768,
        blocks=blocks,
        layout=layout,
        tied_embeddings=p["arch"] == "gemma3",
    )


def _blocks(p: Mapping[str, Any]) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    n, lead = p["n_layer"], p.get("n_dense_lead", 0)
    dense = DenseFfn(intermediate=p["n_ff"])
    ffn = _moe(p) if p.get("n_expert") else dense
    if lead:
        blocks = Block(name="dense", mixer=_mixer(p), ffn=dense), Block(name="moe", mixer=_mixer(p), ffn=ffn)
        return blocks, (0,) * lead + (1,) * (n - lead)
    if not p.get("swa"):
        return (Block(name="layer", mixer=_mixer(p), ffn=ffn),), (0,) * n
    every = _FULL_EVERY[p["arch"]]
    windowed = Block(name="window", mixer=_mixer(p, p["swa"]), ffn=ffn)
    blocks = windowed, Block(name="full", mixer=_mixer(p), ffn=ffn)
    return blocks, tuple(1 if (i + 1) % every == 0 else 0 for i in range(n))


def _moe(p: Mapping[str, Any]) -> MoeFfn:
    width, shared = p.get("n_ff_exp", p["n_ff"]), p.get("n_shared", 0)
    return MoeFfn(
        n_experts=p["n_expert"],
        n_active=p["n_used"],
        expert_intermediate=width,
        n_shared=shared,
        shared_intermediate=shared * width,
    )


def _mixer(p: Mapping[str, Any], window: int | None = None) -> Mixer:
    if p.get("kv_lora"):
        return MlaAttention(
            n_heads=p["n_head"],
            q_lora_rank=p["q_lora"],
            kv_lora_rank=p["kv_lora"],
            nope_head_dim=p["qk_nope"],
            rope_head_dim=p["qk_rope"],
            v_head_dim=p["v_dim"],
        )
    width = p.get("head_dim", p["n_embd"] // p["n_head"])
    return GqaAttention(
        n_heads=p["n_head"], n_kv_heads=p["n_head_kv"], head_dim=width, v_head_dim=width, window_tokens=window
    )
