"""The smoke test against programs and servers that behave, and misbehave, as the engine does."""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import job, smoke
from ansible_collections.npuops.ktransformers.plugins.modules import ktransformers_smoke

CHAT = """
import sys, time
print("loading layer blk.0.attn_norm to npu:0", flush=True)
print("loading layer blk.1.attn_norm to npu:0", flush=True)
question = input("Chat: ")
print("You asked:", question, end="")
print('''
[rank:0] Eval Time
[rank:0]prompt eval count:    3 token(s)
[rank:0]prompt eval rate:     30.5 tokens/s
[rank:0]eval count:           5 token(s)
[rank:0]eval rate:            12.25 tokens/s
''', flush=True)
"""
SILENT = "import time\ninput('Chat: ')\ntime.sleep(60)\n"
BROKEN = "import sys\nprint('loading')\nprint(\"ModuleNotFoundError: No module named 'cpuinfer_ext'\", file=sys.stderr)\nsys.exit(1)\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(smoke, "POLL", 0.02)
    monkeypatch.setattr(smoke, "GRACE", 0.3)


class Told:
    """Stands for the job's progress."""

    def __init__(self):
        self.said = []

    def update(self, done, total=None, message=None, unit=None):
        self.said.append((done, total, message))


def ask(folder, program, timeout=20.0, expect="", prompt="What\nnow?"):
    told = Told()
    return smoke.ask_terminal(str(folder), [sys.executable, "-c", program], prompt, expect, timeout, 2, told), told


def test_an_answer_counts_although_the_engine_ends_with_1(tmp_path):
    result, _told = ask(tmp_path, CHAT + "input('Chat: ')\n", expect="what")
    assert result == {"text": "You asked: What now?", "prompt_tokens": 3, "prefill_rate": 30.5, "tokens": 5, "decode_rate": 12.25}


def test_an_engine_that_hangs_on_the_way_out_has_answered(tmp_path):
    began = time.monotonic()
    result, told = ask(tmp_path, CHAT + "time.sleep(60)\n")
    assert result["text"] == "You asked: What now?"
    assert time.monotonic() - began < 50
    assert (2, 2, "answering") in told.said


def test_no_answer_in_time_ends_the_engine(tmp_path):
    began = time.monotonic()
    with pytest.raises(job.JobError, match="no answer came within 1 seconds"):
        ask(tmp_path, SILENT, timeout=0.6)
    assert time.monotonic() - began < 50


def test_a_failure_is_explained(tmp_path):
    (tmp_path / "log").write_text("ModuleNotFoundError: No module named 'cpuinfer_ext'\n")
    with pytest.raises(job.JobError) as failure:
        ask(tmp_path, BROKEN)
    assert str(failure.value) == ("the engine ended without an answer: the engine's extension is not built in this environment; "
                                  "run the role ktransformers again")
    assert failure.value.result["log_tail"][0].startswith("ModuleNotFoundError")


def test_the_word_that_is_expected_must_be_there(tmp_path):
    with pytest.raises(job.JobError, match="the answer does not hold 'blue': You asked: What now?"):
        ask(tmp_path, CHAT, expect="blue")


class Server:
    """Answers as server/api does: server-sent events, or a bare 500."""

    def __init__(self, status=200, words=("Red", ", yellow", " and blue."), models=b'{"data": [{"id": "DeepSeek-R1"}]}'):
        outer = self
        self.asked = None

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(models)

            def do_POST(self):
                outer.asked = (self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()
                if status != 200:
                    self.wfile.write(b"Internal Server Error")
                    return
                for word in words:
                    self.event({"choices": [{"delta": {"content": word}}]})
                    time.sleep(0.02)
                self.event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 14, "completion_tokens": 9}})
                self.wfile.write(b"data: [DONE]\n\n")

            def event(self, value):
                self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
                self.wfile.flush()

            def log_message(self, *_words):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def ask(self, expect="", alive=lambda: True, log=lambda: "", timeout=5.0):
        return smoke.ask_server("127.0.0.1", self.port, "DeepSeek-R1", "Colours?", expect, 64, timeout, 61, Told(), alive, log)


def test_the_server_is_asked_once_it_listens():
    server = Server()
    result = server.ask("Blue")
    assert (result["text"], result["prompt_tokens"], result["tokens"]) == ("Red, yellow and blue.", 14, 9)
    assert result["prefill_rate"] > 0 and result["decode_rate"] > 0
    assert server.asked == ("/v1/chat/completions", {
        "model": "DeepSeek-R1", "messages": [{"role": "user", "content": "Colours?"}], "stream": True, "max_tokens": 64})
    server.http.shutdown()


def test_a_server_that_refuses_is_explained_by_its_log():
    server = Server(status=500)
    with pytest.raises(job.JobError, match=r"the server did not answer \(status 500: Internal Server Error\): torch_npu lacks operators"):
        server.ask(log=lambda: "AttributeError: module 'torch_npu' has no attribute '_npu_matmul_pp'")
    server.http.shutdown()


@pytest.mark.parametrize("models, offered", [(b'{"data": [{"id": "Qwen"}]}', "Qwen"), (b"<html>", "no models"), (b"[]", "no models")])
def test_somebody_elses_server_is_not_asked(models, offered):
    server = Server(models=models)
    with pytest.raises(job.JobError, match=f"is answered by something else: it offers {offered}, expected DeepSeek-R1"):
        server.ask()
    assert server.asked is None
    server.http.shutdown()


def test_an_empty_answer_is_none():
    server = Server(words=())
    with pytest.raises(job.JobError, match="the answer is empty"):
        server.ask()
    server.http.shutdown()


def test_a_server_that_ends_is_not_waited_for():
    server = Server()
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(job.JobError, match="the service has ended: the port is taken; set ktransformers_master_port"):
        server.ask(alive=lambda: False, log=lambda: "OSError: [Errno 98] Address already in use")
    with pytest.raises(job.JobError, match="did not open within 0 seconds"):
        server.ask(timeout=0.1)


@pytest.mark.parametrize("change", [{"digest": ["b"]}, {"prompt": "Why?"}, {"command": ["npu-chat", "--x"]}, {"expect": "word"}, {"port": 1}])
def test_the_digest_follows_what_is_asked(change):
    params = {"digest": ["a"], "command": ["npu-chat"], "environment": {}, "host": "h", "port": None, "prompt": "How?", "expect": ""}
    assert ktransformers_smoke.digest_of(params) != ktransformers_smoke.digest_of({**params, **change})
    assert ktransformers_smoke.digest_of(params) == ktransformers_smoke.digest_of(dict(params))


def test_the_work_notes_what_it_was_made_with(tmp_path):
    module = type("Module", (), {"params": {
        "command": [sys.executable, "-c", CHAT], "prompt": "Now?", "expect": "", "timeout": 20, "layers": 2, "environment": {}, "job_dir": str(tmp_path),
        "digest": ["engine 1", "weights 2"]}})
    assert ktransformers_smoke.work_for(module)(Told())["made_with"] == ["engine 1", "weights 2"]


class Ended(Exception):
    """What AnsibleModule does at its end."""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The module itself, with a chat that answers; returns its result."""

    def run(check=False, **options):
        class Module:
            check_mode = check

            def __init__(self, argument_spec, **_rules):
                defaults = {name: option.get("default") for name, option in argument_spec.items()}
                asked = {"command": [sys.executable, "-c", CHAT], "prompt": "Now?", "digest": ["a"], "job_dir": str(tmp_path / "job")}
                self.params = {**defaults, **asked, **options}

            def exit_json(self, **result):
                raise Ended(result)

            def fail_json(self, **result):
                raise Ended({"failed": True, **result})

        monkeypatch.setattr(ktransformers_smoke, "AnsibleModule", Module)
        with pytest.raises(Ended) as ended:
            ktransformers_smoke.main()
        return ended.value.args[0]

    return run


def test_the_same_question_is_asked_once(call):
    assert call(check=True)["changed"] is True
    first = call()
    assert (first["changed"], first["answer"]["text"]) == (True, "You asked: Now?")
    assert call()["changed"] is False
    assert call(check=True)["changed"] is False
    assert call(again=True)["changed"] is True
    assert call(digest=["b"])["changed"] is True


def test_a_question_that_nobody_wants_answered_any_more_is_ended(call):
    assert call(command=[sys.executable, "-c", SILENT], wait=False)["job"]["state"] == "running"
    assert call(digest=["new"])["answer"]["text"] == "You asked: Now?"


def test_a_failure_says_why_and_where_the_log_is(call, tmp_path):
    failed = call(command=[sys.executable, "-c", BROKEN])
    assert failed["failed"] and failed["msg"] == (
        "the smoke test of the model failed: the engine ended without an answer: the engine's extension is not built in this environment; "
        f"run the role ktransformers again; its log is {tmp_path}/job/log")
    assert any("cpuinfer_ext" in line for line in failed["log_tail"])
