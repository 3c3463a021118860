"""The server as a process: its routes, its key, its streams, and that its port opens when the model is loaded."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

KEY = "secret"
CHAT = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}


class Client:
    def __init__(self, port: int):
        self.port = port

    def ask(self, path: str, body=None, key: str | None = None) -> tuple:
        """(status, text)"""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {key}"} if key else {},
                                         data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command_line(engine, merged, port: int, *flags) -> list:
    return engine.command(merged, "--host", "127.0.0.1", "--port", str(port), "--no-use_cuda_graph", *flags, module="ktransformers.server.main")


def start(engine, merged, *flags):
    """(process, client), with the port open."""
    port = free_port()
    command = command_line(engine, merged, port, *flags)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=engine.source, env=engine.environment())
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, Client(port)
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory, source, merged):
    from tests.unit.simulator.engine.conftest import Engine

    process, client = start(Engine(tmp_path_factory.mktemp("server") / "node", source), merged, "--api_key", KEY, "--model_name", "tiny")
    yield client
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.parametrize("path, body, status, words", [
    pytest.param("/v1/models", None, 200, '"id": "tiny"', id="models"),
    pytest.param("/health", None, 404, "Not Found", id="no-health"),
    pytest.param("/docs", None, 200, "simulated", id="docs"),
    pytest.param("/v1/chat/completions", None, 405, "Method Not Allowed", id="get-of-a-post"),
    pytest.param("/v1/chat/completions", CHAT, 500, "Internal Server Error", id="no-key"),
    pytest.param("/v1/completions", {"model": "any", "prompt": "hello", "max_tokens": 7}, 200, "text_completion", id="completions-need-no-key"),
    pytest.param("/v1/completions", {"prompt": "hello"}, 422, "Field required", id="missing-field"),
    pytest.param("/v1/completions", {"model": "any", "prompt": "hello", "max_tokens": -1}, 400, "max_tokens must be at least 0, got -1.", id="out-of-range"),
    pytest.param("/api/tags", None, 200, '"name": "tiny"', id="tags"),
    pytest.param("/api/generate", {"model": "any", "prompt": "hello"}, 200, '"done": true', id="generate"),
    pytest.param("/api/chat", CHAT, 200, '"done": true', id="ollama-chat"),
    pytest.param("/api/show", {"name": "any"}, 200, '"format": "gguf"', id="show"),
])
def test_routes(server, path, body, status, words):
    found, text = server.ask(path, body)
    assert (found, words in text) == (status, True), text


def test_a_wrong_key_is_an_error_of_the_server(server):
    assert server.ask("/v1/chat/completions", CHAT, "wrong") == (500, "Internal Server Error")


def test_a_chat_and_its_stream_say_the_same(server):
    status, text = server.ask("/v1/chat/completions", {**CHAT, "max_tokens": 30}, KEY)
    whole = json.loads(text)
    assert (status, whole["object"], whole["model"], whole["choices"][0]["finish_reason"]) == (200, "chat.completion", "tiny", "length")
    assert whole["usage"]["completion_tokens"] == 30
    answer = whole["choices"][0]["message"]["content"]
    assert len(answer.split()) == 5
    _, text = server.ask("/v1/chat/completions", {**CHAT, "max_tokens": 30, "stream": True}, KEY)
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]) == answer
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_an_answer_ends_by_itself(server):
    _, text = server.ask("/v1/chat/completions", CHAT, KEY)
    assert json.loads(text)["choices"][0]["finish_reason"] == "stop"


def test_it_ends_by_signal_after_saying_so(engine, merged):
    process, client = start(engine, merged)
    assert client.ask("/v1/models")[0] == 200
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert output.splitlines()[0].startswith("simulated KTransformers engine: server")
    assert f"INFO:     Uvicorn running on http://127.0.0.1:{client.port} (Press CTRL+C to quit)" in output
    # Everything is loaded before the port opens.
    assert output.index("Loading blk.2.attn_q_a") < output.index("Uvicorn running")


def test_a_port_in_use(engine, merged):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = command_line(engine, merged, taken.getsockname()[1])
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=engine.source, env=engine.environment(), timeout=60)
    assert run.returncode == 1
    assert "address already in use" in run.stderr


def test_an_unknown_flag_is_refused(engine, merged):
    command = command_line(engine, merged, 0, "--cuda_graph")
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=engine.source, env=engine.environment(), timeout=60)
    assert run.returncode == 2
    assert "kvcache.ai: error: unrecognized arguments: --cuda_graph" in run.stderr
