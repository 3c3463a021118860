# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the media: what is in place, what a mirror that drops connections gives."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import re
import resource
import threading
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import media

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(CONTENT).hexdigest()
FILE = media.File("ascend/a b.run", SHA, len(CONTENT), "https://example.com/a", "the vendor")


@pytest.fixture
def dest(tmp_path):
    path = tmp_path / "dest"
    path.mkdir()
    return str(path)


class MirrorServer:
    """An HTTP server that answers as a test's list of plans says; a plan is one request's fate."""

    def __init__(self):
        self.plans = []
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
                plan = outer.plans.pop(0) if outer.plans else {}
                if "status" in plan:
                    self.send_error(plan["status"])
                    return
                body = plan.get("content", CONTENT)
                wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
                start = int(wanted.group(1)) if wanted and not plan.get("ignores_range") else 0
                if start and start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                self.wfile.write(body[start : start + plan.get("drop_after", len(body))])
                self.close_connection = True

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/media"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server():
    it = MirrorServer()
    yield it
    it.server.shutdown()
    it.server.server_close()


def mirror(server, **options):
    return media.Mirror(options.pop("url", server.url), sleep=lambda seconds: None, timeout=5, **options)


def fetched(dest, file=FILE):
    with open(file.path(dest), "rb") as handle:
        return handle.read()


def test_download(server, dest):
    mirror(server).fetch(dest, FILE, 0o640)
    assert fetched(dest) == CONTENT
    assert os.stat(FILE.path(dest)).st_mode & 0o7777 == 0o640
    assert server.requests == [("/media/ascend/a%20b.run", None, None)]
    assert os.listdir(os.path.join(dest, "ascend")) == ["a b.run"]


def test_a_dropped_connection_goes_on_where_it_broke(server, dest):
    server.plans = [{"drop_after": 300_000}, {"drop_after": 1}, {"status": 503}, {"drop_after": 0}]
    mirror(server).fetch(dest, FILE, 0o644)
    assert fetched(dest) == CONTENT
    assert [request[1] for request in server.requests] == [None, "bytes=300000-", *["bytes=300001-"] * 3]


def test_a_small_file_that_was_cut_is_asked_for_again(server):
    server.plans = [{"drop_after": 300_000}, {"drop_after": 0}]
    assert mirror(server).read(FILE.name) == CONTENT
    assert len(server.requests) == 3


def test_a_small_file_that_never_comes_whole_is_told_as_such(server):
    server.plans = [{"drop_after": 300_000}] * 2
    with pytest.raises(media.MediaError, match="can't be downloaded from .*IncompleteRead.*; 2 attempts in a row brought nothing"):
        mirror(server, patience=2).read(FILE.name)


def test_a_later_call_goes_on_too(server, dest):
    server.plans = [{"drop_after": 300_000}, *[{"status": 500}] * 5]
    with pytest.raises(media.MediaError) as caught:
        mirror(server).fetch(dest, FILE, 0o644)
    assert str(caught.value) == (
        f"ascend/a b.run can't be downloaded from {server.url}/ascend/a%20b.run: Internal Server Error; 5 attempts in a row brought nothing; see whether "
        "the mirror can be reached from this computer, or get the file by hand (it comes from https://example.com/a; its supplier is the vendor)"
    )
    assert not os.path.exists(FILE.path(dest))
    server.requests.clear()
    mirror(server).fetch(dest, FILE, 0o644)
    assert fetched(dest) == CONTENT
    assert [request[1] for request in server.requests] == ["bytes=300000-"]


@pytest.mark.parametrize(
    "before, plans",
    [
        pytest.param(CONTENT[:1000], [{"ignores_range": True}], id="mirror-without-ranges"),
        pytest.param(b"x" * 1000, [], id="damaged-partial-file"),
        pytest.param(b"x" * (len(CONTENT) + 5), [], id="partial-file-too-long"),
        pytest.param(CONTENT, [], id="partial-file-complete"),
    ],
)
@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["size-known", "size-unknown"])
def test_what_an_earlier_download_left(server, dest, before, plans, size):
    file = FILE._replace(size=size)
    os.makedirs(os.path.dirname(file.partial(dest)))
    with open(file.partial(dest), "wb") as handle:
        handle.write(before)
    server.plans = list(plans)
    mirror(server).fetch(dest, file, 0o644)
    assert fetched(dest) == CONTENT


@pytest.mark.parametrize("content", [b"x" * len(CONTENT), CONTENT + b"x"], ids=["other", "longer"])
def test_a_wrong_file_is_refused(server, dest, content):
    server.plans = [{"content": content}]
    with pytest.raises(media.MediaError) as caught:
        mirror(server).fetch(dest, FILE, 0o644)
    found = hashlib.sha256(content).hexdigest()
    assert str(caught.value) == (
        f"ascend/a b.run was downloaded from {server.url}/ascend/a%20b.run with sha256 {found} ({len(content)} bytes), but the manifest expects {SHA} "
        f"of {len(CONTENT)} bytes; get the file again (it comes from https://example.com/a; its supplier is the vendor), or, if the new file is meant, "
        "index the media: ansible-playbook npuops.ktransformers.media"
    )
    assert os.listdir(os.path.join(dest, "ascend")) == []


def test_a_file_that_the_mirror_does_not_have(server, dest):
    server.plans = [{"status": 404}]
    with pytest.raises(media.MediaError) as caught:
        mirror(server).fetch(dest, FILE, 0o644)
    assert str(caught.value) == (
        f"ascend/a b.run can't be had: {server.url}/ascend/a%20b.run answers 404 Not Found; put the file on the mirror "
        "(it comes from https://example.com/a; its supplier is the vendor), or correct media_source"
    )
    assert len(server.requests) == 1


def test_a_mirror_that_is_not_there(dest):
    with pytest.raises(media.MediaError, match="Connection refused; 5 attempts in a row brought nothing"):
        media.Mirror("http://127.0.0.1:9", sleep=lambda seconds: None).fetch(dest, FILE, 0o644)


def test_a_mirror_with_a_password(server, dest):
    it = mirror(server, url=server.url.replace("http://", "http://me:p%40ss@"))
    it.fetch(dest, FILE, 0o644)
    assert server.requests[0][2] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert "p@ss" not in it.address("x") and "p%40ss" not in it.address("x")


@pytest.mark.parametrize("url", ["ftp://host/x", "http://", "file:///etc", "host/x"])
def test_an_address_that_is_none(url):
    with pytest.raises(media.MediaError, match="is no mirror of the media"):
        media.Mirror(url)


def test_a_disk_that_takes_no_more_is_named(server, dest):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(media.MediaError) as caught:
            mirror(server).fetch(dest, FILE, 0o644)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"ascend/a b.run can't be written to {FILE.partial(dest)}: File too large"
    assert len(server.requests) == 1


# What is in place


def lay(dest, content, file=FILE):
    os.makedirs(os.path.dirname(file.path(dest)), exist_ok=True)
    with open(file.path(dest), "wb") as handle:
        handle.write(content)


@pytest.mark.parametrize(
    "content, reason",
    [
        pytest.param(None, "is not there", id="absent"),
        pytest.param(b"x", f"has 1 bytes instead of {len(CONTENT)}", id="truncated"),
        pytest.param(
            b"x" * len(CONTENT), f"has sha256 {hashlib.sha256(b'x' * len(CONTENT)).hexdigest()[:12]}… instead of {SHA[:12]}…", id="another"
        ),
        pytest.param(CONTENT, None, id="right"),
    ],
)
def test_reason_to_fetch(dest, content, reason):
    if content is not None:
        lay(dest, content)
    assert media.reason_to_fetch(dest, FILE, media.Sums(dest)) == reason


def test_a_folder_in_the_way(dest):
    os.makedirs(FILE.path(dest))
    with pytest.raises(media.MediaError, match="is in the way: it is not a file; move it away"):
        media.reason_to_fetch(dest, FILE, media.Sums(dest))


def test_checksums_are_remembered_until_the_file_changes(dest, monkeypatch):
    lay(dest, CONTENT)
    hashed = []
    real = media.sha256_of
    monkeypatch.setattr(media, "sha256_of", lambda path: hashed.append(path) or real(path))

    def ask():
        sums = media.Sums(dest)
        reason = media.reason_to_fetch(dest, FILE, sums)
        sums.save()
        return reason

    assert (ask(), ask(), len(hashed)) == (None, None, 1)
    time.sleep(0.02)
    lay(dest, b"y" * len(CONTENT))
    assert ask() is not None and len(hashed) == 2


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"ascend/a b.run": 5}', '{"ascend/a b.run": {"key": [1], "sha256": 5}}'])
def test_a_damaged_memory_only_costs_time(dest, junk):
    lay(dest, CONTENT)
    with open(os.path.join(dest, media.SUMS), "w", encoding="utf-8") as file:
        file.write(junk)
    assert media.Sums(dest).of(FILE.name) == SHA


def test_place(dest, tmp_path):
    arrived = tmp_path / "arrived"
    arrived.write_bytes(CONTENT)
    media.place(dest, FILE, str(arrived), 0o755)
    assert fetched(dest) == CONTENT and not arrived.exists()
    assert os.stat(FILE.path(dest)).st_mode & 0o7777 == 0o755


def test_place_refuses_what_was_damaged_on_the_way_and_keeps_the_old_file(dest):
    lay(dest, b"old")
    with open(FILE.partial(dest), "wb") as file:
        file.write(b"new")
    with pytest.raises(media.MediaError, match=r"ascend/a b\.run arrived with sha256 [0-9a-f]{64} \(3 bytes\), but the manifest expects "):
        media.place(dest, FILE, FILE.partial(dest), 0o644)
    assert fetched(dest) == b"old" and not os.path.exists(FILE.partial(dest))


@pytest.mark.parametrize(
    "content, done",
    [
        pytest.param(CONTENT, True, id="whole"),
        pytest.param(CONTENT[:-1], False, id="a-part"),
        pytest.param(b"x" * len(CONTENT), False, id="damaged"),
        pytest.param(None, False, id="none"),
    ],
)
def test_finish_partial(dest, content, done):
    media.make_folders(os.path.join(dest, "ascend"))
    if content is not None:
        with open(FILE.partial(dest), "wb") as file:
            file.write(content)
    assert media.finish_partial(dest, FILE, 0o644) is done
    assert os.path.exists(FILE.path(dest)) is done


@pytest.mark.parametrize(
    "name, good",
    [
        ("ascend/a.run", True), ("wheels/aarch64/", True), ("a..b", True), ("a", True),
        ("/etc/passwd", False), ("../x", False), ("a/../../x", False), ("a//b", False), ("", False), (".", False), ("./a", False),
        ("a\\b", False), ("a\0b", False), ("a/..", False), ("/", False), (".npuops-sums.json", False), ("x/.npuops-media.lock", False),
    ],
)  # fmt: skip
def test_names(name, good):
    if good:
        assert media.check_name(name) == name
    else:
        with pytest.raises(media.MediaError, match="is no name in the media"):
            media.check_name(name)


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path):
    assert media.free_bytes(str(tmp_path / "a" / "b")) > 0
