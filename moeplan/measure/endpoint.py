"""Speed of a server with the OpenAI API: time to first token, time per token, throughput.

Nothing a server does can hang or crash a run: every wait has a deadline, every answer a size limit, and
what is not the protocol becomes a MeasurementError that says what came instead.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from moeplan.domain.profile import Sample
from moeplan.errors import MeasurementError, SpecError
from moeplan.measure.timing import sample_of

_CONNECT_S = 5.0
_MAX_ANSWER_BYTES = 16 << 20
_MAX_LINE_BYTES = 1 << 20


class Reply(NamedTuple):
    """One finished completion."""

    first_s: float
    """From the request to the first piece of the answer."""
    total_s: float
    n_pieces: int
    n_tokens: int
    """As the server counts them, else the pieces."""
    n_prompt_tokens: int
    """As the server counts them, else 0."""


class Endpoint:
    """An OpenAI-compatible server at ``url`` (``http://127.0.0.1:8080``, also with a path such as /v1)."""

    def __init__(self, url: str, *, timeout_s: float = 120.0, model: str | None = None) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            raise SpecError(f"--endpoint: {url!r} has no valid port") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(f"--endpoint: expected http://HOST:PORT, got {url!r}")
        self.secure, self.name, self.port = parts.scheme == "https", parts.hostname, port
        self.base = parts.path.rstrip("/").removesuffix("/v1")
        self.timeout_s = timeout_s
        self._model = model

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return self.name if self.port is None else f"{self.name}:{self.port}"

    def model(self) -> str:
        """The id of the first model that the server lists."""
        if self._model is None:
            listed = self._json("GET", "/v1/models")
            try:
                self._model = str(listed["data"][0]["id"])
            except (KeyError, IndexError, TypeError):
                raise self._error("lists no model under /v1/models") from None
        return self._model

    def measure(
        self, concurrency: int, prompt_tokens: int, output_tokens: int, rounds: int = 3
    ) -> list[Sample]:
        """``rounds`` times ``concurrency`` requests at once. Raises MeasurementError."""
        model = self.model()
        replies: list[Reply] = []
        rates: list[float] = []
        for _ in range(rounds):
            started = time.perf_counter()
            found = self._together(concurrency, model, prompt_tokens, output_tokens)
            rates.append(sum(r.n_tokens for r in found) / (time.perf_counter() - started))
            replies += found
        setup: dict[str, str | int | float] = {
            "server": self.host, "model": model, "concurrency": concurrency,
            "prompt_tokens": replies[0].n_prompt_tokens or prompt_tokens, "output_tokens": output_tokens,
        }  # fmt: skip
        first = [r.first_s for r in replies]
        each = [(r.total_s - r.first_s) / max(1, r.n_tokens - 1) for r in replies]
        return [
            sample_of("time to first token", setup, "s", first, best=min),
            sample_of("time per output token", setup, "s", each, best=min),
            sample_of("server throughput", setup, "tokens/s", rates),
        ]

    def _together(self, n: int, model: str, prompt_tokens: int, output_tokens: int) -> list[Reply]:
        replies: list[Reply] = []
        errors: list[Exception] = []

        def ask(seed: int) -> None:
            try:
                replies.append(self.complete(model, prompt_tokens, output_tokens, seed))
            except Exception as error:  # noqa: BLE001 - carried over to the caller's thread
                errors.append(error)

        threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.timeout_s + _CONNECT_S + 5.0)
        if errors:
            raise errors[0]
        if len(replies) < n:
            raise self._error(f"did not answer within {self.timeout_s:.0f} s")
        return replies

    def complete(self, model: str, prompt_tokens: int, output_tokens: int, seed: int = 0) -> Reply:
        """One streamed completion of a prompt of random words, none of it cached from before."""
        dice = random.Random(time.time_ns() + seed)
        # common short words are one token each in most vocabularies
        words = ("the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are")
        body = {
            "model": model, "prompt": " ".join(dice.choices(words, k=prompt_tokens)),
            "max_tokens": output_tokens,
            "stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "ignore_eos": True,
            "cache_prompt": False,
        }  # fmt: skip
        started = time.perf_counter()
        first_s, n_pieces = 0.0, 0
        usage: Any = {}
        for event in self._events("/v1/completions", body):
            if event.get("usage"):
                usage = event["usage"]
            if event.get("error"):
                raise self._error(f"answered with an error: {str(event['error'])[:200]}")
            choices = event.get("choices") or []
            if choices and isinstance(choices[0], dict) and choices[0].get("text") is not None:
                n_pieces += 1
                first_s = first_s or time.perf_counter() - started
        total_s = time.perf_counter() - started
        if n_pieces == 0:
            raise self._error("ended the stream without a single token")
        n_tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        n_prompt = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return Reply(first_s, total_s, n_pieces, int(n_tokens or n_pieces), int(n_prompt or 0))

    # ── protocol ─────────────────────────────────────────────────────────────────────────────────

    def _events(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON objects of a stream of server-sent events, to its ``[DONE]``."""
        with _Call(self, "POST", path, body) as call:
            for line in call.lines():
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                event = self._parsed(data)
                if not isinstance(event, dict):
                    raise self._error(f"sent {data[:60]!r} where an object was expected")
                yield event
        raise self._error("closed the connection in the middle of an answer (no [DONE])")

    def _json(self, method: str, path: str) -> Any:
        with _Call(self, method, path, None) as call:
            return self._parsed(b"\n".join(call.lines()))

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise self._error(f"sent something else than JSON: {data[:60]!r}") from None

    def _error(self, what: str) -> MeasurementError:
        return MeasurementError(f"the server at {self.host} {what}")


class _Call:
    """One request and its answer, cut off at the deadline whatever the server does."""

    def __init__(self, endpoint: Endpoint, method: str, path: str, body: dict[str, Any] | None) -> None:
        self.endpoint, self.method, self.path, self.body = endpoint, method, path, body
        kind = http.client.HTTPSConnection if endpoint.secure else http.client.HTTPConnection
        self.connection = kind(endpoint.name, endpoint.port, timeout=_CONNECT_S)
        self.expired = False
        self.response: http.client.HTTPResponse | None = None
        self.watchdog = threading.Timer(endpoint.timeout_s, self._expire)
        self.watchdog.daemon = True

    def __enter__(self) -> _Call:
        try:
            self.connection.connect()
            assert self.connection.sock is not None
            self.sock: socket.socket = self.connection.sock
            self.sock.settimeout(self.endpoint.timeout_s)
            self.watchdog.start()
            payload = None if self.body is None else json.dumps(self.body)
            headers = {"Content-Type": "application/json"} if payload else {}
            self.connection.request(self.method, self.endpoint.base + self.path, payload, headers)
            self.response = self.connection.getresponse()
            if self.response.status != 200:
                text = b"\n".join(self.lines())[:200].decode("utf-8", "replace")
                raise self.endpoint._error(f"answered {self.path} with {self.response.status}: {text}")
        except BaseException as error:  # noqa: BLE001 - closed, explained and raised again
            self._close()
            raise self._explained(error) from None
        return self

    def lines(self) -> Any:
        """Lines of the body, as they arrive, within the limits of size and time."""
        pending, total = b"", 0
        assert self.response is not None
        while True:
            try:
                piece = self.response.read1(65536)
            except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
                raise self._explained(error) from None
            if self.expired:
                raise self._explained(TimeoutError())
            if not piece:
                break
            total += len(piece)
            *whole, pending = (pending + piece).split(b"\n")
            yield from whole
            if total > _MAX_ANSWER_BYTES or len(pending) > _MAX_LINE_BYTES:
                raise self.endpoint._error("sent more than an answer can be long")
        if pending:
            yield pending

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, MeasurementError | KeyboardInterrupt):
            return error
        if self.expired or isinstance(error, TimeoutError):
            return self.endpoint._error(f"did not finish an answer within {self.endpoint.timeout_s:.0f} s")
        if isinstance(error, ConnectionRefusedError):
            return self.endpoint._error("refuses connections: is it running?")
        if isinstance(error, http.client.RemoteDisconnected):
            return self.endpoint._error("closed the connection without an answer")
        if isinstance(error, ConnectionResetError | BrokenPipeError | http.client.IncompleteRead):
            return self.endpoint._error("closed the connection in the middle of an answer (no [DONE])")
        if isinstance(error, socket.gaierror):
            return MeasurementError(f"no host named {self.endpoint.name!r}")
        if isinstance(error, http.client.HTTPException | ValueError):
            return self.endpoint._error(f"does not speak HTTP: {str(error)[:80] or type(error).__name__}")
        if isinstance(error, OSError):
            return self.endpoint._error(f"broke the connection: {error.strerror or error}")
        return error

    def _expire(self) -> None:
        self.expired = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        self.watchdog.cancel()
        if self.response is not None:
            self.response.close()
        self.connection.close()

    def __exit__(self, *details: object) -> None:
        self._close()
