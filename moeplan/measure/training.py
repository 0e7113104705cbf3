"""One training step and one LoRA step of the reference decoder: time, and the most memory in use.

Adapters change the output and receive gradients on every matrix they are put on, each expert's own
included; the frozen base keeps none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moeplan.domain.model import ModelSpec
from moeplan.domain.profile import Sample
from moeplan.graph.inventory import build_tensors
from moeplan.measure.decoder import Decoder
from moeplan.measure.device import Device
from moeplan.measure.micro import Job, torch_threads
from moeplan.measure.reference import dense_shape, moe_shape, random_weights
from moeplan.measure.timing import repeat, sample_of, time_sample
from moeplan.measure.training_memory import ATTENTION_ROLES, DENSE_ROLES, EXPERT_ROLES, Setting, step_memory


class Trainer:
    """A model, the tensors that learn, and AdamW over them."""

    def __init__(self, spec: ModelSpec, device: Device, setting: Setting) -> None:
        torch = device.torch
        self.torch, self.device, self.setting, self.spec = torch, device, setting, spec
        weights = random_weights(spec, device)
        self.model = Decoder(spec, weights)
        if setting.method == "full":
            learning = list(weights.values())
        else:
            self.model.adapters = adapters(spec, device, setting)
            self.model.adapter_scale = 2.0
            learning = [matrix for pair in self.model.adapters.values() for matrix in pair]
            if setting.train_router:
                learning += [w for name, w in weights.items() if name.endswith("ffn_gate_inp.weight")]
        for tensor in learning:
            tensor.requires_grad_(True)
        self.learning = learning
        self.optimizer = torch.optim.AdamW(learning, lr=1e-4)
        shape = (setting.batch, setting.tokens)
        self.tokens = torch.randint(0, spec.vocab_size, shape, device=device.name)
        self.targets = torch.randint(0, spec.vocab_size, shape, device=device.name)

    def loss(self) -> Any:
        """Cross-entropy over every position."""
        logits = self.model.forward(self.tokens)
        return self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.targets.flatten())

    def step(self) -> None:
        """Forward, backward, update."""
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def adapters(spec: ModelSpec, device: Device, setting: Setting) -> dict[str, tuple[Any, Any]]:
    """A (r, in) and B (out, r) for every matrix of the roles asked for, one pair per expert where stacked.

    B starts small instead of at zero, so that the first step already sends gradients to A.
    """
    torch, made = device.torch, {}
    for t in build_tensors(spec):
        if t.role not in setting.roles:
            continue
        *stack, n_out, n_in = t.shape
        a = torch.randn(*stack, setting.rank, n_in, device=device.name) * n_in**-0.5
        b = torch.randn(*stack, n_out, setting.rank, device=device.name) * 1e-3
        made[t.name] = (a, b)
    return made


def peak_bytes(device: Device, work: Any) -> int:
    """The most memory that torch had in use during ``work`` beyond what it held before."""
    torch = device.torch
    if not device.is_cpu:
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        work()
        device.sync()
        return int(torch.accelerator.max_memory_allocated() - before)
    # on a CPU the profiler sees every allocation and release
    with (
        _quiet_stderr(),
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profiler,
    ):
        work()
    held = most = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return int(most)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """torch's profiler writes its state to file descriptor 2."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def measure(spec: ModelSpec, device: Device, setting: Setting, budget_s: float, threads: int) -> list[Sample]:
    """Time of a step, and memory: weights, optimizer state and the peak of a step on top."""
    with torch_threads(device.torch, threads):
        trainer = Trainer(spec, device, setting)
        trainer.step()  # makes the optimizer's state
        span = repeat(trainer.step, budget_s=budget_s / 2, sync=device.sync, min_n=2)
        extra = peak_bytes(device, trainer.step)
    resident = sum(w.numel() * w.element_size() for w in trainer.model.weights.values())
    learning = sum(w.numel() * w.element_size() for w in trainer.learning)
    if setting.method != "full":
        resident += sum(m.numel() * m.element_size() for p in trainer.model.adapters.values() for m in p)
    setup: dict[str, str | int | float] = {
        "device": device.name, "model": spec.id, "layers": spec.n_layers, "method": setting.method,
        "batch": setting.batch, "tokens": setting.tokens, "rank": setting.rank,
        "predicted_bytes": step_memory(spec, setting).total,
        "targets": ",".join(setting.roles) if setting.method == "lora" else "all",
    }  # fmt: skip
    total = float(resident + 2 * learning + extra)  # AdamW keeps two moments of every learning weight
    return [
        time_sample("training step", setup, span),
        sample_of("training peak memory", setup, "B", [total] * 5),
    ]


def jobs(device: Device, threads: int) -> Iterator[tuple[str, float, Job]]:
    """Full and LoRA steps, dense and MoE."""
    dense, moe = dense_shape(512, 2, 4096), moe_shape(512, 2, 8, 2, 512, 4096)
    cases = [
        (dense, Setting("full", 2, 128)),
        (dense, Setting("lora", 2, 128, roles=ATTENTION_ROLES + DENSE_ROLES)),
        (moe, Setting("full", 2, 128)),
        (moe, Setting("lora", 2, 128, roles=ATTENTION_ROLES + EXPERT_ROLES)),
        (moe, Setting("lora", 2, 128, roles=ATTENTION_ROLES, train_router=True)),
    ]
    for spec, setting in cases:

        def job(budget_s: float, spec: ModelSpec = spec, setting: Setting = setting) -> list[Sample]:
            return measure(spec, device, setting, budget_s, threads)

        yield f"{setting.method} step of {spec.id}", 1.0, job
