"""A matrix times one or more rows at the speed of the memory: which torch kernel serves them on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moeplan.measure.device import import_torch

# Half a megabyte in fp32: one thread reads it in the time that it takes to start the others.
_MIN_ELEMENTS = 1 << 17


def linear_kernel() -> Callable[[Any, Any], Any]:
    """``linear(x, weight)`` with x (..., in) and weight (out, in), for use without gradients.

    On x86 torch hands one fp32 row to a BLAS routine that runs on one thread (MKL's sgemv on AMD): a batch of
    slices of the matrix, one a thread, runs on all of them and costs 9 us to start, oneDNN's kernel 16 us.
    Two to some hundred rows go to BLAS routines whose time jumps between 1, 2, 3, 4 and 17 rows and with
    the shape of the matrix, up to three times oneDNN's, which grows evenly (two cores of an EPYC 9004, with
    AVX-512 and limited to AVX2, November 2026).
    """
    torch = import_torch()
    plain = torch.nn.functional.linear
    more = _by_one_dnn(torch) or plain
    one = _by_slices(torch) if torch.backends.mkl.is_available() else more

    def linear(x: Any, weight: Any) -> Any:
        rows = x.numel() // x.shape[-1]
        if weight.numel() < _MIN_ELEMENTS or x.device.type != "cpu" or x.dtype != torch.float32:
            return plain(x, weight)
        if torch.is_grad_enabled():
            return plain(x, weight)
        kernel = one if rows == 1 else more
        return kernel(x.reshape(rows, -1), weight).view(*x.shape[:-1], -1)

    return linear


def _by_slices(torch: Any) -> Callable[[Any, Any], Any]:
    plain = torch.nn.functional.linear

    def linear(x: Any, weight: Any) -> Any:
        width, n_out = x.shape[1], weight.shape[0]
        n = slices(n_out, torch.get_num_threads())
        if n == 1 or not weight.is_contiguous():
            return plain(x, weight)
        # (n, 1, in) x (n, in, out / n): views only, nothing is copied
        return torch.bmm(x.expand(n, 1, width), weight.view(n, n_out // n, width).transpose(1, 2)).view(1, -1)

    return linear


def slices(n_out: int, threads: int) -> int:
    """In how many equal parts ``threads`` threads share ``n_out`` rows; 1 where they cannot evenly.

    One part a thread, else the power of two that gives each at least four, so that the last round, in which
    some threads have none, is a small share.
    """
    if n_out % threads == 0:
        return threads
    parts = 1 << (4 * threads - 1).bit_length()
    return parts if n_out % parts == 0 else 1


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
