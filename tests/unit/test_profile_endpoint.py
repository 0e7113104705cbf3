"""A server that is dead, slow, talks nonsense or hangs up: a clear error in bounded time, never a hang."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from moeplan.errors import MeasurementError, SpecError
from moeplan.measure.endpoint import Endpoint

TIMEOUT_S = 1.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MODELS = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"data": [{"id": "m"}]}'

Handler = Callable[[socket.socket, bytes], None]


@contextmanager
def server(handler: Handler) -> Iterator[str]:
    """A listening socket whose every connection ``handler`` answers, given the request's first bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client hung up, as it should
            handler(connection, whole_request(connection))

    def accept() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(2)
        for thread in threads:
            thread.join(3)


def whole_request(connection: socket.socket) -> bytes:
    """Head and body: closing with unread bytes would reset the line and take the answer with it."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
        head, found, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(v) for k, _, v in (line.partition(b":") for line in head.lower().split(b"\r\n"))
             if k == b"content-length"), 0,
        )  # fmt: skip
        if found and len(body) >= length:
            break
    return data


def event(text: str | None = None, **more: object) -> bytes:
    body = {"choices": [{"text": text}]} if text is not None else {"choices": []}
    return b"data: " + json.dumps(body | more).encode() + b"\n\n"


def good(connection: socket.socket, request: bytes) -> None:
    """Five tokens, 20 ms apart, after 50 ms."""
    if request.startswith(b"GET /v1/models"):
        connection.sendall(MODELS)
        return
    connection.sendall(HEAD)
    time.sleep(0.05)
    for i in range(5):
        connection.sendall(event(f"t{i}"))
        time.sleep(0.02)
    connection.sendall(event(usage={"completion_tokens": 5, "prompt_tokens": 17}) + b"data: [DONE]\n\n")


def after_models(answer: bytes, *, wait_s: float = 0.0) -> Handler:
    """Lists its model, then answers a completion with ``answer``, holding the line for ``wait_s``."""

    def handle(connection: socket.socket, request: bytes) -> None:
        connection.sendall(MODELS if request.startswith(b"GET") else answer)
        if not request.startswith(b"GET"):
            time.sleep(wait_s)

    return handle


def drip(connection: socket.socket, request: bytes) -> None:
    """A byte now and then, never a whole line: no single wait is long."""
    for _ in range(200):
        connection.sendall(b"H")
        time.sleep(0.05)


def test_times_of_a_good_server() -> None:
    with server(good) as url:
        samples = {s.name: s for s in Endpoint(url, timeout_s=5).measure(2, 16, 5, rounds=2)}
    first, each, rate = (
        samples[name] for name in ("time to first token", "time per output token", "server throughput")
    )
    assert first.n == 4, "two rounds of two"
    assert 0.05 <= first.median < 0.25
    # the usage of the last event counts: (total - first) / 4, five pauses of 20 ms lie between
    assert 0.02 <= each.median < 0.1
    assert rate.median <= 2 * 5 / 0.15
    assert first.setup["prompt_tokens"] == 17


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (lambda c, r: c.sendall(b"\x00\xffgarbage\r\n\r\n"), "does not speak HTTP"),
        (lambda c, r: None, "closed the connection"),  # without a word
        (lambda c, r: c.sendall(b"HTTP/1.1 200 OK\r\n\r\n<html>no</html>"), "something else than JSON"),
        (lambda c, r: c.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"data": []}'), "lists no model"),
        (lambda c, r: c.sendall(b"HTTP/1.1 503 Busy\r\n\r\nloading model"), "503: loading model"),
        (lambda c, r: time.sleep(3), "within 1 s"),  # accepts, never answers
        (drip, "within 1 s"),
        (after_models(HEAD + event("a") + event("b")), "in the middle of an answer"),
        (after_models(HEAD + event("a"), wait_s=3), "within 1 s"),  # stalls half way
        (after_models(HEAD + b"data: {broken\n\n"), "something else than JSON"),
        (after_models(HEAD + b"data: 7\n\n"), "where an object was expected"),
        (after_models(HEAD + b"data: [DONE]\n\n"), "without a single token"),
        (after_models(HEAD + event("a", error={"message": "out of memory"})), "out of memory"),
        (after_models(HEAD + b"x" * (2 << 20)), "more than an answer can be long"),
        (after_models(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ndata: {}\n\n"), "middle of an answer"),
    ],
)
def test_a_bad_server_is_an_error_in_bounded_time(handler: Handler, expected: str) -> None:
    started = time.monotonic()
    with server(handler) as url, pytest.raises(MeasurementError, match=expected):
        Endpoint(url, timeout_s=TIMEOUT_S).measure(1, 8, 4, rounds=1)
    assert time.monotonic() - started < 8


def test_a_dead_server_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MeasurementError, match="refuses connections"):
        Endpoint(f"http://127.0.0.1:{port}", timeout_s=TIMEOUT_S).model()


@pytest.mark.parametrize("url", ["ftp://x:1", "http://:80", "http://h:99999", ""])
def test_an_endpoint_must_be_an_address(url: str) -> None:
    with pytest.raises(SpecError, match="--endpoint"):
        Endpoint(url)
