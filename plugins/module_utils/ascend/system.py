# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be learned of the operating system without root: C++ library, clock, automatic updates, and who listens on a port."""
from __future__ import annotations

import ctypes
import glob
import os
import re

from ansible_collections.npuops.ktransformers.plugins.module_utils import glibcxx
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.records import read_text

# /proc/<pid>/comm holds 15 characters.
_CLOCK_DAEMONS = {"systemd-timesyn": "systemd-timesyncd", "chronyd": "chronyd", "ntpd": "ntpd", "ntpd-rs": "ntpd-rs", "openntpd": "openntpd"}
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_LISTEN = "0A"  # a socket's state in /proc/net/tcp, https://docs.kernel.org/networking/proc_net_tcp.html


def _top(etc_root: str) -> str:
    """What lies beside /etc, wherever that is: / of a real node."""
    return os.path.dirname(os.path.abspath(etc_root))


def libstdcxx(etc_root: str = "/etc") -> tuple[str | None, str | None]:
    """The newest GLIBCXX version of the system's own libstdc++, such as 3.4.30, or None and why there is none."""
    top = _top(etc_root)
    folders = [f"usr/lib/{os.uname().machine}-linux-gnu", f"lib/{os.uname().machine}-linux-gnu", "usr/lib64", "lib64", "usr/lib"]
    for folder in folders:
        path = os.path.join(top, folder, "libstdc++.so.6")
        try:
            return glibcxx.offered(path), None
        except OSError:
            continue
    return None, f"no libstdc++.so.6 is in {' or '.join(os.path.join(top, folder) for folder in folders)}"


def _clock_daemon(proc_root: str) -> str | None:
    for path in glob.iglob(os.path.join(glob.escape(proc_root), "[0-9]*", "comm")):
        daemon = _CLOCK_DAEMONS.get((read_text(path)[0] or "").strip())
        if daemon:
            return daemon
    return None


def _kernel_clock() -> bool | None:
    """Whether the kernel takes its clock for synchronized, as timedatectl says it, or None where it cannot be asked."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))  # modes = 0: only asks
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def clock(proc_root: str = "/proc", etc_root: str = "/etc") -> dict:
    """Whether something keeps the clock right: synchronized (None where it cannot be told), source and reason."""
    top, daemon = _top(etc_root), _clock_daemon(proc_root)
    mark = os.path.join(top, "run/systemd/timesync/synchronized")
    if os.path.exists(mark):
        return {"synchronized": True, "source": daemon or "systemd-timesyncd", "reason": None}
    state = _kernel_clock() if top == "/" else None
    if state:
        return {"synchronized": True, "source": daemon, "reason": None}
    said = "the kernel says that its clock is not synchronized" if state is False else f"there is no {mark}"
    return {"synchronized": state, "source": daemon, "reason": f"{said}, and {daemon or 'no time service'} runs"}


def _apt_updates(top: str) -> str | None:
    """The file that switches unattended-upgrades on (of several the last one counts), or None."""
    status = read_text(os.path.join(top, "var/lib/dpkg/status"), limit=None)[0] or ""
    if not re.search(r"^Package: unattended-upgrades\nStatus: install ok installed$", status, re.MULTILINE):
        return None
    folder, by = os.path.join(top, "etc/apt/apt.conf.d"), None
    try:
        names = sorted(name for name in os.listdir(folder) if re.fullmatch(r"[\w-]+(?:\.conf)?", name))
    except OSError:
        names = []
    for path in [*(os.path.join(folder, name) for name in names), os.path.join(top, "etc/apt/apt.conf")]:
        text = re.sub(r"^\s*(//|#).*$", "", read_text(path)[0] or "", flags=re.MULTILINE)
        for value in re.findall(r'(?<![\w-])Unattended-Upgrade\s+"([^"]*)"', text):
            by = None if value in ("", "0", "no", "false") else path
    return by


def _dnf_updates(top: str) -> str | None:
    """The timer that lets dnf install updates, or None."""
    for path in sorted(glob.glob(os.path.join(glob.escape(top), "etc/systemd/system/timers.target.wants/dnf-automatic*.timer"))):
        name = os.path.basename(path)[: -len(".timer")]
        passed_over = glob.glob(os.path.join(glob.escape(top), "etc/systemd/system", f"{name}.service.d", "*.conf"))
        if any("ConditionPathExists=!/\n" in (read_text(drop_in)[0] or "") for drop_in in passed_over):
            continue
        settings = read_text(os.path.join(top, "etc/dnf/automatic.conf"))[0] or ""
        if name == "dnf-automatic-install" or (name == "dnf-automatic" and re.search(r"^\s*apply_updates\s*=\s*(yes|true|1)\b", settings, re.M | re.I)):
            return path
    return None


def automatic_updates(etc_root: str = "/etc") -> dict:
    """Whether the system installs updates by itself, and the file that says so."""
    by = _apt_updates(_top(etc_root)) or _dnf_updates(_top(etc_root))
    return {"enabled": by is not None, "by": by}


def _listening(proc_root: str, ports: tuple[int, ...]) -> dict[int, set[str]]:
    """port -> inodes of the sockets that listen on it."""
    found: dict[int, set[str]] = {}
    for name in ("tcp", "tcp6"):
        for line in (read_text(os.path.join(proc_root, "net", name))[0] or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN and re.fullmatch(r"[0-9A-F]+:[0-9A-F]{4}", fields[1]):
                port = int(fields[1].rpartition(":")[2], 16)
                if port in ports:
                    found.setdefault(port, set()).add(fields[9])
    return found


def _owners(proc_root: str, inodes: set[str]) -> dict[str, int]:
    """inode of a socket -> pid; those of other users are only seen by root."""
    owners: dict[str, int] = {}
    for path in glob.iglob(os.path.join(glob.escape(proc_root), "[0-9]*", "fd", "*")):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        match = re.fullmatch(r"socket:\[(\d+)\]", target)
        if match and match.group(1) in inodes:
            owners.setdefault(match.group(1), int(path.split(os.sep)[-3]))
    return owners


def listeners(ports: tuple[int, ...], proc_root: str = "/proc") -> list[dict]:
    """For each port who listens on it: {port, listening, pid, name, unit}; the last three are None where they cannot be told."""
    listening = _listening(proc_root, ports)
    owners = _owners(proc_root, set().union(*listening.values())) if listening else {}
    answer = []
    for port in ports:
        pid = next((owners[inode] for inode in sorted(listening.get(port, ())) if inode in owners), None)
        name = (read_text(os.path.join(proc_root, str(pid), "comm"))[0] or "").strip() or None if pid else None
        groups = (read_text(os.path.join(proc_root, str(pid), "cgroup"))[0] or "") if pid else ""
        units = re.findall(r"/([^/\s]+\.service)(?=/|$)", groups, re.MULTILINE)
        answer.append({"port": port, "listening": port in listening, "pid": pid, "name": name, "unit": units[-1] if units else None})
    return answer
