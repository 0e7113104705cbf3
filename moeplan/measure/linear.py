"""Matrix times activations at the speed of the memory: which torch kernel serves one row on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moeplan.measure.device import import_torch


def linear_kernel() -> Callable[[Any, Any], Any]:
    """``linear(x, weight)`` with x (..., in) and weight (out, in).

    On x86 torch hands one fp32 row to a BLAS routine that runs on one thread (MKL's sgemv on AMD: 22 of
    31 GB/s); oneDNN's kernel uses all. It exists in torch builds with oneDNN and takes no gradients.
    """
    torch = import_torch()
    plain = torch.nn.functional.linear
    if not _has_one_dnn(torch):
        return plain  # type: ignore[no-any-return]
    one_dnn = torch.ops.mkldnn._linear_pointwise

    def linear(x: Any, weight: Any) -> Any:
        single_row = x.numel() == x.shape[-1] and x.device.type == "cpu" and x.dtype == torch.float32
        if not single_row or torch.is_grad_enabled():
            return plain(x, weight)
        return one_dnn(x.reshape(1, -1), weight, None, "none", [], "").reshape(*x.shape[:-1], -1)

    return linear


def _has_one_dnn(torch: Any) -> bool:
    """Whether the kernel is there and agrees with the plain one on this build."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x, weight = torch.ones(1, 8), torch.ones(4, 8)
        answer = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return bool(torch.allclose(answer, torch.nn.functional.linear(x, weight)))
