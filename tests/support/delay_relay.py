"""A wire between two network namespaces: packets read from one tun device appear on the other, later.

python delay_relay.py NAMESPACE_A NAMESPACE_B DELAY_SECONDS
Each namespace gets a device `wire0` (10.77.0.1 and 10.77.0.2). Prints "ready" when both are up.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
MTU = 9000


def enter(namespace: int) -> None:
    """setns(2), which Python has only from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def open_in(namespace: str, address: str) -> int:
    """A tun device inside ``namespace``; the file descriptor works from here."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    enter(there)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", b"wire0", IFF_TUN | IFF_NO_PI))
    for command in (
        ["ip", "addr", "add", f"{address}/24", "dev", "wire0"],
        ["ip", "link", "set", "wire0", "mtu", str(MTU), "txqueuelen", "20000", "up"],
        ["ip", "link", "set", "lo", "up"],
    ):
        subprocess.run(command, check=True)
    enter(here)
    return device


def main(first: str, second: str, delay_s: float) -> None:
    ends = (open_in(first, "10.77.0.1"), open_in(second, "10.77.0.2"))
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    print("ready", flush=True)
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 1.0
        readable, _, _ = select.select(ends, [], [], timeout)
        now = time.monotonic()
        for device in readable:
            for _ in range(64):
                try:
                    packet = os.read(device, MTU + 100)
                except BlockingIOError:
                    break
                count += 1
                heapq.heappush(waiting, (now + delay_s, count, other[device], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, target, packet = heapq.heappop(waiting)
            os.write(target, packet)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
