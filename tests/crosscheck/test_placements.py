"""Weights in host memory: experts or layers on the CPU, experts streamed. Needs torch; no accelerator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'moeplan[profile]'")

from moeplan.measure import placements  # noqa: E402
from moeplan.measure.decoder import Decoder  # noqa: E402
from moeplan.measure.device import Device, cpu_device  # noqa: E402
from moeplan.measure.layout import joined_matrices  # noqa: E402
from moeplan.measure.placements import PLACEMENTS, Lane, place  # noqa: E402
from moeplan.measure.reference import Run, dense_shape, moe_shape  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def moe(layers: int) -> Any:
    return moe_shape(256, layers, 8, 2, 128, 512)


def distinct(reference: Any) -> None:
    """Random weights repeat from layer to layer: make every layer's experts differ."""
    stream = reference.model.stream
    for layer, tensor in stream.host.items():
        tensor.mul_(1.0 + 0.3 * layer)


def logits(model: Decoder, steps: int = 3) -> Any:
    """A prompt of five tokens, then ``steps`` single ones."""
    tokens = torch.arange(5 + steps)[None] * 31 % 512
    with torch.inference_mode():
        cache = model.new_cache(1, 5 + steps)
        parts = [model.forward(tokens[:, :5], cache)]
        parts += [model.forward(tokens[:, i : i + 1], cache, at=i) for i in range(5, 5 + steps)]
    return torch.cat(parts, 1)


class Late(Lane):
    """A lane whose copies happen when somebody waits for them, as on a busy device."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.pending: dict[int, Any] = {}
        self.n = 0

    def copy(self, target: Any, source: Any, after: Any) -> Any:
        self.n += 1
        self.pending[self.n] = lambda: target.copy_(source)
        return self.n

    def wait(self, point: Any) -> None:
        for known in sorted(self.pending):
            if known <= point:
                self.pending.pop(known)()


class Log(Lane):
    """Says after which use of a buffer it is written again."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.n = 0
        self.after: list[tuple[int, int | None]] = []

    def mark(self) -> int:
        self.n += 1
        return self.n

    def copy(self, target: Any, source: Any, after: Any) -> None:
        self.after.append((target.data_ptr(), after))
        target.copy_(source)

    def wait(self, point: Any) -> None:
        pass


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("lane", [Lane, Late])
def test_streamed_experts_give_the_same_logits(layers: int, lane: Any) -> None:
    device = cpu_device()
    streamed = place(moe(layers), "experts streamed", device, 1, lane(device))
    distinct(streamed)
    plain = place(moe(layers), "device", device, 1)
    for layer in range(layers):
        for part in ("gate", "up", "down"):
            plain.model.weights[f"blk.{layer}.ffn_{part}_exps.weight"].mul_(1.0 + 0.3 * layer)
    found, expected = logits(streamed.model), logits(plain.model)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_two_buffers_hold_all_layers_and_joined_experts_stay_joined() -> None:
    reference = place(moe(5), "experts streamed", cpu_device(), 1)
    where = {reference.model.weights[f"blk.{i}.ffn_gate_exps.weight"].data_ptr() for i in range(5)}
    assert len(where) == 2
    assert "blk.3.ffn_gate_exps.weight" in joined_matrices(reference.model.weights)


def test_a_buffer_is_written_again_only_after_its_last_use() -> None:
    device = cpu_device()
    lane = Log(device)
    logits(place(moe(4), "experts streamed", device, 1, lane).model, steps=0)
    buffers = [at for at, _ in lane.after]
    a, b = buffers[:2]
    # layers 0 and 1 find empty buffers; 2 waits for the use by 0 (the first mark), 3 for that by 1 (the
    # second), and layer 0 of the next pass for that by 2 (the third)
    assert lane.after == [(a, None), (b, None), (a, 1), (b, 2), (a, 3)]


def test_a_pass_that_broke_off_leaves_nothing_stale() -> None:
    device = cpu_device()
    streamed = place(moe(4), "experts streamed", device, 1)
    distinct(streamed)
    expected = logits(streamed.model)
    model = streamed.model
    assert model.stream is not None
    model.stream.bring(2)
    with torch.inference_mode(), pytest.raises(IndexError):
        model.forward(torch.tensor([[513]]))
    torch.testing.assert_close(logits(streamed.model), expected, rtol=0, atol=0)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_step_of_every_placement_is_timed(placement: str) -> None:
    sample = place(moe(2), placement, cpu_device(), 1).measure(Run("decode", 1, 8), 0.01)
    assert sample.median > 0


def test_without_an_accelerator_there_is_nothing_to_measure() -> None:
    assert list(placements.jobs(cpu_device(), 2)) == []


def passes_on_a_made_up_device() -> dict[str, list[list[str]]]:
    """By placement: devices of the caches, of the experts' products and of the logits.

    torch's fake tensors have a device and refuse to mix two, with neither a GPU nor data behind them.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils import backend_registration

    backend_registration._setup_privateuseone_for_python_backend("made_up")
    computed: list[str] = []

    def experts(self: Any, names: Any, flat: Any, weight: Any, chosen: Any) -> Any:
        """Which experts are chosen depends on the data, which there is none of: each sees every row."""
        assert weight.device == chosen.device == flat.device
        computed.append(flat.device.type)
        hidden = (
            flat @ self.weights[names[0]].transpose(1, 2) * (flat @ self.weights[names[1]].transpose(1, 2))
        )
        return (hidden @ self.weights[names[2]].transpose(1, 2)).sum(0)

    Decoder._experts = experts  # type: ignore[method-assign]
    found = {}
    with FakeTensorMode():
        device = Device(torch, "made_up", 1 << 30)
        placements._page_locked = lambda device: False  # type: ignore[assignment]
        for placement in PLACEMENTS:
            computed.clear()
            spec = dense_shape(256, 3, 512) if placement == "layers on the CPU" else moe(3)
            model = place(spec, placement, device, 1, Lane(cpu_device())).model
            cache = model.new_cache(2, 16)
            out = model.forward(torch.zeros(2, 4, dtype=torch.long, device="made_up"), cache)
            found[placement] = [[c.first.device.type for c in cache], list(computed), [out.device.type]]
    return found


def test_every_operation_finds_its_operands_on_one_device() -> None:
    code = "import json; from tests.crosscheck.test_placements import passes_on_a_made_up_device as passes;"
    command = [sys.executable, "-W", "ignore", "-c", code + "print(json.dumps(passes()))"]
    root = Path(__file__).parents[2]
    # a process of its own: the device stays known to torch as long as it runs
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    there, cpu = "made_up", "cpu"
    assert json.loads(done.stdout) == {
        "device": [[there] * 3, [there] * 3, [there]],
        "experts on the CPU": [[there] * 3, [cpu] * 3, [there]],
        "experts streamed": [[there] * 3, [there] * 3, [there]],
        "layers on the CPU": [[there, cpu, cpu], [], [there]],
    }
