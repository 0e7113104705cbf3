"""Predictions on this machine from what `moeplan profile` measured on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import MoeplanError, SpecError
from moeplan.readers.paths import user_configs

if TYPE_CHECKING:
    from moeplan.domain.profile import HostCalibration
    from moeplan.predict.problem import Problem


def is_measured_file(option: str | None) -> bool:
    """Whether ``--calibration`` names a file of `moeplan profile` (not a set of shipped coefficients)."""
    if option in (None, "none"):
        return False
    from moeplan.readers.calibration_host import is_host_calibration

    return is_host_calibration(Path(str(option)))


def is_local(request: EstimateRequest) -> bool:
    """Whether the request is about this machine as it is."""
    return request.hardware in (None, "local") and request.machine == MachineFlags()


def load_measured(
    option: str | None, request: EstimateRequest, assumptions: list[str]
) -> HostCalibration | None:
    """The calibration of this machine for ``request``: the file asked for, else the user's own.

    A file that was asked for and does not belong here is refused (SpecError); the user's own is left
    out with a word in ``assumptions``.
    """
    path = user_configs() / "calibration" / "this-machine.yaml"
    if option is None:
        if not is_local(request) or not path.exists():
            return None
        try:
            return _checked(path)
        except MoeplanError as error:
            assumptions.append(f"calibration of this machine not used: {error}")
            return None
    if not is_measured_file(option):
        return None
    if not is_local(request):
        raise SpecError(
            "a calibration measured on one machine holds for it alone, not for --hardware or its options",
            path=option,
            hint="leave --hardware out, or --calibration",
        )
    return _checked(Path(str(option)))


def _checked(path: Path) -> HostCalibration:
    from moeplan.hw.facts import local_facts
    from moeplan.readers.calibration_host import read_host_calibration, require_same_host

    host = read_host_calibration(path)
    require_same_host(host, local_facts(), str(path))
    return host


def with_measured(problem: Problem, host: HostCalibration, assumptions: list[str]) -> Problem:
    """``problem`` with this machine's measured bandwidths and rates."""
    from moeplan.calibrate.engine_work import attention_of, passed_frac
    from moeplan.calibrate.host import main_type
    from moeplan.calibrate.overlay import Target, measured_machine, overlay
    from moeplan.calibrate.steadiness import unsteady_log
    from moeplan.cost.cores import clock_frac
    from moeplan.cost.host_rates import host_rates
    from moeplan.cost.rates import engine_eras
    from moeplan.cost.work import main_type as law_type

    hardware = measured_machine(problem.hardware, host)
    cpu = hardware.host.cpu
    cores = cpu.cores
    threads, stored = problem.workload.threads, law_type(problem.graph)
    eras = engine_eras(problem.workload.engine_date, problem.engine.family)
    law = tuple(
        host_rates(hardware, threads, problem.engine, eras, stored, decode=decode) for decode in (True, False)
    )
    target = Target(
        engine=problem.engine.id,
        quant=main_type(problem.graph),
        threads=min(threads or cores, cores),
        has_gpu=bool(hardware.gpus),
        vocab=problem.graph.spec.vocab_size,
        law=law,
        attention=attention_of(problem.graph, problem.workload.kv_type_k, problem.workload.kv_type_v),
        prompt_frac=passed_frac(problem.graph, problem.workload.prompt_tokens),
        clock_frac=clock_frac(cpu),
    )
    assumptions.append(f"rates measured on this machine by moeplan profile, {host.date}")
    if unsteady_log(host.samples, target.threads):
        assumptions.append(
            "ranges widened: the machine's own speed moved while moeplan profile ran; run it again"
        )
    return problem._replace(hardware=hardware, calibration=overlay(problem.calibration, host, target))
