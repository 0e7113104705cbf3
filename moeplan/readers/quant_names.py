"""What the name of a checkpoint or file says of its quantisation: ``-AWQ``, ``-FP8``, ``Q4_K_M``."""

from __future__ import annotations

from moeplan.domain.quant import QuantTable

# A ggml type in a file name or after the colon of a tag (llama.cpp, Ollama, Hugging Face file names).
_GGML = r"(?:ud[-_])?(?:i?q[1-8](?:_[0-9k])?(?:_(?:xxs|xs|s|m|l|xl|nl|kss|ks|kl))?|mxfp4(?:_moe)?)"
# Endings of Hugging Face names -> the scheme, where the word itself is not one.
_WORDS = {
    "gptq-int4": "gptq-int4-g128", "gptq-4bit": "gptq-int4-g128", "gptq-int8": "gptq-int8-g128",
    "awq-int4": "awq-int4-g128", "awq-4bit": "awq-int4-g128", "bnb-4bit": "bnb-nf4", "bnb-8bit": "bnb-int8",
    "fp8-dynamic": "fp8-dynamic", "fp8-block": "fp8-block", "int4-awq": "awq-int4-g128",
}  # fmt: skip
_SINGLE = (
    "awq",
    "gptq",
    "fp8",
    "nvfp4",
    "mxfp4",
    "mxfp8",
    "w4a16",
    "w8a8",
    "int4",
    "int8",
    "aqlm",
    "hqq",
    "quip",
)


# Publishers whose checkpoints called FP8 have a scale for each block of 128 x 128, which GPUs cannot cut
# (Qwen3 docs/source/deployment/vllm.md: "block-wise quant"; a tensor-parallel share of an expert that is no
# multiple of 128 ends in vLLM's "not divisible by weight quantization block_n"). Others' have one a tensor.
_BLOCKWISE = frozenset({"qwen"})


def quant_in_name(name: str, quants: QuantTable) -> str | None:
    """The quantisation that ``name`` states, or None. Raises NotModelled for one without data."""
    import re

    if len(name) > 300:
        return None
    text = name.rsplit("/", 1)[-1].casefold() if not name.endswith("/") else name.casefold()
    text = re.sub(r"(?:-\d{5}-of-\d{5})?\.(?:gguf|safetensors)$", "", text)
    is_gguf = "gguf" in name.casefold() or ":" in name
    ggml = re.findall(rf"(?<![a-z0-9])({_GGML})(?![a-z0-9])", text)
    if ggml:
        return quants.find(ggml[-1], gguf=True).id
    if is_gguf:
        plain = re.findall(r"(?<![a-z0-9])(bf16|fp16|f16|f32)(?![a-z0-9])", text)
        return quants.find(plain[-1].replace("fp", "f"), gguf=True).id if plain else None
    words = text.replace("_", "-").replace(".", "-")
    for ending, scheme in _WORDS.items():
        if ending in words:
            return quants.find(scheme).id
    parts = words.split("-")
    found = next((word for word in _SINGLE if word in parts), None)
    if found == "fp8" and name.casefold().partition("/")[0] in _BLOCKWISE:
        found = "fp8-block"
    return None if found is None else quants.find(found).id
