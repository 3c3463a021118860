#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: npu_graph_sink
version_added: 1.0.0
short_description: Replace libruntime.so of a CANN toolkit by the one that graph sinking needs, or put the original back
description:
  - The deployment guide moves C(latest/lib64/libruntime.so) aside and copies another file there. In a toolkit tree that name is a link, so the
    guide changes what one path shows and leaves the others. This module replaces the file that all the links lead to, in one step (written beside,
    then renamed), so that every program sees the same library and a running one keeps the one it started with.
  - The vendor's library is kept once, below O(state_dir), with its checksum. A swap that was made by hand is taken over, with the
    C(libruntime.so.bak) that it left as the original, and the link that it moved aside comes back.
  - A toolkit that was installed again or upgraded brought a library of its own. That one is kept and replaced in its turn.
  - A library that is neither the vendor's nor one of ours is refused, and so is changing one that a program has loaded.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
options:
  ascend_root:
    description: Where CANN is installed.
    type: path
    default: /usr/local/Ascend
  version:
    description:
      - The toolkit to work on, such as V(8.1.RC1).
      - The default is the active one, and with O(state=absent) every toolkit that this module has changed.
    type: str
  path:
    description:
      - Folder on the node with C(libruntime.so) and the capture plugin C(libgraph_capture*), for the architecture of the toolkit.
      - With O(state=present) this or O(source) is required. The engine gets the same folder as C(CAPTURE_PLUGIN_PATH).
    type: path
  source:
    description:
      - Source tree of the engine, which has such a folder for each architecture, C(ktransformers/util/npu_graph_so/arm) and C(x86).
      - Not used when O(path) is given.
    type: path
  state:
    description:
      - V(present) installs the library of O(path) or O(source), V(absent) puts the original back.
      - V(described) only says what there is. It never fails for what it finds.
    type: str
    choices: [present, absent, described]
    default: present
  accept_unknown:
    description: Take a library that nobody knows for the original. Say this only when you know where it came from.
    type: bool
    default: false
  units:
    description: Systemd units whose processes may have the library mapped. Whoever calls this module stops them first and starts them afterwards.
    type: list
    elements: str
    default: []
  proc_root:
    description: Where the processes are looked for.
    type: path
    default: /proc
  state_dir:
    description: The originals are kept in the folder C(graph_sink) below this one.
    type: path
    default: /var/lib/npuops
attributes:
  check_mode:
    support: full
    description: On a node without the toolkit, or without the library to install, it answers with a reason instead of failing.
  diff_mode:
    support: full
    description: Shows checksum and state of the library, before and after.
notes:
  - Needs no program on the node. Symbols are read from the files.
  - An ordinary user sees only his own processes. A program of somebody else then goes on with the library that it has loaded.
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Let every program of the active toolkit use the runtime of the engine's source tree
  npuops.ktransformers.npu_graph_sink:
    source: /opt/ktransformers

- name: Put the vendor's library back
  npuops.ktransformers.npu_graph_sink:
    state: absent

- name: Ask what is there
  npuops.ktransformers.npu_graph_sink:
    state: described
  register: runtime
"""

RETURN = r"""
found:
  description: Whether there is a toolkit.
  returned: success
  type: bool
reason:
  description: Why something is changed, or why nothing could be done, or null.
  returned: success
  type: str
  sample: CANN 8.1.RC1 has the vendor's libruntime.so (sha256 6f1c1f5b0d3a)
state_before:
  description: What the library was. One of V(pristine), V(ours), V(by-hand), V(unknown), or null without a toolkit.
  returned: success
  type: str
  sample: pristine
verdict:
  description: Whether the wanted library is in place. One of V(ok), V(missing) (the toolkit has the vendor's, or there is no toolkit), V(different).
  returned: O(state=present) or O(state=described)
  type: str
  sample: ok
words:
  description: What is in place, in a few words.
  returned: O(state=present) or O(state=described)
  type: str
  sample: in CANN 8.1.RC1, original kept
refusal:
  description: Why it is not touched, when it must not be, or null.
  returned: O(state=described)
  type: str
version:
  description: Version of the toolkit.
  returned: when there is one
  type: str
  sample: 8.1.RC1
library:
  description: The file that every link leads to.
  returned: when there is a toolkit
  type: str
  sample: /usr/local/Ascend/ascend-toolkit/8.1.RC1/aarch64-linux/lib64/libruntime.so
sha256:
  description: Checksum of RV(library), after the change.
  returned: when there is a toolkit
  type: str
in_use:
  description: Which processes have loaded a library that would be changed, and what to do about them, or null.
  returned: O(state=described)
  type: str
original_sha256:
  description: Checksum of the vendor's library, or null when it is not known.
  returned: when there is a toolkit
  type: str
kept:
  description: Where the original is kept, or null.
  returned: when there is a toolkit
  type: str
  sample: /var/lib/npuops/graph_sink/8.1.RC1/libruntime.so
folder:
  description: The folder with library and plugin.
  returned: when there is a toolkit and O(path) or O(source)
  type: str
  sample: /opt/ktransformers/ktransformers/util/npu_graph_so/arm
plugin:
  description: The capture plugin in RV(folder), or null.
  returned: when there is a toolkit
  type: str
  sample: /opt/ktransformers/ktransformers/util/npu_graph_so/arm/libgraph_capture.so
toolkits:
  description: With O(state=absent), what was done to each toolkit, with the keys above.
  returned: O(state=absent)
  type: list
  elements: dict
"""

import contextlib
import json
import os
import shutil
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import graph_sink
from ansible_collections.npuops.ktransformers.plugins.module_utils.elf import ElfError, read_library
from ansible_collections.npuops.ktransformers.plugins.module_utils.file_digest import sha256_of
from ansible_collections.npuops.ktransformers.plugins.module_utils.graph_sink import GraphSinkError

SUPPLIER = "it comes with the source tree of the engine: get it again from whoever supplies that tree, or set its folder"


class Keep:
    """The kept original of one toolkit and the record beside it."""

    def __init__(self, state_dir, version):
        self.folder = os.path.join(state_dir, "graph_sink", version)
        self.library = os.path.join(self.folder, graph_sink.LIBRARY)
        self.path = os.path.join(self.folder, "record.json")

    def record(self):
        try:
            with open(self.path, encoding="utf-8") as stream:
                record = json.load(stream)
            return record if {"original_sha256", "installed_sha256", "identity"} <= set(record) else None
        except FileNotFoundError:
            return None
        except ValueError:
            raise GraphSinkError(f"{self.path} is not what this collection wrote there; compare {self.library} with the toolkit's and remove the record.")

    def write(self, record):
        handle, partial = tempfile.mkstemp(dir=self.folder, prefix=".record")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, self.path)

    def forget(self):
        shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self.folder))


@contextlib.contextmanager
def writable(folder):
    """CANN leaves its folders without write permission for an ordinary owner, who may still give it to himself for the moment."""
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    opened = not os.access(folder, os.W_OK) and os.stat(folder).st_uid == os.geteuid()
    if opened:
        os.chmod(folder, mode | stat.S_IWUSR)
    try:
        yield
    finally:
        if opened:
            os.chmod(folder, mode)


def put(source, target, like):
    """Make `target` a copy of `source` with owner and mode of `like`: complete on the disk before it gets its name."""
    folder = os.path.dirname(target)
    with writable(folder):
        handle, partial = tempfile.mkstemp(dir=folder, prefix=f".{graph_sink.LIBRARY}.")
        try:
            with os.fdopen(handle, "wb") as out, open(source, "rb") as into:
                shutil.copyfileobj(into, out, 1 << 20)
                out.flush()
                status = os.stat(like)
                os.fchmod(out.fileno(), stat.S_IMODE(status.st_mode))
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
                    os.fchown(out.fileno(), status.st_uid, status.st_gid)
                os.fsync(out.fileno())
            os.replace(partial, target)
        except BaseException:
            os.unlink(partial)
            raise
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put_link_back(detour, library):
    """Undo the guide's `mv` and `cp` at one place: the link that it moved aside takes its name again."""
    folder = os.path.dirname(detour.path)
    backup = os.path.join(folder, graph_sink.BACKUP)
    with writable(folder):
        if detour.aside and os.path.realpath(backup) == library:
            os.replace(backup, detour.path)
            return
        fresh = detour.path + ".npuops-new"
        os.symlink(os.path.relpath(library, folder), fresh)
        os.replace(fresh, detour.path)


def check_library(wanted, original, toolkit):
    """Refuse a library that the toolkit's programs could not use. `original`: path of the one that it stands in for."""
    try:
        new = read_library(wanted)
        if new.machine != toolkit.arch:
            raise GraphSinkError(f"{wanted} is built for {new.machine}, CANN {toolkit.version} on this node for {toolkit.arch}; "
                                 "set the folder for this architecture.")
        missing = graph_sink.missing_interface(read_library(original).exports, new.exports)
    except ElfError as exc:
        raise GraphSinkError(f"{exc}; {SUPPLIER}.")
    if missing:
        raise GraphSinkError(f"{wanted} lacks {len(missing)} functions that CANN {toolkit.version} offers ({', '.join(missing[:3])}); "
                             f"it is made for another CANN: get the one for {toolkit.version} from whoever supplies it.")


def check_plugin(path, toolkit):
    """The capture plugin in `path`. Raises GraphSinkError when there is none that the engine could import."""
    plugin = graph_sink.find_plugin(path)
    if plugin is None:
        raise GraphSinkError(f"{path} has no {graph_sink.PLUGIN}*.so, which the engine imports to capture a graph; {SUPPLIER}.")
    if plugin.endswith(".so"):
        try:
            machine = read_library(plugin).machine
        except ElfError as exc:
            raise GraphSinkError(f"{exc}; {SUPPLIER}.")
        if machine != toolkit.arch:
            raise GraphSinkError(f"{plugin} is built for {machine}, this node is {toolkit.arch}; set the folder for this architecture.")
    return plugin


def folder_for(params, toolkit):
    """The folder with library and plugin for the toolkit's architecture, or None when neither option is given."""
    if params["path"] or not params["source"]:
        return params["path"]
    if toolkit.arch not in graph_sink.SOURCE_FOLDERS:
        raise GraphSinkError(f"CANN {toolkit.version} is for {toolkit.arch}, graph sinking is for {' and '.join(graph_sink.SOURCE_FOLDERS)}; set path.")
    return os.path.join(params["source"], graph_sink.SOURCE_FOLDERS[toolkit.arch])


def used(module, seen):
    """Why the library of `seen` must not be changed now, or None."""
    libraries = [seen.toolkit.library] + [detour.path for detour in seen.detours]
    return graph_sink.in_use(seen.toolkit, graph_sink.find_users(libraries, module.params["units"], module.params["proc_root"]))


def report(seen, decision, keep, path, after=None):
    record = keep.record()
    return {
        "found": True, "reason": decision.reason, "state_before": decision.state, "version": seen.toolkit.version, "library": seen.toolkit.library,
        "sha256": after or seen.sha256, "original_sha256": record["original_sha256"] if record else None,
        "kept": keep.library if os.path.exists(keep.library) else None,
        "folder": path, "plugin": graph_sink.find_plugin(path) if path else None,
    }


def judged(result, in_place):
    """Add to a result what the summary says of it. in_place: whether the wanted library is there now."""
    state = result["state_before"]
    if in_place:
        verdict, words = "ok", f"in CANN {result['version']}, original kept"
    elif state is None:
        verdict, words = "missing", "no CANN toolkit"
    else:
        verdict = "missing" if state == "pristine" else "different"
        words = {"pristine": "the vendor's", "ours": "an earlier one", "by-hand": "replaced by hand", "unknown": "unknown"}[state]
    result.update(verdict=verdict, words=words)
    return result


def describe(state, toolkit, sha256):
    return f"{toolkit.library}\nstate: {state}\nsha256: {sha256}\n"


def apply_present(seen, decision, keep, wanted):
    toolkit = seen.toolkit
    record = dict(seen.record or {})
    if decision.keep:
        original = sha256_of(decision.keep)
        if not (os.path.isfile(keep.library) and sha256_of(keep.library) == original):
            os.makedirs(keep.folder, mode=0o755, exist_ok=True)
            put(decision.keep, keep.library, decision.keep)
        record = {"original_sha256": original, "installed_sha256": [], "identity": toolkit.identity, "version": toolkit.version, "library": toolkit.library}
    if decision.replace:
        # Recorded before the file changes: after a crash either checksum is known.
        known = [sha256 for sha256 in record["installed_sha256"] if sha256 != seen.wanted_sha256]
        record["installed_sha256"] = known + [seen.wanted_sha256]
        keep.write(record)
        put(wanted, toolkit.library, toolkit.library)
    for detour in decision.detours:
        put_link_back(detour, toolkit.library)


def present(module):
    params = module.params
    toolkit = graph_sink.find_toolkit(params["ascend_root"], params["version"] or "latest")
    if toolkit is None:
        reason = f"there is no CANN toolkit below {params['ascend_root']}"
        if module.check_mode:
            return judged({"changed": False, "found": False, "state_before": None, "reason": reason}, False)
        raise GraphSinkError(f"{reason}; install it with the role cann, or set ascend_root.")
    path = folder_for(params, toolkit)
    wanted = os.path.join(path, graph_sink.LIBRARY)
    keep = Keep(params["state_dir"], toolkit.version)
    seen = graph_sink.see(toolkit, wanted, keep.record(), keep.library)
    decision = graph_sink.decide_present(seen, params["accept_unknown"])
    if decision.refusal:
        raise GraphSinkError(decision.refusal)
    busy = used(module, seen) if decision.reason else None
    if busy:
        raise GraphSinkError(busy)
    if seen.wanted_sha256 is None and not module.check_mode:
        raise GraphSinkError(f"{wanted} does not exist; {SUPPLIER}.")
    if seen.wanted_sha256:
        check_plugin(path, toolkit)
        if decision.replace:
            check_library(wanted, decision.keep or keep.library, toolkit)
        if decision.reason and not module.check_mode:
            apply_present(seen, decision, keep, wanted)
    after = (seen.wanted_sha256 or "of the library to come") if decision.reason else seen.sha256
    result = report(seen, decision, keep, path, after)
    result["changed"] = decision.reason is not None
    result["diff"] = {"before": describe(decision.state, toolkit, seen.sha256),
                      "after": describe("ours" if decision.reason else decision.state, toolkit, after)}
    return judged(result, not decision.reason or not module.check_mode)


def absent_one(module, toolkit, keep, record):
    seen = graph_sink.see(toolkit, None, record, keep.library)
    decision = graph_sink.decide_absent(seen)
    if decision.refusal:
        raise GraphSinkError(decision.refusal)
    busy = used(module, seen) if decision.replace else None
    if busy:
        raise GraphSinkError(busy)
    after = seen.kept_sha256 if decision.replace else seen.sha256
    result = report(seen, decision, keep, None, after)
    if decision.reason and not module.check_mode:
        if decision.replace:
            put(keep.library, toolkit.library, toolkit.library)
        keep.forget()
        result.update(kept=None)
    result["diff"] = {"before": describe(decision.state, toolkit, seen.sha256),
                      "after": describe("pristine" if decision.reason else decision.state, toolkit, after)}
    return result


def absent(module):
    params = module.params
    base = os.path.join(params["state_dir"], "graph_sink")
    versions = [params["version"]] if params["version"] else sorted(os.listdir(base)) if os.path.isdir(base) else []
    done = []
    for version in versions:
        toolkit = graph_sink.find_toolkit(params["ascend_root"], version)
        keep = Keep(params["state_dir"], toolkit.version if toolkit else version)
        record = keep.record()
        if record is None:
            continue
        if toolkit and toolkit.library == record.get("library"):
            done.append(absent_one(module, toolkit, keep, record))
        elif not os.path.exists(record.get("library") or ""):
            if not module.check_mode:
                keep.forget()
            done.append({"version": version, "reason": f"CANN {version} is gone", "diff": {"before": keep.folder + "\n", "after": ""}})
    changed = [one for one in done if one["reason"]]
    diff = {side: "".join(one["diff"][side] for one in changed) for side in ("before", "after")}
    return {"changed": bool(changed), "found": bool(done), "reason": changed[0]["reason"] if changed else None, "toolkits": done, "diff": diff,
            "state_before": changed[0].get("state_before") if changed else None}


def described(module):
    params = module.params
    try:
        toolkit = graph_sink.find_toolkit(params["ascend_root"], params["version"] or "latest")
    except GraphSinkError as exc:
        return judged({"changed": False, "found": False, "state_before": None, "reason": str(exc), "refusal": str(exc), "in_use": None}, False)
    if toolkit is None:
        reason = f"there is no CANN toolkit below {params['ascend_root']}"
        return judged({"changed": False, "found": False, "state_before": None, "reason": reason, "refusal": None, "in_use": None}, False)
    path = folder_for(params, toolkit)
    keep = Keep(params["state_dir"], toolkit.version)
    seen = graph_sink.see(toolkit, os.path.join(path, graph_sink.LIBRARY) if path else None, keep.record(), keep.library)
    decision = graph_sink.decide_present(seen, params["accept_unknown"])
    result = report(seen, decision, keep, path)
    result.update(changed=False, refusal=decision.refusal, in_use=used(module, seen) if decision.reason else None)
    return judged(result, decision.state == "ours" and not decision.reason and not decision.refusal)


def main():
    module = AnsibleModule(
        argument_spec={
            "ascend_root": {"type": "path", "default": "/usr/local/Ascend"},
            "version": {"type": "str"},
            "path": {"type": "path"},
            "source": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "absent", "described"], "default": "present"},
            "accept_unknown": {"type": "bool", "default": False},
            "units": {"type": "list", "elements": "str", "default": []},
            "proc_root": {"type": "path", "default": "/proc"},
            "state_dir": {"type": "path", "default": "/var/lib/npuops"},
        },
        required_if=[("state", "present", ["path", "source"], True)],
        supports_check_mode=True,
    )
    try:
        result = {"present": present, "absent": absent, "described": described}[module.params["state"]](module)
    except (GraphSinkError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
