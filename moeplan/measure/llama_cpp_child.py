"""Runs llama.cpp (the xllamacpp package) in a process of its own: what it prints and holds ends with it.

``python -m moeplan.measure.llama_cpp_child`` reads JSON requests, one a line, and prints one JSON line for
each. All are of one file with one number of threads: a second server in the process made decode of a small
file on two cores 15 times slower (EPYC 9004, 2026-11-30; perhaps more threads than cores do not spin).
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

_SHORT_PROMPT = 4


def run(server: Any, request: dict[str, Any]) -> list[dict[str, float]]:
    """Timings of ``repeats`` prompts of random tokens, each followed by ``output_tokens`` of decode, then of
    ``short`` ones, which are there for the decode alone."""
    dice = random.Random(1)
    found = []
    for n_tokens in [request["prompt_tokens"]] * request["repeats"] + [_SHORT_PROMPT] * request.get(
        "short", 0
    ):
        # the first ids are control tokens in most vocabularies
        tokens = [dice.randrange(300, request["vocab"]) for _ in range(n_tokens)]
        answer = server.handle_completions(
            {
                "prompt": tokens, "n_predict": request["output_tokens"], "ignore_eos": True,
                "cache_prompt": False, "temperature": 0.0, "top_k": 1, "samplers": ["top_k"],
            }
        )  # fmt: skip
        timings = (json.loads(answer) if isinstance(answer, (str, bytes)) else answer)["timings"]
        keys = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms")
        found.append({key: float(timings[key]) for key in keys})
    return found


def load(request: dict[str, Any]) -> Any:
    """A server of the file and the number of threads that ``request`` names."""
    xllamacpp = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_ctx = request["context"]
    params.n_parallel = 1
    params.n_gpu_layers = request.get("gpu_layers", 0)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    params.warmup = True
    params.fit_params = False
    params.cache_ram_mib = 0
    params.verbosity = 0
    params.port = 0
    return xllamacpp.Server(params)


def main() -> None:
    """Requests in, lines of JSON out; llama.cpp's own chatter goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    with suppress(ImportError):  # while nobody waits; who asks is told
        import_module("xllamacpp")
    server = None
    for line in sys.stdin:
        request = json.loads(line)
        server = server or load(request)
        found = run(server, request)
        answer = {"runs": found, "cpu_s": time.process_time()}
        os.write(answers, (json.dumps(answer) + "\n").encode())
    # the server's threads would keep the interpreter from ending
    os._exit(0)


if __name__ == "__main__":
    main()
