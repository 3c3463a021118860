# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ktransformers.server.main: the same model behind HTTP. The port opens when the weights are loaded, so an open port is ready."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from . import model_folder, server_flags, settings
from .chat import LARGEST_CHUNK, wait_for_rank_0
from .session import Session
from .tokenizer import TextStreamer

RANGES = [
    # field, is wrong, what is said
    ("max_tokens", lambda value: value < 0, "max_tokens must be at least 0, got {0}."),
    ("max_completion_tokens", lambda value: value < 0, "max_completion_tokens must be at least 0, got {0}."),
    ("temperature", lambda value: not 0 <= value <= 2, "temperature must be in [0, 2], got {0}."),
    ("top_p", lambda value: not 0 < value <= 1, "top_p must be in (0, 1], got {0}."),
    ("frequency_penalty", lambda value: not -2 <= value <= 2, "frequency_penalty must be in [-2, 2], got {0}."),
    ("presence_penalty", lambda value: not -2 <= value <= 2, "presence_penalty must be in [-2, 2], got {0}."),
]
# The completions endpoint does not look at the penalties.
COMPLETION_RANGES = RANGES[:4]


class Refused(Exception):
    """An answer other than 200: `status` and its body."""

    def __init__(self, status: int, body: dict):
        super().__init__(status)
        self.status, self.body = status, body


class Service:
    """The loaded model and what the server was told; one request at a time, as the backend `ktransformers` works."""

    def __init__(self, session: Session, arguments):
        self.session, self.arguments = session, arguments
        self.turn = threading.Lock()

    def stream(self, prompt: list, wanted):
        """Yields (text, finish_reason or None), then the usage as a dict."""
        limit = self.arguments.max_new_tokens
        limit = limit if wanted is None else min(limit, wanted)
        tokenizer = self.session.tokenizer
        with self.turn:
            streamer, count, reason, started = TextStreamer(tokenizer), 0, "length", time.perf_counter()
            prefill = 0.0
            for token, _ in self.session.answer(prompt, limit):
                count += 1
                if count == 1:
                    prefill = time.perf_counter() - started
                if self.session.graph and count == (2 if self.session.captured else 3):
                    self.session.capture_graph()
                if token == tokenizer.eos_token_id:
                    reason = "stop"
                    break
                yield streamer.put(token), None
            yield streamer.end(), None
            yield "", reason
            if self.session.graph:
                self.session.destroy_graph()
            yield {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count,
                   "prefill_time": prefill, "decode_time": time.perf_counter() - started - prefill}


def check_ranges(request: dict, ranges: list) -> None:
    for field, wrong, words in ranges:
        value = request.get(field)
        if value is not None and wrong(value):
            raise Refused(400, {"object": "error", "message": words.format(value), "type": "BadRequestError", "param": None, "code": 400})


def require(request: dict, *fields: str) -> None:
    missing = [field for field in fields if field not in request]
    if missing:
        raise Refused(422, {"detail": [{"type": "missing", "loc": ["body", field], "msg": "Field required", "input": request}
                                       for field in missing]})


class Handler(BaseHTTPRequestHandler):
    """Routes of server/api. There is no /health."""

    service: Service
    protocol_version = "HTTP/1.1"
    server_version = "uvicorn"

    def log_message(self, format, *values):
        print(f"INFO:     {self.client_address[0]}:{self.client_address[1]} - \"{self.requestline}\" {values[1] if len(values) > 1 else ''}",
              flush=True)

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = self.service.arguments.model_name
        if path == "/v1/models":
            self.reply(200, {"data": [{"id": name, "name": name}], "object": "list"})
        elif path == "/api/tags":
            self.reply(200, {"models": [{"name": name, "modified_at": "123", "size": 123}]})
        elif path in ("/v1/assistants", "/v1/threads"):
            self.reply(200, [])
        elif path == "/docs":
            self.reply_text(200, "<!DOCTYPE html><title>ktransformers server - simulated</title>", "text/html; charset=utf-8")
        elif path == "/openapi.json":
            self.reply(200, {"openapi": "3.1.0", "info": {"title": "ktransformers server", "version": "1.0.0"},
                             "paths": {route: {} for route in ("/v1/models", *POSTS)}})
        elif path in POSTS:
            self.reply(405, {"detail": "Method Not Allowed"})
        else:
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self):
        action = POSTS.get(self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if action is None:
            known = self.path.partition("?")[0] in ("/v1/models", "/api/tags")
            self.reply(405 if known else 404, {"detail": "Method Not Allowed" if known else "Not Found"})
            return
        try:
            request = json.loads(body)
        except ValueError:
            self.reply(422, {"detail": [{"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error", "input": {}}]})
            return
        self.streaming = False
        try:
            action(self, request)
        except Refused as refused:
            self.reply(refused.status, refused.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:
            # As uvicorn: the reason goes to the log, the client sees a bare 500.
            print(f"ERROR:    Exception in ASGI application\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            self.close_connection = True
            if not self.streaming:
                self.reply_text(500, "Internal Server Error")

    def reply(self, status: int, body) -> None:
        self.reply_text(status, json.dumps(body), "application/json")

    def reply_text(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        data = text.encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if self.headers.get("Origin") and self.service.arguments.cross_domain:
            self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(data)

    def send_stream(self, lines, kind: str = "text/event-stream; charset=utf-8") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = self.streaming = True
        for line in lines:
            self.wfile.write(line.encode("utf-8"))
            self.wfile.flush()

    # --- OpenAI ---------------------------------------------------------------------------------------------------------------------

    def chat_completions(self, request: dict) -> None:
        require(request, "messages", "model")
        check_ranges(request, RANGES)
        key = self.service.arguments.api_key
        if key:
            # The only guarded path; a wrong key is an assertion, so a 500, and no key at all an IndexError, a 500 too.
            assert self.headers.get("Authorization", "").split()[-1] == key
        messages = [{"role": message["role"], "content": message.get("content") or ""} for message in request["messages"]]
        parts = self.service.stream(self.service.session.tokens_of_chat(messages), _wanted(request))
        head = {"id": uuid.uuid4().hex, "created": int(time.time()), "model": self.service.arguments.model_name,
                "system_fingerprint": f"fp_{uuid.uuid4().hex[:12]}"}
        if request.get("stream"):
            self.send_stream(_chat_events(parts, head))
            return
        text, reason, usage = _collect(parts)
        if not request.get("return_speed"):
            usage = {key: usage[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
        self.reply(200, {**head, "object": "chat.completion", "usage": usage, "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}]})

    def completions(self, request: dict) -> None:
        require(request, "model", "prompt")
        check_ranges(request, COMPLETION_RANGES)
        prompt = request["prompt"] if isinstance(request["prompt"], str) else "\n".join(request["prompt"])
        print(f"COMPLETION INPUT:----\n{prompt}\n----", flush=True)
        parts = self.service.stream(self.service.session.tokenizer.encode(prompt), _wanted(request))
        if request.get("stream"):
            self.send_stream(_completion_events(parts))
            return
        text, _, _ = _collect(parts)
        self.reply(200, {"id": str(uuid.uuid4()), "object": "text_completion", "created": int(time.time()), "usage": None,
                         "model": "not implmented", "system_fingerprint": "not implmented",
                         "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": None}]})

    # --- Ollama ---------------------------------------------------------------------------------------------------------------------

    def ollama_generate(self, request: dict) -> None:
        require(request, "model")
        tokens = self.service.session.tokenizer.encode(request.get("prompt") or "")
        self.ollama(request.get("stream"), self.service.stream(tokens, None), lambda text: {"response": text})

    def ollama_chat(self, request: dict) -> None:
        require(request, "model", "messages")
        tokens = self.service.session.tokens_of_chat(request["messages"])
        self.ollama(request.get("stream", True), self.service.stream(tokens, None),
                    lambda text: {"message": {"role": "assistant", "content": text} if text else {}})

    def ollama(self, stream, parts, body) -> None:
        head = {"model": self.service.arguments.model_name, "created_at": time.strftime("%Y-%m-%d %H:%M:%S")}
        if not stream:
            self.reply(200, {**head, **body(_collect(parts)[0]), "done": True})
            return
        events = (json.dumps({**head, **body(part[0]), "done": False}) + "\n" for part in parts if isinstance(part, tuple) and part[0])
        self.send_stream(_then(events, json.dumps({**head, **body(""), "done": True}) + "\n"))

    def ollama_show(self, request: dict) -> None:
        require(request, "name")
        details = {"parent_model": " ", "format": "gguf", "family": " ", "families": [" "], "parameter_size": " ", "quantization_level": " "}
        self.reply(200, {"modelfile": "# Modelfile generated by ...", "parameters": " ", "template": " ", "details": details, "model_info": {}})


POSTS = {
    "/v1/chat/completions": Handler.chat_completions,
    "/v1/completions": Handler.completions,
    "/api/generate": Handler.ollama_generate,
    "/api/chat": Handler.ollama_chat,
    "/api/show": Handler.ollama_show,
}


def _wanted(request: dict):
    return request.get("max_tokens") if request.get("max_tokens") is not None else request.get("max_completion_tokens")


def _then(lines, last: str):
    yield from lines
    yield last


def _collect(parts) -> tuple:
    text, reason, usage = "", "stop", {}
    for part in parts:
        if isinstance(part, dict):
            usage = part
        else:
            text += part[0]
            reason = part[1] or reason
    return text, reason, usage


def _chat_events(parts, head: dict):
    head = {**head, "object": "chat.completion.chunk", "service_tier": None}
    usage = None
    for part in parts:
        if isinstance(part, dict):
            usage = {key: part[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
            choices = []
        elif part[0]:
            choices = [{"index": 0, "delta": {"content": part[0]}, "finish_reason": None}]
        else:
            # An empty text carries no chunk, its finish reason is lost: the stream always ends with `stop`.
            continue
        yield f"data: {json.dumps({**head, 'choices': choices, 'usage': usage})}\n\n"
    yield f"data: {json.dumps({**head, 'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def _completion_events(parts):
    for part in parts:
        if isinstance(part, tuple):
            yield f"data:{json.dumps({'choices': [{'delta': {'content': part[0]}}]})}\n\n"
    yield f"data:{json.dumps({'choices': [{'delta': {'content': ''}, 'finish_reason': ''}]})}\n\n"
    yield "data: [DONE]\n\n"


def run(package: Path, torch_npu, argv: list) -> None:
    """What `python -m ktransformers.server.main` does after its imports. Ends by SIGINT or SIGTERM."""
    sys.stdout.reconfigure(line_buffering=True)
    config = settings.read(Path(os.path.expanduser("~")) / ".ktransformers" / "config.yaml")
    arguments = server_flags.parse(argv, config)
    arguments.cross_domain = config.get("web", {}).get("open_cross_domain", True)
    # The parser itself reads config.json.
    model_folder.read_config(arguments.model_path)
    chunk = min(max(arguments.chunk_size, 512), LARGEST_CHUNK)
    if chunk != arguments.chunk_size:
        print(f"[WARN] Chunk size reset to legal value between [512, {LARGEST_CHUNK}] which is {chunk}.")
    session = Session(package, torch_npu)
    session.load(arguments.model_path, arguments.gguf_path, arguments.optimize_config_path, arguments.use_cuda_graph, arguments.tp)
    if session.rank != 0 and arguments.tp == session.world:
        wait_for_rank_0()
    serve(Service(session, arguments), arguments.host, arguments.port + session.rank)


def serve(service: Service, host: str, port: int) -> None:
    handler = type("BoundHandler", (Handler,), {"service": service})
    print(f"INFO:     Started server process [{os.getpid()}]\nINFO:     Waiting for application startup.\n"
          "INFO:     Application startup complete.", file=sys.stderr, flush=True)
    try:
        listener = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        print(f"ERROR:    [Errno {error.errno}] error while attempting to bind on address ('{host}', {port}): {(error.strerror or '').lower()}",
              file=sys.stderr, flush=True)
        sys.exit(1)
    listener.daemon_threads = True
    received: list = []

    def stop(number, _frame):
        received.append(number)
        threading.Thread(target=listener.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    print(f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)", file=sys.stderr, flush=True)
    listener.serve_forever(poll_interval=0.1)
    listener.server_close()
    print(f"INFO:     Shutting down\nINFO:     Finished server process [{os.getpid()}]", file=sys.stderr, flush=True)
    # uvicorn hands the signal on after its shutdown, so that the exit status tells it.
    if received:
        signal.signal(received[0], signal.SIG_DFL)
        os.kill(os.getpid(), received[0])
