#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ktransformers_info
version_added: 1.0.0
short_description: Look at a source tree of KTransformers, what was built of it, and what it runs on
description:
  - Tells in one call everything that the role C(ktransformers) decides by, so that a finished node is seen to be finished.
  - Judges whether the tree can be built and started as asked, from its files. Nothing of it is imported.
  - Computes what a build depends on, and what a running service depends on.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.reads
  - npuops.ktransformers.overlay
options:
  source:
    description: The source tree on the node, or the link to it.
    type: path
    required: true
  chat_module:
    description: The Python module of the chat in a terminal.
    type: str
    default: ktransformers.local_chat
  server_module:
    description: The Python module of the HTTP server. Empty when none is wanted.
    type: str
    default: ""
  rule:
    description: The rule file, relative to the tree or absolute.
    type: str
    required: true
  build:
    description: The call that builds, such as C([bash, install.sh]).
    type: list
    elements: str
    default: []
  python:
    description: Interpreter of the engine's environment.
    type: path
    required: true
  ascend_root:
    description: Where CANN is installed.
    type: path
    default: /usr/local/Ascend
  dev_root:
    description: Where the device nodes are.
    type: path
    default: /dev
  env_file:
    description: The file with the environment of CANN.
    type: path
  model_path:
    description: The weights that are served.
    type: path
  build_dir:
    description: The job folder of the build.
    type: path
    required: true
  build_stamp:
    description: File in which the role notes what a build that succeeded was made of.
    type: path
    required: true
  smoke_dir:
    description: The job folder of the smoke test.
    type: path
    required: true
  unit:
    description: Name of the systemd unit to look at. Empty looks at none.
    type: str
    default: ""
  user:
    description: The unit's user.
    type: str
    default: ""
  files:
    description: Files whose checksum and mode are wanted.
    type: list
    elements: path
    default: []
author:
  - npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Look at the engine
  npuops.ktransformers.ktransformers_info:
    source: /opt/ktransformers
    rule: ktransformers/optimize/optimize_rules/DeepSeek-V3-Chat-800IA2-npu.yaml
    python: /opt/miniconda3/envs/py311/bin/python
    build_dir: /var/lib/npuops/jobs/ktransformers-build
    build_stamp: /var/lib/npuops/ktransformers/build.json
    smoke_dir: /var/lib/npuops/jobs/ktransformers-smoke
  register: engine
"""

RETURN = r"""
engine:
  description: What was found.
  returned: success
  type: dict
  contains:
    found:
      description: Whether there is a tree.
      type: bool
    reason:
      description: Why not, or null.
      type: str
    tree:
      description: Real path of the tree.
      type: str
    commit:
      description: Commit of the tree, or null where its archive did not tell.
      type: str
    server:
      description: Whether the tree has the server module.
      type: bool
    problems:
      description: Why it cannot be built or started as asked. Each has RV(ignore:id), RV(ignore:observed), RV(ignore:expected) and RV(ignore:repair).
      type: list
      elements: dict
    rule:
      description: Absolute path of the rule file.
      type: str
    plugin_path:
      description: Folder of the tree with the capture plugin for this architecture, or null.
      type: str
    overlay:
      description: Files that the overlay has still to change.
      type: dict
      sample: {pending: [setup.py]}
    environment:
      description: Python, torch_npu, and what was built, as the environment has them.
      type: dict
    cann:
      description: Version of the active toolkit and checksum of its libruntime.so, or null.
      type: dict
    build:
      description:
        - What the build depends on (RV(ignore:key)), whether that is what the environment has (RV(ignore:current)) or why not
          (RV(ignore:reason)), whether a finished job has to be forgotten first (RV(ignore:stale)), and the note to be made of it
          (RV(ignore:stamp)).
      type: dict
    digests:
      description: What a running engine depends on. SHA-256 of the environment file, of libruntime.so, of the weights' manifest, and the build.
      type: dict
    smoke:
      description: State and result of the last smoke test, and RV(ignore:digest) of what it was made with.
      type: dict
    unit:
      description: State of the unit, whether its files are newer than its start, and systemd's version. Empty without systemd.
      type: dict
    user:
      description: Whether the user exists, and its groups.
      type: dict
    files:
      description: SHA-256 and mode of each file asked for, with a blank between them. Empty for one that is not there.
      type: dict
    devices:
      description: Device nodes of the NPUs.
      type: list
      elements: str
    layers:
      description: Number of layers that the model has, 0 when there are no weights yet.
      type: int
    architecture:
      description: Machine, as C(uname -m) says it.
      type: str
    cores:
      description: Physical cores of the node.
      type: int
"""

import glob
import grp
import json
import os
import platform
import pwd
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import engine_source, file_digest, graph_sink, job, overlay
from ansible_collections.npuops.ktransformers.plugins.module_utils.graph_sink import GraphSinkError
from ansible_collections.npuops.ktransformers.plugins.module_utils.overlay import OverlayError

DEVICES = ("davinci[0-9]*", "davinci_manager", "devmm_svm", "hisi_hdc")
UNIT_PROPERTIES = ("LoadState", "ActiveState", "SubState", "UnitFileState", "NeedDaemonReload", "ExecMainStartTimestampMonotonic", "Result")
MANIFEST = os.path.join(".npuops-merge", "manifest.json")


def sha256_of(path):
    """SHA-256 of a file, None without it."""
    try:
        return file_digest.sha256_of(path)
    except OSError:
        return None


def look_at_tree(params, machine):
    # Paths are told by the link, which stays when another tree is laid.
    link, tree = os.path.abspath(params["source"]), os.path.realpath(params["source"])
    if not os.path.isdir(tree):
        return {"found": False, "reason": f"{link} is not there yet", "tree": tree, "commit": None, "digest": None, "server": False,
                "problems": [], "rule": engine_source.rule_path(link, params["rule"]), "plugin_path": None,
                "overlay": {"pending": [], "digest": overlay.digest([])}}
    # Laid by source_tree, which notes beside the tree what it is.
    record = read_json(tree + ".json") or {}
    server = params["server_module"]
    problems = engine_source.look(link, params["chat_module"], server or None, params["rule"], params["build"])
    changes = []
    try:
        changes = overlay.plan(tree, params["replacements"], params["edits"], machine)
    except OverlayError as exc:
        problems.append(engine_source.problem("overlay", str(exc), "a tree whose overlay is as it was laid", "see the message"))
    folder = os.path.join(link, graph_sink.SOURCE_FOLDERS.get(machine, "-"))
    return {
        "found": True, "reason": None, "tree": tree, "commit": record.get("commit"), "digest": record.get("digest"),
        "server": bool(server) and engine_source.module_file(tree, server) is not None, "problems": problems,
        "rule": engine_source.rule_path(link, params["rule"]),
        "plugin_path": folder if graph_sink.find_plugin(folder) else None,
        "overlay": {"pending": [change.path for change in changes if change.pending], "digest": overlay.digest(changes)},
    }


def look_at_cann(ascend_root):
    try:
        toolkit = graph_sink.find_toolkit(ascend_root)
    except GraphSinkError:
        toolkit = None
    if toolkit is None:
        return None
    return {"version": toolkit.version, "identity": toolkit.identity, "libruntime": sha256_of(toolkit.library)}


def build_key(engine, build):
    """What the build depends on, as lines for people."""
    npu, cann = engine["environment"]["torch_npu"] or {}, engine["cann"] or {}
    return [f"source {engine['digest']}", f"overlay {engine['overlay']['digest']}", f"python {engine['environment']['python']}",
            f"torch_npu {npu.get('version')} {npu.get('record')}", f"cann {cann.get('version')} {cann.get('identity')}", f"build {' '.join(build)}"]


def read_json(path):
    """What a JSON file holds, None where there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


def look_at_build(engine, params):
    """Whether the environment has what the key stands for: noted after a build that went well, and the same files since."""
    key = build_key(engine, params["build"])
    built = engine["environment"]["ktransformers"]
    stamp = read_json(params["build_stamp"]) or {}
    state = short(job.status(params["build_dir"]))
    if built is None or not engine["environment"]["extension"]:
        reason = "the environment has no KTransformers"
    elif stamp.get("key") != key:
        changed = [new for new in key if new not in (stamp.get("key") or [])]
        reason = f"the environment has another build: {', '.join(line.split(' ')[0] for line in changed)} changed" if stamp else "nobody noted its build"
    elif stamp.get("record") != built["record"]:
        reason = "KTransformers was installed by somebody else since"
    else:
        reason = None
    # A job that is done is not done again by itself, although what it made is gone.
    stale = state["state"] == "done" and reason is not None and (built is None or stamp.get("key") == key)
    return dict(state, key=key, current=reason is None, reason=reason, stale=stale, stamp={"key": key, "record": (built or {}).get("record")})


def look_at_unit(module, name, files):
    """Properties of the unit by systemctl; {} where there is no systemd to ask.

    stale: one of its files was written after it was started, by a run that ended before it started the unit again.
    """
    command = module.get_bin_path("systemctl")
    if not name or command is None:
        return {}
    code, out, _err = module.run_command([command, "show", name, "--property=" + ",".join(UNIT_PROPERTIES)], environ_update={"LC_ALL": "C"})
    values = dict(line.partition("=")[::2] for line in out.splitlines()) if code == 0 else {}
    if not values:
        return {}
    _code, out, _err = module.run_command([command, "--version"], environ_update={"LC_ALL": "C"})
    version = re.match(r"systemd (\d+)", out)
    started = int(values.get("ExecMainStartTimestampMonotonic") or 0) / 1e6
    ago = time.clock_gettime(time.CLOCK_MONOTONIC) - started
    newest = max([os.stat(path).st_mtime for path in files if os.path.exists(path)] or [0])
    return {"systemd": int(version.group(1)) if version else 0, "load_state": values.get("LoadState"),
            "state": values.get("ActiveState"), "sub_state": values.get("SubState"),
            "enabled": values.get("UnitFileState") == "enabled", "result": values.get("Result"),
            "stale": values.get("NeedDaemonReload") == "yes" or (started > 0 and newest > time.time() - ago)}


def look_at_user(name):
    if not name:
        return {"found": False, "groups": []}
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return {"found": False, "groups": []}
    groups = [group.gr_name for group in grp.getgrall() if name in group.gr_mem or group.gr_gid == entry.pw_gid]
    return {"found": True, "groups": sorted(groups), "home": entry.pw_dir, "shell": entry.pw_shell}


def layers_of(model_path):
    """Number of the model's layers, 0 when its config.json does not say."""
    layers = (read_json(os.path.join(model_path or "", "config.json")) or {}).get("num_hidden_layers")
    return layers if isinstance(layers, int) else 0


def read_text(path):
    with open(path, encoding="ascii") as stream:
        return stream.read().strip()


def physical_cores():
    """Cores of the node without their hardware threads; all CPUs where the kernel does not say."""
    found = set()
    for folder in glob.glob("/sys/devices/system/cpu/cpu[0-9]*/topology"):
        try:
            found.add(tuple(read_text(os.path.join(folder, name)) for name in ("physical_package_id", "core_id")))
        except OSError:
            return os.cpu_count() or 1
    return len(found) or os.cpu_count() or 1


def short(state):
    """Of a job's status, what the role looks at."""
    return {name: state.get(name) for name in ("state", "digest", "result", "error", "log", "seconds")}


def gather(module):
    params = module.params
    machine = platform.machine()
    engine = look_at_tree(params, machine)
    engine["environment"] = engine_source.environment(params["python"])
    engine["cann"] = look_at_cann(params["ascend_root"])
    engine["build"] = look_at_build(engine, params)
    engine["digests"] = {
        "env": sha256_of(params["env_file"]) if params["env_file"] else None,
        "build": engine["build"]["stamp"]["record"],
        "libruntime": (engine["cann"] or {}).get("libruntime"),
        "weights": sha256_of(os.path.join(params["model_path"], MANIFEST)) if params["model_path"] else None,
    }
    engine["smoke"] = short(job.status(params["smoke_dir"]))
    engine["unit"] = look_at_unit(module, params["unit"], params["files"])
    engine["user"] = look_at_user(params["user"])
    engine["files"] = {path: file_digest.content_and_mode(path) for path in params["files"]}
    engine["devices"] = sorted(path for pattern in DEVICES for path in glob.glob(os.path.join(params["dev_root"], pattern))
                               if re.fullmatch(r"davinci\d+|[a-z_]+", os.path.basename(path)))
    engine["architecture"] = machine
    engine["layers"] = layers_of(params["model_path"])
    engine["cores"] = physical_cores()
    return engine


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "chat_module": {"type": "str", "default": "ktransformers.local_chat"},
            "server_module": {"type": "str", "default": ""},
            "rule": {"type": "str", "required": True},
            "build": {"type": "list", "elements": "str", "default": []},
            **overlay.ARGUMENTS,
            "python": {"type": "path", "required": True},
            "ascend_root": {"type": "path", "default": "/usr/local/Ascend"},
            "dev_root": {"type": "path", "default": "/dev"},
            "env_file": {"type": "path"},
            "model_path": {"type": "path"},
            "build_dir": {"type": "path", "required": True},
            "build_stamp": {"type": "path", "required": True},
            "smoke_dir": {"type": "path", "required": True},
            "unit": {"type": "str", "default": ""},
            "user": {"type": "str", "default": ""},
            "files": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, engine=gather(module))


if __name__ == "__main__":
    main()
