# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules weights_serve and weights_fetch together, with their detached jobs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import receiver, server
from ansible_collections.npuops.ktransformers.plugins.modules import weights_fetch, weights_serve

from tests.unit.plugins.module_utils.hand_on.merges import PLAN, TOKEN, Servers, content, make

# ansible-core 2.13, the last for Python 3.8, has none; `make matrix` deploys a whole node with that Python instead.
patch_module_args = pytest.importorskip("ansible.module_utils.testing").patch_module_args

A = "npuops-a.safetensors"


@pytest.fixture
def call(tmp_path, capfd):
    def run(module, check=False, **args):
        args = dict({key: str(value) if isinstance(value, os.PathLike) else value for key, value in args.items()}, _ansible_check_mode=check)
        with patch_module_args(dict(args, _ansible_remote_tmp=str(tmp_path))), pytest.raises(SystemExit):
            module.main()
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    return run


@pytest.fixture
def merge(tmp_path):
    return make(tmp_path / "merge")


@pytest.fixture
def serve(call, merge, tmp_path):
    """Start a server of the merge by its module, as a job; it is stopped at the end of the test."""
    job_dir = tmp_path / "serve"

    def run(**more):
        return call(weights_serve, **dict({"path": merge, "token": TOKEN, "job_dir": job_dir, "address": "127.0.0.1", "idle_seconds": 60}, **more))

    run.job_dir = job_dir
    yield run
    server.stop(str(job_dir))


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_serve_fetch_and_stop(call, serve, merge, tmp_path):
    served = serve()
    assert (served["changed"], served["complete"], served["plan"], served["bytes"]) == (True, True, PLAN, 4500021)
    assert served["url"] == f"http://127.0.0.1:{served['port']}" and served["urls"] == [served["url"]] and listens(served["port"])
    again = serve()
    assert (again["changed"], again["pid"], again["port"]) == (False, served["pid"], served["port"])

    dest = tmp_path / "dest"
    asked = {"dest": dest, "urls": [served["url"]], "token": TOKEN, "plan": PLAN}
    planned = call(weights_fetch, check=True, **asked)
    assert (planned["changed"], planned["complete"], planned["reasons"]) == (True, False, [f"{dest} holds no merged weights"]) and not dest.exists()
    first = call(weights_fetch, **asked)
    assert (first["changed"], first["complete"], first["job"]["state"], first["received_bytes"], first["files"]) == (True, True, "done", 4500021, 4)
    assert first["reasons"] == [f"{dest} holds no merged weights"] and first["shared"] is False and first["bytes"] == 4500021
    assert content(dest) == content(merge) and TOKEN not in json.dumps(first)
    second = call(weights_fetch, **asked)
    assert (second["changed"], second["complete"], second["reasons"], second["job"]["state"]) == (False, True, [], "absent")
    assert call(weights_fetch, check=True, dest=dest)["changed"] is False

    stopped = serve(state="stopped")
    assert stopped["changed"] and not listens(served["port"]) and not [name for name in os.listdir(merge / ".npuops-merge") if name.startswith("nonce")]
    assert os.listdir(serve.job_dir) == ["sums.json"]
    assert serve(state="stopped")["changed"] is False


def test_check_mode_starts_and_stops_nothing(call, serve, merge, tmp_path):
    assert call(weights_serve, check=True, path=merge, token=TOKEN, job_dir=tmp_path / "serve")["changed"] and not (tmp_path / "serve").exists()
    served = serve()
    assert call(weights_serve, check=True, path=merge, job_dir=serve.job_dir, state="stopped")["changed"] and listens(served["port"])


def test_another_token_replaces_the_server(call, serve, tmp_path):
    served = serve()
    other = serve(token="u" * 20)
    assert other["changed"] and other["pid"] != served["pid"] and job.status(str(serve.job_dir))["pid"] == other["pid"]
    failed = call(weights_fetch, dest=tmp_path / "dest", urls=[other["url"]], token=TOKEN)
    assert failed["failed"] and "no server lets this node in" in failed["msg"] and TOKEN not in json.dumps(failed)


def test_a_server_that_was_killed_is_started_again(serve, merge):
    served = serve()
    os.kill(served["pid"], 9)
    assert job.wait(str(serve.job_dir), 60)["state"] == "interrupted"
    again = serve()
    assert again["changed"] and again["pid"] != served["pid"]
    assert len([name for name in os.listdir(merge / ".npuops-merge") if name.startswith("nonce")]) == 1


def test_a_folder_that_is_not_complete_is_served_only_on_demand(serve, merge):
    (merge / A).unlink()
    failed = serve()
    assert failed["failed"] and failed["msg"].startswith(f"of 4 files in {merge}, 1 are missing or were changed: {A}; merge the weights on ")
    assert serve(incomplete=True)["complete"] is False


def test_a_port_that_is_taken(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = serve(port=port)
        assert failed["failed"] and f"port {port} of " in failed["msg"] and "choose another port" in failed["msg"]


def test_a_shared_folder_is_not_copied(call, serve, merge, tmp_path, monkeypatch):
    """The very folder of the server, of which this node still has an old view: it is waited for, and not written to."""
    served = serve()
    link = tmp_path / "mounted"
    link.symlink_to(merge)
    before = {path: path.stat().st_mtime_ns for path in merge.rglob("*")}
    real, views = weights_fetch.folder.look, [0]

    def stale(dest, plan=None):
        views[0] += 1
        return real(dest, plan) if views[0] > 2 else real("/nonexistent", plan)

    monkeypatch.setattr(weights_fetch.folder, "look", stale)
    found = call(weights_fetch, dest=link, urls=[served["url"]], token=TOKEN, plan=PLAN)
    assert (found["changed"], found["shared"], found["complete"], found["job"]["state"]) == (False, True, True, "absent") and views[0] == 3
    assert {path: path.stat().st_mtime_ns for path in merge.rglob("*")} == before


def test_another_folder_is_not_taken_for_the_shared_one(call, serve, merge, tmp_path):
    served = serve()
    dest = tmp_path / "dest"
    (dest / ".npuops-merge").mkdir(parents=True)
    (dest / ".npuops-merge" / ("nonce-" + "a" * 32)).touch()
    found = call(weights_fetch, dest=dest, urls=[served["url"]], token=TOKEN)
    assert (found["changed"], found["shared"]) == (True, False) and content(dest) == content(merge)


def test_without_waiting(call, merge, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "FIRST_WAIT", 0.1)
    servers = Servers(tmp_path)
    try:
        one = servers(merge, ("rate", 6_000_000))
        dest = tmp_path / "dest"
        asked = {"dest": dest, "urls": [one.url], "token": TOKEN, "connections": 1}
        started = call(weights_fetch, wait=False, **asked)
        assert (started["changed"], started["complete"], started["job"]["state"]) == (True, False, "running")
        assert started["job"]["folder"] == str(dest / ".npuops-merge") and started["job"]["title"] == f"the weights for {dest}"
        assert job.wait(started["job"]["folder"], 60)["state"] == "done"
        ended = call(weights_fetch, **asked)
        assert (ended["changed"], ended["job"]["state"], ended["received_bytes"]) == (True, "done", 4500021)
        assert call(weights_fetch, **asked)["changed"] is False
    finally:
        servers.close()


def test_a_run_with_another_token_takes_over(call, merge, tmp_path, monkeypatch):
    """The controller of the first run is gone, and its servers with it; what has arrived is kept."""
    monkeypatch.setattr(job, "FIRST_WAIT", 0.1)
    servers = Servers(tmp_path)
    try:
        slow = servers(merge, ("rate", 1_000_000))
        dest = tmp_path / "dest"
        started = call(weights_fetch, wait=False, dest=dest, urls=[slow.url], token=TOKEN, connections=1)
        deadline = time.monotonic() + 10
        while (job.status(str(dest / ".npuops-merge"))["done"] or 0) < 300_000 and time.monotonic() < deadline:
            time.sleep(0.02)
        new = servers(merge, token="u" * 20)
        ended = call(weights_fetch, dest=dest, urls=[new.url], token="u" * 20, connections=1)
        assert (ended["changed"], ended["complete"]) == (True, True) and ended["job"]["pid"] != started["job"]["pid"]
        assert ended["resumed_bytes"] >= 300_000 and ended["received_bytes"] == 4500021 - ended["resumed_bytes"]
        assert content(dest) == content(merge)
    finally:
        servers.close()


def test_a_merge_that_runs_in_the_folder_is_not_disturbed(call, merge, tmp_path):
    dest = tmp_path / "dest"
    running = job.run(str(dest / ".npuops-merge"), "digest", "the merge into dest", lambda progress: time.sleep(20) or {}, 0)
    try:
        failed = call(weights_fetch, dest=dest, urls=["http://127.0.0.1:9"], token=TOKEN)
        assert failed["failed"] and "is busy with the merge into dest" in failed["msg"] and job.status(str(dest / ".npuops-merge"))["pid"] == running["pid"]
    finally:
        job.stop(str(dest / ".npuops-merge"))


@pytest.mark.parametrize(
    "args, message",
    [
        ({}, "{dest} holds no merged weights, and urls names no server to receive the weights from."),
        ({"urls": ["http://n:1"]}, "urls names servers and token is missing; give the one that they were started with."),
        ({"connections": 0}, "connections is 0; a number from 1 to 64 was expected."),
        ({"patience_seconds": 0}, "patience_seconds is 0; 1 or more was expected."),
        ({"urls": ["node"], "token": TOKEN}, "'node' is no address of a server of weights; http://HOST:PORT was expected"),
    ],
)
def test_what_is_refused(call, tmp_path, args, message):
    failed = call(weights_fetch, dest=tmp_path / "dest", **args)
    assert failed["failed"] and failed["msg"] == message.format(dest=tmp_path / "dest") and not (tmp_path / "dest").exists()


@pytest.mark.parametrize(
    "args, message",
    [
        ({"token": "abc123"}, "token is shorter than 16 characters; make one with lookup('ansible.builtin.password', '/dev/null')."),
        ({"port": 70000}, "port is 70000; a number from 0 to 65535 was expected."),
        ({"idle_seconds": 0}, "idle_seconds is 0; 1 or more was expected."),
    ],
)
def test_what_the_server_refuses(serve, args, message):
    failed = serve(**args)
    assert failed["failed"] and failed["msg"] == message


def test_check_mode_says_what_stops_it(call, tmp_path):
    dest = tmp_path / "dest"
    failed = call(weights_fetch, check=True, dest=dest, expected_bytes=10**18)
    assert failed["failed"] and "make room, or choose another folder." in failed["msg"]
    dest.mkdir()
    (dest / "more.safetensors").touch()
    failed = call(weights_fetch, check=True, dest=dest)
    assert failed["failed"] and "more.safetensors; the engine would read them" in failed["msg"]


def test_room_counts_what_is_there(call, merge, tmp_path):
    """A folder of which one file is missing needs the room of that file only."""
    dest = shutil.copytree(merge, tmp_path / "dest", copy_function=shutil.copy2)
    (dest / A).unlink()
    free = os.statvfs(dest).f_bavail * os.statvfs(dest).f_frsize
    assert call(weights_fetch, check=True, dest=dest, expected_bytes=free + 10**10, reserve_mb=0).get("failed")
    assert not call(weights_fetch, check=True, dest=dest, expected_bytes=4500021, reserve_mb=0).get("failed")


def test_options_are_passed_on():
    params = dict.fromkeys(weights_fetch.ARGUMENT_SPEC, 7)
    found = weights_fetch.options_of(dict(params, min_rate_mb_s=2.5))
    assert found == receiver.Options(7_000_000, 7, 7, 7, receiver.Pace(rate=2.5e6))
