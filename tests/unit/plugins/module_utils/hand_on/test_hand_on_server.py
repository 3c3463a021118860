# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server gives, to whom, and what it does not give."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import folder, server
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest

from tests.unit.plugins.module_utils.hand_on.merges import PLAN, TOKEN, Progress

A = "npuops-a.safetensors"


def ask(one, path, token=TOKEN, method="GET", **headers):
    line = http.client.HTTPConnection("127.0.0.1", one.server_port, timeout=10)
    if token is not None:
        headers.setdefault("Authorization", f"Bearer {token}")
    line.request(method, path, headers=headers)
    answer = line.getresponse()
    body = answer.read()
    line.close()
    return answer.status, body, answer.headers


def test_status_and_manifest(serve, merge):
    one = serve(merge)
    status, body, _headers = ask(one, "/status")
    value = json.loads(body)
    assert (status, value["plan"], value["complete"], value["receiving"], value["id"]) == (200, PLAN, True, None, one.ident)
    assert value["files"][A] == [3000000, f"{PLAN[:8]}-{A}", None] and len(value["files"]) == 4
    assert "files" not in json.loads(ask(one, f"/status?seen={value['version']}")[1])
    assert ask(one, "/manifest")[1] == (merge / ".npuops-merge/manifest.json").read_bytes()


@pytest.mark.parametrize(
    "header, status, start, end",
    [
        (None, 200, 0, 3000000),
        ("bytes=0-", 206, 0, 3000000),
        ("bytes=2999999-", 206, 2999999, 3000000),
        ("bytes=5-9", 206, 5, 10),
        ("bytes=5-99999999", 206, 5, 3000000),
        ("bytes=-7", 206, 2999993, 3000000),
        ("bytes=-99999999", 206, 0, 3000000),
        ("bytes=3000000-", 416, 0, 0),
        ("bytes=9-5", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=-", 416, 0, 0),
        ("bytes=1-2,5-6", 416, 0, 0),
        ("bytes=" + "9" * 5000 + "-", 416, 0, 0),
        ("lines=1-2", 416, 0, 0),
    ],
)
def test_ranges(serve, merge, header, status, start, end):
    found, body, headers = ask(serve(merge), f"/file/{A}", **({"Range": header} if header else {}))
    assert found == status
    if status == 416:
        assert headers["Content-Range"] == "bytes */3000000"
    else:
        assert body == (merge / A).read_bytes()[start:end]
        assert headers["Content-Range"] == (f"bytes {start}-{end - 1}/3000000" if header else None)


@pytest.mark.parametrize("path", ["/status", "/manifest", f"/file/{A}", f"/sum/{A}", "/nothing"])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer " + "t" * 19, "Bearer " + "t" * 21, "Basic " + TOKEN, TOKEN, "Bearer \xe9"],
)
def test_without_the_token_nothing_is_told(serve, merge, path, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    status, body, headers = ask(serve(merge), path, token=None, **headers)
    assert (status, body, headers["Connection"]) == (401, b"{}", "close")


@pytest.mark.parametrize(
    "path",
    [
        "/file/../../etc/passwd",
        "/file/..%2f..%2fetc%2fpasswd",
        "/file/%2fetc%2fpasswd",
        "/file//etc/passwd",
        "/file/.npuops-merge/manifest.json",
        "/file/.npuops-merge%2fmanifest.json",
        "/file/secret",
        "/file/sub%2fconfig.json",
        "/file/config.json%00",
        "/file/",
        "/file",
        "/sum/secret",
        "/status/x",
        "/",
        "",
        "*",
        "http://127.0.0.1/file/secret",
    ],
)
def test_nothing_but_the_files_of_the_merge(serve, merge, path):
    (merge / "secret").write_text("secret")
    (merge / "sub").mkdir()
    (merge / "sub" / "config.json").write_text("secret")
    status, body, _headers = ask(serve(merge), path)
    assert (status, body) == (404, b"{}")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_other_methods(serve, merge, method):
    assert ask(serve(merge), "/status", method=method)[0] == 501


def test_a_link_out_of_the_folder_is_not_followed(serve, merge, tmp_path):
    one = serve(merge)
    assert ask(one, "/file/config.json")[0] == 200
    (tmp_path / "secret").write_bytes((merge / "config.json").read_bytes())
    info = os.stat(merge / "config.json")
    os.utime(tmp_path / "secret", ns=(info.st_mtime_ns, info.st_mtime_ns))
    (merge / "config.json").unlink()
    (merge / "config.json").symlink_to(tmp_path / "secret")
    assert ask(one, "/file/config.json")[0] == 404


def test_a_file_that_was_changed_is_not_sent(serve, merge):
    one = serve(merge)
    assert ask(one, f"/file/{A}")[0] == 200
    (merge / A).write_bytes(b"changed")
    assert ask(one, f"/file/{A}")[0] == 409


def test_sums_are_computed_when_asked_for_and_kept(serve, merge, tmp_path):
    one = serve(merge)
    right = hashlib.sha256((merge / A).read_bytes()).hexdigest()
    deadline = time.monotonic() + 10
    while json.loads(ask(one, f"/sum/{A}")[1])["sha256"] is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert json.loads(ask(one, f"/sum/{A}")[1]) == {"sha256": right}
    assert json.loads(ask(one, "/status")[1])["files"][A][2] == right
    again = server.Sums(one.shelf, str(tmp_path / "sums-0.json"))
    assert again.of(one.shelf.records[A]) == right
    os.utime(merge / A, ns=(1, 1))
    assert again.of(one.shelf.records[A]) is None


def test_a_folder_that_grows(serve, merge, tmp_path):
    """While it is being received: the journal's files, no manifest; then the whole."""
    path = tmp_path / "grows"
    (path / ".npuops-merge").mkdir(parents=True)
    one = serve(path)
    before = json.loads(ask(one, "/status")[1])
    assert (before["complete"], before["files"], before["plan"], ask(one, "/manifest")[0]) == (False, {}, None, 404)
    wanted = folder.parse((merge / ".npuops-merge/manifest.json").read_bytes(), "merge")
    journal = manifest.Journal(str(path), [])
    records = {}
    for name, record in wanted.records.items():
        (path / name).write_bytes((merge / name).read_bytes())
        os.utime(path / name, ns=(record.mtime_ns, record.mtime_ns))
        records[name] = record._replace(sha256="c" * 64)
        journal.add(records[name])
        seen = json.loads(ask(one, "/status")[1])
        assert set(seen["files"]) == set(records) and not seen["complete"] and ask(one, f"/file/{name}")[1] == (merge / name).read_bytes()
    journal.close()
    folder.finish(str(path), wanted, records)
    after = json.loads(ask(one, "/status")[1])
    assert (after["complete"], after["plan"], after["files"][A][2]) == (True, PLAN, "c" * 64)


def test_a_taken_port_is_named(merge, tmp_path):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(folder.HandOnError, match=rf"^port {port} of \S+ can't be listened on: Address already in use; choose another port, or 0"):
            server.listen(str(merge), TOKEN, "", port, "a" * 32, str(tmp_path / "sums"))


@pytest.mark.parametrize(
    "address, bound, hosts",
    [
        ("127.0.0.1", "127.0.0.1", ["127.0.0.1"]),
        ("node-1", "::", ["node-1", "OWN"]),
        ("", "0.0.0.0", ["OWN"]),
        ("fd00::1", "fd00::1", ["[fd00::1]"]),
        ("OWN", "::", ["OWN"]),
    ],
)
def test_urls(monkeypatch, address, bound, hosts):
    monkeypatch.setattr(server, "primary_address", lambda: "OWN")
    assert server.urls(address, 4711, bound) == [f"http://{host}:4711" for host in hosts]


@pytest.mark.parametrize("address", ["node-1.example", "192.0.2.77", ""])
def test_an_address_of_somebody_else_makes_it_listen_everywhere(merge, tmp_path, address):
    one = server.listen(str(merge), TOKEN, address, 0, "a" * 32, str(tmp_path / "sums"))
    assert one.server_address[0] in ("::", "0.0.0.0")
    one.server_close()


def test_the_primary_address_is_an_address():
    assert server._local(server.primary_address()) == [server.primary_address()]


def test_it_ends_when_nobody_asks(merge, tmp_path):
    job_dir = tmp_path / "job"
    job_dir.mkdir()
    progress, answer = Progress(), {}
    work = server.serve(str(merge), TOKEN, "127.0.0.1", 0, str(job_dir), 0.6)
    thread = threading.Thread(target=lambda: answer.update(work(progress)))
    thread.start()
    deadline = time.monotonic() + 10
    while not server.read_endpoint(str(job_dir)) and time.monotonic() < deadline:
        time.sleep(0.01)
    endpoint = server.read_endpoint(str(job_dir))
    assert os.path.exists(endpoint["nonce"])
    started = time.monotonic()
    for _number in range(8):  # somebody asks
        line = http.client.HTTPConnection("127.0.0.1", endpoint["port"], timeout=10)
        line.request("GET", f"/file/{A}", headers={"Authorization": f"Bearer {TOKEN}"})
        assert len(line.getresponse().read()) == 3000000
        time.sleep(0.1)
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - started > 1.2
    assert answer["sent"] == 8 * 3000000 and not os.path.exists(endpoint["nonce"])
    assert progress.lines[-1] == "nobody has asked for anything for 1 s"
