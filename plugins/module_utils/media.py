# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the media on a node: which are there, fetch the others over HTTP, put arrived ones in place.

A file is only ever seen under its name when its checksum is right: what is on its way has a hidden name beside it,
`.<name>.<first digits of its sha256>.part`, and an interrupted download goes on there.
Checksums of what is in place are remembered in `.npuops-sums.json` by size, time of change and inode, so that a
finished node does not read gigabytes again.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from .file_digest import sha256_of

SUMS = ".npuops-sums.json"
LOCK = ".npuops-media.lock"
MANIFEST = "manifest.yml"
_CHUNK = 1 << 20
_NETWORK_ERRORS = (errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT)


class MediaError(Exception):
    """A file of the media that can't be had or isn't what it should be; the text is for the user."""


class File(t.NamedTuple):
    """What the manifest says of a file that is wanted."""

    name: str  # path below the media, with /
    sha256: str
    size: t.Optional[int] = None  # bytes
    origin: t.Optional[str] = None
    supplier: t.Optional[str] = None

    def path(self, dest: str) -> str:
        return os.path.join(dest, *self.name.split("/"))

    def partial(self, dest: str) -> str:
        folder, name = os.path.split(self.path(dest))
        return os.path.join(folder, f".{name}.{self.sha256[:12]}.part")

    def comes_from(self) -> str:
        """Where it can be had, for the end of a sentence; empty when the manifest doesn't say."""
        words = f"it comes from {self.origin}" if self.origin else ""
        return words + (("; " if words else "") + f"its supplier is {self.supplier}" if self.supplier else "")


def check_name(name: str) -> str:
    """The name, when it stays below the media folder. Raises MediaError."""
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise MediaError(f"{name!r} is no name in the media: it must be a relative path without '..', as in ascend/NAME.run")
    if parts[-1] in (SUMS, LOCK):
        raise MediaError(f"{name!r} is no name in the media: files of that name are kept by this collection itself")
    return name


class Sums:
    """Checksums of the files below `folder`, read again only when size, time of change or inode differ."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = os.path.join(folder, SUMS)
        self._changed = False
        self._known: t.Dict[str, t.Any] = {}
        try:
            with open(self._path, encoding="utf-8") as file:
                known = json.load(file)
            if isinstance(known, dict):
                self._known = known
        except (OSError, ValueError):
            pass

    def of(self, name: str) -> str:
        """sha256 of a file by its name below the folder. Raises OSError."""
        path = os.path.join(self._folder, *name.split("/"))
        key = self._key(os.stat(path))
        entry = self._known.get(name)
        if isinstance(entry, dict) and entry.get("key") == key and isinstance(entry.get("sha256"), str):
            return entry["sha256"]
        value = sha256_of(path)
        self._keep(name, key, value)
        return value

    def remember(self, name: str, value: str) -> None:
        """Keep a checksum that was just computed."""
        self._keep(name, self._key(os.stat(os.path.join(self._folder, *name.split("/")))), value)

    def keep_only(self, names: t.Collection[str]) -> None:
        """Forget files that are not there any more."""
        gone = [name for name in self._known if name not in names]
        for name in gone:
            del self._known[name]
        self._changed = self._changed or bool(gone)

    def save(self) -> None:
        """Write what was learned; a folder that can't be written only costs time the next time."""
        if self._changed:
            with contextlib.suppress(OSError):
                with open(self._path + ".new", "w", encoding="utf-8") as file:
                    json.dump(self._known, file, indent=0, sort_keys=True)
                os.replace(self._path + ".new", self._path)

    def _keep(self, name: str, key: t.List[int], value: str) -> None:
        self._known[name] = {"key": key, "sha256": value}
        self._changed = True

    @staticmethod
    def _key(stat: os.stat_result) -> t.List[int]:
        return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def reason_to_fetch(dest: str, file: File, sums: Sums) -> t.Optional[str]:
    """Why `file` must be fetched, in words, or None when it is in place. Raises MediaError, OSError."""
    path = file.path(dest)
    try:
        size = os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return "is not there"
    if not os.path.isfile(path):
        raise MediaError(f"{path} is in the way: it is not a file; move it away")
    if file.size is not None and size != file.size:
        return f"has {size} bytes instead of {file.size}"
    found = sums.of(file.name)
    return None if found == file.sha256 else f"has sha256 {found[:12]}… instead of {file.sha256[:12]}…"


def free_bytes(folder: str) -> int:
    """Room for this user on the file system that `folder` is or will be on."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder) or "/"
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def make_folders(path: str) -> None:
    """The folder `path` with its parents, readable by everyone where they are made here."""
    if path and not os.path.isdir(path):
        make_folders(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            os.chmod(path, 0o755)


@contextlib.contextmanager
def one_at_a_time(dest: str) -> t.Iterator[None]:
    """Nobody else fetches into `dest` meanwhile (another play, or another node where it is a shared disk)."""
    make_folders(dest)
    fd = os.open(os.path.join(dest, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def place(dest: str, file: File, arrived: str, mode: int) -> None:
    """Put a file that has arrived (at its partial name, or anywhere) in place. Raises MediaError when it isn't the right one."""
    partial = file.partial(dest)
    make_folders(os.path.dirname(partial))
    if arrived != partial:
        shutil.copyfile(arrived, partial)
        with contextlib.suppress(OSError):
            os.unlink(arrived)
    _finish(dest, file, sha256_of(partial), mode, "arrived")


def finish_partial(dest: str, file: File, mode: int) -> bool:
    """Put a file in place that an earlier call had fetched whole when it was interrupted; whether there was one."""
    partial = file.partial(dest)
    if file.size is None or not os.path.isfile(partial) or os.path.getsize(partial) != file.size or sha256_of(partial) != file.sha256:
        return False
    _finish(dest, file, file.sha256, mode, "arrived")
    return True


def _finish(dest: str, file: File, found: str, mode: int, verb: str) -> None:
    partial = file.partial(dest)
    if found != file.sha256:
        size = os.path.getsize(partial)
        os.unlink(partial)
        of_size = "" if file.size is None else f" of {file.size} bytes"
        more = file.comes_from()
        raise MediaError(
            f"{file.name} {verb} with sha256 {found} ({size} bytes), but the manifest expects {file.sha256}{of_size}; get the file again"
            f"{' (' + more + ')' if more else ''}, or, if the new file is meant, index the media: ansible-playbook npuops.ktransformers.media"
        )
    os.chmod(partial, mode)
    with open(partial, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, file.path(dest))


# HTTP


class Mirror:
    """A mirror of the media: `url` is http(s), may hold user:password@, and files lie below it.

    Raises MediaError for what trying again doesn't help; the connection may drop `patience` times in a row without a byte.
    """

    def __init__(
        self, url: str, validate_certs: bool = True, timeout: float = 60.0, patience: int = 5, sleep: t.Callable[[float], None] = time.sleep
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MediaError(f"{url!r} is no mirror of the media: an address http://HOST/PATH or https://HOST/PATH is expected")
        netloc = parts.netloc.rpartition("@")[2]
        self.url = urllib.parse.urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
        self._headers = {"User-Agent": "npuops.ktransformers", "Accept-Encoding": "identity"}
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        context = ssl.create_default_context()
        if not validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        self._timeout = timeout
        self._patience = patience
        self._sleep = sleep

    def address(self, name: str) -> str:
        return f"{self.url}/{urllib.parse.quote(name)}"

    def read(self, name: str, limit: int = 64 << 20) -> bytes:
        """A small file as a whole."""
        for again in self._tries(name):
            with again, self._open(name, 0) as answer:
                announced = answer.length
                text = answer.read(limit)
                # Asked for an amount, http.client is silent about an answer that ends early.
                if announced is not None and len(text) < min(announced, limit):
                    raise http.client.IncompleteRead(text, announced - len(text))
                return text
        raise AssertionError("unreachable")

    def fetch(self, dest: str, file: File, mode: int) -> None:
        """Download `file` below `dest`; goes on where an earlier download was interrupted."""
        partial = file.partial(dest)
        make_folders(os.path.dirname(partial))
        resumed = os.path.exists(partial)
        try:
            found = self._download(file, partial)
            if found != file.sha256 and resumed:
                os.unlink(partial)  # what was there may have been damaged
                found = self._download(file, partial)
        except OSError as exc:
            raise MediaError(f"{file.name} can't be written to {partial}: {exc.strerror or exc}") from exc
        _finish(dest, file, found, mode, f"was downloaded from {self.address(file.name)}")

    def _download(self, file: File, partial: str) -> str:
        """Fill the partial file, across dropped connections; its sha256."""
        digest = hashlib.sha256()
        have = 0
        with open(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as target:
            for block in iter(lambda: target.read(_CHUNK), b""):
                digest.update(block)
                have += len(block)
            for again in self._tries(file.name, file):
                with again:
                    if file.size is not None and have >= file.size:
                        return digest.hexdigest()
                    with self._open(file.name, have, file) as answer:
                        if have and not _goes_on(answer, have):
                            target.seek(0)
                            target.truncate()
                            digest, have = hashlib.sha256(), 0
                        for block in iter(lambda: answer.read(_CHUNK), b""):  # noqa: B023 - used up within this turn
                            target.write(block)
                            digest.update(block)
                            have += len(block)
                            again.progress()
                            if file.size is not None and have > file.size:
                                return digest.hexdigest()  # longer than expected; the checksum will tell
                    if file.size is None or have == file.size:
                        return digest.hexdigest()
                    raise http.client.IncompleteRead(b"", file.size - have)
        raise AssertionError("unreachable")

    def _open(self, name: str, start: int, file: t.Optional[File] = None) -> t.Any:
        headers = dict(self._headers)
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            return self._opener.open(urllib.request.Request(self.address(name), headers=headers), timeout=self._timeout)
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code == 416:  # the partial file is longer than the file: start over
                return self._open(name, 0, file)
            if exc.code >= 500 or exc.code in (408, 425, 429):
                raise
            more = file.comes_from() if file else ""
            raise MediaError(
                f"{name} can't be had: {self.address(name)} answers {exc.code} {exc.reason}"
                f"; put the file on the mirror{' (' + more + ')' if more else ''}, or correct media_source"
            ) from exc
        except urllib.error.URLError as exc:
            if isinstance(exc.reason, ssl.SSLCertVerificationError):
                raise MediaError(
                    f"the certificate of {self.url} can't be verified ({exc.reason.verify_message}); install its CA on this computer"
                ) from exc
            raise

    def _tries(self, name: str, file: t.Optional[File] = None) -> t.Iterator[_Try]:
        """Attempts to use in a with block; a dropped connection ends one, too many without progress end all with MediaError."""
        fruitless = 0
        while True:
            attempt = _Try()
            yield attempt
            fruitless = 0 if attempt.progressed else fruitless + 1
            if fruitless >= self._patience:
                more = file.comes_from() if file else ""
                raise MediaError(
                    f"{name} can't be downloaded from {self.address(name)}: {attempt.error}; {self._patience} attempts in a row brought nothing"
                    f"; see whether the mirror can be reached from this computer{', or get the file by hand (' + more + ')' if more else ''}"
                )
            self._sleep(min(16.0, 0.5 * 2**fruitless))


class _Try:
    """Swallows what a dropped connection raises, and nothing else."""

    def __init__(self) -> None:
        self.error: t.Any = None
        self.progressed = False

    def progress(self) -> None:
        self.progressed = True

    def __enter__(self) -> _Try:
        return self

    def __exit__(self, kind: t.Any, error: t.Any, trace: t.Any) -> bool:
        self.error = getattr(error, "reason", None) or error
        if isinstance(error, (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, socket.timeout, ssl.SSLError)):
            return True
        return isinstance(error, OSError) and error.errno in _NETWORK_ERRORS


def _goes_on(answer: t.Any, start: int) -> bool:
    """Whether the mirror answers from `start` on (RFC 9110, 14.4), and not with the whole file."""
    if answer.status != 206:
        return False
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
    return match is not None and int(match.group(1)) == start
