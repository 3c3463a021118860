# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Python environment has, asked of the environment itself, and how that differs from what is wanted.

Requirements (PEP 508) are judged by the environment's own interpreter with the `packaging` that its pip carries:
markers such as platform_machine then mean the node, not the controller, and versions compare as pip compares them.
"""
from __future__ import annotations

import glob
import json
import os
import re
import typing as t

from ansible_collections.npuops.ktransformers.plugins.module_utils import glibcxx

# (command, environment) -> (exit code, stdout, stderr)
Runner = t.Callable[[t.List[str], t.Dict[str, str]], t.Tuple[int, str, str]]

# Runs in the environment, Python 3.8 or newer. Prints one JSON line.
_PROBE = r"""
import ctypes, importlib.metadata, json, os, sys, sysconfig
wanted = json.loads(sys.argv[1])
try:
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name
except ImportError:
    print(json.dumps({"error": "no-pip"}))
    sys.exit()

distributions, requires = {}, {}
for found in importlib.metadata.distributions():
    name = found.metadata["Name"]
    if not name or canonicalize_name(name) in distributions:
        continue
    direct = json.loads(found.read_text("direct_url.json") or "{}")
    archive = direct.get("archive_info", {})
    distributions[canonicalize_name(name)] = {
        "version": found.version, "url": direct.get("url"),
        "sha256": archive.get("hashes", {}).get("sha256") or archive.get("hash", "").partition("sha256=")[2] or None,
    }
    requires[canonicalize_name(name)] = found.requires or []

def judge(text):
    requirement = Requirement(text)
    name = canonicalize_name(requirement.name)
    found = distributions.get(name, {}).get("version")
    return {
        "name": name, "wanted": str(requirement.specifier), "found": found,
        "applies": requirement.marker is None or requirement.marker.evaluate({"extra": ""}),
        "ok": found is not None and requirement.specifier.contains(found, prereleases=True),
    }, requirement

def judged(texts, pins):
    for text in texts:
        try:
            answer, requirement = judge(text)
        except Exception as problem:
            yield {"text": text, "error": str(problem).splitlines()[0]}
            continue
        pin = pins.get(answer["name"])
        yield dict(answer, text=text, pin=pin, pin_ok=pin is not None and requirement.specifier.contains(pin, prereleases=True))

broken = []
for name in sorted(requires):
    for text in requires[name]:
        try:
            answer, requirement = judge(text)
        except Exception:
            continue
        if answer["applies"] and not answer["ok"]:
            broken.append("%s %s wants %s, %s" % (
                name, distributions[name]["version"], str(requirement).partition(";")[0].strip(),
                "which is not installed" if answer["found"] is None else answer["found"] + " is installed"))

# The search path of this very interpreter (its RPATH) decides which libstdc++ its extensions get.
libstdcxx = None
try:
    ctypes.CDLL("libstdc++.so.6")
    with open("/proc/self/maps") as maps:
        libstdcxx = next((line.split(None, 5)[5].strip() for line in maps if "/libstdc++.so" in line), None)
except OSError:
    pass

pins = wanted["pins"]
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:3])), "prefix": sys.prefix, "site_packages": sysconfig.get_paths()["platlib"],
    "machine": os.uname().machine, "packages": distributions, "broken": broken, "libstdcxx": libstdcxx,
    "locked": list(judged(wanted["locked"], {})), "requirements": list(judged(wanted["requirements"], pins)),
    "constraints": list(judged(wanted["constraints"], pins)),
}))
"""

_LOCK_LINE = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*==\s*(?P<version>[^\s;]+)\s*(?P<marker>;.*)?$")
_HASH = re.compile(r"\s--hash=\S+")


class PythonEnvError(Exception):
    """The environment or the lock file cannot be used: says what was expected and the next step, in one sentence."""


class Locked(t.NamedTuple):
    name: str
    version: str
    requirement: str  # name==version; marker
    line: str  # the same with its hashes, as pip reads it


def canonical(name: str) -> str:
    """PEP 503 name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str, source: str) -> t.List[Locked]:
    """Lines of a requirements file made for `pip --require-hashes`, as pip-compile, uv or hand write it. Raises PythonEnvError."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not line or line.startswith("-"):
            continue
        match = _LOCK_LINE.match(_HASH.sub("", " " + line).strip())
        if not match or not _HASH.search(line):
            raise PythonEnvError(f"{source} has the line '{line}', expected name==version --hash=sha256:…; make the lock again.")
        requirement = f"{match['name']}=={match['version']}{match['marker'] or ''}"
        found.append(Locked(canonical(match["name"]), match["version"], requirement, re.sub(r"\s+", " ", line)))
    return found


def isolated(home: str | None) -> t.Dict[str, str]:
    """Variables under which pip and conda neither read nor write a user's folder."""
    variables = {"PYTHONNOUSERSITE": "1", "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "LC_ALL": "C.UTF-8"}
    if home:
        variables.update(HOME=home, PIP_CACHE_DIR=os.path.join(home, ".cache", "pip"))
    return variables


def last_line(*texts: str) -> str:
    for text in texts:
        lines = text.strip().splitlines()
        if lines:
            return lines[-1].strip()
    return "no output"


def probe(run: Runner, python: str, requirements=(), constraints=(), locked=()) -> t.Dict[str, t.Any]:
    """Everything the environment of the interpreter `python` tells about itself.

    Returns found=False with a reason when there is none. Raises PythonEnvError for a requirement that is not PEP 508.
    """
    absent = {"found": False, "python": python, "version": None, "prefix": None, "packages": {}, "conda": {}, "broken": [], "torch": None,
              "libstdcxx": {"path": None, "glibcxx": None}}
    if not os.path.exists(python):
        return dict(absent, reason=f"{python} does not exist")
    wanted = {"requirements": list(requirements), "constraints": list(constraints), "locked": [lock.requirement for lock in locked],
              "pins": {lock.name: lock.version for lock in locked}}
    # -I keeps PYTHONPATH (CANN sets it) and a user's site-packages out of the answer.
    code, out, err = run([python, "-I", "-c", _PROBE, json.dumps(wanted)], isolated(None))
    try:
        answer = json.loads(out.strip().splitlines()[-1]) if code == 0 else None
    except (ValueError, IndexError):
        answer = None
    if answer is None:
        return dict(absent, reason=f"{python} does not run: {last_line(err, out)}")
    if answer.get("error") == "no-pip":
        return dict(absent, reason=f"{python} has no pip")
    for group in ("requirements", "constraints", "locked"):
        for item in answer[group]:
            if "error" in item:
                raise PythonEnvError(f"'{item['text']}' is no requirement that pip understands ({item['error']}); correct it.")
    path = answer["libstdcxx"]
    return {
        "found": True, "reason": None, "python": python,
        "version": answer["version"], "prefix": answer["prefix"], "site_packages": answer["site_packages"], "machine": answer["machine"],
        "packages": answer["packages"], "conda": conda_packages(answer["prefix"]), "broken": answer["broken"],
        "torch": read_torch(answer["site_packages"], answer["packages"]),
        "libstdcxx": {"path": path, "glibcxx": glibcxx.offered(path) if path else None},
        "judged": {group: answer[group] for group in ("requirements", "constraints", "locked")},
    }


def with_needs(env: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
    """The environment with libstdcxx.needed and libstdcxx.needed_by: what its compiled extensions ask of libstdc++."""
    version, path = glibcxx.most_demanding(env["site_packages"]) if env["found"] else (None, None)
    return dict(env, libstdcxx=dict(env["libstdcxx"], needed=version, needed_by=path))


def conda_packages(prefix: str) -> t.Dict[str, str]:
    """Names and versions of the packages that conda noted in the environment `prefix`: files <name>-<version>-<build>.json."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(prefix), "conda-meta", "*-*-*.json")):
        name, version, _build = os.path.basename(path)[: -len(".json")].rsplit("-", 2)
        found[name] = version
    return found


def read_torch(site_packages: str, packages: t.Dict[str, t.Any]) -> t.Dict[str, t.Any] | None:
    """Version, CUDA version (None: a CPU build) and C++ ABI (None: not told) of the installed torch, without the seconds that importing it takes."""
    if "torch" not in packages:
        return None
    texts = {}
    for part in ("version.py", os.path.join("share", "cmake", "Torch", "TorchConfig.cmake")):
        try:
            with open(os.path.join(site_packages, "torch", part), encoding="utf-8", errors="replace") as stream:
                texts[os.path.basename(part)] = stream.read()
        except OSError:
            texts[os.path.basename(part)] = ""
    cuda = re.search(r"^cuda\b[^=\n]*=\s*'([^']+)'", texts["version.py"], re.M)
    abi = re.search(r"_GLIBCXX_USE_CXX11_ABI=([01])", texts["TorchConfig.cmake"])
    return {"version": packages["torch"]["version"], "cuda": cuda.group(1) if cuda else None, "cxx11_abi": int(abi.group(1)) if abi else None}


def differences(env: t.Dict[str, t.Any], exclude=()) -> t.List[t.Dict[str, t.Any]]:
    """[{name, wanted, found}] of what is not as the lock, the requirements and the constraints say. A constraint alone asks for nothing to be there."""
    left_out = {canonical(name) for name in exclude}
    found: t.Dict[str, t.Dict[str, t.Any]] = {}
    for group in ("locked", "requirements", "constraints"):
        for item in env.get("judged", {}).get(group, []):
            if item["applies"] and not item["ok"] and item["name"] not in left_out and (group != "constraints" or item["found"]):
                found.setdefault(item["name"], {"name": item["name"], "wanted": item["wanted"], "found": item["found"]})
    return [found[name] for name in sorted(found)]


def lock_problems(env: t.Dict[str, t.Any], exclude=()) -> t.List[str]:
    """Where the lock cannot give what the requirements and constraints ask for: a sentence part each."""
    left_out = {canonical(name) for name in exclude}
    found = []
    for group in ("requirements", "constraints"):
        for item in env.get("judged", {}).get(group, []):
            if not item["applies"] or item["name"] in left_out or item["pin_ok"]:
                continue
            if item["pin"]:
                found.append(f"it has {item['name']} {item['pin']}, {item['wanted']} is wanted")
            elif group == "requirements":
                found.append(f"it has no {item['name']}")
    return sorted(set(found))


def listing(packages: t.Dict[str, t.Any], names) -> str:
    """Lines name==version of the named packages, for a diff."""
    return "".join(f"{name}=={packages[name]['version']}\n" for name in sorted(names) if name in packages)
