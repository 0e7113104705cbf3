"""The commands that run a choice, for every engine that can be told it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from moeplan.domain.deployment import EngineTable
from moeplan.domain.plan import Command
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.flags import write
from moeplan.engines.machines import lacks
from moeplan.engines.traits import ENGINES
from moeplan.engines.weight_types import lacks_type, type_notes
from moeplan.predict.problem import Problem
from moeplan.search.overrides import device_map, n_cpu_moe, tensor_overrides, tensor_split

Tables = Callable[[str], EngineTable]
Settings = dict[str, "str | int | float | bool"]


def commands(
    problem: Problem, placement: Placement, tables: Tables, model_file: str | None
) -> tuple[Command, ...]:
    """Command lines and files for the engine of ``problem`` and for those that can be told the same.

    ``model_file``: the GGUF at hand; None: a file named for model and quantisation stands in.
    """
    if problem.engine.gguf:
        return _llama_like(problem, placement, tables, model_file or _file_name(problem))
    if problem.engine.id == "transformers":
        return _transformers(problem, placement)
    if problem.engine.id == "ktransformers":
        return _ktransformers(problem, placement, tables)
    if problem.engine.family == "server":
        return _servers(problem, placement, tables)
    return ()


def _file_name(problem: Problem) -> str:
    return f"{problem.graph.spec.id}-{problem.graph.quant}.gguf"


# ── llama.cpp and what is built on it ────────────────────────────────────────────────────────────


def _llama_like(problem: Problem, placement: Placement, tables: Tables, model: str) -> tuple[Command, ...]:
    settings = llama_settings(problem, placement, model)
    found = [_line(tables("llama.cpp"), settings, "serve"), _bench(problem, placement, tables, model)]
    found.append(_ik(problem, placement, tables, settings))
    if placement.cpu_moe == 0 and len(problem.hardware.gpus) < 2:
        found += [_modelfile(problem, placement, tables, model), _lm_studio(problem, placement, tables)]
    own = problem.engine.id
    return tuple(sorted(found, key=lambda command: command.engine != own))


def llama_settings(problem: Problem, placement: Placement, model: str) -> Settings:
    """What llama-server is told, by the names of configs/engines/llama.cpp.yaml."""
    work = problem.workload
    # Without a number the server opens four slots.
    settings: Settings = {
        "model": model,
        "context_total": work.context_tokens * work.n_sequences,
        "batch": work.n_sequences,
    }
    settings["gpu_layers"] = placement.gpu_layers
    settings |= _experts(problem, placement)
    if len(problem.hardware.gpus) > 1 and placement.gpu_layers:
        split = tensor_split(placement, len(problem.hardware.gpus))
        settings["tensor_split"] = ",".join(map(str, split))
    settings |= _step(work)
    settings["flash_attention"] = work.flash_attention
    return settings | _cache(work)


def _experts(problem: Problem, placement: Placement) -> Settings:
    count = n_cpu_moe(problem.graph, placement)
    if count is None:
        return {"override_tensor": ",".join(tensor_overrides(placement))}
    return {"cpu_moe": count} if count else {}


def _step(work: Workload) -> Settings:
    settings: Settings = {"ubatch": work.ubatch_tokens}
    if work.ubatch_tokens > 2048:  # llama.cpp caps a micro-batch at the batch, 2048 by default
        settings["batch_tokens"] = work.ubatch_tokens
    return settings


def _cache(work: Workload) -> Settings:
    settings: Settings = {}
    if (work.kv_type_k, work.kv_type_v) != ("f16", "f16"):
        settings |= {"kv_type_k": work.kv_type_k, "kv_type_v": work.kv_type_v}
    if work.threads is not None:
        settings["threads"] = work.threads
    return settings


def _bench(problem: Problem, placement: Placement, tables: Tables, model: str) -> Command:
    """llama-bench on the same placement. Its decode test runs at the mean depth of the answer."""
    work = problem.workload
    settings = llama_settings(problem, placement, model)
    for key in ("context_total", "batch"):
        settings.pop(key, None)
    if "tensor_split" in settings:
        settings["tensor_split"] = str(settings["tensor_split"]).replace(",", "/")
    if "override_tensor" in settings:
        settings["override_tensor"] = str(settings["override_tensor"]).replace(",", ";")
    settings |= {"prompt": work.prompt_tokens, "output": work.output_tokens}
    note = "one sequence" if work.n_sequences > 1 else ""
    if work.depth_tokens:
        settings["depth"] = work.depth_tokens
    return _line(tables("llama-bench"), settings, "measure", note=note)


def _ik(problem: Problem, placement: Placement, tables: Tables, settings: Settings) -> Command:
    changed = {key: value for key, value in settings.items() if key != "cpu_moe"}
    overrides = tensor_overrides(placement)
    if overrides:
        changed["override_tensor"] = ",".join(overrides)
    if problem.graph.spec.is_moe:
        changed["fused_moe"] = True
    return _line(tables("ik_llama.cpp"), changed, "serve")


def _modelfile(problem: Problem, placement: Placement, tables: Tables, model: str) -> Command:
    table, work = tables("ollama"), problem.workload
    lines = [
        f"FROM ./{model}" if "/" not in model else f"FROM {model}",
        f"PARAMETER num_ctx {work.context_tokens}",
        f"PARAMETER num_gpu {placement.gpu_layers}",
        f"PARAMETER num_batch {work.ubatch_tokens}",
    ]
    if work.threads is not None:
        lines.append(f"PARAMETER num_thread {work.threads}")
    return Command(
        engine="ollama", purpose="file", text="\n".join(lines) + "\n", version=table.version, file="Modelfile"
    )


def _lm_studio(problem: Problem, placement: Placement, tables: Tables) -> Command:
    n = problem.graph.spec.n_layers
    share: str | float = "max" if placement.gpu_layers > n else round(placement.gpu_layers / n, 3)
    if placement.gpu_layers == 0:
        share = "off"
    settings: Settings = {
        "model": problem.graph.spec.id,
        "gpu_share": share,
        "context": problem.workload.context_tokens,
    }
    return _line(tables("lm-studio"), settings, "serve")


# ── servers and libraries ────────────────────────────────────────────────────────────────────────


def _servers(problem: Problem, placement: Placement, tables: Tables) -> tuple[Command, ...]:
    work, model = problem.workload, _hub_name(problem)
    common: Settings = {
        "model": model,
        "tensor_parallel": placement.tensor_parallel,
        "context": work.context_tokens,
        "max_sequences": work.n_sequences,
    }
    note = _weights_note(problem)
    found = []
    for id in ("vllm", "sglang", "tensorrt-llm"):
        engine, quant, hardware = ENGINES[id], problem.graph.quant, problem.hardware
        if lacks(engine, hardware) or lacks_type(engine, quant, hardware):
            continue
        settings = dict(common)
        if quant == "bf16" and type_notes(engine, quant, hardware):
            settings["dtype"] = "half"
        if placement.expert_parallel > 1:  # vLLM takes a switch, the others how many GPUs
            settings["expert_parallel"] = placement.expert_parallel
        if (work.kv_type_k, id) in (("fp8", "vllm"),):
            settings["kv_type"] = "fp8"
        if problem.graph.quant == "fp8" and problem.graph.spec.native_quant != "fp8" and id != "tensorrt-llm":
            settings["quant_method"] = "fp8"
        found.append(_line(tables(id), settings, "serve", note=note))
    return tuple(sorted(found, key=lambda command: command.engine != problem.engine.id))


def _ktransformers(problem: Problem, placement: Placement, tables: Tables) -> tuple[Command, ...]:
    work, model = problem.workload, _hub_name(problem)
    settings: Settings = {
        "model": model,
        "cpu_weights": model,
        "gpu_experts": 0,
        "sockets": problem.hardware.host.cpu.sockets,
        "threads": work.threads or problem.hardware.host.cpu.cores,
        "context": work.context_tokens,
        "max_sequences": work.n_sequences,
    }
    note = "--kt-method and the converted weights depend on the CPU: see the engine's page of the model"
    return (_line(tables("ktransformers"), settings, "serve", note=note),)


def _transformers(problem: Problem, placement: Placement) -> tuple[Command, ...]:
    import json

    if placement.kind == "stream":
        code = (
            "from accelerate import cpu_offload\n"
            "from transformers import AutoModelForCausalLM\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{_hub_name(problem)}", dtype="auto")\n'
            "cpu_offload(model, execution_device=0)\n"
        )
        return (Command(engine="transformers", purpose="file", text=code, file="load.py"),)
    text = json.dumps(device_map(problem.graph, placement), indent=1) + "\n"
    note = "AutoModelForCausalLM.from_pretrained(..., device_map=json.load(open('device_map.json')))"
    return (Command(engine="transformers", purpose="file", text=text, file="device_map.json", note=note),)


def _hub_name(problem: Problem) -> str:
    spec = problem.graph.spec
    return spec.hf_ids[0] if spec.hf_ids else spec.id


def _weights_note(problem: Problem) -> str:
    quant, native = problem.graph.quant, problem.graph.spec.native_quant
    if quant in (native, "fp8", "bf16"):
        return ""
    return f"needs a checkpoint quantised as {quant}"


def _line(
    table: EngineTable, settings: Mapping[str, str | int | float | bool], purpose: str, note: str = ""
) -> Command:
    return Command(
        engine=table.engine,
        purpose="measure" if purpose == "measure" else "serve",
        text=shlex.join(write(table, settings)),
        version=table.version,
        note=note,
    )
