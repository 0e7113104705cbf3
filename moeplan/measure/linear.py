"""A matrix times one or more rows at the speed of the memory: which torch kernel serves them on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moeplan.measure.device import import_torch

# Half a megabyte in fp32: one thread reads it in the time that it takes to start the others.
_MIN_ELEMENTS = 1 << 17


def linear_kernel() -> Callable[[Any, Any], Any]:
    """``linear(x, weight)`` with x (..., in) and weight (out, in), for use without gradients.

    On x86 torch hands fp32 rows to BLAS routines: one row to one that runs on one thread (MKL's sgemv on
    AMD), two to some hundred to others whose time jumps between 1, 2, 3, 4 and 17 rows and with the shape of
    the matrix, up to three times oneDNN's, which grows evenly. With one row of fresh matrices of 2 to 70 MB
    oneDNN reads 19 to 24 GB/s on one thread and 34 to 46 on two, where a batch of slices, one a thread,
    reached 16 to 20 and 28 to 36 (two cores of an EPYC 9004, with AVX-512 and held to AVX2, November 2026).
    """
    torch = import_torch()
    plain = torch.nn.functional.linear
    kernel = _by_one_dnn(torch) or plain

    def linear(x: Any, weight: Any) -> Any:
        rows = x.numel() // x.shape[-1]
        if weight.numel() < _MIN_ELEMENTS or x.device.type != "cpu" or x.dtype != torch.float32:
            return plain(x, weight)
        if torch.is_grad_enabled():
            return plain(x, weight)
        return kernel(x.reshape(rows, -1), weight).view(*x.shape[:-1], -1)

    return linear


def _by_one_dnn(torch: Any) -> Callable[[Any, Any], Any] | None:
    """oneDNN's kernel, where it is there and agrees with the plain one on this build."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        one_dnn = torch.ops.mkldnn._linear_pointwise
        x, weight = torch.ones(1, 8), torch.ones(4, 8)
        answer = one_dnn(x, weight, None, "none", [], "")
        if not torch.allclose(answer, torch.nn.functional.linear(x, weight)):
            return None
    except (AttributeError, RuntimeError, NotImplementedError):  # a torch without it: the caller has another
        return None

    def linear(x: Any, weight: Any) -> Any:
        return one_dnn(x, weight, None, "none", [], "")

    return linear
