"""Peak memory of a training or LoRA step of the reference decoder, from its shapes alone.

Counted from what torch's autograd keeps for the backward pass of `measure.decoder` (fp32, no
recomputation). n tokens, D hidden, A = heads x head width, F and w intermediate widths, k experts a
token, r rank, V vocabulary. Pure: no torch here.
"""

from __future__ import annotations

from typing import NamedTuple

from moeplan.domain.graph import Tensor
from moeplan.domain.model import Block, DenseFfn, GqaAttention, ModelSpec, MoeFfn
from moeplan.errors import NotModelled
from moeplan.graph.inventory import build_tensors

_WIDTH_BYTES = 4
ATTENTION_ROLES = ("attn_q", "attn_k", "attn_v", "attn_out")
EXPERT_ROLES = ("expert_gate", "expert_up", "expert_down")
DENSE_ROLES = ("ffn_gate", "ffn_up", "ffn_down")


class Setting(NamedTuple):
    """What is trained on what. ``method`` is full or lora."""

    method: str
    batch: int
    tokens: int
    rank: int = 16
    roles: tuple[str, ...] = ATTENTION_ROLES
    train_router: bool = False

    @property
    def is_full(self) -> bool:
        """Every weight learns."""
        return self.method == "full"

    def learns(self, *roles: str) -> bool:
        """Whether a matrix of any of ``roles`` takes gradients."""
        return self.is_full or any(role in self.roles for role in roles)


class StepMemory(NamedTuple):
    """Bytes at the peak of a step."""

    weights: int
    adapters: int
    optimizer: int
    gradients: int
    saved: int
    """Kept by the forward pass for the backward pass."""
    total: int


def step_memory(spec: ModelSpec, setting: Setting) -> StepMemory:
    """Memory of one step with AdamW. Raises NotModelled for what the reference decoder cannot train."""
    tensors = build_tensors(spec)
    weights = sum(t.n_elements for t in tensors)
    pairs = [] if setting.is_full else [t for t in tensors if t.role in setting.roles]
    sizes = [part for t in pairs for part in _adapter_sizes(t, setting.rank)]
    adapters = sum(sizes)
    if setting.is_full:
        sizes = [t.n_elements for t in tensors]
    elif setting.train_router:
        sizes += [t.n_elements for t in tensors if t.role == "router"]
    learning = sum(sizes)
    n = setting.batch * setting.tokens
    saved = saved_elements(spec, setting)
    # Backward starts with two more arrays as large as the logits (the gradients of the loss and of the
    # log-softmax); the update ends with all gradients and two temporaries of one parameter's size.
    peak = max(saved + 2 * n * spec.vocab_size, learning + 2 * max(sizes, default=0))
    total = weights + adapters + 2 * learning + peak
    parts = (weights, adapters, 2 * learning, learning, saved, total)
    return StepMemory(*(part * _WIDTH_BYTES for part in parts))


def _adapter_sizes(tensor: Tensor, rank: int) -> tuple[int, int]:
    """Elements of A and of B, over all experts of a stacked tensor."""
    *stack, n_out, n_in = tensor.shape
    n = 1
    for size in stack:
        n *= size
    return n * rank * n_in, n * n_out * rank


def saved_elements(spec: ModelSpec, setting: Setting) -> int:
    """What autograd keeps at the end of the forward pass, the log-softmax included."""
    n, d = setting.batch * setting.tokens, spec.hidden_size
    total, tracked = 0, setting.is_full
    for block in spec.layer_blocks():
        attention, ffn = _layer(block, setting, n, d, tracked)
        total += attention + ffn
        # after the first layer with something to learn, everything behind it needs gradients
        tracked = tracked or bool(attention or ffn)
    # the final norm's input; with a learning norm also what it scales, with a learning head its input
    total += n * d * (3 if setting.is_full else int(tracked))
    return total + n * spec.vocab_size


def _layer(block: Block, setting: Setting, n: int, d: int, tracked: bool) -> tuple[int, int]:
    """(attention's, feed-forward's) kept elements of one layer; ``tracked``: its input needs gradients."""
    mixer, full = block.mixer, setting.is_full
    if not isinstance(mixer, GqaAttention):
        raise NotModelled("memory of a training step", "only grouped-query attention is counted")
    width = mixer.n_heads * mixer.head_dim
    on = setting.learns(*ATTENTION_ROLES)
    attention = 0
    if tracked or on:
        attention += n * d * (int(tracked) + int(full))  # the norm's input, and what its weight scales
        attention += n * d * int(setting.learns("attn_q", "attn_k", "attn_v"))  # the normed input
        attention += 4 * n * width  # queries, keys and values for every query head, the result
        attention += n * width * int(setting.learns("attn_out"))
        attention += n * setting.rank * (0 if full else sum(r in setting.roles for r in ATTENTION_ROLES))
    tracked = tracked or on
    ffn = n * d * (int(tracked) + int(full))
    if isinstance(block.ffn, MoeFfn):
        ffn += _experts(block.ffn, setting, n, d, tracked)
    elif isinstance(block.ffn, DenseFfn):
        ffn += _mlp(setting, n, n * d * int(setting.learns("ffn_gate", "ffn_up")), block.ffn.intermediate,
                    DENSE_ROLES, tracked)  # fmt: skip
    return attention, ffn


def _mlp(setting: Setting, rows: int, inputs: int, width: int, roles: tuple[str, ...], tracked: bool) -> int:
    """gate, silu(gate) and up; the input and the product where a matrix that meets them learns."""
    if not (tracked or setting.learns(*roles)):
        return 0
    kept = inputs + rows * width * (3 + int(setting.learns(roles[2])))
    return kept + rows * setting.rank * (0 if setting.is_full else sum(r in setting.roles for r in roles))


def _experts(ffn: MoeFfn, setting: Setting, n: int, d: int, tracked: bool) -> int:
    rows = n * ffn.n_active
    routes = tracked or setting.is_full or setting.train_router
    learns = setting.learns(*EXPERT_ROLES)
    if not (routes or learns):
        return 0
    router = n * d * int(setting.is_full or setting.train_router)
    gathered = rows * d * int(setting.learns("expert_gate", "expert_up"))
    # the result of each row once for the sum, once more where its weight needs a gradient
    results = rows * d * (1 + int(routes))
    return router + results + _mlp(setting, rows, gathered, ffn.expert_intermediate, EXPERT_ROLES, tracked)
