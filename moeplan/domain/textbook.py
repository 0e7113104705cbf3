"""The rules that articles use, and what they give: one model by its bare numbers, or a dense beside a MoE."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.value import Value


class TextbookStep(Value):
    """One decode step of ``batch`` sequences under the rule: the slower of reading and computing."""

    batch: int
    memory_s: float
    compute_s: float

    @property
    def total_s(self) -> float:
        """Time of the step."""
        return max(self.memory_s, self.compute_s)

    @property
    def bound(self) -> Literal["memory", "compute"]:
        """Which of the two it is."""
        return "memory" if self.memory_s >= self.compute_s else "compute"

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all sequences together."""
        return self.batch / self.total_s


class TextbookModel(Value):
    """One model under the textbook rules."""

    params_total: float
    params_active: float
    train_flop_per_token: float
    decode_flop_per_token: float
    train_tokens_per_day: float
    weights_bytes: float
    """All parameters at the bytes per parameter of the rule."""
    active_read_s: float
    """Reading the active parameters alone once: what one token needs."""
    crossover_batch: int | None
    """Smallest batch at which computing takes at least as long as reading, under the rule; None: none."""
    steps: tuple[TextbookStep, ...]


class TextbookInputs(Value):
    """The bare numbers. ``bandwidth_bytes_per_s`` and ``peak_flop_per_s`` are those of one GPU."""

    dense_params: float
    moe_params_total: float
    moe_params_active: float
    bandwidth_bytes_per_s: float
    peak_flop_per_s: float
    n_gpus: int
    mfu_frac: float
    bytes_per_param: float
    batches: tuple[int, ...]


class Textbook(Value):
    """The answer of ``moeplan textbook``."""

    inputs: TextbookInputs
    dense: TextbookModel
    moe: TextbookModel
    compute_speedup: float
    """Training FLOPs per token, dense / MoE."""
    memory_ratio: float
    """Bytes of weights, MoE / dense."""
    caveats: tuple[str, ...]
    assumptions: tuple[str, ...] = ()
