# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The media action in real playbook runs: from a directory, and from a mirror that drops a connection."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import threading

import pytest
import yaml

BIG = bytes(range(256)) * 2048
FILES = {"ascend/toolkit_1.run": BIG, "wheels/aarch64/a-1-py3-none-any.whl": b"wheel a", "wheels/aarch64/b-1-py3-none-any.whl": b"wheel b"}

# Else Ansible would try to hand files over to that user.
ADMINS = {"ansible_admin_users": ["root", "somebody"]}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "media"
    entries = []
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        entries.append({"path": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "version": "1", "origin": "the vendor's page"})
    (folder / "manifest.yml").write_text(yaml.safe_dump({"files": entries}))
    return folder


def media(source, dest, *names, name="media", **args):
    return {"name": name, "npuops.ktransformers.media": dict({"source": str(source), "dest": str(dest), "names": list(names)}, **args)}


def remote_calls(run):
    return run.output.count("Using module file")


def lying_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".npuops-")}


def test_bring_once_then_one_call(ansible, source, tmp_path):
    dest = tmp_path / "node" / "media"
    task = media(source, dest, "ascend/toolkit_1.run", "wheels/aarch64/")
    run = ansible([task], "-vvv")
    result = run.result("media")
    assert run.rc == 0 and result["changed"] and remote_calls(run) == 2
    assert lying_in(dest) == FILES
    assert [(file["name"], file["path"], file["changed"], file["reason"]) for file in result["files"]] == [
        (name, str(dest / name), True, "is not there") for name in FILES
    ]
    assert result["files"][0]["sha256"] == hashlib.sha256(BIG).hexdigest() and result["files"][0]["version"] == "1"
    assert os.stat(dest / "ascend/toolkit_1.run").st_mode & 0o7777 == 0o644

    run = ansible([task], "-vvv")
    assert not run.result("media")["changed"] and remote_calls(run) == 1

    (dest / "ascend/toolkit_1.run").write_bytes(b"short")
    (dest / "wheels/aarch64/a-1-py3-none-any.whl").chmod(0o600)
    run = ansible([task], "--check", "--diff")
    expected = {
        "ascend/toolkit_1.run": f"has 5 bytes instead of {len(BIG)}",
        "wheels/aarch64/a-1-py3-none-any.whl": "has mode 0600 instead of 0644",
        "wheels/aarch64/b-1-py3-none-any.whl": None,
    }
    assert {file["name"]: file["reason"] for file in run.result("media")["files"]} == expected
    assert f"+{dest}/ascend/toolkit_1.run: has 5 bytes instead of {len(BIG)}" in run.output
    assert (dest / "ascend/toolkit_1.run").read_bytes() == b"short"
    assert ansible([task]).result("media")["changed"]
    assert lying_in(dest) == FILES


def test_check_mode_on_a_bare_node(ansible, source, tmp_path):
    dest = tmp_path / "node" / "media"
    run = ansible([media(source, dest, "wheels/aarch64/")], "--check", "-vvv")
    assert run.result("media")["changed"] and remote_calls(run) == 1
    assert not dest.parent.exists()


def test_described_and_nothing_needs_no_remote_call(ansible, source, tmp_path):
    (source / "ascend/toolkit_1.run").write_bytes(b"cut")
    unreachable = {"node1": {"ansible_connection": "ssh", "ansible_host": "192.0.2.1", "ansible_ssh_common_args": "-o ConnectTimeout=1"}}
    tasks = [
        media(source, "/dest", "ascend/toolkit_1.run", state="described", name="described"),
        media("", "/dest", name="nothing"),
        media(source, "/dest", "ascend/toolkit_2.run", "wheels/aarch64/", state="described", missing="report", name="report"),
        media("/nowhere", "/dest", "x", state="described", missing="report", name="nowhere"),
        {"name": "preflight", "npuops.ktransformers.preflight": {"role": "cann", "checks": "{{ r.problems + n.problems }}"}, "ignore_errors": True},
    ]
    tasks[2]["register"] = "r"
    tasks[3]["register"] = "n"
    run = ansible(tasks, inventory=unreachable)
    described = run.result("described")
    assert [(file["path"], file["version"], file["changed"]) for file in described["files"]] == [("/dest/ascend/toolkit_1.run", "1", False)]
    assert described["problems"] == [
        {
            "id": "media-toolkit_1.run", "ok": False, "observed": f"{source}/ascend/toolkit_1.run has 3 bytes",
            "expected": f"the file that the manifest lists ({len(BIG)} bytes)", "repair": "put the file there; it comes from the vendor's page",
        }
    ]  # fmt: skip
    assert run.result("nothing")["files"] == []
    assert [problem["id"] for problem in run.result("report")["problems"]] == ["media-toolkit_2.run"]
    assert run.result("preflight")["msg"] == (
        f"[cann] media-toolkit_2.run: ascend/toolkit_2.run is not in {source}/manifest.yml, which has ascend/toolkit_1.run; expected an entry for "
        "ascend/toolkit_2.run; put the file into the media and index them: ansible-playbook npuops.ktransformers.media\n"
        "[cann] media-media: the media are not in /nowhere: no such directory; put them there, or correct media_source; "
        "expected a directory or mirror with the media; set media_source"
    )


def test_what_can_not_be_had(ansible, source, tmp_path):
    dest = tmp_path / "node"
    (source / "ascend/toolkit_1.run").unlink()
    (source / "wheels/aarch64/a-1-py3-none-any.whl").write_bytes(b"wheel x")
    cases = {
        "gone": media(source, dest, "wheels/aarch64/b-1-py3-none-any.whl", "ascend/toolkit_1.run"),
        "other": media(source, dest, "wheels/aarch64/a-1-py3-none-any.whl"),
        "unlisted": media(source, dest, "wheels/aarch64", "ascend/toolkit_9.run"),
        "leaves": media(source, dest, "../etc/passwd"),
        "unset": media("", dest, "x"),
        "bare": media(tmp_path, dest, "x"),
        "mode": media(source, dest, "wheels/aarch64/b-1-py3-none-any.whl", mode="rw"),
        "private": media(source, dest, "x", step="place"),
    }
    run = ansible([dict(task, name=name, ignore_errors=True) for name, task in cases.items()])
    messages = {name: run.result(name)["msg"] for name in cases}
    sha_x, sha_a = (hashlib.sha256(content).hexdigest() for content in (b"wheel x", b"wheel a"))
    index = "ansible-playbook npuops.ktransformers.media"
    assert messages["gone"] == (
        f"{source}/ascend/toolkit_1.run is not there; expected: the file that the manifest lists ({len(BIG)} bytes); "
        "put the file there; it comes from the vendor's page"
    )
    assert messages["other"] == (
        f"wheels/aarch64/a-1-py3-none-any.whl arrived with sha256 {sha_x} (7 bytes), but the manifest expects {sha_a} of 7 bytes; "
        f"get the file again (it comes from the vendor's page), or, if the new file is meant, index the media: {index}"
    )
    assert messages["unlisted"] == (
        f"wheels/aarch64 is not in {source}/manifest.yml; expected: an entry for wheels/aarch64; put the file into the media and index them: {index}\n"
        f"ascend/toolkit_9.run is not in {source}/manifest.yml, which has ascend/toolkit_1.run; expected: an entry for ascend/toolkit_9.run; "
        f"put the file into the media and index them: {index}"
    )
    assert messages["leaves"].startswith("'../etc/passwd' is no name in the media")
    assert messages["unset"].startswith("media_source is not set: give it ")
    assert messages["bare"] == f"the media in {tmp_path} have no manifest.yml; write it: {index}"
    assert messages["mode"] == "mode 'rw' is no octal number such as '0644'"
    assert "step" in messages["private"]
    assert lying_in(dest) == {}


def test_with_become_and_a_loop_files_go_through_the_temporary_directory(ansible, source, tmp_path):
    task = media(source, tmp_path / "{{ item }}", "wheels/aarch64/", mode="0600")
    run = ansible([dict(task, loop=["a", "b"], become=True, become_method="pretend", become_user="somebody", vars=ADMINS)], "-vvv")
    assert run.rc == 0 and re.search(r"PUT \S+/media/wheels/aarch64/a-1-py3-none-any.whl TO \S+/remote-tmp/", run.output)
    for name in "ab":
        assert sorted(lying_in(tmp_path / name)) == sorted(file for file in FILES if file.startswith("wheels"))
        assert os.stat(tmp_path / name / "wheels/aarch64/a-1-py3-none-any.whl").st_mode & 0o7777 == 0o600
    assert not list((ansible.folder / "home" / "remote-tmp").glob("*"))


class DroppingHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with ranges, and drops the first answer of a big file in its middle."""

    asked: list = []

    def do_GET(self):
        path = self.translate_path(self.path)
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        self.asked.append((self.path, self.headers.get("Range")))
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            self.send_error(404)
            return
        start = int(wanted.group(1)) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if len(content) > 100_000 and not wanted else len(content)
        self.wfile.write(content[start:end])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(source):
    asked: list = []
    handler = type("Handler", (DroppingHandler,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: handler(*args, directory=str(source)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_from_a_mirror_that_drops_a_connection(ansible, mirror, source, tmp_path):
    url, asked = mirror
    dest = tmp_path / "node"
    tasks = [media(url + "/", dest, *FILES)]
    run = ansible(tasks, "--check")
    assert run.result("media")["changed"] and not dest.exists()
    asked.clear()
    run = ansible(tasks, "-vvv")
    assert run.rc == 0 and remote_calls(run) == 1
    assert lying_in(dest) == FILES
    assert asked == [
        ("/manifest.yml", None), ("/ascend/toolkit_1.run", None), ("/ascend/toolkit_1.run", f"bytes={len(BIG) // 2}-"),
        ("/wheels/aarch64/a-1-py3-none-any.whl", None), ("/wheels/aarch64/b-1-py3-none-any.whl", None),
    ]  # fmt: skip
    assert not ansible(tasks).result("media")["changed"]
    (source / "wheels/aarch64/b-1-py3-none-any.whl").unlink()
    run = ansible([media(url, tmp_path / "another", "wheels/aarch64/b-1-py3-none-any.whl")])
    assert run.result("media")["msg"] == (
        f"wheels/aarch64/b-1-py3-none-any.whl can't be had: {url}/wheels/aarch64/b-1-py3-none-any.whl answers 404 Not Found; "
        "put the file on the mirror (it comes from the vendor's page), or correct media_source"
    )


def test_index(ansible, source):
    (source / "wheels/aarch64/c-2.5-py3-none-any.whl").write_bytes(b"c")
    (source / "ascend/toolkit_1.run").unlink()
    task = {"name": "index", "npuops.ktransformers.media": {"source": "../media", "state": "indexed"}}
    before = (source / "manifest.yml").read_text()
    run = ansible([task], "--check", "--diff")
    assert run.result("index")["changed"] and (source / "manifest.yml").read_text() == before
    assert "+- path: wheels/aarch64/c-2.5-py3-none-any.whl" in run.output
    result = ansible([task]).result("index")
    assert (result["added"], result["updated"], result["removed"]) == (["wheels/aarch64/c-2.5-py3-none-any.whl"], [], ["ascend/toolkit_1.run"])
    files = {entry["path"]: entry for entry in yaml.safe_load((source / "manifest.yml").read_text())["files"]}
    assert files["wheels/aarch64/c-2.5-py3-none-any.whl"]["version"] == "2.5"
    assert files["wheels/aarch64/a-1-py3-none-any.whl"]["origin"] == "the vendor's page"
    assert not ansible([task]).result("index")["changed"]
