#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: doctor
short_description: Find the known failures of a node, with cause and remedy, in the order in which to repair them
version_added: 1.0.0
description:
  - Takes what the info modules of this collection said of a node (O(seen)), looks itself at what none of them looks at (the environment file,
    the launch scripts, the logs of what failed last, who uses the NPUs, free space), and compares all of it with a table of known failures.
  - Reads only. Anything may be missing on the node or in O(seen); nothing is concluded from what was not looked at.
  - It never fails for what it finds; use RV(ok) to do so. The role C(verify) has an entry C(doctor) that gathers everything and calls it.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.controller
  - npuops.ktransformers.attributes.reads
options:
  seen:
    description:
      - What is known of the node, a dictionary with the answers of C(npu_info) (C(node)), C(ascend_env_info) (C(environment)),
        C(python_env_info) (C(python)), C(torch_npu_info) (C(torch_npu)), C(weights_info) (C(weights), and a list C(sources)),
        C(npu_graph_sink) (C(runtime)) and C(ktransformers_info) (C(engine)); C(stages) (C(npu_stages)), C(wanted) (what the inventory says), and
        C(errors) (why a stage could not be looked at).
    type: dict
    default: {}
  env_file:
    description: The file with the environment of CANN.
    type: path
  launch_files:
    description: Scripts that start the engine.
    type: list
    elements: path
    default: []
  engine_paths:
    description: A process whose command line holds one of these, or the unit in its control group, is one of ours.
    type: list
    elements: str
    default: []
  unit:
    description: The unit that serves the model. Its journal is read when it does not run. Empty when there is none.
    type: str
    default: ''
  log_paths:
    description: Folders below which CANN writes its logs (C(debug/plog)). They are read when the engine has failed.
    type: list
    elements: path
    default: []
  disk_paths:
    description: Folders whose disks must have room.
    type: list
    elements: path
    default: []
  proc_root:
    description: Where procfs is.
    type: path
    default: /proc
  etc_root:
    description: Where the system's configuration is. The kernel's modules are looked for beside it.
    type: path
    default: /etc
  logs:
    description: Names and files of more logs to read. The action adds those of the build and of the smoke test when they have failed.
    type: dict
    default: {}
  pids:
    description: Processes to look at. The action adds those that C(npu-smi) lists.
    type: list
    elements: int
    default: []
  journal:
    description: Whether to read the journal of O(unit). The action says so when the unit does not run.
    type: bool
    default: false
author: npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Look for known failures of the NPUs and of CANN
  npuops.ktransformers.doctor:
    seen:
      node: "{{ npu_node.npu }}"
    env_file: /etc/npuops/npu.env
  register: diagnosis

- name: Say what to repair first
  ansible.builtin.debug:
    msg: "{{ (diagnosis.findings | first).remedy }}"
  when: not diagnosis.ok
"""

RETURN = r"""
ok:
  description: Whether nothing but warnings was found.
  returned: always
  type: bool
findings:
  description: The failures, in the order in which to repair them.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: Its name, as in docs/troubleshooting.md.
      type: str
      sample: npu-env-stale
    stage:
      description: The role that repairs it.
      type: str
      sample: cann
    severity:
      description: V(error) or V(warning).
      type: str
    observed:
      description: What shows it.
      type: str
    cause:
      description: What it means.
      type: str
    remedy:
      description: What to do.
      type: str
    source:
      description: Where that is known from.
      type: str
    follows:
      description: The failure that it comes from, so that it goes away with it, or null.
      type: str
facts:
  description: What the module saw on the node, null when it could not run.
  returned: always
  type: dict
"""

import glob
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import node

LIBRARIES = ("libhccl.so", "libascend_hal.so", "libatb.so")
TAIL = 65536  # bytes of a log that are read
LAUNCH = {"tp": r"--tp[ =](\d+)", "nproc": r"--nproc_per_node[ =](\d+)|LOCAL_WORLD_SIZE=(\d+)", "rule": r"--optimize_config_path[ =]'?([^'\s]+)"}
DRIVER_MODULES = ("drv_pcie_host.ko*", "drv_vpcie.ko*")

ARGUMENT_SPEC = {
    "seen": {"type": "dict", "default": {}},
    "env_file": {"type": "path"},
    "launch_files": {"type": "list", "elements": "path", "default": []},
    "engine_paths": {"type": "list", "elements": "str", "default": []},
    "unit": {"type": "str", "default": ""},
    "log_paths": {"type": "list", "elements": "path", "default": []},
    "disk_paths": {"type": "list", "elements": "path", "default": []},
    "proc_root": {"type": "path", "default": "/proc"},
    "etc_root": {"type": "path", "default": "/etc"},
    "logs": {"type": "dict", "default": {}},
    "pids": {"type": "list", "elements": "int", "default": []},
    "journal": {"type": "bool", "default": False},
}


def tail(path):
    """The end of a text file, None where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL))
            return stream.read(TAIL).decode("utf-8", "replace")
    except OSError:
        return None


def look_at_env_file(path):
    """Whether it is there, its text, and whether the libraries that everybody misses are in its search path."""
    if not path:
        return None
    text = tail(path)
    if text is None:
        return {"path": path, "found": False, "text": None, "libraries": {}}
    match = re.search(r'^LD_LIBRARY_PATH="?([^"\n]*)', text, re.M)
    folders = [folder for folder in (match.group(1) if match else "").split(":") if folder]
    libraries = {name: any(os.path.exists(os.path.join(folder, name)) for folder in folders) for name in LIBRARIES}
    return {"path": path, "found": True, "text": text, "libraries": libraries}


def look_at_launch(paths):
    found = {}
    for path in paths:
        text = tail(path)
        if text is None:
            continue
        matches = {name: re.search(pattern, text) for name, pattern in LAUNCH.items()}
        launch = {name: next(filter(None, match.groups())) if match else None for name, match in matches.items()}
        found[path] = dict(launch, rule_found=bool(launch["rule"]) and os.path.isfile(launch["rule"]))
    return found


def newest_plog(folders):
    """The newest log of CANN's with an error in it: its ERROR lines."""
    paths = [path for folder in folders for pattern in ("debug/plog/*.log", "*/plog/*.log") for path in glob.glob(os.path.join(folder, pattern))]
    for path in sorted(set(paths), key=lambda name: -os.path.getmtime(name))[:5]:
        lines = [line for line in (tail(path) or "").splitlines() if "ERROR" in line]
        if lines:
            return {f"plog {path}": "\n".join(lines[-100:])}
    return {}


def look_at_processes(pids, proc_root, unit, engine_paths):
    found = {}
    for pid in pids:
        folder = os.path.join(proc_root, str(pid))
        command = (tail(os.path.join(folder, "cmdline")) or "").replace("\0", " ").strip()
        group = tail(os.path.join(folder, "cgroup")) or ""
        ours = bool(unit) and f"/{unit}" in group or any(path in command for path in engine_paths if path)
        found[str(pid)] = {"command": command[:200], "ours": ours}
    return found


def module_kernels(etc_root):
    """The kernels that have the driver's module installed."""
    modules = os.path.join(os.path.dirname(os.path.abspath(etc_root)), "lib", "modules")
    paths = [path for folder in ("updates", "updates/dkms", "extra") for name in DRIVER_MODULES
             for path in glob.glob(os.path.join(modules, "*", folder, name))]
    return sorted({os.path.relpath(path, modules).split(os.sep)[0] for path in paths})


def look_at_disk(path):
    """Free megabytes and free inodes (-1: the file system does not count them) where the path is or will be."""
    status = os.statvfs(node.existing_parent(path))
    return {"path": path, "free_mb": status.f_bavail * status.f_frsize // 1048576, "free_inodes": status.f_favail if status.f_files else -1}


def read_journal(module, unit):
    command = module.get_bin_path("journalctl")
    if not command or not unit:
        return {}
    code, out, _err = module.run_command([command, "--unit", unit, "--lines", "200", "--no-pager", "--output", "cat"], environ_update={"LC_ALL": "C"})
    return {"journal": out[-TAIL:]} if code == 0 and out.strip() else {}


def gather(module):
    params = module.params
    texts = {name: "\n".join(filter(None, map(tail, paths))) for name, paths in params["logs"].items()}
    logs = {name: text for name, text in texts.items() if text}
    if params["journal"]:
        logs.update(read_journal(module, params["unit"]))
    if params["journal"] or params["logs"]:
        logs.update(newest_plog(params["log_paths"]))
    return {
        "env_file": look_at_env_file(params["env_file"]),
        "launch": look_at_launch(params["launch_files"]),
        "processes": look_at_processes(params["pids"], params["proc_root"], params["unit"], params["engine_paths"]),
        "module_kernels": module_kernels(params["etc_root"]),
        "disks": [look_at_disk(path) for path in params["disk_paths"]],
        "logs": logs,
    }


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.exit_json(changed=False, facts=gather(module), ok=True, findings=[])


if __name__ == "__main__":
    main()
