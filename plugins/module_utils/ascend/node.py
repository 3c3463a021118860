# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the node itself shows, below roots that the caller may choose: system, memory, disks, device nodes, holders."""
from __future__ import annotations

import grp
import os
import pwd
import re
import stat

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.records import read_text
from ansible_collections.npuops.ktransformers.plugins.module_utils.mounts import read_only_mount

_DEVICE_NODE = re.compile(r"davinci\d+|davinci_manager|devmm_svm|devmm_svm_agent|hisi_hdc|dvpp_cmdlist")
_MIB = 1024 * 1024


def names_by_id(etc_root: str, database: str) -> dict[int, str]:
    """uid -> user of etc/passwd, or gid -> group of etc/group."""
    names: dict[int, str] = {}
    for line in (read_text(os.path.join(etc_root, database))[0] or "").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            names.setdefault(int(fields[2]), fields[0])
    return names


def groups_of(etc_root: str, user: str) -> list[str]:
    """The groups of a user, the primary one first; [] when the user isn't in etc/passwd."""
    primary = None
    for line in (read_text(os.path.join(etc_root, "passwd"))[0] or "").splitlines():
        fields = line.split(":")
        if len(fields) > 3 and fields[0] == user:
            primary = fields[3]
    if primary is None:
        return []
    groups: list[str] = []
    for line in (read_text(os.path.join(etc_root, "group"))[0] or "").splitlines():
        fields = line.split(":")
        if len(fields) > 3 and fields[2] == primary:
            groups.insert(0, fields[0])
        elif len(fields) > 3 and user in fields[3].split(","):
            groups.append(fields[0])
    return groups


def _user_name(uid: int, known: dict[int, str]) -> str:
    if uid not in known:
        try:
            known[uid] = pwd.getpwuid(uid).pw_name  # a directory service may know it
        except KeyError:
            known[uid] = str(uid)
    return known[uid]


def _group_name(gid: int, known: dict[int, str]) -> str:
    if gid not in known:
        try:
            known[gid] = grp.getgrgid(gid).gr_name
        except KeyError:
            known[gid] = str(gid)
    return known[gid]


def _by_number(name: str) -> tuple[str, int]:
    return re.sub(r"\d+$", "", name), int((re.findall(r"\d+$", name) or ["-1"])[0])


def device_nodes(dev_root: str = "/dev", etc_root: str = "/etc") -> list[dict]:
    """The NPU's device nodes with mode (octal text), owner and group. Told by name, for the roots may be a copy of a node's files."""
    try:
        names = sorted((name for name in os.listdir(dev_root) if _DEVICE_NODE.fullmatch(name)), key=_by_number)
    except OSError:
        return []
    users, groups = names_by_id(etc_root, "passwd"), names_by_id(etc_root, "group")
    nodes = []
    for name in names:
        path = os.path.join(dev_root, name)
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            continue
        nodes.append({
            "path": path,
            "mode": f"{stat.S_IMODE(status.st_mode):04o}",
            "owner": _user_name(status.st_uid, users),
            "group": _group_name(status.st_gid, groups),
        })
    return nodes


def holders(proc_root: str = "/proc", dev_root: str = "/dev", ignore: tuple[int, ...] = ()) -> tuple[list[dict], str | None]:
    """The processes that have an NPU's device node open: [{pid, name, nodes}], and why some could not be looked at (or None).

    Without root only one's own processes can be seen.
    """
    found, hidden = [], 0
    node_name = re.compile(f"(?:{re.escape(os.path.join(dev_root, ''))}|/dev/)davinci(?:\\d+|_manager)")
    try:
        pids = [int(name) for name in os.listdir(proc_root) if name.isdigit()]
    except OSError as exc:
        return [], f"{proc_root}: {exc.strerror}"
    for pid in sorted(pids):
        if pid in ignore:
            continue
        folder = os.path.join(proc_root, str(pid), "fd")
        nodes = set()
        try:
            links = os.listdir(folder)
        except OSError as exc:
            hidden += isinstance(exc, PermissionError)
            continue
        for link in links:
            try:
                target = os.readlink(os.path.join(folder, link))
            except OSError:
                continue
            if node_name.fullmatch(target):
                nodes.add(target)
        if nodes:
            name = (read_text(os.path.join(proc_root, str(pid), "comm"))[0] or "").strip()
            found.append({"pid": pid, "name": name or None, "nodes": sorted(nodes)})
    return found, f"{hidden} processes of other users could not be looked at" if hidden else None


def modules(proc_root: str = "/proc") -> list[str] | None:
    """The names of the loaded kernel modules, or None when they cannot be read."""
    text = read_text(os.path.join(proc_root, "modules"))[0]
    return None if text is None else [line.split()[0] for line in text.splitlines() if line.strip()]


def packages(var_root: str, names: tuple[str, ...]) -> dict[str, bool] | None:
    """Which of these packages are installed, after dpkg's own database, or None where there is none (an rpm system)."""
    # Far larger than a record: a desktop's database has some megabytes.
    try:
        with open(os.path.join(var_root, "lib", "dpkg", "status"), encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    there = set()
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Status", "").split()[-1:] == ["installed"]:
            there.add(fields.get("Package"))
    return {name: name in there for name in names}


def boot_id(proc_root: str = "/proc") -> str | None:
    """The kernel's id of this boot: another one after each start."""
    return (read_text(os.path.join(proc_root, "sys", "kernel", "random", "boot_id"))[0] or "").strip() or None


def _os_release(etc_root: str) -> dict[str, str]:
    pairs = {}
    for line in (read_text(os.path.join(etc_root, "os-release"))[0] or "").splitlines():
        key, found, value = line.partition("=")
        if found:
            pairs[key.strip()] = value.strip().strip("\"'")
    return pairs


def _memory_mb(proc_root: str) -> dict[str, int]:
    found = re.findall(r"^(\w+):\s+(\d+) kB", read_text(os.path.join(proc_root, "meminfo"))[0] or "", re.MULTILINE)
    return {key: int(value) // 1024 for key, value in found}


def _glibc() -> str | None:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[-1]
    except (ValueError, OSError, IndexError):
        return None


def host(sysfs_root: str = "/sys", proc_root: str = "/proc", etc_root: str = "/etc") -> dict:
    """Architecture, kernel, distribution, C library, processors, NUMA nodes and memory (mebibytes); None where it cannot be read."""
    release, memory = _os_release(etc_root), _memory_mb(proc_root)
    cpus = len(re.findall(r"^processor\s*:", read_text(os.path.join(proc_root, "cpuinfo"))[0] or "", re.MULTILINE))
    try:
        numa = len([name for name in os.listdir(os.path.join(sysfs_root, "devices", "system", "node")) if re.fullmatch(r"node\d+", name)])
    except OSError:
        numa = 0
    return {
        "architecture": os.uname().machine,
        "kernel": (read_text(os.path.join(proc_root, "sys", "kernel", "osrelease"))[0] or "").strip() or os.uname().release,
        "os_id": release.get("ID"),
        "os_name": release.get("NAME"),
        "os_version": release.get("VERSION_ID"),
        "glibc": _glibc(),
        "cpu_count": cpus or os.cpu_count(),
        "numa_nodes": numa or None,
        "memory_total_mb": memory.get("MemTotal"),
        "memory_available_mb": memory.get("MemAvailable"),
        "boot_id": boot_id(proc_root),
    }


def _mounts(proc_root: str) -> list[tuple[str, str]]:
    mounts = []
    for line in (read_text(os.path.join(proc_root, "mounts"))[0] or "").splitlines():
        fields = line.split()
        if len(fields) > 2:
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields[1])
            mounts.append((point, fields[2]))
    return mounts


def existing_parent(path: str) -> str:
    """The path itself, or its nearest parent that exists."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def free_mb(path: str) -> int | None:
    """Mebibytes that this user may still write where `path` is or will be."""
    try:
        status = os.statvfs(existing_parent(path))
    except OSError:
        return None
    return status.f_bavail * status.f_frsize // _MIB


def disk(path: str, proc_root: str = "/proc") -> dict:
    """Size and free space (mebibytes) of the file system that holds `path`, or will hold it; where it begins when it is mounted read-only."""
    real = os.path.realpath(existing_parent(path))
    mount, fstype = None, None
    for point, kind in _mounts(proc_root):
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of two mounts at one point the later one is on top.
        if inside and (mount is None or len(point) >= len(mount)):
            mount, fstype = point, kind
    try:
        status = os.statvfs(real)
        total = status.f_blocks * status.f_frsize // _MIB
    except OSError:
        total = None
    return {"path": path, "mount": mount, "fstype": fstype, "total_mb": total, "free_mb": free_mb(real), "read_only": read_only_mount(path)}
