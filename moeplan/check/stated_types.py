"""Types of weights and cache that a launch asks for: the name of the model says it, else the options."""

from __future__ import annotations

from moeplan.check.stated import Stated

_KV_NAMES = {"auto": "", "bfloat16": "bf16", "float16": "f16", "half": "f16"}
# What a method named on the command line makes of a 16-bit checkpoint. vLLM 0.33 and SGLang 0.5
# (bitsandbytes: 4-bit NF4), TGI 3.3 (bitsandbytes: 8 bits).
_METHODS = {
    "fp8": "fp8", "awq": "awq", "awq_marlin": "awq", "gptq": "gptq", "gptq_marlin": "gptq", "marlin": "gptq",
    "bitsandbytes": "bnb-nf4", "mxfp4": "mxfp4", "mxfp8": "mxfp8", "w8a8_int8": "int8",
    "w8a8_fp8": "fp8-channel",
    "bitsandbytes-nf4": "bnb-nf4", "bitsandbytes-fp4": "bnb-fp4", "eetq": "int8", "moe_wna16": "gptq",
}  # fmt: skip
# These only name the format of the checkpoint; its name has to tell the widths.
_FORMATS = frozenset(
    {"compressed-tensors", "modelopt", "modelopt_fp4", "modelopt_fp8", "gguf", "auto-round", "exl2", "quark"}
)
_TYPES = {"float32": "f32", "float": "f32"}


def kv_type(stated: Stated) -> str | None:
    """One name, or K and V apart."""
    k, v = stated.value("kv_type_k"), stated.value("kv_type_v")
    if k or v:
        return f"{k or 'f16'},{v or 'f16'}"
    name = stated.value("kv_type")
    if name is None:
        return None
    name = _KV_NAMES.get(str(name), str(name))
    return ("fp8" if name.startswith("fp8") else name) or None


def quant(stated: Stated, named: str | None) -> str | None:
    """The quantisation: the name of the model says it, else the options, else the model's own."""
    method = stated.value("quant_method")
    if named is not None:
        return named
    if method is not None and method in _FORMATS:
        raise stated.error("quant_method", f"{method} does not say how many bits, nor does the model's name")
    if method is not None and str(method) != "none":
        if stated.table.id == "tgi" and method == "bitsandbytes":
            return "bnb-int8"
        return _METHODS.get(str(method), str(method))
    if stated.llama:
        return _llama_quant(stated)
    dtype = _TYPES.get(str(stated.value("dtype")))
    return dtype if dtype and stated.spec.native_quant in ("bf16", "f16") else None


def _llama_quant(stated: Stated) -> str:
    """What a GGUF name without a type means: a default where the engine has one, else nothing."""
    model = stated.settings.get("model")
    if stated.table.default_quant and model is not None and not str(model.value).endswith(".gguf"):
        stated.notes.append(
            f"quantisation {stated.table.default_quant}: what {stated.table.id} takes without a tag"
        )
        return stated.table.default_quant
    if (
        model is not None
        and model.flag.startswith(("-hf", "--hf", "LLAMA_ARG_HF"))
        and "model_file" not in stated.settings.settings
    ):
        # gpt-oss is published as one MXFP4 file; elsewhere llama.cpp looks for Q4_K_M
        quant = "mxfp4" if stated.spec.native_quant == "mxfp4" else "q4_k_m"
        stated.notes.append(f"quantisation {quant}: what llama.cpp takes of a repository by itself")
        return quant
    raise stated.error(
        "model",
        "the name of the model file does not tell its quantisation",
        "name it as it was published, such as Mixtral-8x7B-Q4_K_M.gguf",
    )
