# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work: started detached, attached to, resumed after SIGKILL. Real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import job


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "job"
    yield str(path)
    state = job.status(str(path))
    if state["state"] == "running":
        job.stop(str(path), grace=0)


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("waited %s s in vain" % seconds)


def quick(progress):
    progress.update(50, 100, "half way")
    progress.log("a line for the log")
    progress.update(100, message="the whole way")
    return {"copied": 7}


def slow(progress):
    progress.update(1, 4, "sleeping", unit="files")
    time.sleep(60)


def start_slow(folder, digest="d1"):
    state = job.run(folder, digest, "a long sleep", slow, wait_seconds=0)
    assert state["state"] == "running"
    return state


def test_nothing_there(folder):
    assert job.status(folder)["state"] == "absent"
    assert not os.path.exists(folder)


def test_work_is_done_by_a_detached_process(folder):
    def where(progress):
        del progress
        print("printed by the work")
        subprocess.run(["echo", "printed by a program"], check=True)
        return {"pid": os.getpid(), "sid": os.getsid(0), "fds": sorted(os.listdir("/proc/self/fd")), "stdin": os.readlink("/proc/self/fd/0")}

    state = job.run(folder, "d1", "look around", where)
    assert state["state"] == "done" and state["started_here"] and state["error"] is None
    assert state["result"]["pid"] == state["pid"] != os.getpid()
    assert state["result"]["sid"] not in (os.getsid(0), state["pid"])
    assert state["result"]["stdin"] == "/dev/null"
    assert len(state["result"]["fds"]) <= 5  # 0, 1, 2, the worker's lock, and listing itself
    assert (state["percent"], state["eta_seconds"]) == (100.0, 0)
    with open(state["log"], encoding="utf-8") as log:
        assert log.read() == "printed by the work\nprinted by a program\n"


def test_the_same_digest_is_not_done_again(folder):
    first = job.run(folder, "d1", "quick", quick)
    second = job.run(folder, "d1", "quick", lambda progress: 1 / 0)
    assert (first["started_here"], second["started_here"]) == (True, False)
    assert second["state"] == "done" and second["result"]["copied"] == 7 and second["message"] == "the whole way"


def test_another_digest_is_done_when_nothing_runs(folder):
    job.run(folder, "d1", "quick", quick)
    state = job.run(folder, "d2", "other", lambda progress: {"other": True})
    assert (state["digest"], state["title"], state["result"]["other"], state["message"]) == ("d2", "other", True, None)
    with open(os.path.join(folder, "log.previous"), encoding="utf-8") as log:
        assert log.read() == "a line for the log\n"


def test_the_result_tells_memory_and_seconds_of_the_worker_itself(folder):
    ballast = bytearray(150 << 20)  # the starter's memory is not the worker's
    for place in range(0, len(ballast), 4096):
        ballast[place] = 1

    def work(progress):
        del progress
        # A fork begins with what its starter holds, which other tests may have made large.
        before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        block = b"x" * (64 << 20)
        time.sleep(0.2)
        return {"length": len(block), "before": before}

    del ballast
    state = job.run(folder, "d1", "64 MB", work)
    assert 66 < state["result"]["peak_rss_mb"] - state["result"]["before"] < 80
    assert 0.2 <= state["result"]["seconds"] < 60
    assert state["seconds"] == state["result"]["seconds"]


def test_running_attaches_by_digest_and_refuses_another(folder):
    started = start_slow(folder, "a" * 40)
    attached = job.run(folder, "a" * 40, "a long sleep", slow, wait_seconds=0.1)
    assert (attached["state"], attached["pid"], attached["started_here"]) == ("running", started["pid"], False)
    with pytest.raises(job.JobBusy) as caught:
        job.run(folder, "b" * 40, "something else", quick)
    assert str(caught.value) == (
        "%s is busy with a long sleep (pid %d, digest aaaaaaaaaaaa), so something else (digest bbbbbbbbbbbb) is not started; "
        "wait until it has ended, or end that process" % (folder, started["pid"])
    )
    with pytest.raises(job.JobBusy, match="a long sleep is running in "):
        job.reset(folder)


def test_progress_is_seen_from_outside(folder):
    start_slow(folder)
    state = until(lambda: job.status(folder) if job.status(folder)["done"] else None)
    assert {key: state[key] for key in ("done", "total", "unit", "percent", "message")} == {
        "done": 1, "total": 4, "unit": "files", "percent": 25.0, "message": "sleeping"
    }


def test_rate_and_time_left(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(job.time, "monotonic", lambda: clock[0])
    path = str(tmp_path / "progress.json")
    progress = job.Progress(path)
    for second in range(61):
        clock[0] = 1000.0 + second
        progress.update(second * 10, 1000)
    answer = {"state": "running", "eta_seconds": None}
    with open(path, encoding="utf-8") as file:
        job._add_progress(answer, json.load(file))
    assert (answer["rate"], answer["percent"], answer["eta_seconds"]) == (10.0, 60.0, 40)
    assert len(progress._samples) < 30  # an hour of updates must not pile up


@pytest.mark.parametrize(
    "error, words",
    [
        pytest.param(job.JobError("the disk of host a is full"), "the disk of host a is full", id="ours"),
        pytest.param(KeyError("x"), "KeyError: 'x'", id="a-bug"),
        pytest.param(AssertionError(), "AssertionError", id="no-words"),
        pytest.param(OSError(28, "No space left on device", "/x"), "[Errno 28] No space left on device: '/x'", id="system"),
        pytest.param(SystemExit(3), "SystemExit: 3", id="exit"),
    ],
)
def test_errors_become_words_and_a_traceback_in_the_log(folder, error, words):
    def work(progress):
        del progress
        raise error

    state = job.run(folder, "d1", "fails", work)
    assert (state["state"], state["error"]) == ("failed", words)
    with open(state["log"], encoding="utf-8") as log:
        text = log.read()
    assert words in text and ("Traceback" in text) is not isinstance(error, job.JobError)


def test_an_error_may_carry_a_result(folder):
    def work(progress):
        raise job.JobError("no", result={"problems": [1]})

    state = job.run(folder, "d1", "fails", work)
    assert state["result"]["problems"] == [1] and "seconds" in state["result"]


def test_a_result_that_json_cannot_hold(folder):
    state = job.run(folder, "d1", "odd", lambda progress: {"x": object()})
    assert state["state"] == "failed"
    assert state["error"].startswith("the result can't be written as JSON: ")


def test_failed_work_is_done_again(folder):
    assert job.run(folder, "d1", "x", lambda progress: 1 / 0)["state"] == "failed"
    assert job.run(folder, "d1", "x", quick)["state"] == "done"


def test_killed_work_is_interrupted_and_resumes(folder, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()

    def resumable(progress):
        done_before = sorted(os.listdir(str(parts)))
        for number in range(3):
            (parts / str(number)).touch()
            progress.update(number + 1, 3)
            if number == 1 and not done_before:
                time.sleep(60)
        return {"done_before": done_before}

    state = job.run(folder, "d1", "parts", resumable, wait_seconds=0)
    until(lambda: (parts / "1").exists())
    os.kill(state["pid"], signal.SIGKILL)
    state = until(lambda: job.status(folder) if job.status(folder)["state"] != "running" else None)
    assert state["state"] == "interrupted"
    assert state["error"] == "the working process is gone without a result (it was killed, or the machine restarted)"
    state = job.run(folder, "d1", "parts", resumable)
    assert state["state"] == "done" and state["result"]["done_before"] == ["0", "1"]


def test_children_of_a_killed_worker_do_not_survive_into_the_next_run(folder, tmp_path):
    pids = tmp_path / "pids"

    def with_children(progress):
        del progress
        forked = os.fork()
        if forked == 0:
            time.sleep(60)
            os._exit(0)
        program = subprocess.Popen(["sleep", "60"], pass_fds=job.belongs_to_job())
        pids.with_suffix(".new").write_text("%d %d" % (forked, program.pid))
        os.replace(str(pids.with_suffix(".new")), str(pids))
        time.sleep(60)

    state = job.run(folder, "d1", "with children", with_children, wait_seconds=0)
    until(pids.exists)
    children = [int(word) for word in pids.read_text().split()]
    os.kill(state["pid"], signal.SIGKILL)
    until(lambda: job.status(folder)["state"] == "interrupted")
    assert all(job._start_ticks(pid) for pid in children)
    state = job.run(folder, "d2", "another work", quick)
    assert state["state"] == "done"
    assert not any(job._start_ticks(pid) for pid in children)


def test_a_killed_worker_is_waited_for_until_its_last_thread_is_gone(folder, tmp_path, monkeypatch):
    """Its first thread is a zombie without open files by then, so that no list of processes shows it; its lock is held still."""
    started = tmp_path / "started"

    def with_a_slow_end(progress):
        del progress
        subprocess.Popen(["sleep", "1"], pass_fds=job.belongs_to_job())
        started.write_text("")
        time.sleep(60)

    monkeypatch.setattr(job, "_members", lambda lock: [])
    state = job.run(folder, "d1", "a slow end", with_a_slow_end, wait_seconds=0)
    until(started.exists)
    os.kill(state["pid"], signal.SIGKILL)
    until(lambda: job.status(folder)["state"] == "interrupted")
    assert job.run(folder, "d1", "quick", quick)["state"] == "done"


def test_a_daemon_left_by_finished_work_is_let_alone(folder, tmp_path):
    def leave_one(progress):
        return {"daemon": subprocess.Popen(["sleep", "60"], pass_fds=job.belongs_to_job(), start_new_session=True).pid}

    daemon = job.run(folder, "d1", "leaves a daemon", leave_one)["result"]["daemon"]
    try:
        assert job.run(folder, "d2", "quick", quick)["state"] == "done"
        assert job._start_ticks(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_stop_asks_first(folder):
    start_slow(folder)
    job.stop(folder, grace=5)
    state = job.status(folder)
    assert (state["state"], state["error"]) == ("failed", "stopped by SIGTERM")
    job.reset(folder)
    assert job.status(folder)["state"] == "absent"


def test_two_starters_start_once(folder, tmp_path):
    starts = tmp_path / "starts"
    starts.mkdir()

    def work(progress):
        (starts / str(os.getpid())).touch()
        time.sleep(0.3)

    pids = []
    for _dummy in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if job.run(folder, "d1", "once", work)["state"] == "done" else 1)
            finally:
                os._exit(2)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert len(os.listdir(str(starts))) == 1


def change(folder, **values):
    path = os.path.join(folder, "job.json")
    with open(path, encoding="utf-8") as file:
        who = json.load(file)
    who.update(values)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(who, file)


def test_a_reused_pid_is_not_our_worker(folder):
    start_slow(folder)
    job.stop(folder, grace=0)
    os.unlink(os.path.join(folder, "result.json")) if os.path.exists(os.path.join(folder, "result.json")) else None
    change(folder, pid=os.getpid())
    assert job.status(folder)["state"] == "interrupted"


def test_after_a_reboot_nothing_runs(folder):
    state = start_slow(folder)
    os.kill(state["pid"], signal.SIGKILL)
    until(lambda: job._start_ticks(state["pid"]) is None)
    # The pid is in use again after the boot, by somebody with the same start time.
    change(folder, boot_id="00000000-another", pid=os.getpid(), start_ticks=job._start_ticks(os.getpid()))
    assert job.status(folder)["state"] == "interrupted"


def test_on_a_shared_disk_the_lock_tells_that_another_host_works(folder):
    state = start_slow(folder)
    change(folder, boot_id="00000000-another", host="node-b")
    assert job.status(folder)["state"] == "running"
    with pytest.raises(job.JobBusy, match=r"\(pid %d on node-b, digest d1\)" % state["pid"]):
        job.run(folder, "d2", "mine", quick)


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\x00" * 64, b"\xff\xfe"])
def test_files_torn_by_a_power_loss(folder, junk):
    job.run(folder, "d1", "quick", quick)
    with open(os.path.join(folder, "result.json"), "wb") as file:
        file.write(junk)
    until(lambda: job.status(folder)["state"] == "interrupted")
    with open(os.path.join(folder, "job.json"), "wb") as file:
        file.write(junk)
    assert job.status(folder)["state"] == "absent"
    assert job.run(folder, "d1", "quick", quick)["state"] == "done"


def test_the_result_of_an_earlier_run_is_not_taken_for_this_one(folder):
    job.run(folder, "d1", "quick", quick)
    change(folder, token="f" * 32)
    until(lambda: job.status(folder)["state"] == "interrupted")


def test_a_folder_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError):
        job.run(str(blocked / "job"), "d1", "x", quick)


def test_a_log_that_is_a_link_is_not_followed(folder, tmp_path):
    os.makedirs(folder)
    os.symlink(str(tmp_path / "victim"), os.path.join(folder, "log"))
    os.symlink(str(tmp_path / "victim"), os.path.join(folder, "log.previous"))
    assert job.run(folder, "d1", "x", quick)["state"] == "done"
    assert not (tmp_path / "victim").exists()


def test_reset_forgets_all_but_the_log(folder):
    job.run(folder, "d1", "quick", quick)
    job.reset(folder)
    assert os.listdir(folder) == ["log"]
    assert job.status(folder)["state"] == "absent"


def test_the_worker_outlives_the_module_and_its_folder(tmp_path):
    """As Ansible does it: the code lies in a zip in a temp folder that is gone before the work is done."""
    checkout = os.path.dirname(job.__file__)
    program = tmp_path / "program.py"
    program.write_text(
        "import os, shutil, sys, time\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import job\n"
        "def work(progress):\n"
        "    while not os.path.exists(sys.argv[3]):\n"
        "        time.sleep(0.05)\n"
        "    progress.update(1, 1, 'still here')\n"
        "    raise job.JobError('as planned')\n"
        "print(job.run(sys.argv[2], 'd1', 'outlive', work, wait_seconds=0)['state'])\n"
        "shutil.rmtree(sys.argv[1])\n"
    )
    code = tmp_path / "code"
    code.mkdir()
    with open(os.path.join(checkout, "job.py"), "rb") as source:
        (code / "job.py").write_bytes(source.read())
    folder = str(tmp_path / "job")
    go_on = tmp_path / "go-on"
    # The pipe would never be closed if the worker had kept it: it waits for what comes after.
    command = [sys.executable, str(program), str(code), folder, str(go_on)]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout == b"running\n"
    go_on.touch()
    state = job.wait(folder, 60)
    assert (state["state"], state["error"], state["message"]) == ("failed", "as planned", "still here")


def test_progress_from_many_threads(folder):
    def work(progress):
        def count():
            for number in range(200):
                progress.update(number, 200)

        threads = [threading.Thread(target=count) for _dummy in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert job.run(folder, "d1", "threads", work)["state"] == "done"


def test_a_log_that_takes_no_more_does_not_hide_the_error(folder):
    def work(progress):
        del progress
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        raise OSError(28, "No space left on device", "/weights/x")

    state = job.run(folder, "d1", "fills the disk", work)
    assert (state["state"], state["error"]) == ("failed", "[Errno 28] No space left on device: '/weights/x'")
    assert not os.path.exists(os.path.join(folder, "reserve"))


@pytest.mark.parametrize("name, ticks", [("plain", 77), ("with ) and ( blank 1 2", 77)])
def test_start_ticks_whatever_the_name(monkeypatch, tmp_path, name, ticks):
    line = "12 (%s) S 1 12 12 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n" % (name, ticks)
    real = open
    stat = tmp_path / "stat"
    stat.write_text(line)
    monkeypatch.setattr("builtins.open", lambda path, *args, **kwargs: real(str(stat) if path == "/proc/12/task/12/stat" else path, *args, **kwargs))
    assert job._start_ticks(12) == ticks
    stat.write_text(line.replace(") S 1", ") Z 1"))
    assert job._start_ticks(12) is None
