"""Which type llama-quantize gives each tensor of a file: llama.cpp's rules for its file types.

Reference: ggml-org/llama.cpp v0.5.0, src/llama-quant.cpp (tensor_allows_quantization,
llama_tensor_get_type_impl, tensor_type_fallback) and convert_hf_to_gguf.py for what stays in 32 bit.
The rules go by tensor name, position of the layer, heads per K/V head and number of experts. Tests compare
the sizes with the quantizer's own dry run.

Files in circulation can differ from today's rules: builds of 2024 gave ``attn_qkv`` types of its own (now
it is treated like ``attn_v``), and uploaders set single tensors by hand.
"""

from __future__ import annotations

from collections.abc import Iterable

from moeplan.domain.graph import Tensor
from moeplan.domain.model import GqaAttention, MlaAttention, ModelSpec, MoeFfn
from moeplan.domain.quant import QuantScheme, QuantTable, TypeLayout
from moeplan.domain.value import Value
from moeplan.errors import NotModelled

# Names that end in "weight" but that the quantizer leaves alone ...
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "shortconv.conv.weight", "attn_rel_b.weight",
    "position_embd", "token_types", "altup", "laurel", "per_layer_model_proj", "indexer.k_proj.weight",
    "indexer.q_proj.weight",
)  # fmt: skip
# ... of which the converter writes all but these in 32 bit.
_KEPT_16_BIT = ("altup", "laurel", "per_layer_model_proj", "indexer.k_proj", "indexer.q_proj")

_CATEGORIES = (
    ("attn_qkv.weight", "attn_v"), ("attn_kv_b.weight", "attn_v"), ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"), ("attn_q.weight", "attn_q"), ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"), ("ffn_gate", "ffn_gate"), ("ffn_down", "ffn_down"),
)  # fmt: skip

_TINY = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m"})
_IQ2_S_AND_M = frozenset({"iq2_s", "iq2_m"})
_HEAD_Q5_K = _TINY | {"iq3_xxs"}
_EMBEDDING = {
    "iq1_s": "q2_k", "iq1_m": "q2_k", "iq2_xxs": "q2_k", "iq2_xs": "q2_k", "iq2_s": "iq3_s",
    "iq2_m": "iq3_s", "iq3_xxs": "iq3_s", "tq1_0": "q4_k", "tq2_0": "q4_k", "q2_0": "q4_k",
}  # fmt: skip

# attn_v by file type: with at least 4 heads per K/V head, and with fewer (empty: the base type).
_ATTN_V = {
    "q2_k": ("q4_k", "q3_k"), "q2_k_s": ("q4_k", ""), "iq3_xs": ("q4_k", ""), "iq3_s": ("q4_k", ""),
    "iq3_m": ("q4_k", "q4_k"), "q3_k_l": ("q5_k", "q5_k"), "iq4_nl": ("q5_k", ""), "iq4_xs": ("q5_k", ""),
}  # fmt: skip

_ATTN_OUTPUT = {"q2_k": "q3_k", "iq3_xxs": "iq3_s", "q3_k_m": "q4_k", "q3_k_l": "q5_k", "iq3_m": "q4_k"}
_ATTN_OUTPUT_Q5_K_OF_8_EXPERTS = frozenset(
    {
        "q2_k",
        "iq3_xs",
        "iq3_xxs",
        "q3_k_s",
        "q3_k_m",
        "iq4_nl",
        "q4_k_s",
        "q4_k_m",
        "iq3_s",
        "iq3_m",
        "iq4_xs",
    }
)
# gpt-oss is published in MXFP4, and its converter repacks the blocks as they are whatever type is asked for:
# unsloth's gpt-oss-20b files are 11,624,759,488 bytes as Q4_K_M, 12.1 GB as Q8_0 and 13.8 GB as F16 (sizes
# seen 2026-11-30; the rules give 11,611,750,656 bytes of tensors for the first); llmfit PR 1059 agrees.
_PUBLISHED_EXPERTS = {"gpt_oss": "mxfp4"}
_ATTN_QK = {"iq3_xs": "iq3_xxs", "iq3_xxs": "iq2_s"}


class MixModel(Value):
    """What the rules want to know of a model."""

    n_layers: int
    n_experts: int
    heads_per_kv_head: int
    """Of the first layer; 0 where that has no K/V heads of its own."""
    n_attn_v: int
    tied: bool
    falcon: bool = False
    expert_type: str = ""
    """What files of every type keep routed experts in, because they were published so."""
    of_2026: bool = False
    """Released since 2026: recipes of uploaders change with time."""
    is_70b: bool = False
    """llama.cpp's size class 70B: grouped-query models of 80 layers of the llama and qwen2 kind."""


def published_experts(spec: ModelSpec, scheme: str, *, gguf: bool) -> str:
    """The type in which every GGUF file of ``spec`` keeps its experts where ``scheme`` does not say so."""
    kept = _PUBLISHED_EXPERTS.get(spec.architecture, "") if gguf else ""
    return "" if kept and scheme.startswith(kept) else kept


def mix_model(spec: ModelSpec, tensors: Iterable[Tensor]) -> MixModel:
    """The facts about ``spec`` and its ``tensors`` that the rules use."""
    n_layers = spec.n_layers
    n_attn_v = 0
    tied = True
    latent_split = False
    for tensor in tensors:
        name = tensor.name
        n_layers = max(n_layers, layer_of(name) + 1)
        n_attn_v += category_of(name) == "attn_v"
        tied = tied and name != "output.weight"
        latent_split = latent_split or name.endswith("attn_k_b.weight")
    return MixModel(
        n_layers=n_layers,
        n_experts=max((b.ffn.n_experts for b in spec.blocks if isinstance(b.ffn, MoeFfn)), default=0),
        heads_per_kv_head=_heads_per_kv_head(spec, latent_split),
        n_attn_v=n_attn_v,
        tied=tied,
        falcon=spec.architecture in ("falcon", "RefinedWeb", "RefinedWebModel"),
        expert_type=_PUBLISHED_EXPERTS.get(spec.architecture, ""),
        of_2026=spec.released >= "2026",
        is_70b=_is_70b(spec),
    )


def _heads_per_kv_head(spec: ModelSpec, latent_split: bool) -> int:
    first = spec.blocks[spec.layout[0]].mixer
    if isinstance(first, MlaAttention):
        return first.n_heads if latent_split else 1
    if first is not None and not isinstance(first, GqaAttention) and spec.architecture.startswith("qwen3"):
        # Qwen3-Next's files state one number of K/V heads for all layers, linear ones included.
        mixers = (block.mixer for block in spec.layer_blocks())
        first = next((mixer for mixer in mixers if isinstance(mixer, GqaAttention)), None)
    if isinstance(first, GqaAttention) and first.n_kv_heads:
        return first.n_heads // first.n_kv_heads
    return 0


def _is_70b(spec: ModelSpec) -> bool:
    first = spec.blocks[spec.layout[0]].mixer
    if spec.n_layers != 80 or spec.is_moe or not isinstance(first, GqaAttention):
        return False
    if spec.architecture == "qwen2":
        return True
    return spec.architecture in ("llama", "mistral") and first.n_heads != first.n_kv_heads


def layer_of(name: str) -> int:
    """The N of ``blk.N.``, or -1."""
    if not name.startswith("blk."):
        return -1
    number = name[4 : name.find(".", 4)]
    return int(number) if number.isdigit() else -1


def category_of(name: str) -> str:
    """The kind of tensor as the rules see it: head, embedding, attn_v, ffn_down, ... or other."""
    if name == "output.weight":
        return "head"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embedding"
    for part, category in _CATEGORIES:
        if part in name:
            return category
    return "other"


def kept_type(tensor: Tensor) -> str:
    """The type of a tensor that is never quantised, or an empty string."""
    name = tensor.name
    if tensor.role == "extra":
        return "f16"  # of unknown shape
    if name.endswith("ffn_gate_tid2eid.weight"):
        return "i32"
    if not name.endswith("weight") or sum(size > 1 for size in tensor.shape[:-1]) == 0:
        return "f32"
    for part in _KEPT:
        if part in name:
            return "f16" if part.startswith(_KEPT_16_BIT) else "f32"
    return ""


def mix_types(
    model: MixModel, tensors: tuple[Tensor, ...], scheme: QuantScheme, table: QuantTable
) -> list[str]:
    """The type of each of ``tensors`` (in their order) in a file of the GGUF scheme ``scheme``.

    Raises NotModelled where llama-quantize refuses: rows that fit neither the type nor its fallback.
    """
    base = table.type(scheme.base_type)
    recipe = scheme.moe_recipe if model.n_experts else scheme.dense_recipe
    if model.n_experts and model.of_2026:
        recipe = {**recipe, **scheme.moe_2026_recipe}
    rules = _Rules(model, scheme, base) if scheme.rules else None
    types = [""] * len(tensors)
    for i in sorted(range(len(tensors)), key=lambda i: (layer_of(tensors[i].name), tensors[i].name)):
        tensor = tensors[i]
        types[i] = "f32" if base.id == "f32" else kept_type(tensor)
        if types[i]:
            continue
        chosen = rules.choose(tensor) if rules else ""
        if model.expert_type and is_expert_stack(tensor):
            types[i] = model.expert_type
            continue
        if recipe:
            stem = tensor.name.removesuffix(".weight").rpartition(".")[2]
            chosen = recipe.get(stem) or recipe.get("*") or chosen
        types[i] = fitting_type(table, chosen or base.id, tensor)
    return types


def is_expert_stack(tensor: Tensor) -> bool:
    """Whether ``tensor`` holds one matrix for each of several experts."""
    return len(tensor.shape) > 2 and tensor.shape[-3] > 1


def fitting_type(table: QuantTable, type_id: str, tensor: Tensor) -> str:
    """``type_id``, or what the quantizer takes instead because a row is no whole number of blocks."""
    layout = table.types[type_id]
    row = tensor.shape[-1]
    if row % layout.block_elements == 0:
        return type_id
    if not layout.fallback:
        raise NotModelled(
            f"{tensor.name} as {type_id}",
            f"its rows of {row} are no whole blocks of {layout.block_elements}: llama-quantize refuses",
        )
    return layout.fallback if row % table.types[layout.fallback].block_elements == 0 else "f16"


def use_more_bits(i: int, n: int) -> bool:
    """The first and last eighth of ``n`` layers, and every third between them."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


class _Rules:
    """The rules of one file type over one model; ``choose`` is called in the file's tensor order."""

    __slots__ = ("base", "file", "imatrix", "model", "n_seen")

    def __init__(self, model: MixModel, scheme: QuantScheme, base: TypeLayout) -> None:
        self.model = model
        self.file = scheme.rules
        self.imatrix = scheme.imatrix
        self.base = base
        self.n_seen = {"attn_v": 0, "ffn_up": 0, "ffn_gate": 0, "ffn_down": 0}

    def choose(self, tensor: Tensor) -> str:
        """The type that the rules prescribe, or an empty string for the base type."""
        category = category_of(tensor.name)
        if category == "head" or (category == "embedding" and self.model.tied):
            return self._head(tensor)
        if self.file == "mxfp4_moe":
            return "mxfp4" if is_expert_stack(tensor) else "q8_0"
        if category == "embedding":
            return _EMBEDDING.get(self.file, "")
        position = self.n_seen.get(category, 0)
        if category in self.n_seen:
            self.n_seen[category] += 1
        if self.file in _TINY:
            return self._tiny(category, position)
        if category == "attn_v":
            return self._attn_v(position)
        if category in ("attn_k", "attn_q"):
            eight = category == "attn_k" and self.model.n_experts == 8
            return "q8_0" if eight else _ATTN_QK.get(self.file, "")
        if category == "attn_output":
            return self._attn_output()
        layer = layer_of(tensor.name) if self.model.n_experts > 1 else position
        if category == "ffn_down":
            return self._ffn_down(layer)
        if category in ("ffn_up", "ffn_gate") and self.file == "iq3_xs":
            n = self.model.n_layers
            return "iq3_xxs" if n // 8 <= layer < 7 * n // 8 else ""
        return ""

    def _head(self, tensor: Tensor) -> str:
        fits = tensor.shape[-1] % self.base.block_elements == 0
        if self.file == "mxfp4_moe" or self.model.falcon or not fits:
            return "q8_0"
        if self.file in _HEAD_Q5_K:
            return "q5_k"
        return "" if self.base.id == "q8_0" else "q6_k"

    def _tiny(self, category: str, position: int) -> str:
        """File types of about 2 bits: the sensitive tensors stay at 3 to 5."""
        model, file = self.model, self.file
        three = "iq3_s" if file in _IQ2_S_AND_M else "q2_k"
        if category == "attn_v":
            return "q4_k" if model.heads_per_kv_head >= 4 or model.n_experts >= 4 else three
        if category == "attn_k" and model.n_experts == 8:
            return "q4_k"
        if category == "ffn_down":
            return three if position < model.n_layers // 8 else ""
        if category == "attn_output":
            if model.n_experts == 8:
                return "q5_k"
            return "iq2_xxs" if file in ("iq1_s", "iq1_m") else "iq3_s" * (file in _IQ2_S_AND_M)
        return ""

    def _attn_v(self, position: int) -> str:
        model, file = self.model, self.file
        if model.n_experts == 8:
            return "q8_0"
        grouped, other = _ATTN_V.get(file, ("", ""))
        chosen = grouped if model.heads_per_kv_head >= 4 else other
        if file == "iq3_xxs":
            ungrouped = "iq3_xxs" if self.imatrix else "iq3_s"
            chosen = "q4_k" if model.heads_per_kv_head >= 4 else ungrouped
        elif file == "q3_k_m":
            chosen = "q5_k" if position < 2 else "q4_k"
        elif file in ("q4_k_m", "q5_k_m"):
            chosen = "q6_k" if use_more_bits(position, model.n_attn_v) else ""
        elif file == "q4_k_s":
            chosen = "q5_k" if position < 4 else ""
        return "q5_k" if model.is_70b and (chosen or self.base.id) in ("q3_k", "q4_k") else chosen

    def _attn_output(self) -> str:
        if self.model.falcon:
            return "q4_k" if self.file == "q3_k_l" else ""
        if self.model.n_experts == 8:
            return "q5_k" if self.file in _ATTN_OUTPUT_Q5_K_OF_8_EXPERTS else ""
        return _ATTN_OUTPUT.get(self.file, "")

    def _ffn_down(self, layer: int) -> str:
        file, n, falcon = self.file, self.model.n_layers, self.model.falcon
        first_eighth, more = layer < n // 8, use_more_bits(layer, n)
        if file == "q2_k":
            return "q3_k"
        if file == "q3_k_m":
            return "q5_k" if layer < n // 16 else "q4_k" if not falcon or more else ""
        if file == "q3_k_l":
            return "q4_k" if falcon else "q5_k"
        if file == "q4_k_m" and falcon:
            return "q6_k" if layer < n // 16 else "q5_k" if more else ""
        if file in ("q4_k_m", "q5_k_m"):
            return "q6_k" if more else ""
        if file == "iq3_m":
            return "q4_k" if first_eighth or (self.model.n_experts == 8 and more) else ""
        if file == "iq3_xxs":
            return "" if self.imatrix else "q4_k" if first_eighth else "q3_k"
        if not first_eighth:
            return ""
        if file == "q4_k_s":
            return "" if falcon else "q5_k"
        if file in ("iq4_nl", "iq4_xs"):
            return "" if self.imatrix else "q5_k"
        if file in ("q4_0", "q5_0"):
            return ("q4_1" if file == "q4_0" else "q5_1") if self.imatrix else ""
        return "q4_k" if file == "q2_k_s" else ""
