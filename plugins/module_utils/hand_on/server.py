# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves a merged folder, or one that is still being received, to nodes that have the token.

  GET /status[?seen=N]  what is here: id, node, plan, complete, receiving {done, rate}, version, files {name: [size, digest, sha256]}
                        (left out when the client has seen this version already)
  GET /manifest         the manifest, when the folder is complete
  GET /file/NAME        a file that the manifest or the journal lists; one range (RFC 9110, 14) is honoured
  GET /sum/NAME         {"sha256": its checksum, null while it is being computed}

Each with `Authorization: Bearer TOKEN`. A name is only looked up among those listed, never joined to a path otherwise.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import hmac
import http.server
import json
import os
import re
import socket
import sys
import threading
import time
import typing as t
import urllib.parse

from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import folder
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on.folder import HandOnError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest

ENDPOINT = "endpoint.json"
SUMS = "sums.json"
_SLICE = 8 << 20  # bytes between two looks at the clock
_SUM_THREADS = 2


def say(line: str) -> None:
    """A line for the job's log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Shelf:
    """What the folder offers at the moment; read again when manifest or journal have changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.records: t.Dict[str, manifest.Record] = {}
        self.plan: t.Optional[str] = None
        self.complete = False
        self.version = 0
        self._seen: t.Any = None
        self._lock = threading.Lock()

    def refresh(self) -> None:
        with self._lock:
            seen = [self._stamp(name) for name in (manifest.MANIFEST, manifest.JOURNAL)]
            if seen == self._seen:
                return
            here = folder.look(self.path)
            records = {name: record for name, record in manifest.load_records(self.path).items() if folder.untouched(self.path, record)}
            self.records, self.plan, self.complete = records, here.plan, here.complete
            self._seen = seen
            self.version += 1

    def _stamp(self, name: str) -> t.Optional[t.Tuple[int, int, int]]:
        try:
            info = os.stat(os.path.join(manifest.work_folder(self.path), name))
        except OSError:
            return None
        return info.st_size, info.st_mtime_ns, info.st_ino

    def receiving(self) -> t.Optional[t.Dict[str, t.Any]]:
        """How far the job is that fills the folder; None when nobody does."""
        state = job.status(manifest.work_folder(self.path))
        return {"done": state["done"] or 0, "rate": state["rate"]} if state["state"] == "running" else None


class Sums:
    """Checksums of the folder's files, computed when they are asked for and kept in `path` by size, time and inode."""

    def __init__(self, shelf: Shelf, path: str) -> None:
        self._shelf = shelf
        self._path = path
        self._known: t.Dict[str, t.Any] = {}
        self._queue: t.Deque[str] = collections.deque()
        self._busy: t.Set[str] = set()
        self._cond = threading.Condition()
        with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            known = json.load(file)
            self._known = known if isinstance(known, dict) else {}
        for _number in range(_SUM_THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def of(self, record: manifest.Record) -> t.Optional[str]:
        """The checksum of a file, when it is known."""
        if record.sha256:
            return record.sha256
        entry = self._known.get(record.name)
        return entry["sha256"] if isinstance(entry, dict) and entry.get("key") == self._key(record.name) else None

    def ask(self, record: manifest.Record) -> t.Optional[str]:
        """The same, and have it computed when it isn't."""
        found = self.of(record)
        if found is None:
            with self._cond:
                if record.name not in self._busy:
                    self._busy.add(record.name)
                    self._queue.append(record.name)
                    self._cond.notify()
        return found

    def _key(self, name: str) -> t.Optional[t.List[int]]:
        try:
            info = os.stat(os.path.join(self._shelf.path, name))
        except OSError:
            return None
        return [info.st_size, info.st_mtime_ns, info.st_ino]

    def _work(self) -> None:
        while True:
            with self._cond:
                while not self._queue:
                    self._cond.wait()
                name = self._queue.popleft()
            key = self._key(name)
            try:
                digest = hashlib.sha256()
                with open(os.path.join(self._shelf.path, name), "rb", buffering=0) as file:
                    for block in iter(lambda: file.read(1 << 20), b""):  # noqa: B023 - used up within this turn
                        digest.update(block)
            except OSError as exc:
                say(f"{name} can't be read: {exc.strerror}")
                key = None
            with self._cond:
                self._busy.discard(name)
                if key is not None and key == self._key(name):
                    self._known[name] = {"key": key, "sha256": digest.hexdigest()}
                    self._save()

    def _save(self) -> None:
        with contextlib.suppress(OSError):  # only costs time the next time
            with open(self._path + ".new", "w", encoding="utf-8") as file:
                json.dump(self._known, file, indent=0, sort_keys=True)
            os.replace(self._path + ".new", self._path)


class Server(http.server.ThreadingHTTPServer):
    """Serves `path` until told to stop; `quiet` tells how many seconds nobody has asked for anything."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, token: str, bind: t.Tuple[str, int], ident: str, sums_path: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
        self.shelf = Shelf(path)
        self.ident = ident
        self.sent = 0
        self.lock = threading.Lock()
        self._token = token.encode("utf-8")
        self._last = time.monotonic()
        super().__init__(bind, Handler)
        self.sums = Sums(self.shelf, sums_path)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # `::` answers IPv4, too
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # HTTPServer's own would ask the name server for the name of the address, which may take long and is for nothing here.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def allows(self, header: t.Optional[str]) -> bool:
        kind, _blank, value = (header or "").partition(" ")
        return hmac.compare_digest(value.strip().encode("utf-8", "replace"), self._token) and kind.lower() == "bearer"

    def moved(self, count: int) -> None:
        with self.lock:
            self.sent += count
            self._last = time.monotonic()

    def quiet(self) -> float:
        return time.monotonic() - self._last

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError, socket.timeout)):
            say(f"{client_address[0]}: {type(error).__name__}: {error}")


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "npuops"
    sys_version = ""
    timeout = 60.0  # seconds without a byte
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        if not self.server.allows(self.headers.get("Authorization")):
            self.close_connection = True
            self._answer(401, b"{}", {"WWW-Authenticate": "Bearer", "Connection": "close"})
            return
        self.server.moved(0)
        path, _mark, query = self.path.partition("?")
        head, _slash, rest = path[1:].partition("/")
        name = urllib.parse.unquote(rest)
        self.server.shelf.refresh()
        record = self.server.shelf.records.get(name)
        if head == "status" and not rest:
            self._status(query)
        elif head == "manifest" and not rest:
            self._manifest()
        elif head == "file" and record is not None:
            self._file(record)
        elif head == "sum" and record is not None:
            self._json({"sha256": self.server.sums.ask(record)})
        else:
            self._answer(404, b"{}")

    def _status(self, query: str) -> None:
        server, shelf = self.server, self.server.shelf
        value: t.Dict[str, t.Any] = {
            "format": 1, "id": server.ident, "node": folder.node(), "plan": shelf.plan, "complete": shelf.complete, "version": shelf.version,
            "receiving": None if shelf.complete else shelf.receiving(),
        }
        if query != f"seen={shelf.version}":
            value["files"] = {record.name: [record.size, record.digest, server.sums.of(record)] for record in shelf.records.values()}
        self._json(value)

    def _manifest(self) -> None:
        try:
            with open(manifest.manifest_path(self.server.shelf.path), "rb") as file:
                raw = file.read()
        except OSError:
            self._answer(404, b"{}")
            return
        self._answer(200 if self.server.shelf.complete else 404, raw if self.server.shelf.complete else b"{}")

    def _file(self, record: manifest.Record) -> None:
        path = os.path.join(self.server.shelf.path, record.name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._answer(404, b"{}")
            return
        with open(fd, "rb", buffering=0) as file:
            info = os.fstat(fd)
            if (info.st_size, info.st_mtime_ns) != (record.size, record.mtime_ns):
                self._answer(409, b"{}")  # changed since it was merged, or arrived
                return
            wanted = wanted_range(self.headers.get("Range"), record.size)
            if wanted is None:
                self._answer(416, b"{}", {"Content-Range": f"bytes */{record.size}"})
                return
            start, end = wanted
            self.send_response(206 if self.headers.get("Range") else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            if self.headers.get("Range"):
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{record.size}")
            self.end_headers()
            self._send(file, start, end)

    def _send(self, file: t.Any, start: int, end: int) -> None:
        self.wfile.flush()
        while start < end:
            count = self.connection.sendfile(file, start, min(_SLICE, end - start))
            if not count:
                self.close_connection = True  # the file has become shorter: the client sees that bytes are missing
                return
            start += count
            self.server.moved(count)

    def _json(self, value: t.Any) -> None:
        self._answer(200, json.dumps(value).encode("utf-8"))

    def _answer(self, code: int, body: bytes, headers: t.Optional[t.Dict[str, str]] = None) -> None:
        self.send_response(code)
        for name, value in dict({"Content-Type": "application/json"}, **(headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: t.Any = "-", size: t.Any = "-") -> None:
        """Files that go out, and who was refused; not who looks whether there is more."""
        if int(code) >= 400 or self.path.startswith("/file/"):
            super().log_request(code, size)

    def log_message(self, format: str, *args: t.Any) -> None:  # noqa: A002
        text = (format % args).encode("ascii", "backslashreplace").decode("ascii")
        say(f"{time.strftime('%H:%M:%S')} {self.client_address[0]} {text}")


def wanted_range(header: t.Optional[str], size: int) -> t.Optional[t.Tuple[int, int]]:
    """(first byte, byte after the last) of a Range header over `size` bytes; all of them without one, None when it can't be had."""
    if header is None:
        return 0, size
    match = re.fullmatch(r"bytes=(\d{0,20})-(\d{0,20})", header.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:  # the last so many bytes
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


def serve(path: str, token: str, address: str, port: int, job_dir: str, idle_seconds: float) -> t.Callable[[job.Progress], t.Dict[str, t.Any]]:
    """The work of a server's job: serve until it is stopped, or nobody has asked for anything for `idle_seconds`.

    job_dir gets endpoint.json, by which the starter learns the port, and sums.json.
    """

    def work(progress: job.Progress) -> t.Dict[str, t.Any]:
        ident = os.urandom(16).hex()
        server = listen(path, token, address, port, ident, os.path.join(job_dir, SUMS))
        nonce = leave_nonce(path, ident)
        try:
            bound = str(server.server_address[0])
            write_endpoint(job_dir, {"port": server.server_port, "bound": bound, "id": ident, "nonce": nonce})
            progress.log(f"serves {path} on {bound} port {server.server_port}")
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
            while server.quiet() < idle_seconds:
                progress.update(server.sent, message=f"serves {path}")
                time.sleep(min(1.0, idle_seconds / 4))
            progress.log(f"nobody has asked for anything for {idle_seconds:.0f} s")
        finally:
            server.server_close()
            remove(nonce)
        return {"sent": server.sent}

    return work


def listen(path: str, token: str, address: str, port: int, ident: str, sums_path: str) -> Server:
    """A server that listens on `address`, or on all when that is none of this node's (a name, or what others reach). Raises HandOnError."""
    tried = None
    for host in [*_local(address), "::", "0.0.0.0"]:
        try:
            return Server(path, token, (host, port), ident, sums_path)
        except OSError as exc:
            tried = exc
            if port and exc.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                break
    raise HandOnError(f"port {port} of {folder.node()} can't be listened on: {tried.strerror if tried else ''}; choose another port, or 0 for a free one")


def _local(address: str) -> t.List[str]:
    """The address, when it is a number; a name may lead to a loopback address on its own node."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, address)
            return [address]
    return []


def primary_address() -> str:
    """The address of this node that others reach: that of the default route, else of its name, else of this node alone."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))  # sends nothing
            return str(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, 0, socket.SOCK_STREAM)]
        return next((address for address in found if not address.startswith(("127.", "::1", "fe80"))), "127.0.0.1")
    return "127.0.0.1"


def urls(address: str, port: int, bound: str) -> t.List[str]:
    """How others reach the server: by the address that was named, then by the node's own, as far as it listens there."""
    everywhere = bound in ("::", "0.0.0.0")
    found = [address] if address else []
    if everywhere or not address:
        found.append(primary_address() if everywhere else bound)
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}" for name in dict.fromkeys(found)]


def leave_nonce(path: str, ident: str) -> t.Optional[str]:
    """A mark in the folder by which others see that it is theirs, too; None where this node may not write."""
    mark = folder.nonce_path(path, ident)
    if mark is None:
        return None
    try:
        os.makedirs(os.path.dirname(mark), exist_ok=True)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))
    except OSError:
        return None
    return mark


def remove(path: t.Optional[str]) -> None:
    if path:
        with contextlib.suppress(OSError):
            os.unlink(path)


def write_endpoint(job_dir: str, value: t.Dict[str, t.Any]) -> None:
    path = os.path.join(job_dir, ENDPOINT)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(dict(value, pid=os.getpid()), file)
    os.replace(path + ".new", path)


def read_endpoint(job_dir: str) -> t.Dict[str, t.Any]:
    """Where the server of this job listens; {} when it doesn't say."""
    try:
        with open(os.path.join(job_dir, ENDPOINT), encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def stop(job_dir: str) -> bool:
    """End the server of this job and clear away what it left but its checksums; whether there was something. Raises JobError."""
    there = job.status(job_dir)["state"] != "absent"
    job.stop(job_dir)
    remove(read_endpoint(job_dir).get("nonce"))
    job.reset(job_dir)
    for name in (ENDPOINT, "log", "log.previous"):
        remove(os.path.join(job_dir, name))
    with contextlib.suppress(OSError):
        os.rmdir(job_dir)
    return there
