# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a model one question, by its chat in a terminal or by its HTTP server, and judges the answer.

Runs as long work (module_utils/job.py): loading 400 GB takes minutes.
"""
from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import asdict
from typing import IO, Any, Callable, Dict, List, Mapping, Optional, cast

from ansible_collections.npuops.ktransformers.plugins.module_utils import engine_output
from ansible_collections.npuops.ktransformers.plugins.module_utils.engine_output import Answer
from ansible_collections.npuops.ktransformers.plugins.module_utils.job import JobError, Progress, belongs_to_job

POLL = 0.5            # seconds between two looks at the output
GRACE = 30.0          # seconds that an engine gets to end by itself
TAIL = 40             # lines of the output that an error carries
OUTPUT = "output"     # file in the job folder: what the engine printed on stdout


def ask_terminal(folder: str, command: List[str], prompt: str, expect: str, timeout: float, layers: int, progress: Progress,
                 environment: Optional[Mapping[str, str]] = None) -> Dict[str, Any]:
    """Start local_chat, give it one line, and return the answer with its speed. Raises JobError with the reason.

    stdout goes to the file `output`, stderr to the job's log: they would tear each other's lines.
    """
    path = os.path.join(folder, OUTPUT)
    began = time.monotonic()
    with open(path, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, start_new_session=True, pass_fds=belongs_to_job(),
                                   env=dict(os.environ, PYTHONUNBUFFERED="1", MASTER_PORT=str(free_port()), **(environment or {})))
    try:
        try:
            with cast(IO[bytes], process.stdin) as question:
                question.write((prompt.replace("\n", " ") + "\n").encode())
        except BrokenPipeError:
            pass  # it ended at once; its output says why
        timed_out = _watch(process, path, began + timeout, layers, progress)
    finally:
        _end(process)
    stdout = _text(path)
    everything = _text(os.path.join(folder, "log")) + "\n" + stdout
    return _judge(engine_output.parse_answer(stdout), expect, everything, time.monotonic() - began, timed_out)


def free_port() -> int:
    """A port for torchrun that nobody listens on: somebody may be talking to the model already."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _watch(process: subprocess.Popen[bytes], path: str, until: float, layers: int, progress: Progress) -> bool:
    """Wait for the process, or for a whole answer, or until `until`; returns whether time ran out."""
    answered_at = None
    while process.poll() is None:
        now = time.monotonic()
        if now > until:
            return True
        text = _text(path)
        loaded = engine_output.loaded_layers(text)
        if engine_output.parse_answer(text) is not None:
            # The end of its input ends it. One that hangs on the way out has answered all the same.
            answered_at = answered_at or now
            if now - answered_at > GRACE:
                return False
        progress.update(min(loaded, layers) if layers else loaded, layers or None, "loading the weights" if loaded < layers else "answering", "layers")
        time.sleep(POLL)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt it as Ctrl-C would, and kill what does not listen, with all of its processes."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            break
        try:
            os.killpg(process.pid, number)
        except OSError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass


def ask_server(host: str, port: int, model: str, prompt: str, expect: str, max_tokens: int, timeout: float, layers: int, progress: Progress,
               alive: Callable[[], bool], log: Callable[[], str]) -> Dict[str, Any]:
    """Wait until the port opens, which it does when the weights are loaded, ask, and return the answer with its speed.

    alive: whether the server still runs. log: the end of its log.
    """
    began = time.monotonic()
    while not _is_open(host, port):
        if not alive():
            raise JobError(engine_output.explained("the service has ended", log()), {"log_tail": log().splitlines()[-TAIL:]})
        if time.monotonic() - began > timeout:
            raise JobError(f"port {port} of {host} did not open within {timeout:.0f} seconds; look at the service's log, or raise the time limit",
                           {"log_tail": log().splitlines()[-TAIL:]})
        loaded = engine_output.loaded_layers(log())
        progress.update(min(loaded, layers) if layers else loaded, layers or None, "loading the weights", "layers")
        time.sleep(2 * POLL)
    progress.update(layers, layers or None, "answering", "layers")
    offered = _offered(host, port)
    if model not in offered:
        raise JobError(f"port {port} of {host} is answered by something else: it offers {', '.join(offered) or 'no models'}, expected {model}; "
                       "set ktransformers_port, or end what listens there")
    left = max(10.0, timeout - (time.monotonic() - began))
    try:
        answer = _stream(host, port, model, prompt, max_tokens, left)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise JobError(engine_output.explained(f"the server did not answer ({exc})", log()), {"log_tail": log().splitlines()[-TAIL:]})
    return _judge(answer, expect, log(), time.monotonic() - began, False)


def _is_open(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.connect()
        return True
    except OSError:
        return False
    finally:
        connection.close()


def _offered(host: str, port: int) -> List[str]:
    """Names of the models that the server lists; none for a server that is no model server."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", "/v1/models")
        models = json.loads(connection.getresponse().read())["data"]
        return [str(one.get("id")) for one in models]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException):
        return []
    finally:
        connection.close()


def _stream(host: str, port: int, model: str, prompt: str, max_tokens: int, timeout: float) -> Answer:
    """One chat completion, streamed so that the time to the first word and the speed after it can be told apart."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": max_tokens})
    asked = time.monotonic()
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {response.read(300).decode('utf-8', 'replace').strip()}")
    words: List[str] = []
    usage: Dict[str, Any] = {}
    first = last = None
    for raw in response:
        line = raw.decode("utf-8", "replace").strip()
        if not line.startswith("data:") or line.endswith("[DONE]"):
            continue
        event = json.loads(line[len("data:"):])
        usage = event.get("usage") or usage
        delta = ((event.get("choices") or [{}])[0].get("delta") or {}).get("content") or ""
        if delta:
            last = time.monotonic()
            first = first or last
            words.append(delta)
    connection.close()
    tokens = usage.get("completion_tokens") or len(words)
    prompt_tokens = usage.get("prompt_tokens")
    decode = (tokens - 1) / (last - first) if first is not None and last is not None and last > first and tokens > 1 else None
    prefill = prompt_tokens / (first - asked) if first is not None and prompt_tokens else None
    return Answer("".join(words).strip(), prompt_tokens, prefill, tokens, decode)


def _judge(answer: Optional[Answer], expect: str, output: str, seconds: float, timed_out: bool) -> Dict[str, Any]:
    reason = engine_output.why_not(answer, expect, output, seconds, timed_out)
    result: Dict[str, Any] = dict(asdict(answer)) if answer else {}
    if reason:
        result["log_tail"] = output.splitlines()[-TAIL:]
        raise JobError(reason, result)
    return result


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
