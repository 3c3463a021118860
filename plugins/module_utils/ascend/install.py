# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running a vendor installer, keeping its log, and judging by the disk what came of it.

The exit codes lie in both directions: CANN's uninstaller returns 0 though a part failed, the driver's 2 is a success that wants a
reboot (https://gitcode.com/cann/driver, install.sh).
"""
from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from typing import TextIO

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import archive, env, reboot, records
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import HDK_KINDS, PackageError
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Installed, Plan, Roots, installed
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.run import kill_group
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.version import compare

_TAIL = 30
_ERROR_LINE = re.compile(r"\[ERROR\]|ERR_NO|Error in |\berror\b|\bfail(ed|ure)?\b|mismatch|not exist|Unrecognized|not permi", re.IGNORECASE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_REBOOT_LINE = re.compile(r"reboot (is )?needed|reboot now or after", re.IGNORECASE)
_CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# A line of an installer -> what to do about it. From the vendor's scripts and from reports of users.
_REMEDIES = (
    (r"list of missing tools", "install pciutils and net-tools"),
    (r"Drv_dkms_env_check|dkms install failed|vermagic check failed", "install dkms, gcc, make and linux-headers-$(uname -r)"),
    (r"not exists! Please add", "create the user and group of the driver first"),
    (r"not same with last installation", "use the user and group of /etc/ascend_install.info, or uninstall the driver first"),
    (r"nodes are occupied|has used by", "stop the programs and containers that use the NPUs, or set force: true"),
    (r"Arch mismatch|architecture .* inconsistent|arch .* not consistent", "use the package for this node's architecture"),
    (r"environment is not match", "use the package for this node's chip"),
    (r"free space (only|of)|No space left|Not enough space left", "make room on the disk"),
    (r"Check owner failed", "install the toolkit of the same version first, as the same user"),
    (r"already a process being executed", "wait until the other installation has ended"),
    # Not the line of each success, "SHA256 checksums are OK. All good."
    (r"Error in (\w+ )?checksums?|checksums? .*(differ|incorrect|do not match)|Verifying archive integrity.*fail|Extraction failed|unexpected end of file",
     "the package is corrupted: send it again"),
    (r"retry after uninstall and reboot", "uninstall, reboot and try again"),
    (r"23\.0\.RC1 driver package", "install driver 23.0.RC1 first, then this one"),
)


@dataclass(frozen=True)
class Result:
    """What came of a run. `failure` is one sentence, or None when the disk shows what was wanted."""

    rc: int | None
    after: Installed
    failure: str | None
    log: str | None
    log_tail: list[str]
    signatures: list[str]
    reboot_reason: str | None
    seconds: float


class _Log:
    """Keeps the last lines in memory and everything in a file, and goes on without the file when the disk is full."""

    def __init__(self, path: str) -> None:
        self.path: str | None = path
        self.note: str | None = None
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self.errors: list[str] = []
        self.reboot = False
        self._file: TextIO | None = None
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w", encoding="utf-8", errors="replace")
        except OSError as exc:
            self._give_up(exc)

    def _give_up(self, exc: OSError) -> None:
        self.note = f"the installer's log could not be kept in {self.path}: {exc.strerror}"
        self._file = None

    def line(self, text: str, judge: bool = True) -> None:
        text = _COLOURS.sub("", text).rstrip()
        if judge:
            self.tail.append(text)
            if _ERROR_LINE.search(text) and len(self.errors) < 5:
                self.errors.append(text)
            self.reboot = self.reboot or bool(_REBOOT_LINE.search(text))
        if self._file is not None:
            try:
                self._file.write(text + "\n")
                self._file.flush()
            except OSError as exc:
                self._give_up(exc)

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as exc:
                self._give_up(exc)
        if self.note is not None and self.path is not None and not os.path.exists(self.path):
            self.path = None


def _environment(plan: Plan, roots: Roots) -> dict[str, str]:
    """A clean environment: a sourced set_env.sh of another CANN would send the installer there. NNAL wants its toolkit's."""
    kept = {name: os.environ[name] for name in ("HOME", "USER", "LOGNAME", "TMPDIR") if os.environ.get(name)}
    environment = {"PATH": _CLEAN_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root" if os.geteuid() == 0 else "/", **kept}
    if plan.wish.kind == "nnal" and plan.wish.state == "present":
        script, reason = env.toolkit_script(roots.ascend, records.read_cann(roots.ascend), plan.wanted or "latest")
        if script is None:
            raise env.EnvironmentProblem(f"NNAL's installer needs the environment of toolkit {plan.wanted}: {reason}.")
        own = ("HOME", "LC_ALL", "USER", "PWD", "SHLVL", "_", "OLDPWD")
        environment.update({name: value.rstrip(":") for name, value in env.source([(script, "")], None).items() if name not in own})
    return environment


def _execute(command: tuple[str, ...], environment: dict[str, str], log: _Log, timeout: float) -> int | None:
    """Run the installer: no terminal, closed stdin, umask 022. Returns its exit code, or None when it had to be killed."""
    deadline = time.monotonic() + timeout
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            # Popen's own umask option is younger than Python 3.8.
            ["bash", "-c", 'umask 022; exec "$@"', "npuops", *command],
            stdin=subprocess.DEVNULL, stdout=write_end, stderr=subprocess.STDOUT, env=environment, start_new_session=True, cwd="/",
        )
    finally:
        os.close(write_end)
    os.set_blocking(read_end, False)
    rest = b""
    try:
        while True:
            # Asked before reading: what was printed before the end is then surely in the pipe. A service that the
            # installer started may hold the pipe open for ever, so its end is not waited for.
            ended = process.poll() is not None
            try:
                block = os.read(read_end, 65536)
            except BlockingIOError:
                block = b""
            if block:
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    # A progress bar rewrites its line: what it ended with is enough.
                    log.line(line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2])
            elif ended:
                return process.returncode
            elif time.monotonic() > deadline:
                kill_group(process)
                return None
            else:
                time.sleep(0.02)
    finally:
        if rest:
            log.line(rest.decode("utf-8", "replace"))
        os.close(read_end)


def _disk_says(plan: Plan, after: Installed) -> str | None:
    """What is wrong on disk after the run, or None when it is as wanted."""
    kind = plan.wish.kind
    if plan.wish.state == "absent":
        gone = plan.before.version
        # Of CANN, other versions may stay.
        if after.version is not None and (kind in HDK_KINDS or gone is None or compare(after.version, gone) == 0):
            return f"{kind} {after.version} is still there"
        if gone in after.record.get("versions", ()):
            return f"{kind} {gone} is still there"
        return f"parts of the {kind} are left: {after.partial}" if after.partial and after.version in (None, gone) else None
    if after.partial:
        return f"the {kind} is only partly there: {after.partial}"
    if after.version is None:
        return f"no {kind} is there"
    if compare(after.version, plan.wanted or ""):
        return f"{kind} {after.version} is there instead of {plan.wanted}"
    chip = plan.package.chip if plan.package else None
    if chip and after.chips is not None and chip not in after.chips:
        return f"the {kind} on disk serve {', '.join(after.chips) or 'no chip'}, not {chip}"
    if kind == "nnal" and plan.wish.cxx_abi is not None and plan.wish.cxx_abi not in after.record["cxx_abis"]:
        return f"NNAL has no libatb.so for C++ ABI {plan.wish.cxx_abi}"
    return None


def _failure(plan: Plan, rc: int | None, timeout: float, log: _Log, disk: str | None) -> str | None:
    accepted = (0, 2) if plan.wish.kind in HDK_KINDS else (0,)
    if rc in accepted and disk is None:
        return None
    what = "uninstaller" if plan.action == "remove" else "installer"
    said = f"was killed after {timeout:g} s" if rc is None else f"returned {rc}"
    parts = [f"the {plan.wish.kind} {what} {said}"]
    if disk:
        parts[0] += f", and {disk}" if rc not in accepted else f", but {disk}"
    else:
        parts[0] += f", though {plan.wish.kind} {plan.wanted or ''} is on disk as wanted".replace("  ", " ")
    lines = log.errors or [line for line in log.tail if line][-1:]
    if lines:
        parts.append(f"it printed: {lines[0]}")
    printed = "\n".join([*log.errors, *log.tail])
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, printed, re.IGNORECASE)), None)
    if remedy:
        parts.append(remedy)
    return "; ".join(parts)


def _reboot_reason(plan: Plan, rc: int | None, log: _Log) -> str | None:
    kind, version = plan.wish.kind, plan.wanted or plan.before.version
    if kind == "firmware" and plan.wish.state == "present":
        return f"firmware {version} takes effect with a reboot"
    if kind in HDK_KINDS and (rc == 2 or log.reboot):
        done = "removal" if plan.wish.state == "absent" else "installation"
        return f"the {done} of {kind} {version} takes effect with a reboot (the vendor's installer says so)"
    return None


def _unpack(plan: Plan) -> archive.Unpacked | None:
    folder = plan.unpack_folder
    if folder is None or plan.wish.src is None:
        return None
    unpacked = archive.unpack(plan.wish.src, plan.wish.kind, folder)
    if plan.wish.signature_ca:
        try:
            archive.verify(unpacked, plan.wish.signature_ca, plan.wish.signature_ignore_time)
        except PackageError:
            archive.clean(unpacked)
            raise
    return unpacked


def _drop_byte_code(folder: str) -> None:
    """Remove what Python has written beside its modules: a removal goes by lists of files, and keeps a folder that is not empty afterwards."""
    for path, _folders, files in os.walk(folder, topdown=False):
        if os.path.basename(path) != "__pycache__" or not all(name.endswith(".pyc") for name in files):
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
            # Its modules may have gone long ago.
            parent = os.path.dirname(path)
            while len(parent) > len(folder):
                os.rmdir(parent)
                parent = os.path.dirname(parent)


def carry_out(plan: Plan, roots: Roots, log_dir: str, timeout: float) -> Result:
    """Run a plan's command and look at the disk.

    Raises EnvironmentProblem or PackageError before anything ran, OSError when the state folder cannot be written.
    """
    started = time.monotonic()
    environment = _environment(plan, roots)
    unpacked = _unpack(plan)
    command = plan.command[:1] + (unpacked.run,) + plan.command[2:] if unpacked else plan.command
    kind, version = plan.wish.kind, plan.wanted or plan.before.version or "unknown"
    owed_before = reboot.read(roots.state)
    if kind == "firmware" and plan.wish.state == "present":
        # Written first: once the chips are flashed, no crash of this program may lose the reboot.
        reboot.owe(roots.state, roots.proc, f"firmware {version} takes effect with a reboot", kind, version)
    log = _Log(os.path.join(log_dir, f"{kind}-{version}-{plan.action}-{time.strftime('%Y%m%dT%H%M%S')}.log"))
    log.line(f"# {' '.join(command)}", judge=False)
    if plan.action == "remove" and kind not in HDK_KINDS and plan.before.path:
        _drop_byte_code(plan.before.path)
    rc = _execute(command, environment, log, timeout)
    if unpacked:
        archive.clean(unpacked)
    after = installed(kind, roots, plan.wanted or plan.before.version)
    failure = _failure(plan, rc, timeout, log, _disk_says(plan, after))
    log.line(f"# returned {rc}; {failure or 'on disk as wanted'}", judge=False)
    log.close()
    why = _reboot_reason(plan, rc, log)
    if failure and kind == "firmware" and (after.version, after.partial) == (plan.before.version, plan.before.partial):
        reboot.write(roots.state, owed_before)
        why = None
    elif why:
        reboot.owe(roots.state, roots.proc, why, kind, version)
    tail = list(log.tail) + ([log.note] if log.note else [])
    signatures = unpacked.signatures if unpacked else []
    return Result(rc, after, failure, log.path, tail, signatures, why, round(time.monotonic() - started, 1))
