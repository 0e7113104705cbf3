from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.result import DeviceMemory, Estimate, MemoryReport
from moeplan.report.estimate_table import estimate_lines
from moeplan.report.layout import Screen, apportion, painted, plain, printable
from tests.support.report_sample import GIB, GPU, HOST, RAM, gpu_memory, sample

LONG = HardwareSpec(
    id="x", name="A machine with a name that does not end before the line does", gpus=(GPU,), host=HOST
)
CASES = {
    "fits": sample(),
    "does not fit": sample(gpus=(30.0,)),
    "unlike GPUs": sample(gpus=(10.0, 12.0, 14.0, 16.0, 18.0, 20.0)),
    "a batch": sample(n_sequences=64),
    "long names": sample(hardware=LONG, not_modelled=("word " * 40,)),
    "tiny": sample(
        memory=MemoryReport(
            devices=(
                DeviceMemory(
                    device="ram",
                    name="RAM",
                    weights_bytes=300 * 2**20,
                    kv_bytes=2**20,
                    state_bytes=1000,
                    compute_bytes=0,
                    output_bytes=0,
                    overhead_bytes=0,
                    capacity_bytes=GIB,
                ),
            )
        )
    ),
}


def text_of(estimate: Estimate, width: int = 80) -> str:
    return plain(estimate_lines(estimate, Screen(width)))


def row(text: str, label: str) -> list[str]:
    """The words of the line that starts with ``label``."""
    (line,) = re.findall(rf"^{re.escape(label)} .*$", text, re.MULTILINE)
    return re.split(r"  +", line)[1:]


@pytest.mark.parametrize("width", [60, 80, 120, 300])
@pytest.mark.parametrize("name", CASES)
def test_no_line_is_wider_than_the_screen(name: str, width: int) -> None:
    lines = text_of(CASES[name], width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("name", CASES)
def test_in_a_pipe_it_is_ascii_without_colour(name: str) -> None:
    text = text_of(CASES[name])
    assert text.isascii()
    assert "\x1b" not in text


@pytest.mark.parametrize("name", CASES)
def test_a_narrow_screen_loses_no_figure(name: str) -> None:
    def figures(width: int) -> list[str]:
        # bars aside, whose cells are not figures
        lines = [line for line in text_of(CASES[name], width).splitlines() if "[" not in line]
        return sorted(re.findall(r"\d[\d,.]*", "\n".join(lines)))

    assert figures(60) == figures(100)


def test_memory_of_each_device() -> None:
    text = text_of(sample())
    assert row(text, "memory") == ["gpu0", "ram"]
    assert row(text, "weights") == ["#", "10.00 GiB", "15.00 GiB"]
    assert row(text, "KV cache") == ["=", "1.00 GiB", "-"]
    assert row(text, "compute") == ["~", "0.75 GiB", "0.25 GiB"]
    # 125 KiB would be 0.00 GiB
    assert row(text, "output") == ["o", "-", "125.0 KiB"]
    assert row(text, "total") == ["12.25 GiB", "15.27 GiB"]
    assert row(text, "headroom") == ["11.75 GiB", "46.73 GiB"]
    assert not re.search(r"^state ", text, re.MULTILINE), "no device holds state"


def test_equal_gpus_are_one_column() -> None:
    assert row(text_of(sample(gpus=(10.0,) * 8)), "memory") == ["gpu0-7 each", "ram"]
    assert row(text_of(sample(gpus=(10.0, 11.0))), "memory") == ["gpu0", "gpu1", "ram"]


def test_speeds_have_low_expected_high_and_a_unit() -> None:
    text = text_of(sample(n_sequences=4))
    assert row(text, "speed") == ["low", "expected", "high", "(80% interval)"]
    # 4 sequences, a step of 80 ms (62.5 to 100)
    assert row(text, "decode") == ["40.0", "50.0", "64.0", "tok/s"]
    assert row(text, "per sequence") == ["10.0", "12.5", "16.0", "tok/s"]
    assert row(text, "step") == ["62.5", "80.0", "100", "ms"]
    assert row(text, "prefill") == ["1,280", "1,600", "2,000", "tok/s"]
    assert row(text, "first token") == ["1,024", "1,280", "1,600", "ms"]
    assert row(text, "load") == ["4.10", "s"]


def test_what_binds_and_what_it_costs() -> None:
    text = text_of(sample(), 100)
    assert "decode: ram experts, 60.0 ms of 80.0 ms (75%)" in text
    assert "25.8 GFLOP per token, 6.98 GiB read per step, 2.00 of 8 experts per layer" in text
    assert "routed experts of 20 of 32 layers in RAM, the rest on the GPU" in text
    assert "fitted; decode/experts/moe, 14 reference setups; engine measured" in text


def test_what_does_not_fit_says_so_first_and_has_no_speed() -> None:
    text = text_of(sample(gpus=(30.0, 30.0)), 100)
    # 30 + 2.25 GiB on 24
    assert text.splitlines()[1].endswith("no, 8.25 GiB short on gpu0-1 each; smallest fix: --cpu-moe 26")
    assert "tok/s" not in text
    assert "134% of 24.0 GiB" in text


def test_the_bar_shows_parts_to_scale() -> None:
    (bar,) = re.findall(r"^gpu0 +\[(.*)\]", text_of(sample(), 80), re.MULTILINE)
    # 10 GiB of 24 are weights
    assert bar.count("#") == pytest.approx(len(bar) * 10 / 24, abs=1)
    assert bar == "".join(sorted(bar, key="#=+~o:.".index)), "parts in the order of the table"


def test_a_disk_has_no_bar() -> None:
    disk = DeviceMemory(
        device="disk",
        name="disk",
        weights_bytes=GIB,
        kv_bytes=0,
        state_bytes=0,
        compute_bytes=0,
        output_bytes=0,
        overhead_bytes=0,
        capacity_bytes=GIB,
    )
    text = text_of(sample(memory=MemoryReport(devices=(gpu_memory("gpu0"), RAM, disk))))
    assert row(text, "memory") == ["gpu0", "ram", "disk"]
    assert not re.search(r"^disk ", text, re.MULTILINE)


def test_colour_changes_nothing_but_colour() -> None:
    lines = estimate_lines(sample(), Screen(80, color=True))
    text = painted(lines)
    assert text.plain == "".join("".join(part for part, _ in line) + "\n" for line in lines)
    styles = {str(span.style) for span in text.spans}
    assert {"bold", "green", "blue"} <= styles


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    evil = sample(quant="q4\x1b[31m\nx")
    assert "\x1b" not in text_of(evil)
    assert printable("a\x1bb\x9bc\u202e") == "a?b?c?"


@given(st.lists(st.floats(0, 1e15), min_size=1, max_size=8), st.integers(8, 200))
def test_apportion(parts: list[float], cells: int) -> None:
    shares = apportion(parts, cells)
    total = sum(parts)
    assert sum(shares) == (cells if total > 0 else 0)
    for share, part in zip(shares, parts, strict=True):
        assert (share > 0) if part > 0 and total > 0 else (share == 0)
        # a part is off by its rounding and by the cells that small parts take
        assert total == 0 or abs(share - part / total * cells) <= len(parts)
