"""The type a checkpoint is published in: config.json's quantization_config and dtype as one id.

The ids are those of configs/quants.yaml. The keys are those that transformers writes
(transformers/utils/quantization_config.py) and, for modelopt, NVIDIA's hf_quant_config.
"""

from __future__ import annotations

from moeplan.errors import NotModelled
from moeplan.readers.hf.view import ConfigView

_DTYPES = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "f16", "half": "f16", "fp16": "f16",
    "float32": "f32", "float": "f32", "fp32": "f32",
}  # fmt: skip


def native_quant(config: ConfigView) -> str:
    """Id of the type of the published weights, e.g. ``bf16``, ``fp8-block`` or ``gptq-int4-g128``.

    Without quantization_config it is the dtype, and bf16 where that is absent too (the type that
    every family known here is published in). A method without an id of its own keeps its name, so
    that only using it as a type fails.
    """
    quant = config.sub("quantization_config")
    if quant is None:
        dtype = config.str("dtype", "torch_dtype", default="bfloat16").removeprefix("torch.")
        if dtype == "auto":
            return "bf16"
        if dtype not in _DTYPES:
            raise NotModelled(f"weights of dtype {dtype!r} ({config.where})")
        return _DTYPES[dtype]
    method = quant.str("quant_method", default="").lower()
    if not method and quant.has("quant_algo"):
        method = "modelopt"
    if method in ("fp8", "fbgemm_fp8"):
        if config.str("expert_dtype", default="") == "fp4":
            return "deepseek-v4"
        return "fp8-block" if quant.has("weight_block_size") else "fp8"
    if method in ("gptq", "awq"):
        bits = quant.int("bits", "w_bit", default=4)
        group = quant.int("group_size", "q_group_size", default=128, low=-1)
        return f"{method}-int{bits}-{_group(group)}"
    if method in ("bitsandbytes", "bnb"):
        return _bitsandbytes(quant)
    if method == "compressed-tensors":
        return _compressed_tensors(quant)
    if method.startswith("modelopt"):
        return _modelopt(quant)
    if not method:
        raise NotModelled(f"a quantization_config without quant_method ({config.where})")
    return method


def _group(size: int) -> str:
    """-1 or 0 mean one scale for a whole output channel."""
    return f"g{size}" if size > 0 else "channel"


def _bitsandbytes(quant: ConfigView) -> str:
    if quant.bool("load_in_8bit", default=False):
        return "bnb-int8"
    kind = quant.str("bnb_4bit_quant_type", default="fp4")  # transformers' own default
    double = quant.bool("bnb_4bit_use_double_quant", default=False)
    return f"bnb-{kind}-dq" if double else f"bnb-{kind}"


def _modelopt(quant: ConfigView) -> str:
    algorithm = quant.str("quant_algo", default="").upper()
    names = {
        "FP8": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PB_WO": "fp8-block",
        "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "W4A16_NVFP4": "nvfp4", "MXFP4": "mxfp4",
    }  # fmt: skip
    if algorithm in names:
        return names[algorithm]
    if quant.has("config_groups"):
        return _compressed_tensors(quant)
    return f"modelopt-{algorithm.lower() or 'unknown'}"


def _compressed_tensors(quant: ConfigView) -> str:
    """The widest-spread scheme: groups target layers, the first that quantises weights decides."""
    form = quant.str("format", default="")
    if form.startswith(("nvfp4", "mxfp4")):
        return form[:5]
    groups = quant.sub("config_groups")
    for name in groups.keys() if groups else ():
        group = groups.sub(name) if groups else None
        weights = group.sub("weights") if group else None
        if weights is None:
            continue
        bits = weights.int("num_bits", default=8)
        size = weights.int("group_size", default=-1, low=-1)
        if weights.str("type", default="int") == "float":
            if bits == 8:
                return "fp8-block" if weights.str("strategy", default="") == "block" else "fp8"
            if bits == 4 and size in (16, 32):
                return "nvfp4" if size == 16 else "mxfp4"
            return f"compressed-fp{bits}-{_group(size)}"
        if (bits, size) == (4, 32) and _ignores_all_but_experts(quant):
            return "kimi-int4"
        if bits == 8 and group is not None and group.has("input_activations"):
            return "w8a8-int8"
        return f"compressed-int{bits}-{_group(size)}"
    return "compressed-tensors"


def _ignores_all_but_experts(quant: ConfigView) -> bool:
    """Whether attention and shared experts are on the ignore list (moonshotai/Kimi-K2-Thinking's, K2.5's)."""
    ignored = " ".join(str(name) for name in quant.list("ignore", default=[]))
    return "self_attn" in ignored and "shared_experts" in ignored
