# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server as a receiver sees it: what it offers, how fast it is, whether it is dead."""

from __future__ import annotations

import collections
import http.client
import json
import re
import time
import typing as t
import urllib.parse

from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on.folder import HandOnError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest

_MAX_ANSWER = 64 << 20
_BACK_OFF = 0.5  # seconds after the first failure; doubled with each further one
_LONGEST_BACK_OFF = 60.0


class PeerError(Exception):
    """The server doesn't answer as it should; another one may."""


class BadAnswer(PeerError):
    """It can be reached, but doesn't give what it should have."""


class Refused(PeerError):
    """The server doesn't know the token; asking again is for nothing."""


class Meter:
    """Bytes a second over the last `window` seconds; time is given by the caller."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._samples: t.Deque[t.Tuple[float, float]] = collections.deque()  # (when, how much until then)
        self._total = 0.0

    def start(self, now: float) -> None:
        """Forget what was: from now on something should come."""
        self._samples.clear()
        self._samples.append((now, self._total))

    def add(self, now: float, count: float) -> None:
        self.reach(now, self._total + count)

    def reach(self, now: float, total: float) -> None:
        """All that has come until now is `total`."""
        self._total = total
        last = self._samples[-1][0] if self._samples else None
        if last is not None and now - last < self._window / 20 and len(self._samples) > 1:
            self._samples[-1] = (last, total)
        else:
            self._samples.append((now, total))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self._window:
            self._samples.popleft()

    def rate(self, now: float) -> t.Optional[float]:
        """None until it has been watched for a window."""
        if not self._samples or now - self._samples[0][0] < self._window:
            return None
        since, was = self._samples[0]
        return (self._total - was) / (now - since)


class Pace(t.NamedTuple):
    """When a server is too slow. window: seconds over which is measured; rate: bytes a second that it must reach; penalty: seconds that it is passed over."""

    window: float = 15.0
    rate: float = 10e6
    penalty: float = 60.0


class Peer:
    """Its state is guarded by the receiver's lock, all but `connect` and what goes over the connection."""

    def __init__(self, url: str, token: str, timeout: float, pace: Pace) -> None:
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme != "http" or not parts.hostname or port is None or parts.path not in ("", "/"):
            raise HandOnError(f"{url!r} is no address of a server of weights; http://HOST:PORT was expected")
        self.url = f"http://{parts.netloc}"
        self._host, self._port, self._token, self._timeout = parts.hostname, port, token, timeout
        self._pace = pace
        self.node = parts.hostname
        self.ident: t.Optional[str] = None
        self.plan: t.Optional[str] = None
        self.complete = False
        self.files: t.Dict[str, t.Tuple[int, str, t.Optional[str]]] = {}
        self.version: t.Any = None
        self.error: t.Optional[str] = None
        self.refused = False
        self.bad: t.Set[str] = set()  # files that it has sent damaged
        self.taken = 0  # bytes
        self.active = 0  # transfers
        self._speed = Meter(pace.window)
        self._growth = Meter(pace.window)
        self._receiving = False
        self._failures = 0
        self._dead_until = 0.0
        self._slow_until = 0.0
        self._slow_times = 0
        self.slow_rate = 0.0

    # What is judged

    def alive(self, now: float) -> bool:
        return self.ident is not None and not self.refused and now >= self._dead_until

    def due(self, now: float) -> bool:
        """Whether it may be asked again."""
        return not self.refused and now >= self._dead_until

    def slow(self, now: float) -> bool:
        return now < self._slow_until

    def growing(self, now: float) -> bool:
        """Whether it is worth waiting for files that it doesn't have yet."""
        rate = self._growth.rate(now)
        return self._receiving and (rate is None or rate >= self._pace.rate)

    def lags(self, now: float) -> bool:
        """Whether what comes from it comes too slowly; it is passed over for a while then."""
        rate = self._speed.rate(now)
        if rate is None or rate >= self._pace.rate:
            return False
        self._penalize(now, rate)
        return True

    def _penalize(self, now: float, rate: float) -> None:
        if not self.slow(now):
            self._slow_times += 1
            self._slow_until = now + min(600.0, self._pace.penalty * 2 ** (self._slow_times - 1))
        self.slow_rate = rate

    # What happens

    def begin(self, now: float) -> None:
        if not self.active:
            self._speed.start(now)
        self.active += 1

    def end(self) -> None:
        self.active -= 1

    def moved(self, now: float, count: int) -> None:
        self.taken += count
        self._failures = 0
        self._speed.add(now, count)

    def failed(self, now: float, error: PeerError) -> None:
        self.error = str(error)
        if isinstance(error, Refused):
            self.refused = True
        self._failures += 1
        self._dead_until = now + min(_LONGEST_BACK_OFF, _BACK_OFF * 2 ** min(self._failures - 1, 10))

    def heard(self, now: float, status: t.Mapping[str, t.Any]) -> None:
        """Take up an answer to /status. Raises PeerError when it is none."""
        try:
            files = {str(name): (int(size), str(digest), sha256 and str(sha256)) for name, (size, digest, sha256) in status.get("files", {}).items()}
            ident, receiving = str(status["id"]), status.get("receiving")
            done = float(receiving["done"]) if receiving else 0.0
            self.node, self.plan, self.complete, version = str(status["node"]), status["plan"], bool(status["complete"]), status["version"]
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise BadAnswer(f"{self.url} answers what this collection doesn't understand ({exc!r})")
        if "files" in status:
            self.files, self.version = files, version
        elif ident != self.ident:  # another server at the same address
            self.files, self.version = {}, None
        if receiving and not self._receiving or ident != self.ident:
            self._growth.start(now)
        self._receiving = bool(receiving)
        if receiving:
            self._growth.reach(now, done)
        self.ident = ident
        if self.active == 0:
            self._failures = 0

    # The connection

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def get(self, line: http.client.HTTPConnection, path: str, start: int = 0) -> http.client.HTTPResponse:
        """Ask for `path` from byte `start` on. Raises PeerError, OSError, HTTPException."""
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        again = line.sock is not None  # a connection that was idle may have been closed by the server
        try:
            line.request("GET", path, headers=headers)
            answer = line.getresponse()
        except (OSError, http.client.HTTPException):
            line.close()
            if not again:
                raise
            return self.get(line, path, start)
        if answer.status == 401:
            raise Refused(f"{self.url} doesn't know the token; it belongs to another run of the playbook")
        if answer.status not in (200, 206):
            answer.read(_MAX_ANSWER)
            raise BadAnswer(f"{self.url}{path} answers {answer.status} {answer.reason}")
        if start and not _goes_on(answer, start):
            raise BadAnswer(f"{self.url}{path} answers {answer.status} to a request for bytes from {start} on")
        return answer

    def json(self, line: http.client.HTTPConnection, path: str) -> t.Dict[str, t.Any]:
        """A JSON object. Raises PeerError."""
        try:
            value = json.loads(self.whole(line, path).decode("utf-8"))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise BadAnswer(f"{self.url}{path} answers no JSON object")
        return value

    def whole(self, line: http.client.HTTPConnection, path: str) -> bytes:
        """A small answer as a whole. Raises PeerError."""
        try:
            answer = self.get(line, path)
            if (answer.length or 0) > _MAX_ANSWER:
                raise BadAnswer(f"{self.url}{path} answers {answer.length} bytes")
            return answer.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as exc:
            line.close()
            raise self.lost(exc)

    def status(self, line: http.client.HTTPConnection) -> t.Dict[str, t.Any]:
        """What it says of itself. Raises PeerError."""
        return self.json(line, "/status" if self.version is None else f"/status?seen={self.version}")

    def lost(self, exc: Exception) -> PeerError:
        return PeerError(f"{self.url} ({self.node}) can't be reached: {getattr(exc, 'strerror', None) or exc or type(exc).__name__}")

    def offers(self, record: manifest.Record) -> bool:
        """Whether it has the file as it is wanted."""
        return record.name not in self.bad and self.files.get(record.name, ())[:2] == (record.size, record.digest)


def _goes_on(answer: http.client.HTTPResponse, start: int) -> bool:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
    return answer.status == 206 and match is not None and int(match.group(1)) == start


def introduce(url: str, token: str, timeout: float) -> t.Optional[str]:
    """The id of the server at `url`, None when it doesn't answer in time, or as it should. Raises HandOnError for an address that is none."""
    peer = Peer(url, token, timeout, Pace())
    line = peer.connect()
    try:
        peer.heard(time.monotonic(), peer.status(line))
    except PeerError:
        return None
    finally:
        line.close()
    return peer.ident
