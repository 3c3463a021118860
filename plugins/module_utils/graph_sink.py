# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which libruntime.so a CANN toolkit has, and what has to happen to it.

The deployment guide moves `latest/lib64/libruntime.so` aside and copies another one there. In a CANN 8.1.RC1 tree that name is a
link: `latest/lib64`, `runtime/lib64`, `atc/lib64` and `fwkacllib/lib64` all lead to `<version>/<arch>-linux/lib64/libruntime.so`
(https://github.com/leideng/CANN-8.1.RC1, file trees). So the guide's `mv` sets a link aside, and only programs that come through
`latest/lib64` see the new library. We replace the file that all the links lead to, and put back a link that was moved aside.

Everything here decides; nothing here writes.
"""
from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from .file_digest import sha256_of

LIBRARY = "libruntime.so"
BACKUP = LIBRARY + ".bak"
PLUGIN = "libgraph_capture"
RECORD = "ascend_toolkit_install.info"
# Where the engine's source tree has the library and the plugin. The guide names arm; x86 is its sister folder.
SOURCE_FOLDERS = {"aarch64": "ktransformers/util/npu_graph_so/arm", "x86_64": "ktransformers/util/npu_graph_so/x86"}
# The folders below a toolkit through which programs come to the library.
DOORS = ("lib64", "runtime/lib64", "atc/lib64", "fwkacllib/lib64")
# Names of the runtime's public interface. What else the library exports is between it and its own CANN build.
INTERFACE = re.compile(r"^rt[A-Z]")


class GraphSinkError(Exception):
    """What the node has, what was expected and the next step, in one sentence."""


@dataclass(frozen=True)
class Toolkit:
    version: str   # as in its record: 8.1.RC1
    identity: str  # tells two builds of one version apart: the inner version and the time of the runtime package
    home: str      # what the environment names: .../ascend-toolkit/latest
    tree: str      # where the files are: .../ascend-toolkit/8.1.RC1
    arch: str      # aarch64 or x86_64
    library: str   # the real file that every link leads to


@dataclass(frozen=True)
class Detour:
    """A real file where the toolkit has a link: what the guide's `mv` and `cp` leave behind."""
    path: str
    sha256: str
    aside: bool    # whether the link itself waits beside it as libruntime.so.bak


@dataclass(frozen=True)
class Seen:
    """All that the decision depends on."""
    toolkit: Toolkit
    sha256: str                            # of toolkit.library
    backup_sha256: Optional[str] = None    # of a real libruntime.so.bak beside toolkit.library
    detours: Tuple[Detour, ...] = ()
    wanted_sha256: Optional[str] = None    # of the library to install, None where it is not on the node
    record: Optional[Mapping[str, Any]] = None
    kept_sha256: Optional[str] = None      # of the kept original, None where it is gone


@dataclass(frozen=True)
class Decision:
    state: str                    # pristine, ours, by-hand or unknown
    reason: Optional[str] = None  # why something has to be done, None when nothing has
    keep: Optional[str] = None    # file to keep as the original first
    replace: bool = False         # whether toolkit.library has to be written
    detours: Tuple[Detour, ...] = ()  # links to put back
    forget: bool = False          # drop the record and the kept original
    refusal: Optional[str] = None


def read_values(path: str) -> Dict[str, str]:
    """`key=value` lines of a vendor record; {} when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = [line.partition("=") for line in stream]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, sign, value in lines if sign}


def toolkit_homes(ascend_root: str, version: str) -> List[str]:
    """Where a toolkit may be: the folder of CANN up to 8.3, then the one from 8.5 on."""
    if version == "latest":
        return [os.path.join(ascend_root, "ascend-toolkit", "latest"), os.path.join(ascend_root, "cann")]
    return [os.path.join(ascend_root, "ascend-toolkit", version), os.path.join(ascend_root, "cann-" + version)]


def find_toolkit(ascend_root: str, version: str = "latest") -> Optional[Toolkit]:
    """The toolkit `version` (latest: the active one) below `ascend_root`, or None. Raises GraphSinkError for one without the library."""
    for home in toolkit_homes(ascend_root, version):
        for record in sorted(glob.glob(os.path.join(home, "*-linux", RECORD))):
            folder = os.path.dirname(os.path.realpath(record))
            tree, arch = os.path.dirname(folder), os.path.basename(folder)[: -len("-linux")]
            values = read_values(record)
            found = [os.path.join(tree, door, LIBRARY) for door in (f"{arch}-linux/lib64",) + DOORS]
            library = next((os.path.realpath(path) for path in found if os.path.isfile(path)), None)
            if library is None:
                raise GraphSinkError(f"CANN toolkit {values.get('version')} in {tree} has no {LIBRARY}; install the toolkit again.")
            runtime = read_values(os.path.join(tree, "runtime", "version.info"))
            identity = " ".join(filter(None, (values.get("innerversion"), runtime.get("timestamp"))))
            return Toolkit(values.get("version") or os.path.basename(tree), identity, home, tree, arch, library)
    return None


def find_detours(toolkit: Toolkit) -> Tuple[Detour, ...]:
    found: Dict[str, Detour] = {}
    for base in (toolkit.home, toolkit.tree):
        for door in DOORS:
            folder = os.path.realpath(os.path.join(base, door))
            path = os.path.join(folder, LIBRARY)
            if path not in found and os.path.isfile(path) and os.path.realpath(path) != toolkit.library:
                found[path] = Detour(path, sha256_of(path), os.path.islink(os.path.join(folder, BACKUP)))
    return tuple(found[path] for path in sorted(found))


def see(toolkit: Toolkit, wanted: Optional[str], record: Optional[Mapping[str, Any]], kept: str) -> Seen:
    """What is on the node. wanted: path of the library to install; kept: path of the kept original."""
    backup = os.path.join(os.path.dirname(toolkit.library), BACKUP)
    real_backup = os.path.isfile(backup) and not os.path.islink(backup)
    return Seen(
        toolkit=toolkit,
        sha256=sha256_of(toolkit.library),
        backup_sha256=sha256_of(backup) if real_backup else None,
        detours=find_detours(toolkit),
        wanted_sha256=sha256_of(wanted) if wanted and os.path.isfile(wanted) else None,
        record=record,
        kept_sha256=sha256_of(kept) if os.path.isfile(kept) else None,
    )


@dataclass(frozen=True)
class User:
    """A process that has the library mapped."""
    pid: int
    command: str


def find_users(libraries: Sequence[str], units: Sequence[str] = (), proc_root: str = "/proc") -> List[User]:
    """Processes that map one of these files, those of `units` (systemd's, by their control group) left out.

    A process whose maps this user may not read is not seen: root sees all. https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html
    """
    wanted = {os.path.realpath(path) for path in libraries}
    inodes = {str(os.stat(path).st_ino) for path in wanted if os.path.exists(path)}
    names = {os.path.basename(path) for path in wanted}
    found = []
    for name in os.listdir(proc_root) if os.path.isdir(proc_root) else []:
        if name.isdigit() and _maps_one(os.path.join(proc_root, name, "maps"), wanted, inodes, names) and not _is_of(os.path.join(proc_root, name), units):
            found.append(User(int(name), _command(os.path.join(proc_root, name))))
    return sorted(found, key=lambda user: user.pid)


def _maps_one(maps: str, paths: Any, inodes: Any, names: Any) -> bool:
    """In a container the file has another path, and the same inode. Device numbers do not help: on btrfs and overlayfs stat shows others."""
    try:
        with open(maps, encoding="utf-8", errors="replace") as stream:
            fields = [line.rstrip("\n").split(None, 5) for line in stream if LIBRARY in line]
    except OSError:
        return False
    return any(len(one) == 6 and (one[5] in paths or one[4] in inodes and os.path.basename(one[5]) in names) for one in fields)


def _is_of(process: str, units: Sequence[str]) -> bool:
    try:
        with open(os.path.join(process, "cgroup"), encoding="utf-8", errors="replace") as stream:
            groups = {part for line in stream for part in line.strip().split("/")}
    except OSError:
        return False
    return bool(groups & set(units))


def _command(process: str) -> str:
    for name in ("cmdline", "comm"):
        try:
            with open(os.path.join(process, name), encoding="utf-8", errors="replace") as stream:
                words = " ".join(stream.read().replace("\0", " ").split())
        except OSError:
            continue
        if words:
            return words if len(words) <= 80 else words[:79] + "…"
    return "?"


def in_use(toolkit: Toolkit, users: Sequence[User]) -> Optional[str]:
    """Why the library must not be changed now, or None."""
    if not users:
        return None
    some = "; ".join(f"process {user.pid} ({user.command})" for user in users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
    return (f"{toolkit.library} is in use by {some}: a program would go on with the old {LIBRARY}, and its next process would load the new one; "
            f"end {'it' if len(users) == 1 else 'them'} (kill {' '.join(str(user.pid) for user in users[:5])}, or what started "
            f"{'it' if len(users) == 1 else 'them'}), then run this again.")


def classify(seen: Seen) -> str:
    """pristine: the vendor's. ours: one that this collection installed. by-hand: the guide's two commands. unknown: none of them."""
    if seen.record:
        if seen.sha256 in seen.record["installed_sha256"]:
            return "ours"
        if seen.sha256 == seen.record["original_sha256"]:
            return "by-hand" if seen.detours else "pristine"
        # An installer that ran again brings a library of its own, and its own dates with it.
        return "pristine" if seen.toolkit.identity != seen.record["identity"] else "unknown"
    if seen.backup_sha256 and seen.backup_sha256 not in (seen.sha256, seen.wanted_sha256):
        return "by-hand"
    if seen.wanted_sha256 == seen.sha256:
        return "unknown"
    return "by-hand" if seen.detours else "pristine"


def decide_present(seen: Seen, accept_unknown: bool = False) -> Decision:
    """What makes the wanted library the one that every program sees. With no wanted library on the node only the state is known."""
    state = classify(seen)
    toolkit = seen.toolkit
    name = f"CANN {toolkit.version}"
    if state == "unknown":
        if not accept_unknown:
            return Decision(state, refusal=_unknown(seen))
        return Decision(state, f"{toolkit.library} ({_short(seen.sha256)}) is taken for the original of {name}, as accept_unknown says",
                        toolkit.library, True, seen.detours)
    if seen.wanted_sha256 is None:
        return Decision(state, {"pristine": f"{name} has the vendor's {LIBRARY}", "by-hand": f"{LIBRARY} of {name} was replaced by hand"}.get(state))
    if state == "ours":
        if seen.kept_sha256 != seen.record["original_sha256"]:  # type: ignore[index]
            return Decision(state, refusal=_lost(seen))
        if seen.sha256 != seen.wanted_sha256:
            return Decision(state, f"{name} has {_short(seen.sha256)}, {_short(seen.wanted_sha256)} is wanted", replace=True, detours=seen.detours)
        reason = f"{seen.detours[0].path} is a file of its own, expected a link to {toolkit.library}" if seen.detours else None
        return Decision(state, reason, detours=seen.detours)
    if state == "by-hand":
        original = os.path.join(os.path.dirname(toolkit.library), BACKUP) if seen.backup_sha256 and not seen.record else toolkit.library
        return Decision(state, f"{LIBRARY} of {name} was replaced by hand; {original} is the original", original, True, seen.detours)
    again = seen.record and seen.sha256 != seen.record["original_sha256"]
    reason = f"{name} brought a new {LIBRARY} ({_short(seen.sha256)})" if again else f"{name} has the vendor's {LIBRARY} ({_short(seen.sha256)})"
    return Decision(state, reason, toolkit.library, True, seen.detours)


def decide_absent(seen: Seen) -> Decision:
    """What brings the vendor's library back. Only what a record tells of is touched."""
    state = classify(seen)
    if not seen.record:
        return Decision(state)
    if state == "unknown":
        return Decision(state, refusal=_unknown(seen))
    if state == "ours":
        if seen.kept_sha256 != seen.record["original_sha256"]:
            return Decision(state, refusal=_lost(seen))
        return Decision(state, f"CANN {seen.toolkit.version} gets its own {LIBRARY} back ({_short(seen.kept_sha256)})", replace=True, forget=True)
    return Decision(state, f"CANN {seen.toolkit.version} has the vendor's {LIBRARY}; what was kept of it is not needed any more", forget=True)


def missing_interface(original: FrozenSet[str], wanted: FrozenSet[str]) -> List[str]:
    """Functions of the runtime's interface that the original offers and the wanted library does not."""
    return sorted(name for name in original - wanted if INTERFACE.match(name))


def find_plugin(folder: str) -> Optional[str]:
    """The capture plugin that the engine imports from CAPTURE_PLUGIN_PATH, or None."""
    found = sorted(path for path in glob.glob(os.path.join(folder, PLUGIN + "*")) if os.path.isfile(path) and path.endswith((".so", ".py")))
    return found[0] if found else None


def _short(sha256: Optional[str]) -> str:
    return "sha256 " + (sha256 or "")[:12]


def _unknown(seen: Seen) -> str:
    toolkit = seen.toolkit
    if not seen.record:
        return (f"{toolkit.library} ({_short(seen.sha256)}) is already the library to install, and nobody kept the original of CANN {toolkit.version}; "
                f"install the toolkit again, or put the original beside it as {BACKUP}, or take what is there for the original with accept_unknown.")
    return (f"{toolkit.library} ({_short(seen.sha256)}) is neither the original ({_short(seen.record['original_sha256'])}) nor what was installed here "
            f"({', '.join(_short(sha) for sha in seen.record['installed_sha256'])}); find out who put it there, then install the toolkit again, "
            "or take what is there for the original with accept_unknown.")


def _lost(seen: Seen) -> str:
    now = "gone" if seen.kept_sha256 is None else "not what was kept"
    return (f"the original {LIBRARY} of CANN {seen.toolkit.version} that was kept here is {now} "
            f"(expected {_short((seen.record or {}).get('original_sha256'))}); install the toolkit again.")
