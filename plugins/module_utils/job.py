# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work on a node: start it detached, attach to it, resume it, show its progress.

A job is a folder:

  job.json                who works here: pid, its start time, boot id, host, digest, title, token of this run
  progress.json           done, total, message, rate; renamed into place at most twice a second
  result.json             the end: done or failed, what the work returned or its error, seconds, peak_rss_mb
  log                     stdout and stderr of the work; the log of the run before is log.previous
  starting.lock           flock held while somebody looks and starts, so that two starters can't both start
  worker-<token>.lock     flock held by the worker and every process it started, whatever happens to them:
                          who has it open belongs to the job

The digest says what is being done. The same digest attaches to the running job or gets the result of the
finished one; another digest is refused by name while a job runs. A worker that is gone without a result
(SIGKILL, power loss) leaves the state `interrupted`, and the next run() starts the work again, which resumes
as far as the work itself can.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
import typing as t

FIRST_WAIT = 2.0
"""Seconds that a module called with wait=false waits all the same, so that short work is one remote call."""

_ERROR_OF_INTERRUPTED = "the working process is gone without a result (it was killed, or the machine restarted)"
_STATUS_KEYS = (
    "digest", "title", "pid", "host", "boot_id", "percent", "done", "total", "unit", "rate", "eta_seconds", "message", "started", "seconds",
    "result", "error",
)
_PROGRESS_EVERY = 0.5  # seconds between two writes of progress.json
_RATE_WINDOW = 20.0  # seconds over which the rate is an average
_LEFTOVER_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_START_PATIENCE = 60.0  # seconds to wait for another starter, which needs milliseconds


class JobError(Exception):
    """Long work that could not be started, or failed.

    Work may raise it (or any exception with such an attribute) with `result`, a dict that is kept beside the error.
    """

    def __init__(self, message: str, result: t.Optional[t.Dict[str, t.Any]] = None) -> None:
        super().__init__(message)
        self.result = result


class JobBusy(JobError):
    """Another work is going on in the job's folder."""


class JobStopped(Exception):
    """The worker was asked to stop (SIGTERM)."""


class Progress:
    """What the work tells about itself; may be used from several threads of the worker."""

    def __init__(self, path: str, token: t.Optional[str] = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._samples: t.List[t.Tuple[float, float]] = []
        self._written = 0.0
        self._state: t.Dict[str, t.Any] = {"done": None, "total": None, "unit": "B", "message": None, "rate": None, "token": token}

    def update(self, done: float, total: t.Optional[float] = None, message: t.Optional[str] = None, unit: t.Optional[str] = None) -> None:
        """Say how far the work is.

        done, total: amounts in `unit` (B unless said otherwise); total and message stay as they were when None.
        """
        now = time.monotonic()
        with self._lock:
            state = self._state
            state["done"] = done
            for key, value in (("total", total), ("message", message), ("unit", unit)):
                if value is not None:
                    state[key] = value
            self._samples.append((now, done))
            while len(self._samples) > 2 and now - self._samples[1][0] >= _RATE_WINDOW:
                self._samples.pop(0)
            since, was = self._samples[0]
            if now - since >= _PROGRESS_EVERY:
                state["rate"] = max(0.0, (done - was) / (now - since))
            if now - self._written >= _PROGRESS_EVERY:
                self._written = now
                self._write()

    def flush(self) -> None:
        """Write what was said last."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must fail the work by itself, not by its progress
            _write_json(self._path, self._state, durable=False)

    def log(self, line: str) -> None:
        """Write a line to the job's log."""
        with self._lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def run(
    folder: str,
    digest: str,
    title: str,
    work: t.Callable[[Progress], t.Optional[t.Dict[str, t.Any]]],
    wait_seconds: t.Optional[float] = None,
) -> t.Dict[str, t.Any]:
    """Have `work` done in the background, and wait for it.

    folder: the job's folder; made when it isn't there.
    digest: what is being done and on what it depends; the same digest attaches to running and finished work.
    title: for people, a few words.
    work: called as work(progress) in a detached process; returns a dict that JSON can hold. Everything it needs must
      be imported already: the folder that an Ansible module is loaded from may vanish under the running work.
    wait_seconds: None waits until the end, 0 not at all.
    Returns status(folder), with `started_here`: whether this call started the work (else it was running or done).
    Raises JobBusy when another digest is running, JobError when the work can't be started. That the work failed is no
    exception but a state.
    """
    folder = os.path.abspath(folder)
    started_here = False
    state = status(folder)
    if not answers(state, digest, folder, title):
        os.makedirs(folder, exist_ok=True)
        with _starting(folder):
            state = status(folder)  # another starter may have been first
            if not answers(state, digest, folder, title):
                _stop_leftovers(folder)
                _start(folder, digest, title, work)
                started_here = True
    state = wait(folder, wait_seconds)
    state["started_here"] = started_here
    return state


def wait(folder: str, seconds: t.Optional[float] = None) -> t.Dict[str, t.Any]:
    """status(folder) as soon as the job is not running any more, or after `seconds` (None: however long it takes)."""
    end = None if seconds is None else time.monotonic() + seconds
    pause = 0.02
    while True:
        state = status(folder)
        left = None if end is None else end - time.monotonic()
        if state["state"] != "running" or (left is not None and left <= 0):
            return state
        time.sleep(pause if left is None else min(pause, left))
        pause = min(1.0, pause * 1.3)


def status(folder: str) -> t.Dict[str, t.Any]:
    """What is known of the job in `folder`, read-only.

    Returns a dict: state absent|running|done|failed|interrupted; folder, log (paths); digest, title, pid, host, boot_id;
    done, total, unit, rate (unit per second), percent, eta_seconds, message; started (seconds since the epoch),
    seconds (so far, or all in all); result (dict), error (text). What isn't known is None.
    """
    folder = os.path.abspath(folder)
    answer: t.Dict[str, t.Any] = dict.fromkeys(_STATUS_KEYS)
    answer.update(state="absent", folder=folder, log=os.path.join(folder, "log"))
    who = _read_json(os.path.join(folder, "job.json"))
    if who is None:
        return answer
    for key in ("digest", "title", "pid", "host", "boot_id", "started"):
        answer[key] = who.get(key)
    alive = _is_alive(folder, who)
    # The result is read after the look at the process: one that ends in between has left its result.
    end = _read_json(os.path.join(folder, "result.json"))
    if end is not None and end.get("token") == who.get("token") and end.get("state") in ("done", "failed"):
        answer.update(state=end["state"], result=end.get("result"), error=end.get("error"), seconds=end.get("seconds"))
    elif alive:
        answer.update(state="running", seconds=_seconds_since(who))
    else:
        answer.update(state="interrupted", error=_ERROR_OF_INTERRUPTED)
    progress = _read_json(os.path.join(folder, "progress.json"))
    if progress is not None and progress.get("token") == who.get("token"):
        _add_progress(answer, progress)
    if answer["state"] == "done":
        answer.update(percent=100.0, eta_seconds=0)
    return answer


def answers(state: t.Dict[str, t.Any], digest: str, folder: str, title: str) -> bool:
    """Whether nothing has to be started for run(folder, digest, …), because it is running or done; state: status(folder).

    Raises JobBusy when another digest is running.
    """
    if state["state"] == "running" and state["digest"] != digest:
        raise JobBusy(
            f"{folder} is busy with {state['title']} (pid {state['pid']}{_elsewhere(state['host'])}, digest {str(state['digest'])[:12]}), "
            f"so {title} (digest {digest[:12]}) is not started; wait until it has ended, or end that process"
        )
    return state["state"] in ("running", "done") and state["digest"] == digest


def stop(folder: str, grace: float = _LEFTOVER_GRACE) -> None:
    """End the job in `folder` with every process that belongs to it: SIGTERM, and SIGKILL after `grace` seconds.

    Raises JobError when some of them can't be ended from here.
    """
    folder = os.path.abspath(folder)
    if os.path.isdir(folder):
        _stop_leftovers(folder, grace)


def reset(folder: str) -> None:
    """Forget the job in `folder`: its record, progress, result and locks, not its log. Raises JobBusy while it runs."""
    folder = os.path.abspath(folder)
    if not os.path.isdir(folder):
        return
    with _starting(folder):
        state = status(folder)
        if state["state"] == "running":
            raise JobBusy(f"{state['title']} is running in {folder} (pid {state['pid']}); wait for it, or end it first")
        for name in os.listdir(folder):
            if name in ("result.json", "progress.json", "job.json", "reserve") or name.startswith("worker-"):
                os.unlink(os.path.join(folder, name))
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(folder, "starting.lock"))
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def belongs_to_job() -> t.List[int]:
    """File descriptors that a program started by the work must inherit (pass_fds), so that it is found with the job."""
    return list(_worker_fds)


def peak_memory() -> float:
    """Largest resident memory of this process in MB. VmHWM, since ru_maxrss counts what the process was forked from as well.

    https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
    """
    kib = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                kib = float(line.split()[1])
    return round(kib * 1024 / 1e6, 1)


# How the state of a job is found


def _elsewhere(host: t.Any) -> str:
    return "" if host == socket.gethostname() else f" on {host}"


def _is_alive(folder: str, who: t.Dict[str, t.Any]) -> bool:
    """Whether the worker lives: the pid with the same start time, or, started on another host or boot, its lock."""
    if who.get("boot_id") == _boot_id() and who.get("host") == socket.gethostname():
        return who.get("start_ticks") is not None and _start_ticks(who.get("pid")) == who["start_ticks"]
    return _is_locked(_worker_lock(folder, who))


def _worker_lock(folder: str, who: t.Dict[str, t.Any]) -> str:
    return os.path.join(folder, f"worker-{os.path.basename(str(who.get('token')))}.lock")


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as exc:
        return exc.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(fd)


def _boot_id() -> t.Optional[str]:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _start_ticks(pid: t.Any) -> t.Optional[int]:
    """Clock ticks between boot and the start of the process, None when it is dead or a zombie.

    Field 22 of the first thread's stat, https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html; the name in field 2 may
    hold blanks and brackets. In an emulated container qemu makes up what a process reads as its own /proc/<pid>/stat
    (open_self_stat in linux-user/syscall.c), but not what is below task/.
    """
    try:
        with open(f"/proc/{pid:d}/task/{pid:d}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (OSError, TypeError, ValueError):
        return None
    return None if fields[0] in (b"Z", b"X", b"x") else int(fields[19])


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _seconds_since(who: t.Dict[str, t.Any]) -> t.Optional[float]:
    if who.get("boot_id") == _boot_id() and isinstance(who.get("started_uptime"), (int, float)):
        return max(0.0, round(_uptime() - who["started_uptime"], 1))
    return max(0.0, round(time.time() - who["started"], 1)) if isinstance(who.get("started"), (int, float)) else None


def _add_progress(answer: t.Dict[str, t.Any], progress: t.Dict[str, t.Any]) -> None:
    for key in ("done", "total", "unit", "message", "rate"):
        answer[key] = progress.get(key)
    done, total, rate = answer["done"], answer["total"], answer["rate"]
    if done is not None and total:
        answer["percent"] = round(min(100.0, 100.0 * done / total), 1)
        if rate and answer["state"] == "running":
            answer["eta_seconds"] = int(max(0, total - done) / rate)


# Starting and ending


@contextlib.contextmanager
def _starting(folder: str) -> t.Iterator[None]:
    """Only one process at a time is in here for one folder. Raises JobError when another one doesn't leave."""
    path = os.path.join(folder, "starting.lock")
    end = time.monotonic() + _START_PATIENCE
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:  # else reset() took the file away meanwhile
                break
        except OSError as exc:
            if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(fd)
                raise
        os.close(fd)
        if time.monotonic() > end:
            raise JobError(f"another process has held {path} for {_START_PATIENCE:.0f} s; find it with `fuser -v {path}` and end it")
        time.sleep(0.05)
    try:
        yield
    finally:
        os.close(fd)


def _open_files(pid: int) -> t.Iterator[os.stat_result]:
    """What the process has open. Asked of each thread: a killed one may be dead in its first thread and still be writing in another."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                for name in os.listdir(f"/proc/{pid}/task/{thread}/fd"):
                    with contextlib.suppress(OSError):
                        yield os.stat(f"/proc/{pid}/task/{thread}/fd/{name}")


def _members(lock: str) -> t.List[int]:
    """Processes that have the worker's lock open, this one not counted. Processes of others are seen by root only."""
    try:
        wanted = os.stat(lock)
    except OSError:
        return []
    return [
        pid
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit())
        if pid != os.getpid() and any((this.st_dev, this.st_ino) == (wanted.st_dev, wanted.st_ino) for this in _open_files(pid))
    ]


def _stop_leftovers(folder: str, grace: float = _LEFTOVER_GRACE) -> None:
    """End what is left of a worker that was killed: its own children would go on writing beside the next worker."""
    who = _read_json(os.path.join(folder, "job.json"))
    if who is None:
        return
    end = _read_json(os.path.join(folder, "result.json"))
    if end is not None and end.get("token") == who.get("token"):
        return  # it ended by itself: a daemon that it left behind is not ours to kill
    lock = _worker_lock(folder, who)
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, _LEFTOVER_GRACE)):
        told: t.Set[int] = set()
        until = time.monotonic() + patience
        # The lock tells, not the list of processes: one that was killed lets go of it only when its last thread is gone.
        while _is_locked(lock) and time.monotonic() < until:
            for pid in set(_members(lock)) - told:
                told.add(pid)
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            time.sleep(0.05)
    if _is_locked(lock):
        raise JobError(
            f"{who.get('title')} was interrupted, but processes of it still work in {folder}{_elsewhere(who.get('host'))} "
            "where this user can't end them; end them by hand"
        )


_worker_fds: t.List[int] = []


def _start(folder: str, digest: str, title: str, work: t.Callable[[Progress], t.Optional[t.Dict[str, t.Any]]]) -> None:
    """Fork twice, so that the worker is nobody's child and belongs to no terminal; return when it has signed in."""
    with contextlib.suppress(OSError):
        os.replace(os.path.join(folder, "log"), os.path.join(folder, "log.previous"))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    signed_in, sign_in = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _worker(folder, digest, title, work, sign_in)
        finally:
            os._exit(0)  # neither atexit nor finally blocks of the starter are ours
    os.close(sign_in)
    os.waitpid(child, 0)
    with os.fdopen(signed_in, "rb") as pipe:
        answer = pipe.read()
    if answer != b"ok":
        words = answer.decode("utf-8", "replace") or "the process ended at once"
        raise JobError(f"{title} can't be started in {folder}: {words}")


def _worker(folder: str, digest: str, title: str, work: t.Callable[[Progress], t.Optional[t.Dict[str, t.Any]]], sign_in: int) -> None:
    try:
        token = os.urandom(16).hex()
        log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        _detach(log, keep=sign_in)
        who: t.Dict[str, t.Any] = {
            "token": token, "digest": digest, "title": title, "pid": os.getpid(), "start_ticks": _start_ticks(os.getpid()), "boot_id": _boot_id(),
            "host": socket.gethostname(), "started": time.time(), "started_uptime": _uptime(),
        }
        lock = os.open(_worker_lock(folder, who), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        _worker_fds[:] = [lock]
        reserve = os.path.join(folder, "reserve")
        _reserve(reserve)
        _write_json(os.path.join(folder, "job.json"), who)
        for name in os.listdir(folder):  # of earlier runs; their token is another one, so the order doesn't matter
            if name in ("result.json", "progress.json") or (name.startswith("worker-") and token not in name):
                os.unlink(os.path.join(folder, name))
        os.write(sign_in, b"ok")
    except BaseException as exc:  # pylint: disable=broad-except
        os.write(sign_in, _words(exc).encode())
        os._exit(1)
    os.close(sign_in)
    progress = Progress(os.path.join(folder, "progress.json"), token)
    try:
        end = _do(work, progress, who["started_uptime"], reserve)
    except JobStopped as exc:  # just when the work had ended
        end = {"state": "failed", "error": str(exc)}
    end["token"] = token
    try:
        _write_json(os.path.join(folder, "result.json"), end)
    except (TypeError, ValueError) as exc:
        end.update(state="failed", result=None, error=f"the result can't be written as JSON: {exc}")
        _write_json(os.path.join(folder, "result.json"), end)
    os._exit(0)


def _detach(log: int, keep: int) -> None:
    """Let go of everything of the starter's: its terminal, its pipes (ssh and sudo wait for them), its signals."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = sys.stdout
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM])  # until the work has begun, and its end can be told
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.alarm(0)


def _on_sigterm(number: int, frame: t.Any) -> t.NoReturn:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise JobStopped("stopped by SIGTERM")


def _do(
    work: t.Callable[[Progress], t.Optional[t.Dict[str, t.Any]]], progress: Progress, started: float, reserve: str
) -> t.Dict[str, t.Any]:
    """Call the work; its end as a dict for result.json."""
    result: t.Optional[t.Dict[str, t.Any]] = None
    error = None
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        result = work(progress)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM])
    except BaseException as exc:  # pylint: disable=broad-except
        error = _words(exc)
        result = getattr(exc, "result", None)
        _release(reserve)
        with contextlib.suppress(OSError):  # a full disk
            sys.stdout.write((error if isinstance(exc, JobError) else traceback.format_exc()) + "\n")
            sys.stdout.flush()
    _release(reserve)
    with contextlib.suppress(Exception):
        progress.flush()
        sys.stdout.flush()
    measured: t.Dict[str, t.Any] = {
        "seconds": round(_uptime() - started, 3),
        "peak_rss_mb": peak_memory(),
    }
    kept = dict(measured)
    kept.update(result if isinstance(result, dict) else {})
    return dict(measured, state="failed" if error is not None else "done", result=kept, error=error)


def _words(exc: BaseException) -> str:
    """An error for the user: our own errors speak for themselves, a KeyError doesn't."""
    text = str(exc)
    speaks = isinstance(exc, OSError) or type(exc).__module__ != "builtins"
    return text if text and speaks else (f"{type(exc).__name__}: {text}" if text else type(exc).__name__)


# Files


def _reserve(path: str) -> None:
    """Keep room for the result, so that work which fills the disk can say so."""
    with contextlib.suppress(OSError), open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 16)


def _release(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _write_json(path: str, value: t.Any, durable: bool = True) -> None:
    text = json.dumps(value, sort_keys=True)
    beside = f"{path}.new"
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(beside, path)


def _read_json(path: str) -> t.Optional[t.Dict[str, t.Any]]:
    """A dict, or None when the file isn't there or (after a power loss) is no JSON object."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
