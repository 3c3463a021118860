# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a source tree of KTransformers is one that can be built and started here.

The Ascend code exists in three shapes (the guide's private v0.2.4 tree, the branch support-npu, the merge of October 2025): the chat
module, the rule file and the build call differ, so they are options, and each is looked for in the tree before anything is built.
Nothing of the tree is imported.
"""
from __future__ import annotations

import glob
import hashlib
import os
import re
from typing import Any, Dict, List, Optional, Sequence

# What pip builds the extension from. A checkout without its submodules has the empty folders.
SUBMODULES = ("third_party/llama.cpp", "third_party/pybind11")
RULES = "ktransformers/optimize/optimize_rules"
# Trees that build, start and answer nonsense: file, its SHA-256, and what is wrong with it.
# github.com/johnnynunez/ktransformers, branch support-npu, b98281532514bbbfacf2ea45975dd35f47556684 (2025-07-23):
# StaticCache.update() concatenates keys and values and writes them nowhere; kvcache-ai/ktransformers a3a9c4d8 and c007d40b do write them.
KNOWN_BAD = (
    ("ktransformers/models/custom_cache.py", "3ed634fb3255e0170c6610f8d59c22343df9bebe9e25c07efb4e9f9a8b0500ed",
     "branch support-npu as published (b9828153): it never writes its NPU cache, and answers garbage"),
)


def problem(ident: str, observed: str, expected: str, repair: str) -> Dict[str, str]:
    return {"id": f"ktransformers-{ident}", "severity": "error", "observed": observed, "expected": expected, "repair": repair}


def module_file(tree: str, module: str) -> Optional[str]:
    """Path of the Python module below the tree, or None."""
    path = os.path.join(tree, *module.split("."))
    return next((found for found in (path + ".py", os.path.join(path, "__main__.py")) if os.path.isfile(found)), None)


def chat_modules(tree: str) -> List[str]:
    """Modules of the tree that look like a chat in a terminal."""
    return ["ktransformers." + os.path.basename(path)[:-3] for path in sorted(glob.glob(os.path.join(tree, "ktransformers", "local_chat*.py")))
            if not path.endswith("_test.py")]


def npu_rules(tree: str) -> List[str]:
    """Rule files for an NPU, relative to the tree."""
    base = os.path.join(tree, RULES)
    found = glob.glob(os.path.join(base, "**", "*.yaml"), recursive=True)
    return sorted(os.path.relpath(path, tree) for path in found if "npu" in os.path.relpath(path, base).lower())


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def known_bad(tree: str) -> Optional[str]:
    for name, sha256, words in KNOWN_BAD:
        try:
            with open(os.path.join(tree, name), "rb") as stream:
                if hashlib.sha256(stream.read()).hexdigest() == sha256:
                    return words
        except OSError:
            continue
    return None


def rule_path(tree: str, rule: str) -> str:
    """Absolute path of a rule file that is given relative to the tree, or absolute already."""
    return os.path.normpath(os.path.join(tree, rule))


def look(tree: str, chat_module: str, server_module: Optional[str], rule: str, build: Sequence[str]) -> List[Dict[str, str]]:
    """Why the tree cannot be built or started as asked: one entry for each reason. server_module None: no server is wanted."""
    problems = []
    bad = known_bad(tree)
    if bad:
        problems.append(problem("known-bad", f"{tree} is {bad}", "a tree that is known to work",
                                "take the source that belongs to the stack: set ktransformers_source, or choose another npu_stack"))
    chats = chat_modules(tree)
    if module_file(tree, chat_module) is None:
        problems.append(problem("chat-module", f"the tree has no {chat_module}; its chat modules are {listed(chats)}",
                                "the module that local_chat is started with", "set ktransformers_module to one that the tree has"))
    elif chat_module == "ktransformers.local_chat" and "ktransformers.local_chat_npu" in chats:
        problems.append(problem("chat-module", "ktransformers.local_chat is the one for CUDA where the tree has ktransformers.local_chat_npu beside it",
                                "the chat module for NPUs", "set ktransformers_module to ktransformers.local_chat_npu"))
    if server_module is not None and module_file(tree, server_module) is None:
        problems.append(problem("server-module", f"the tree has no {server_module}", "a server module, since ktransformers_service is true",
                                "set ktransformers_server_module to one that the tree has, or ktransformers_service to false"))
    if not os.path.isfile(rule_path(tree, rule)):
        problems.append(problem("rule", f"there is no {rule_path(tree, rule)}; the tree's rules for NPUs are {listed(npu_rules(tree))}",
                                "the rule file that says which module runs where", "set ktransformers_optimize_config_path to one of them"))
    empty = [name for name in SUBMODULES if not os.path.isdir(os.path.join(tree, name)) or not os.listdir(os.path.join(tree, name))]
    if empty:
        problems.append(problem("submodules", f"{listed(empty)} of the tree have no files", "a tree with its submodules",
                                "put a file for each beside the source in the media and name them in ktransformers_submodules (docs/air-gap.md), "
                                "or pack the source with `git submodule update --init --recursive` done"))
    script = build_script(build)
    if script and not os.path.isfile(os.path.join(tree, script)):
        scripts = sorted(os.path.basename(path) for path in glob.glob(os.path.join(tree, "install*.sh")))
        problems.append(problem("build", f"the tree has no {script}; it has {listed(scripts)}", "the build call of the stack",
                                "set ktransformers_build to a call that this tree offers"))
    return problems


def build_script(build: Sequence[str]) -> Optional[str]:
    """The script of the tree that a build call such as [bash, install.sh] runs, or None."""
    return next((word for word in build[1:] if re.search(r"\.(sh|py)$", word) and not os.path.isabs(word)), None)


def requirement_names(tree: str, files: Sequence[str]) -> List[str]:
    """Names that the tree's requirements files ask pip for."""
    names = set()
    for name in files:
        try:
            with open(os.path.join(tree, name), encoding="utf-8") as stream:
                for line in stream:
                    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)
                    if match:
                        names.add(match.group(1).lower())
        except OSError:
            continue
    return sorted(names)


def environment(python: str) -> Dict[str, Any]:
    """What the Python environment has of the engine, read from its files.

    python: version of the interpreter's folder; torch_npu and ktransformers: {version, record} (record: SHA-256 of the list of the
    installed files and their hashes, which tells two builds of one version apart) or None; extension: whether cpuinfer_ext is there.
    """
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    folders = sorted(glob.glob(os.path.join(glob.escape(prefix), "lib", "python3.*", "site-packages")))
    if not os.path.exists(python) or not folders:
        return {"found": False, "python": None, "torch_npu": None, "ktransformers": None, "extension": False}
    packages = folders[-1]
    return {
        "found": True, "python": os.path.basename(os.path.dirname(packages)),
        "torch_npu": distribution(packages, "torch_npu"), "ktransformers": distribution(packages, "ktransformers"),
        "extension": bool(glob.glob(os.path.join(glob.escape(packages), "cpuinfer_ext*"))),
    }


def distribution(packages: str, name: str) -> Optional[Dict[str, Optional[str]]]:
    for path in sorted(glob.glob(os.path.join(glob.escape(packages), f"{name}-*.dist-info"))):
        try:
            with open(os.path.join(path, "RECORD"), "rb") as stream:
                record: Optional[str] = hashlib.sha256(stream.read()).hexdigest()
        except OSError:
            record = None
        version = os.path.basename(path)[len(name) + 1:-len(".dist-info")]
        return {"version": version, "record": record}
    return None
