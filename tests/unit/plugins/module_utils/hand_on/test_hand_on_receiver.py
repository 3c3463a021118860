# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Receiving from real servers that cut, damage, slow down, die, or don't know the token."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import folder, peer, receiver
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on.folder import HandOnError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest

from tests.unit.plugins.module_utils.hand_on.merges import PLAN, TOKEN, Progress, content, look, make

A, B = "npuops-a.safetensors", "npuops-b.safetensors"
TOTAL = 4500021


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(receiver, "_LOOK", 0.05)
    monkeypatch.setattr(receiver, "_LOOK_AROUND", 0.1)
    monkeypatch.setattr(peer, "_BACK_OFF", 0.02)
    monkeypatch.setattr(peer, "_LONGEST_BACK_OFF", 0.3)
    monkeypatch.setattr(receiver, "_CHUNK", 1 << 16)


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "dest"


@pytest.fixture
def dead():
    """The address of a server that is gone."""
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{gone.getsockname()[1]}"


def receive(dest, *urls, plan=None, token=TOKEN, progress=None, pace=None, **options):
    options = dict({"reserve": 0, "connections": 1, "timeout": 5.0, "patience": 5.0}, **options)
    pace = pace or peer.Pace(window=10.0)
    return receiver.Receiver(str(dest), urls, token, plan, receiver.Options(pace=pace, **options), progress or Progress()).run()


def whole(dest, merge):
    """Whether the folder has arrived: files with their times, a manifest with all checksums, nothing else."""
    records = json.loads((dest / ".npuops-merge/manifest.json").read_text())["files"]
    left = [name for name in os.listdir(dest / ".npuops-merge") if not name.startswith("nonce-")]  # of a server that runs
    return content(dest) == content(merge) and look(dest).complete and all(record["sha256"] for record in records) and left == ["manifest.json"]


@pytest.mark.parametrize("connections", [1, 4])
def test_everything_arrives(serve, merge, dest, connections):
    progress = Progress()
    one = serve(merge)
    found = receive(dest, one.url, connections=connections, progress=progress, plan=PLAN)
    assert whole(dest, merge)
    assert (found["files"], found["received_bytes"], found["resumed_bytes"], found["plan"]) == (4, TOTAL, 0, PLAN)
    assert [(item["url"], item["bytes"]) for item in found["servers"]] == [(one.url, TOTAL)]
    assert progress.states[-1][:2] == (TOTAL, TOTAL) and progress.states[0] in ((0, None, "waits for a server"), (0, TOTAL, "receives"))
    assert [done for done, _total, _message in progress.states] == sorted(done for done, _total, _message in progress.states)


def test_again_nothing_is_received(serve, merge, dest):
    receive(dest, serve(merge).url)
    again = serve(merge)
    assert receive(dest, again.url)["received_bytes"] == 0
    assert again.served == [] and whole(dest, merge)


def test_only_what_is_missing_or_different(serve, merge, dest):
    receive(dest, serve(merge).url)
    (dest / "config.json").unlink()
    (dest / B).write_bytes(b"short")
    again = serve(merge)
    found = receive(dest, again.url)
    assert found["received_bytes"] == 1500001 + 20
    assert {os.path.basename(name) for name, _start in again.served} == {B, "config.json"}
    assert whole(dest, merge)


def test_cut_connections_are_resumed(serve, merge, dest):
    one = serve(merge, ("cut", 1_000_000), ("cut", 0), ("cut", 700_001))
    found = receive(dest, one.url)
    assert whole(dest, merge)
    assert [start for name, start in one.served if name.endswith(A)] == [0, 1_000_000, 1_000_000, 1_700_001]
    assert (found["received_bytes"], found["resumed_bytes"]) == (TOTAL, 0)


def test_a_killed_receiver_is_resumed(serve, merge, dest):
    """What an earlier process left: a finished file in the journal, a part of another, a manifest of neither."""
    one = serve(merge)
    wanted = folder.parse((merge / ".npuops-merge/manifest.json").read_bytes(), "one")
    (dest / ".npuops-merge").mkdir(parents=True)
    shutil.copy2(merge / B, dest / B)
    journal = manifest.Journal(str(dest), [wanted.records[B]._replace(sha256="c" * 64)])
    journal.close()
    part = folder.partial(str(dest), wanted.records[A])
    with open(part, "wb") as file:
        file.write((merge / A).read_bytes()[:2_000_000])
    found = receive(dest, one.url)
    assert content(dest) == content(merge) and look(dest).complete
    assert (found["resumed_bytes"], found["received_bytes"]) == (2_000_000, TOTAL - 2_000_000 - 1_500_001)
    assert [start for name, start in one.served if name.endswith(A)] == [2_000_000]


def test_a_part_that_was_damaged_is_fetched_again(serve, merge, dest):
    one = serve(merge)
    wanted = folder.parse((merge / ".npuops-merge/manifest.json").read_bytes(), "one")
    dest.mkdir()
    with open(folder.partial(str(dest), wanted.records[A]), "wb") as file:
        file.write(b"\0" * 2_000_000)
    progress = Progress()
    receive(dest, one.url, progress=progress)
    assert whole(dest, merge)
    assert [start for name, start in one.served if name.endswith(A)] == [2_000_000, 0]
    assert f"{A}: the part that was here before was damaged; it is fetched again" in progress.lines


def test_a_part_that_is_too_long(serve, merge, dest):
    wanted = folder.parse((merge / ".npuops-merge/manifest.json").read_bytes(), "one")
    dest.mkdir()
    with open(folder.partial(str(dest), wanted.records["config.json"]), "wb") as file:
        file.write(b"\0" * 2_000_000)
    receive(dest, serve(merge).url)
    assert whole(dest, merge)


def test_files_that_were_brought_by_hand_are_taken_when_they_are_right(serve, merge, dest):
    """As by rsync without the manifest: whole ones are not received again, whatever their times."""
    dest.mkdir()
    shutil.copy(merge / A, dest / A)
    (dest / B).write_bytes(b"\0" * 1500001)
    one = serve(merge)
    found = receive(dest, one.url)
    assert whole(dest, merge)
    assert found["received_bytes"] == TOTAL - 3000000 and not [name for name, _start in one.served if name.endswith(A)]


def test_a_damaged_arrival_comes_from_another_server(serve, merge, dest, tmp_path):
    bad, good = serve(merge, ("damage", 77)), serve(shutil.copytree(merge, tmp_path / "copy"))
    progress = Progress()
    receive(dest, bad.url, good.url, progress=progress)
    assert whole(dest, merge)
    assert [start for name, start in good.served if name.endswith(A)] == [0]
    assert [line for line in progress.lines if re.search(rf"^{A}: {bad.url} sent it with sha256 \w+… instead of \w+…$", line)]


def test_damaged_everywhere(serve, merge, dest):
    one = serve(merge, *[("damage", 77)] * 9)
    with pytest.raises(HandOnError, match=rf"^{A} arrived damaged from every server: sha256 \w+… instead of \w+… from .*weights_merge_verify=full$"):
        receive(dest, one.url)
    assert not (dest / A).exists() and not (dest / ".npuops-merge/manifest.json").exists()


def test_a_checksum_of_the_manifest_is_believed_before_the_servers_own(serve, merge, dest):
    path = merge / ".npuops-merge/manifest.json"
    value = json.loads(path.read_text())
    value["files"][0]["sha256"] = "d" * 64
    path.write_text(json.dumps(value))
    with pytest.raises(HandOnError, match=f"{A} arrived damaged from every server: sha256 .* instead of dddddddddddd"):
        receive(dest, serve(merge).url)


def test_a_dead_parent(serve, merge, dest, dead):
    one = serve(merge)
    assert [item["url"] for item in receive(dest, dead, one.url)["servers"]] == [one.url]
    assert whole(dest, merge)


def test_a_parent_that_dies(serve, merge, dest, tmp_path):
    parent, first = serve(merge, ("cut", 1_000_000)), serve(shutil.copytree(merge, tmp_path / "copy"))

    def die():
        while not any(name.endswith(A) for name, _ in parent.served):  # the other file may be asked for first
            time.sleep(0.005)
        parent.server_close()
        parent.token_is_gone = parent.allows = lambda header: False

    threading.Thread(target=die).start()
    found = receive(dest, parent.url, first.url)
    assert whole(dest, merge)
    assert [start for name, start in first.served if name.endswith(A)] == [1_000_000]
    assert found["received_bytes"] == TOTAL


def test_a_slow_parent_is_left(serve, merge, dest, tmp_path):
    """By itself it would take minutes."""
    slow, fast_one = serve(merge, *[("rate", 40_000)] * 9), serve(shutil.copytree(merge, tmp_path / "copy"))
    progress = Progress()
    started = time.monotonic()
    found = receive(dest, slow.url, fast_one.url, pace=peer.Pace(window=0.4, rate=1e6), progress=progress)
    assert whole(dest, merge) and time.monotonic() - started < 60
    assert 0 < found["servers"][0]["bytes"] < 500_000
    assert [line for line in progress.lines if re.search(r"sends 0\.\d MB/s; another server is tried", line)]


def test_slow_servers_are_better_than_none(serve, merge, dest):
    one = serve(merge, ("rate", 4_000_000))
    receive(dest, one.url, pace=peer.Pace(window=0.2, rate=1e9))
    assert whole(dest, merge) and len(one.served) == 3


def test_a_server_that_is_still_receiving_is_waited_for(serve, merge, dest, tmp_path, monkeypatch):
    """A chain: the middle one offers what it has; the first one is not asked for a file as long as the middle one gets on."""
    middle_path = tmp_path / "middle"
    first, middle = serve(merge, *[("rate", 6_000_000)] * 9), serve(middle_path)
    monkeypatch.setattr(type(middle.shelf), "receiving", lambda shelf: None if look(middle_path).complete else {"done": time.monotonic() * 1e9, "rate": 1e9})
    thread = threading.Thread(target=receive, args=(middle_path, first.url))
    thread.start()
    found = receive(dest, middle.url, first.url, plan=PLAN)
    thread.join(10)
    assert whole(dest, merge) and whole(middle_path, merge)
    assert [item["url"] for item in found["servers"]] == [middle.url]
    assert len(first.served) == 3 and len(middle.served) == 3  # the empty file needs no request


def test_a_server_that_does_not_get_on_is_not_waited_for(serve, merge, dest, tmp_path, monkeypatch):
    stuck = serve(tmp_path / "stuck")
    monkeypatch.setattr(type(stuck.shelf), "receiving", lambda shelf: {"done": 5, "rate": 0} if shelf is stuck.shelf else None)
    first = serve(merge)
    found = receive(dest, stuck.url, first.url, pace=peer.Pace(window=0.4))
    assert whole(dest, merge) and [item["url"] for item in found["servers"]] == [first.url]


@pytest.mark.parametrize("others", [0, 1])
def test_a_wrong_token(serve, merge, dest, others, dead):
    one = serve(merge)
    with pytest.raises(HandOnError, match=rf"^no server lets this node in: {one.url} doesn't know the token; .* run the playbook again"):
        receive(dest, *[one.url] * (1 + others), token="x" * 20)
    assert not dest.exists()


def test_nobody_answers(dest, dead):
    with pytest.raises(HandOnError, match=rf"^nobody has the whole merge, for 0 s nothing has come: {dead} .* can't be reached: Connection refused; see that"):
        receive(dest, dead, patience=0.5)
    assert not dest.exists()


def test_another_merge_is_not_taken(serve, merge, dest):
    one = serve(merge)
    with pytest.raises(HandOnError, match=rf"^nobody has the whole merge, .*\({one.url}\) has nothing that is wanted"):
        receive(dest, one.url, plan="cd" * 32, patience=0.5)


def test_a_file_that_the_server_has_changed(serve, merge, dest):
    one = serve(merge)
    one.shelf.refresh()
    (merge / A).write_bytes(b"changed")
    with pytest.raises(HandOnError, match=rf"^{A} can't be had, .*{one.url}/file/{A} answers 409 Conflict"):
        receive(dest, one.url, patience=5.0)
    assert (dest / B).read_bytes() == (merge / B).read_bytes()


def test_a_foreign_file_of_weights(serve, merge, dest):
    dest.mkdir()
    (dest / "more.safetensors").touch()
    with pytest.raises(HandOnError, match=f"^{dest} holds safetensors files that do not belong to the merge: more.safetensors; the engine would"):
        receive(dest, serve(merge).url)
    assert os.listdir(dest) == ["more.safetensors"]


def test_an_earlier_merge_is_replaced(serve, merge, dest):
    make(dest, {A: 50, "npuops-old.safetensors": 60, "config.json": 20}, plan="cd" * 32, seed=2)
    (dest / "notes.txt").write_text("mine")
    receive(dest, serve(merge).url)
    assert (dest / "notes.txt").read_text() == "mine"
    (dest / "notes.txt").unlink()
    assert whole(dest, merge)


def test_no_room(serve, merge, dest):
    with pytest.raises(HandOnError, match="GB of merged weights are to be received there, with 1000000000.0 GB left free; make room"):
        receive(dest, serve(merge).url, reserve=10**18)
    assert not dest.exists()


def test_a_disk_that_cannot_write(serve, merge, dest, monkeypatch):
    def full(target, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(receiver, "_write", full)
    words = f"the disk of {dest} became full while {A} arrived; make room and run the playbook again: what has arrived is kept"
    with pytest.raises(HandOnError, match=f"^{words}$"):
        receive(dest, serve(merge).url)


@pytest.mark.parametrize("url", ["", "https://node:80", "http://node", "http://node:x", "ftp://node:21", "http://node:80/path", "node:80"])
def test_an_address_that_is_none(dest, url):
    with pytest.raises(HandOnError, match=rf"^{url!r} is no address of a server of weights; http://HOST:PORT was expected$"):
        receive(dest, url)


class Liar(threading.Thread):
    """A server that answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            try:
                line, _address = self._socket.accept()
                line.recv(65536)
                line.sendall(self._answer)
                line.close()
            except OSError:
                return


def http_answer(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body) if length is None else length, body)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="ssh"),
        pytest.param(http_answer(b"<html>"), id="html"),
        pytest.param(http_answer(b"[]"), id="list"),
        pytest.param(http_answer(b"{}"), id="empty"),
        pytest.param(http_answer(b"[" * 100000), id="nested"),
        pytest.param(http_answer(b"{}", 10**12), id="endless"),
        pytest.param(http_answer(b"{}", 50), id="short"),
        pytest.param(http_answer(json.dumps({"id": "a", "node": "n", "plan": PLAN, "complete": True, "version": 1, "files": {"x": 7}}).encode()), id="files"),
        pytest.param(http_answer(json.dumps({"id": "a", "node": "n", "plan": PLAN, "complete": True, "version": 1, "files": {}}).encode()), id="no-manifest"),
    ],
)
def test_what_is_no_server_of_ours_is_passed_over(serve, merge, dest, answer):
    liar, one = Liar(answer), serve(merge)
    if b'"files": {}' in answer:  # it goes on answering that as its manifest
        with pytest.raises(HandOnError, match="is no manifest of a merge"):
            receive(dest, liar.url, one.url)
    else:
        receive(dest, liar.url, one.url)
        assert whole(dest, merge)


def test_as_a_job_that_is_killed_and_resumed(serve, merge, dest):
    """The real thing: SIGKILL in the middle of a file."""
    one = serve(merge, ("rate", 3_000_000))
    options = receiver.Options(reserve=0, connections=1, patience=10)
    box = str(dest / ".npuops-merge")
    digest = receiver.digest_of(str(dest), PLAN, TOKEN)
    state = job.run(box, digest, "the weights", receiver.receive(str(dest), [one.url], TOKEN, PLAN, options), 0)
    part = next(iter(folder.parse((merge / ".npuops-merge/manifest.json").read_bytes(), "one").records.values()))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not (os.path.exists(folder.partial(str(dest), part)) and os.path.getsize(folder.partial(str(dest), part)) > 500_000):
        time.sleep(0.01)
    os.kill(state["pid"], 9)
    left = os.path.getsize(folder.partial(str(dest), part))
    assert job.wait(box, 10)["state"] == "interrupted" and 500_000 < left < 3_000_000
    state = job.run(box, digest, "the weights", receiver.receive(str(dest), [one.url], TOKEN, PLAN, options), 30)
    assert (state["state"], state["result"]["resumed_bytes"], state["result"]["received_bytes"]) == ("done", left, TOTAL - left), state
    assert content(dest) == content(merge) and look(dest).complete
    assert (state["total"], state["done"], state["unit"]) == (TOTAL, TOTAL, "B")


def test_the_digest_depends_on_all_three():
    found = {receiver.digest_of(*args) for args in [("/a", PLAN, "t"), ("/b", PLAN, "t"), ("/a", None, "t"), ("/a", PLAN, "u")]}
    assert len(found) == 4 and all(digest.startswith(receiver.DIGEST) for digest in found)


def test_a_meter():
    meter = peer.Meter(10.0)
    assert meter.rate(0.0) is None
    meter.start(0.0)
    assert meter.rate(5.0) is None and meter.rate(10.0) == 0
    for second in range(1, 41):
        meter.add(float(second), 100 if second <= 20 else 10)
    assert meter.rate(40.0) == pytest.approx(10, rel=0.2)
    meter.start(50.0)
    assert meter.rate(55.0) is None


def test_penalties_grow_and_end():
    one = peer.Peer("http://n:1", "t", 1, peer.Pace(window=10, rate=100, penalty=60))
    one.begin(0.0)
    assert not one.lags(9.0) and one.lags(10.0) and one.slow(69.0) and not one.slow(70.0)
    assert one.lags(71.0) and one.slow(190.0) and not one.slow(191.0)
    assert one.slow_rate == 0
