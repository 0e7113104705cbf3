"""A small readable decoder for measuring: from a ModelSpec, in torch, with the inventory's weight names.

Shapes: B sequences, R new rows each, D hidden, H query heads, K key/value heads, d head width,
C cached positions, N experts. Equal in fp32 to transformers' Llama, Mixtral, Qwen3-MoE and DeepSeek-V3
with the same weights. Batch-1 decode of a MoE layer reads only the experts that were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from moeplan.domain.model import Block, DenseFfn, GqaAttention, MlaAttention, ModelSpec, MoeFfn
from moeplan.errors import NotModelled
from moeplan.measure.device import import_torch
from moeplan.measure.layout import joined_matrices

_PARTS = ("gate", "up", "down")


class Conventions(NamedTuple):
    """What a checkpoint's code fixes beside its shapes; defaults are those of Llama and Mixtral."""

    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_interleaved: bool = False
    """Pairs of neighbours turn together (DeepSeek), not the two halves of a head."""
    norm_topk: bool = True
    """Chosen experts' weights are scaled to sum to one."""
    routed_scale: float = 1.0
    n_groups: int = 1
    top_groups: int = 1
    """DeepSeek-V3: experts are chosen within the best ``top_groups`` of ``n_groups`` groups."""


class ExpertStream(Protocol):
    """Brings the experts of one layer after the other into the memory that ``weights`` names for them."""

    def bring(self, layer: int) -> None:
        """The experts of ``layer`` are there when what is started next on the device runs."""

    def release(self, layer: int) -> None:
        """What was started on the device until now is the last that needs them."""


class LayerCache:
    """Keys and values of one layer for ``capacity`` positions; MLA keeps its latent and rope keys."""

    def __init__(self, torch: Any, block: Block, n_sequences: int, capacity: int, **options: Any) -> None:
        mixer = block.mixer
        if isinstance(mixer, MlaAttention):
            first = (n_sequences, 1, capacity, mixer.kv_lora_rank)
            second = (n_sequences, 1, capacity, mixer.rope_head_dim)
        else:
            assert isinstance(mixer, GqaAttention)
            first = (n_sequences, mixer.n_kv_heads, capacity, mixer.head_dim)
            second = (n_sequences, mixer.n_kv_heads, capacity, mixer.v_head_dim)
        self.first, self.second = torch.zeros(first, **options), torch.zeros(second, **options)

    def put(self, first: Any, second: Any, at: int) -> tuple[Any, Any]:
        """Write rows (B, K, R, d) at position ``at``; all positions up to and with them."""
        end = at + first.shape[2]
        self.first[:, :, at:end], self.second[:, :, at:end] = first, second
        return self.first[:, :, :end], self.second[:, :, :end]


class Decoder:
    """The model: ``weights`` by the names of ``graph.inventory.build_tensors``."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, Any],
        conventions: Conventions | None = None,
        linear: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.torch = import_torch()
        self.spec, self.weights, self.conventions = spec, weights, conventions or Conventions()
        self.linear = linear or self.torch.nn.functional.linear
        self.adapters: dict[str, tuple[Any, Any]] = {}
        """LoRA by weight name: A (r, in) and B (out, r), or one of each per expert in front."""
        self.adapter_scale = 1.0
        self.choices: list[Any] | None = None
        """What `route` chose in every MoE layer that ran, while it is a list."""
        self.stream: ExpertStream | None = None
        """Brings the experts of a layer to where it runs; without it they compute where they lie."""
        self._joined = joined_matrices(weights)
        self._turns: dict[Any, tuple[Any, Any]] = {}
        self.blocks = spec.layer_blocks()
        for block in self.blocks:
            _require_supported(block)

    def new_cache(self, n_sequences: int, capacity: int) -> list[LayerCache]:
        """An empty cache for ``n_sequences`` of at most ``capacity`` tokens."""
        likes = [self.weights[f"blk.{i}.attn_norm.weight"] for i in range(len(self.blocks))]
        return [
            LayerCache(self.torch, b, n_sequences, capacity, dtype=like.dtype, device=like.device)
            for b, like in zip(self.blocks, likes, strict=True)
        ]

    def forward(
        self, tokens: Any, cache: list[LayerCache] | None = None, at: int = 0, last_only: bool = False
    ) -> Any:
        """Logits (B, R, vocabulary) of tokens (B, R) that start at position ``at``.

        Every layer runs on the device that its weights are on.
        """
        self._turns.clear()
        x = self.weights["token_embd.weight"][tokens]
        for layer, block in enumerate(self.blocks):
            x = x.to(self.weights[f"blk.{layer}.attn_norm.weight"].device)
            x = self.layer(layer, block, x, cache[layer] if cache else None, at)
        x = x.to(self.weights["output_norm.weight"].device)
        x = self._norm(x[:, -1:] if last_only else x, "output_norm.weight")
        head = "token_embd.weight" if self.spec.tied_embeddings else "output.weight"
        return self._matmul(x, head)

    def layer(self, layer: int, block: Block, x: Any, cache: LayerCache | None, at: int) -> Any:
        """One layer on x (B, R, D)."""
        name = f"blk.{layer}."
        normed = self._norm(x, name + "attn_norm.weight")
        if isinstance(block.mixer, MlaAttention):
            x = x + self._mla(name, block.mixer, normed, cache, at)
        elif isinstance(block.mixer, GqaAttention):
            x = x + self._gqa(name, block.mixer, normed, cache, at)
        normed = self._norm(x, name + "ffn_norm.weight")
        if isinstance(block.ffn, MoeFfn):
            return x + self._moe(layer, block.ffn, normed)
        return x + self._mlp(normed, [f"{name}ffn_{part}.weight" for part in _PARTS])

    # ── attention ────────────────────────────────────────────────────────────────────────────────

    def _gqa(self, name: str, mixer: GqaAttention, x: Any, cache: LayerCache | None, at: int) -> Any:
        rows = x.shape[1]
        q, k, v = self._products(x, [f"{name}attn_{part}.weight" for part in "qkv"])
        q = self._heads(q, name + "attn_q", mixer.n_heads)
        k, v = (self._heads(t, name + n, mixer.n_kv_heads) for t, n in ((k, "attn_k"), (v, "attn_v")))
        if mixer.qk_norm == "head":
            q, k = self._norm(q, name + "attn_q_norm.weight"), self._norm(k, name + "attn_k_norm.weight")
        q, k = self._rope(q, at), self._rope(k, at)
        if cache is not None:
            k, v = cache.put(k, v, at)
        out = self._attend(q, k, v, mixer.window_tokens, mixer.head_dim**-0.5)
        return self._matmul(out.transpose(1, 2).reshape(x.shape[0], rows, -1), name + "attn_output.weight")

    def _heads(self, y: Any, name: str, n_heads: int) -> Any:
        """A product (B, R, heads x d) with its bias, as (B, heads, R, d)."""
        bias = self.weights.get(name + ".bias")
        y = y if bias is None else y + bias
        return y.unflatten(-1, (n_heads, -1)).transpose(1, 2)

    def _attend(self, q: Any, k: Any, v: Any, window: int | None, scale: float) -> Any:
        """Causal attention of the last R positions of k and v: (B, H, R, d)."""
        attend = self.torch.nn.functional.scaled_dot_product_attention
        n_sequences, n_heads, rows, _ = q.shape
        n_kv, depth = k.shape[1], k.shape[2]
        if rows == 1:
            if window is not None and depth > window:
                k, v = k[:, :, -window:], v[:, :, -window:]
            # the heads that share a key are rows of one small product: the cache is read once
            grouped = q.reshape(n_sequences, n_kv, n_heads // n_kv, -1)
            return attend(grouped, k, v, scale=scale).reshape(n_sequences, n_heads, 1, -1)
        if n_heads != n_kv:
            k, v = (t.repeat_interleave(n_heads // n_kv, dim=1) for t in (k, v))
        if rows == depth and (window is None or depth <= window):
            return attend(q, k, v, is_causal=True, scale=scale)
        place = self.torch.arange(depth, device=q.device)
        seen = place[None, :] <= place[depth - rows :, None]
        if window is not None:
            seen &= place[None, :] > place[depth - rows :, None] - window
        return attend(q, k, v, attn_mask=seen, scale=scale)

    def _mla(self, name: str, mixer: MlaAttention, x: Any, cache: LayerCache | None, at: int) -> Any:
        """Absorbed: queries meet the latent directly, so that the cache is the latent alone."""
        torch, (n_sequences, rows, _) = self.torch, x.shape
        query = x
        if mixer.q_lora_rank:
            query = self._norm(self._matmul(x, name + "attn_q_a.weight"), name + "attn_q_a_norm.weight")
        to_q = name + ("attn_q_b" if mixer.q_lora_rank else "attn_q")
        q = self._heads(self._matmul(query, to_q + ".weight"), to_q, mixer.n_heads)
        q_nope, q_rope = q.split([mixer.nope_head_dim, mixer.rope_head_dim], dim=-1)
        latent, k_rope = self._matmul(x, name + "attn_kv_a_mqa.weight").split(
            [mixer.kv_lora_rank, mixer.rope_head_dim], dim=-1
        )
        latent = self._norm(latent, name + "attn_kv_a_norm.weight")[:, None]
        k_rope, q_rope = self._rope(k_rope[:, None], at), self._rope(q_rope, at)
        if cache is not None:
            latent, k_rope = cache.put(latent, k_rope, at)
        # (B, H, R, nope) x (H, latent, nope) -> (B, H, R, latent)
        q_latent = torch.einsum("bhrn,hln->bhrl", q_nope, self.weights[name + "attn_k_b.weight"])
        q_all, k_all = torch.cat([q_latent, q_rope], -1), torch.cat([latent, k_rope], -1)
        scale = float(mixer.nope_head_dim + mixer.rope_head_dim) ** -0.5
        mixed = self._attend(q_all, k_all, latent, mixer.window_tokens, scale)
        out = torch.einsum("bhrl,hvl->bhrv", mixed, self.weights[name + "attn_v_b.weight"])
        return self._matmul(out.transpose(1, 2).reshape(n_sequences, rows, -1), name + "attn_output.weight")

    def _rope(self, x: Any, at: int) -> Any:
        """Turn pairs of x (B, heads, R, d) by position."""
        cos, sin = self._turn(x, at)
        if self.conventions.rope_interleaved:
            a, b = x[..., 0::2], x[..., 1::2]
        else:
            a, b = x.chunk(2, dim=-1)
        return self.torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def _turn(self, x: Any, at: int) -> tuple[Any, Any]:
        """Cosines and sines (R, d / 2) of the rows of x: made once in a forward pass."""
        key = (x.device, x.shape[-1])
        if key not in self._turns:
            torch, half = self.torch, x.shape[-1] // 2
            steps = torch.arange(half, device=x.device, dtype=torch.float32) / half
            places = torch.arange(at, at + x.shape[-2], device=x.device, dtype=torch.float32)
            angle = places[:, None] * self.conventions.rope_theta**-steps
            self._turns[key] = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        return self._turns[key]

    # ── feed-forward ─────────────────────────────────────────────────────────────────────────────

    def _mlp(self, x: Any, names: Sequence[str], expert: int | None = None) -> Any:
        gate, up = self._products(x, names[:2], expert)
        return self._matmul(self.torch.nn.functional.silu(gate) * up, names[2], expert)

    def _moe(self, layer: int, ffn: MoeFfn, x: Any) -> Any:
        name = f"blk.{layer}."
        flat = x.reshape(-1, x.shape[-1])
        weight, chosen = self.route(name, ffn, flat)
        if self.choices is not None:
            self.choices.append(chosen)
        names = [f"{name}ffn_{part}_exps.weight" for part in _PARTS]
        if self.stream is not None:
            self.stream.bring(layer)
        home = self.weights[names[0]].device
        out = self._experts(names, flat.to(home), weight.to(home), chosen.to(home)).to(flat.device)
        if self.stream is not None:
            self.stream.release(layer)
        if ffn.n_shared:
            out = out + self._mlp(flat, [f"{name}ffn_{part}_shexp.weight" for part in _PARTS])
        return out.view(x.shape)

    def _experts(self, names: Sequence[str], flat: Any, weight: Any, chosen: Any) -> Any:
        """Each chosen expert sees only its own rows; those that nobody chose are not touched."""
        out = self.torch.zeros_like(flat)
        if len(flat) == 1:
            for share, expert in zip(weight[0], chosen[0].tolist(), strict=True):
                out = out + share * self._mlp(flat, names, expert)
            return out
        rows_of, slots_of = _rows_by_expert(self.torch, chosen)
        for expert, rows in rows_of.items():
            part = self._mlp(flat[rows], names, expert) * weight[rows, slots_of[expert], None]
            out = out.index_add(0, rows, part)
        return out

    def route(self, name: str, ffn: MoeFfn, flat: Any) -> tuple[Any, Any]:
        """(weights, experts), each (rows, n_active), of rows (rows, D)."""
        c = self.conventions
        logits = self._matmul(flat, name + "ffn_gate_inp.weight").float()
        if ffn.routing == "softmax":
            weight, chosen = logits.softmax(-1).topk(ffn.n_active, dim=-1)
        else:
            score = logits.sigmoid()
            choice = score + self.weights.get(name + "exp_probs_b.bias", 0.0)
            if c.n_groups > 1:
                groups = choice.view(len(flat), c.n_groups, -1)
                best = groups.topk(2, dim=-1)[0].sum(-1).topk(c.top_groups, dim=-1)[1]
                keep = self.torch.zeros(groups.shape[:2], dtype=self.torch.bool, device=flat.device)
                keep = keep.scatter(1, best, True)[..., None]
                choice = groups.masked_fill(~keep, 0.0).flatten(1)
            chosen = choice.topk(ffn.n_active, dim=-1)[1]
            weight = score.gather(1, chosen)
        if c.norm_topk:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return (weight * c.routed_scale).to(flat.dtype), chosen

    # ── pieces ───────────────────────────────────────────────────────────────────────────────────

    def _products(self, x: Any, names: Sequence[str], expert: int | None = None) -> Sequence[Any]:
        """x times each of the matrices; at once where they lie one under the other in memory."""
        joined = self._joined.get(names[0])
        if joined is None or self.adapters or self.torch.is_grad_enabled():
            return [self._matmul(x, name, expert) for name in names]
        y = self.linear(x, joined if expert is None else joined[expert])
        return y.split([self.weights[name].shape[-2] for name in names], dim=-1)  # type: ignore[no-any-return] # torch is Any

    def _matmul(self, x: Any, name: str, expert: int | None = None) -> Any:
        weight = self.weights[name] if expert is None else self.weights[name][expert]
        y = self.linear(x, weight)
        if name not in self.adapters:
            return y
        a, b = self.adapters[name]
        if expert is not None:
            a, b = a[expert], b[expert]
        linear = self.torch.nn.functional.linear
        return y + linear(linear(x, a), b) * self.adapter_scale

    def _norm(self, x: Any, name: str) -> Any:
        weight = self.weights[name]
        return self.torch.nn.functional.rms_norm(x, weight.shape, weight, self.conventions.norm_eps)


def _rows_by_expert(torch: Any, chosen: Any) -> tuple[dict[int, Any], dict[int, Any]]:
    """For each expert that was chosen, its rows and in which slot they chose it."""
    n_active = chosen.shape[1]
    order = chosen.flatten().argsort(stable=True)
    experts, counts = chosen.flatten()[order].unique_consecutive(return_counts=True)
    parts = order.split(counts.tolist())
    pairs = list(zip(experts.tolist(), parts, strict=True))
    return {e: p // n_active for e, p in pairs}, {e: p % n_active for e, p in pairs}


def _require_supported(block: Block) -> None:
    mixer, ffn = block.mixer, block.ffn
    odd = []
    if not isinstance(mixer, (GqaAttention, MlaAttention)):
        odd.append("its mixer")
    elif mixer.output_gate != "none" or mixer.indexer is not None:
        odd.append("gated or sparse attention")
    if isinstance(mixer, GqaAttention) and (
        mixer.sinks or mixer.fused_qkv or mixer.out_bias or mixer.qk_norm not in ("none", "head")
        or mixer.value_is_key or mixer.shares_kv
    ):  # fmt: skip
        odd.append("this kind of attention")
    if isinstance(ffn, MoeFfn):
        if ffn.fused_gate_up or ffn.bias or ffn.shared_gate or ffn.latent_dim or ffn.parallel_dense:
            odd.append("this kind of experts")
        if ffn.n_zero_experts or ffn.router_bias or ffn.router_scale:
            odd.append("this router")
    elif not isinstance(ffn, DenseFfn) or not ffn.gated or ffn.bias or ffn.fused_gate_up:
        odd.append("this kind of MLP")
    if block.n_norms != 2 or block.cross_attention is not None or block.encoder:
        odd.append("its norms or an encoder")
    if odd:
        raise NotModelled(
            f"a reference run of block {block.name!r}", "the reference decoder lacks " + ", ".join(odd)
        )
