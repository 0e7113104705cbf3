"""Finding the catalog model behind the many names one model has.

The same weights are published as ``org/name``, mirrored by others, quantised (``-GGUF``, ``-AWQ``, ``:q8_0``)
and tuned (``-Instruct``). None of that changes the architecture, so it is taken off, step by step, until a
name of the catalog remains. What may change it (a size, a version, ``-VL``, ``-Coder``) is never taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

_WORDS = (
    "instruct|instruction|chat|it|inst|base|pt|hf|latest|text|"
    "gguf|ggml|awq|gptq|exl2|exl3|mlx|bnb|unsloth|safetensors|imatrix|i1|quantized|dequantized|"
    "fp4|fp8|fp16|bf16|fp32|f16|f32|nvfp4|mxfp4|mxfp8|int3|int4|int8|[1-8]bit|w4a16|w8a8|w8a16|"
    "block|dynamic|aqlm|hqq|qat|autoround|marlin|128g|64g|32g|gs128|128k|ud|dwq"
)
# A ggml type such as Q4_K_M, UD-Q4_K_XL, IQ2_XXS, Q8_0, or MLX's q4.
_GGML = r"i?q[1-8](?:[_-](?:k|0|1|nl))?(?:[_-](?:xxs|xs|s|m|l|xl))?"
_ORG_PREFIXES = (
    "meta-",
    "nvidia-",
    "mistralai-",
    "mistral-ai-",
    "deepseek-ai-",
    "openai-",
    "c4ai-",
    "tencent-",
    "ai21-",
)


Found = TypeVar("Found")


def normalise_model_name(name: str, lookup: Callable[[str], Found | None]) -> Found | None:
    """What ``lookup`` finds for ``name`` or for the least stripped form of it, else None."""
    for candidate in spellings(name):
        found = lookup(candidate)
        if found is not None:
            return found
    return None


def spellings(name: str) -> Iterator[str]:
    """``name`` and what remains of it after taking off addresses, owners and packaging, best first."""
    import re

    name = re.sub(r"^(?:https?://)?(?:www\.)?huggingface\.co/", "", name.strip()).strip("/")
    name = re.sub(r"(?:[-_. ]\d{5}-of-\d{5})?\.(?:gguf|safetensors)$", "", name, flags=re.IGNORECASE)
    suffix = re.compile(rf"[-_ :.](?:{_WORDS}|{_GGML})$", re.IGNORECASE)
    middle = re.compile(r"[-_ ](?:instruct|chat|base|it)(?=[-_ ])", re.IGNORECASE)
    seen = set()
    for owned in _owners(name):
        stem: str | None = owned
        while stem:
            for form in (stem, middle.sub("", stem)):
                if form not in seen:
                    seen.add(form)
                    yield form
            shorter = suffix.sub("", stem)
            stem = shorter if shorter != stem else None


def _owners(name: str) -> Iterator[str]:
    """``name`` with its owner, then without: ``org/name``, ``org_name`` as file names have it."""
    yield name
    base = name.rsplit("/", 1)[-1]
    yield base
    owner, underscore, rest = base.partition("_")
    # An owner's underscore is followed by a whole model name, a separator's by the next word of one.
    if underscore and len(rest) > 3 and not owner[-1:].isdigit():
        yield rest
    for prefix in _ORG_PREFIXES:
        if base.casefold().replace("_", "-").startswith(prefix):
            yield base[len(prefix) :]
