# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Receives a merged folder from other nodes: several files at a time, resumed, checksummed on arrival.

Servers are given in order of preference. A file is taken from the first one that is alive, not slow and has it; for one that is
itself still receiving at a good pace is waited. Bytes that have arrived are kept when the server, or this process, dies.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import threading
import time
import typing as t
import urllib.parse

from ansible_collections.npuops.ktransformers.plugins.module_utils import job
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import folder
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on.folder import HandOnError, Wanted
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on.peer import BadAnswer, Pace, Peer, PeerError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import shortened

DIGEST = "hand-on:"  # what the digest of a receiving job begins with
_CHUNK = 1 << 20
_ATTEMPTS = 3  # for one file with one server
_CACHE = 4 << 30  # bytes of arrived files that are left in the page cache, for those who take them from here
_LOOK = 1.0  # seconds between two questions to the server that is being used
_LOOK_AROUND = 10.0  # and to the others


class Options(t.NamedTuple):
    """reserve: bytes to leave free; connections: files at a time; timeout: seconds without a byte, patience: without any from anybody."""

    reserve: int = 1 << 30
    connections: int = 4
    timeout: float = 30.0
    patience: float = 300.0
    pace: Pace = Pace()


class _Slow(Exception):
    """Another server is worth a try."""


class Receiver:
    """Fills `dest` from `urls`. plan: digest of the merge that is wanted; None takes that of the first server which has a whole one."""

    def __init__(self, dest: str, urls: t.Sequence[str], token: str, plan: t.Optional[str], options: Options, progress: t.Any) -> None:
        self._dest = dest
        self._plan = plan
        self._options = options
        self._progress = progress
        self._peers = [Peer(url, token, options.timeout, options.pace) for url in dict.fromkeys(urls)]
        self._cond = threading.Condition()
        self._over = False
        self._failure: t.Optional[BaseException] = None
        self._last = time.monotonic()
        self._records: t.Dict[str, manifest.Record] = {}
        self._todo: t.Dict[str, manifest.Record] = {}
        self._going: t.Set[str] = set()
        self._tries: t.Dict[t.Tuple[str, str], int] = {}
        self._damage: t.Dict[str, str] = {}
        self._sums: t.Dict[str, t.Tuple[int, t.Any]] = {}  # of parts: length and digest so far
        self._old: t.Set[str] = set()  # files whose beginning is of an earlier run
        self._arrived: t.List[t.Tuple[str, int]] = []
        self._done = 0
        self._total = 0
        self._resumed = 0
        self._journal: t.Optional[manifest.Journal] = None

    def run(self) -> t.Dict[str, t.Any]:
        """Receive everything. Returns figures. Raises HandOnError, WeightsError; what has arrived is kept for the next run."""
        started = time.monotonic()
        for peer in self._peers:
            threading.Thread(target=self._watch, args=(peer,), daemon=True).start()
        try:
            wanted = self._ask_what_is_wanted()
            self._prepare(wanted)
            try:
                self._receive()
            finally:
                with self._cond:
                    self._close_journal()
            folder.finish(self._dest, wanted, self._records)
        finally:
            with self._cond:
                self._over = True
                self._cond.notify_all()
        return {
            "files": len(self._arrived), "received_bytes": sum(peer.taken for peer in self._peers), "resumed_bytes": self._resumed,
            "receive_seconds": round(time.monotonic() - started, 3), "plan": wanted.plan,
            "servers": [{"node": peer.node, "url": peer.url, "bytes": peer.taken} for peer in self._peers if peer.taken],
        }

    # What is wanted

    def _ask_what_is_wanted(self) -> Wanted:
        """The manifest of a server that has the whole merge."""
        while True:
            with self._cond:
                now = time.monotonic()
                whole = [peer for peer in self._peers if peer.alive(now) and peer.complete and self._plan in (None, peer.plan)]
                self._check_patience(now)
                if not whole:
                    self._progress.update(0, message="waits for a server")
                    self._cond.wait(0.5)
                    continue
            for peer in whole:
                line = peer.connect()
                try:
                    wanted = folder.parse(peer.whole(line, "/manifest"), f"{peer.node} ({peer.url})")
                except PeerError as exc:
                    with self._cond:
                        peer.failed(time.monotonic(), exc)
                    continue
                finally:
                    line.close()
                if self._plan in (None, wanted.plan):
                    return wanted

    def _prepare(self, wanted: Wanted) -> None:
        dest = self._dest
        kept, missing = folder.compare(dest, wanted)
        known = dict(manifest.load_records(dest), **wanted.records)
        foreign = folder.foreign_weights(dest, known)
        if foreign:
            raise HandOnError(folder.foreign_words(dest, foreign))
        folder.clear(dest, wanted, kept)
        self._todo = {name: wanted.records[name] for name in missing}
        self._total = sum(record.size for record in self._todo.values())
        parts = sum(min(record.size, self._part_size(record)) for record in self._todo.values())
        room = folder.too_little_room(dest, self._total - parts, self._options.reserve)
        if room:
            raise HandOnError(room)
        try:
            os.makedirs(manifest.work_folder(dest), exist_ok=True)
        except OSError as exc:
            raise HandOnError(f"{dest} can't be made: {exc.strerror}; choose another folder, or run the task with become")
        self._records = dict(kept)
        if missing or manifest.load(dest) is None:
            self._journal = manifest.Journal(dest, kept.values())
        for name, why in list(missing.items())[:3]:
            self._progress.log(f"{name} {why}")
        self._progress.log(f"{len(kept)} of {len(wanted.records)} files are there, {self._total} bytes are to come, {parts} of them have come before")
        self._last = time.monotonic()

    def _part_size(self, record: manifest.Record) -> int:
        """Bytes on disk that need not come, or can be replaced one by one."""
        for path in (folder.partial(self._dest, record), os.path.join(self._dest, record.name)):
            if os.path.isfile(path):
                return os.path.getsize(path)
        return 0

    def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.flush()
            journal.close()

    # Servers

    def _watch(self, peer: Peer) -> None:
        """Ask a server what it has, again and again; more often while it is used."""
        line = peer.connect()
        asked = 0.0
        while True:
            with self._cond:
                while not self._over:
                    now = time.monotonic()
                    pause = _LOOK if peer.ident is None or peer is self._preferred(now) else _LOOK_AROUND
                    if peer.due(now) and now - asked >= pause:
                        break
                    self._cond.wait(0.25)
                if self._over:
                    line.close()
                    return
            try:
                status = peer.status(line)
                error = None
            except PeerError as exc:
                status, error = {}, exc
            asked = time.monotonic()
            with self._cond:
                try:
                    if error is not None:
                        raise error
                    peer.heard(asked, status)
                except PeerError as exc:
                    if str(exc) != peer.error:
                        self._progress.log(str(exc))
                    peer.failed(asked, exc)
                self._cond.notify_all()

    def _preferred(self, now: float) -> t.Optional[Peer]:
        return next((peer for peer in self._peers if peer.alive(now) and not peer.slow(now)), None)

    def _pick(self, now: float) -> t.Optional[t.Tuple[Peer, manifest.Record]]:
        """The next file and who gives it; None when there is nothing to do but wait."""
        slow: t.List[t.Tuple[Peer, manifest.Record]] = []
        for peer in self._peers:
            if not peer.alive(now):
                continue
            record = next((record for record in self._todo.values() if peer.offers(record)), None)
            if peer.slow(now):
                if record is not None:
                    slow.append((peer, record))
            elif record is not None:
                return peer, record
            elif peer.growing(now):
                return None
        return max(slow, key=lambda pair: pair[0].slow_rate) if slow else None

    def _better(self, now: float, than: Peer, record: manifest.Record) -> bool:
        """Whether another server could give the file faster."""
        return any(peer is not than and peer.alive(now) and not peer.slow(now) and peer.offers(record) for peer in self._peers)

    def _check_patience(self, now: float) -> None:
        """Raise HandOnError when it is no use to wait any longer."""
        refused = [peer for peer in self._peers if peer.refused]
        if len(refused) == len(self._peers):
            raise HandOnError(f"no server lets this node in: {refused[0].error}; run the playbook again")
        if now - self._last < self._options.patience:
            return
        words = "; ".join(dict.fromkeys(peer.error or f"{peer.node} ({peer.url}) has nothing that is wanted" for peer in self._peers))
        what = f"{shortened(self._todo)} can't be had" if self._todo else "nobody has the whole merge"
        raise HandOnError(
            f"{what}, for {self._options.patience:.0f} s nothing has come: {words}; see that this node reaches one of them "
            "(firewall, weights_merge_hand_on_address), then run the playbook again: what has arrived is kept"
        )

    # Files

    def _receive(self) -> None:
        self._progress.update(0, self._total or None, "receives")
        workers = [threading.Thread(target=self._work, daemon=True) for _number in range(min(self._options.connections, len(self._todo)))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        lines: t.Dict[str, http.client.HTTPConnection] = {}
        try:
            while True:
                with self._cond:
                    now = time.monotonic()
                    if self._failure is not None or not self._todo and not self._going:
                        return
                    pick = self._pick(now)
                    if pick is None:
                        if not self._going:
                            self._check_patience(now)
                        self._cond.wait(0.5)
                        continue
                    peer, record = pick
                    del self._todo[record.name]
                    self._going.add(record.name)
                self._one(peer, record, lines.setdefault(peer.url, peer.connect()))
        except BaseException as exc:  # pylint: disable=broad-except
            with self._cond:
                self._failure = self._failure or exc
                self._cond.notify_all()
        finally:
            for line in lines.values():
                line.close()

    def _one(self, peer: Peer, record: manifest.Record, line: http.client.HTTPConnection) -> None:
        """Try to get a file from a server; when it fails, the file waits for another try."""
        name = record.name
        try:
            done = self._get(peer, record, line)
            with self._cond:
                self._going.discard(name)
                self._records[name] = done
                if self._journal is not None:
                    self._journal.add(done)
                self._forget_cache(name, record.size)
                self._progress.log(f"{name} has arrived from {peer.node} ({record.size} bytes)")
                self._cond.notify_all()
            return
        except (PeerError, _Slow) as exc:
            line.close()
            with self._cond:
                self._give_back(peer, record, exc)
        except OSError as exc:  # of the disk: those of the network are PeerErrors
            raise HandOnError(folder.unwritable_words(self._dest, name, exc))

    def _give_back(self, peer: Peer, record: manifest.Record, exc: Exception) -> None:
        name = record.name
        self._going.discard(name)
        self._todo = {name: record, **self._todo}
        self._progress.log(f"{name}: {exc}")
        if isinstance(exc, _Slow) or not isinstance(exc, PeerError):
            return
        peer.failed(time.monotonic(), exc)
        tries = self._tries[peer.url, name] = self._tries.get((peer.url, name), 0) + 1
        if tries >= _ATTEMPTS and isinstance(exc, BadAnswer):
            peer.bad.add(name)
        if name in self._damage and all(name in other.bad for other in self._peers if not other.refused):
            raise HandOnError(
                f"{name} arrived damaged from every server: {self._damage[name]}; check disk and memory of the servers, "
                "and prove the merge there with weights_merge_verify=full"
            )

    def _get(self, peer: Peer, record: manifest.Record, line: http.client.HTTPConnection) -> manifest.Record:
        """A file from this server, in place. Raises PeerError, _Slow, OSError."""
        in_place = os.path.join(self._dest, record.name)
        if os.path.lexists(in_place):  # brought by hand, perhaps
            if os.path.getsize(in_place) == record.size:
                found = self._sum_of(in_place)
                if found == self._expected(peer, record, line):
                    self._count(peer, record.size, False)
                    self._arrived.append((record.name, record.size))
                    return folder.adopt(self._dest, record, found)
            os.unlink(in_place)
        self._download(peer, record, line)
        path = folder.partial(self._dest, record)
        found = self._sums[record.name][1].hexdigest()
        expected = self._expected(peer, record, line)
        del self._sums[record.name]
        if found != expected:
            os.unlink(path)
            self._count(peer, -record.size, False)
            if record.name in self._old:
                self._old.discard(record.name)
                raise PeerError("the part that was here before was damaged; it is fetched again")
            with self._cond:
                peer.bad.add(record.name)
                self._damage[record.name] = f"sha256 {found[:12]}… instead of {expected[:12]}… from {peer.node}"
            raise PeerError(f"{peer.url} sent it with sha256 {found[:12]}… instead of {expected[:12]}…")
        done = folder.place(self._dest, record, found)
        self._arrived.append((record.name, record.size))
        return done

    def _download(self, peer: Peer, record: manifest.Record, line: http.client.HTTPConnection) -> None:
        """Fill the partial file and take its checksum on the way."""
        path = folder.partial(self._dest, record)
        buffer = memoryview(bytearray(_CHUNK))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with open(fd, "r+b", buffering=0) as target:
            have, digest = self._begun(peer, record, target, buffer)
            if have == record.size:
                return
            with self._cond:
                peer.begin(time.monotonic())
            try:
                self._transfer(peer, record, line, target, have, digest, buffer)
            finally:
                with self._cond:
                    peer.end()

    def _transfer(
        self, peer: Peer, record: manifest.Record, line: http.client.HTTPConnection, target: t.Any, have: int, digest: t.Any, buffer: memoryview
    ) -> None:
        try:
            answer = peer.get(line, f"/file/{_quoted(record.name)}", have)
        except (OSError, http.client.HTTPException) as exc:
            raise peer.lost(exc)
        if answer.length != record.size - have:
            raise BadAnswer(f"{peer.url} answers {answer.length} bytes of {record.name} where {record.size - have} are missing")
        while have < record.size:
            try:
                count = answer.readinto(buffer[: min(_CHUNK, record.size - have)])
            except (OSError, http.client.HTTPException) as exc:
                raise peer.lost(exc)
            if not count:
                raise PeerError(f"{peer.url} ({peer.node}) has hung up after {have} of {record.size} bytes")
            _write(target, buffer[:count])
            digest.update(buffer[:count])
            have += count
            self._sums[record.name] = (have, digest)
            self._count(peer, count, True)
            self._look_at_the_pace(peer, record)

    def _begun(self, peer: Peer, record: manifest.Record, target: t.Any, buffer: memoryview) -> t.Tuple[int, t.Any]:
        """(bytes that are there, their digest); the file is at their end."""
        size = os.fstat(target.fileno()).st_size
        have, digest = self._sums.get(record.name, (0, None))
        if digest is not None and size >= have:
            target.truncate(have)  # a write that failed may have left more
            target.seek(have)
            return have, digest
        have, digest = 0, hashlib.sha256()
        if size > record.size:
            target.truncate(0)
            size = 0
        while have < size:
            count = target.readinto(buffer)
            if not count:
                break
            digest.update(buffer[:count])
            have += count
        if have:
            self._old.add(record.name)
        self._sums[record.name] = (have, digest)
        self._resumed += have
        self._count(peer, have, False)
        return have, digest

    def _look_at_the_pace(self, peer: Peer, record: manifest.Record) -> None:
        now = time.monotonic()
        with self._cond:
            if self._failure is not None:
                raise _Slow("another file could not be received")
            if peer.lags(now) and self._better(now, peer, record):
                raise _Slow(f"{peer.node} ({peer.url}) sends {peer.slow_rate / 1e6:.1f} MB/s; another server is tried")

    def _count(self, peer: Peer, count: int, came: bool) -> None:
        now = time.monotonic()
        with self._cond:
            if came:
                peer.moved(now, count)
                self._last = now
            self._done += count
            self._progress.update(self._done, self._total or None, f"from {peer.node}")

    def _sum_of(self, path: str) -> str:
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            for block in iter(lambda: file.read(_CHUNK), b""):
                digest.update(block)
                self._last = time.monotonic()
        return digest.hexdigest()

    def _expected(self, peer: Peer, record: manifest.Record, line: http.client.HTTPConnection) -> str:
        """The checksum of a file that the server knows, or computes now."""
        if record.sha256:
            return record.sha256
        with self._cond:
            known = peer.files.get(record.name, (0, "", None))[2]
        pause = 0.05
        end = time.monotonic() + self._options.patience
        while not known:
            known = peer.json(line, f"/sum/{_quoted(record.name)}").get("sha256")
            if not known:
                if time.monotonic() > end:
                    raise PeerError(f"{peer.url} answers no checksum of {record.name} within {self._options.patience:.0f} s")
                self._last = time.monotonic()
                time.sleep(pause)
                pause = min(1.0, pause * 1.5)
        return str(known)

    def _forget_cache(self, name: str, size: int) -> None:
        """Take files that arrived some time ago out of the page cache: the node's memory is for other things."""
        kept = 0
        for done, length in reversed(self._arrived):
            kept += length
            if kept - size > _CACHE:
                try:
                    fd = os.open(os.path.join(self._dest, done), os.O_RDONLY | os.O_CLOEXEC)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(fd)
                except OSError:
                    pass
                return


def _write(target: t.Any, data: memoryview) -> None:
    while data:
        data = data[target.write(data) :]


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def digest_of(dest: str, plan: t.Optional[str], token: str) -> str:
    """What a job of receiving depends on. Another token means other servers: what runs with the old one would wait for nothing."""
    return DIGEST + hashlib.sha256("\n".join([dest, plan or "", token]).encode("utf-8")).hexdigest()


def receive(
    dest: str, urls: t.Sequence[str], token: str, plan: t.Optional[str], options: Options
) -> t.Callable[[job.Progress], t.Dict[str, t.Any]]:
    """The work of a receiving job."""

    def work(progress: job.Progress) -> t.Dict[str, t.Any]:
        return dict(Receiver(dest, urls, token, plan, options, progress).run(), changed=True)

    return work
