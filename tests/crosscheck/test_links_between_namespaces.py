"""Two Gloo ranks in two network namespaces: what is fitted against what tc and the relay were set to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'moeplan[profile]'")

REPO = Path(__file__).resolve().parents[2]
SUPPORT = REPO / "tests" / "support"
DELAY_S = 0.010
RATE_MBIT = 160
# 160 Mbit/s are 20 MB/s on the wire; of a 9000-byte packet 8948 carry data (IP 20, TCP 20, timestamps 12).
BYTES_PER_S = RATE_MBIT * 1e6 / 8 * 8948 / 9000


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def why_not() -> str:
    """What is missing for network namespaces; empty when everything is there."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root on Linux for network namespaces"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "needs ip and tc (iproute2)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    try:
        run("ip", "netns", "add", "moeplan-probe")
        run("ip", "netns", "del", "moeplan-probe")
    except (OSError, subprocess.CalledProcessError):
        return "network namespaces are not allowed here"
    return ""


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    names = (f"moeplan-a{os.getpid()}", f"moeplan-b{os.getpid()}")
    relay = None
    try:
        for name in names:
            run("ip", "netns", "add", name)
        relay = subprocess.Popen(
            [sys.executable, str(SUPPORT / "delay_relay.py"), *names, str(DELAY_S)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert relay.stdout is not None
        assert relay.stdout.readline().strip() == "ready"
        for name in names:
            run("tc", "-n", name, "qdisc", "add", "dev", "wire0", "root", "tbf",
                "rate", f"{RATE_MBIT}mbit", "burst", "32kb", "latency", "400ms")  # fmt: skip
        yield names
    finally:
        if relay is not None:
            relay.kill()
            relay.wait()
            assert relay.stdout is not None
            relay.stdout.close()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
def test_fitted_latency_and_bandwidth_are_those_of_the_wire(wire: tuple[str, str]) -> None:
    environment = os.environ | {
        "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29555",
        "GLOO_SOCKET_IFNAME": "wire0", "PYTHONPATH": os.pathsep.join([str(REPO), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    command = [sys.executable, "-m", "moeplan", "profile", "--distributed", "--quick", "--format", "json"]
    ranks = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *command], env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank, name in enumerate(wire)
    ]  # fmt: skip
    answers = [process.communicate(timeout=150) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], answers[0][1][-500:]
    assert answers[1][0] == "", "only the first rank prints"
    links = {link["kind"]: link for link in json.loads(answers[0][0])["links"]}
    p2p = links["point to point"]
    assert p2p["bytes_per_s"] == pytest.approx(BYTES_PER_S, rel=0.15)
    assert p2p["latency_s"] == pytest.approx(DELAY_S, rel=0.15)
    # Gloo's collectives keep the wire busy only part of the time: 74% here
    assert 0.5 * BYTES_PER_S < links["all-to-all"]["bytes_per_s"] < 1.15 * BYTES_PER_S
    print({kind: (link["latency_s"], link["bytes_per_s"]) for kind, link in links.items()})
