# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment that CANN and NNAL need, taken from the vendor's own set_env.sh scripts and repaired.

The scripts are sourced once, in a clean bash. Known shortcomings that are repaired here (seen in the tree
https://github.com/leideng/CANN-8.1.RC1): no driver libraries; a trailing ":" (the current folder in a search path);
entries that double with every sourcing; a C++ ABI guessed from whichever python3 is first.
"""
from __future__ import annotations

import os
import re

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import records, run

PATH_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DRIVER_LIBRARIES = ("lib64/common", "lib64/driver", "lib64")
_SHELL_OWN = ("_", "PWD", "OLDPWD", "SHLVL", "HOME")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Fed to bash as -c; "$@" is: the scripts, each followed by its argument (or an empty text).
# The environment goes to what was stdout before, so that a chatty script does no harm.
_SOURCE = 'exec 3>&1 1>&2; while [ $# -gt 1 ]; do f=$1 a=$2; shift 2; . "$f" ${a:+"$a"}; done; unset f a; env -0 >&3'
_MARK_HOME = "/npuops-home-of-the-user"


class EnvironmentProblem(Exception):
    """The environment cannot be had at all; the text says why and what to do."""


def _problem(identity: str, observed: str, expected: str, repair: str, severity: str = "error") -> dict:
    return {"id": identity, "severity": severity, "observed": observed, "expected": expected, "repair": repair}


def split_path(value: str) -> list[str]:
    """The entries of a search path, each once, without the empty ones (an empty entry means the current folder)."""
    return list(dict.fromkeys(entry for entry in value.split(":") if entry))


def toolkit_script(ascend_root: str, cann: dict, version: str) -> tuple[str | None, str | None]:
    """The set_env.sh of a CANN version (or of `latest`), or None and why there is none."""
    tree = records.find_tree(cann, version)
    if tree is None:
        if version == "latest":
            return None, cann["reason"] or f"no installed CANN tree belongs to latest ({cann['latest']})"
        there = ", ".join(found["version"] for found in cann["trees"]) or "none"
        return None, f"CANN {version} is not installed below {ascend_root} (installed: {there})"
    new_layout = os.path.basename(tree["path"]).startswith("cann-")
    if version == "latest" and not new_layout:
        candidates = [os.path.join(ascend_root, "ascend-toolkit", "set_env.sh")]
    elif version == "latest":
        candidates = [os.path.join(ascend_root, "cann", "set_env.sh"), os.path.join(ascend_root, "ascend-toolkit", "set_env.sh")]
    elif new_layout:
        candidates = [os.path.join(tree["path"], "set_env.sh")]
    else:
        machines = [os.uname().machine, "aarch64", "x86_64"]
        candidates = [os.path.join(tree["path"], f"{machine}-linux", "script", "set_env.sh") for machine in machines]
    for path in candidates:
        if os.path.isfile(path):
            return path, None
    return None, f"{candidates[0]} is missing: the toolkit's installation was interrupted"


def source(scripts: list[tuple[str, str]], python: str | None, timeout: float = 120) -> dict[str, str]:
    """The environment after sourcing scripts (path, argument or "") in a clean bash. Raises EnvironmentProblem."""
    path = _SYSTEM_PATH
    if python:
        path = f"{os.path.dirname(python)}:{path}"
    arguments = [part for script in scripts for part in script]
    outcome = run.capture(
        ["bash", "--noprofile", "--norc", "-c", _SOURCE, "npuops", *arguments], timeout,
        {"PATH": path, "HOME": _MARK_HOME, "LC_ALL": "C", "USER": os.environ.get("USER", "root")}, stdout_only=True,
    )
    if outcome.reason:
        raise EnvironmentProblem(f"sourcing {scripts[0][0]} in a clean bash failed: {outcome.reason}; is bash installed?")
    found = {}
    for entry in outcome.output.split("\0"):
        name, equals, value = entry.partition("=")
        if equals and _NAME.fullmatch(name):
            found[name] = value
    if "PATH" not in found:
        raise EnvironmentProblem(f"sourcing {scripts[0][0]} ended the shell (rc {outcome.rc}); run it by hand in `bash --noprofile --norc` to see why.")
    return found


def quote(value: str) -> str:
    """A value that bash and systemd's EnvironmentFile= read alike (systemd.exec(5): backslash escapes \" \\ $ and ` in double quotes)."""
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def env_file(environment: dict[str, str], title: str) -> str:
    """KEY="value" lines, sorted, with a comment on top."""
    lines = [f"# {title}", "# Written by npuops.ktransformers from the vendor's set_env.sh: change the inventory, not this file."]
    lines += [f"{name}={quote(value)}" for name, value in sorted(environment.items())]
    return "\n".join(lines) + "\n"


def _missing_library(library: str, folders: list[str], home: str, what: str, repair: str) -> dict | None:
    if any(os.path.exists(os.path.join(folder, library)) for folder in folders):
        return None
    lies_there = os.path.exists(os.path.join(home, library))
    observed = f"{library} is in none of the {len(folders)} folders of LD_LIBRARY_PATH"
    if lies_there:
        observed += f", though it is in {home}"
    return _problem(
        f"ascend_env_{library.split('.')[0]}", observed, f"{library} in {home} ({what})",
        f"add {home} to LD_LIBRARY_PATH" if lies_there else repair,
    )


def assemble(
    ascend_root: str = "/usr/local/Ascend", version: str = "latest", cxx_abi: int | None = None, python: str | None = None,
    extra: dict[str, str] | None = None, driver_path: str | None = None, timeout: float = 120, imports: list[str] | None = None,
) -> dict:
    """The answer of module ascend_env_info; `imports` are tried with `python` where that is there.

    Raises EnvironmentProblem when the vendor's scripts cannot be sourced.
    """
    cann = records.read_cann(ascend_root)
    driver = driver_path or os.path.join(ascend_root, "driver")
    result: dict = {
        "found": False, "reason": None, "version": None, "environment": {}, "paths": {name: [] for name in PATH_VARIABLES}, "problems": [],
        "env_file": "", "toolkit_home": None, "nnal_home": None, "left_out": {},
    }
    script, result["reason"] = toolkit_script(ascend_root, cann, version)
    if script is None:
        return result
    scripts = [(script, "")]
    nnal_script = os.path.join(ascend_root, "nnal", "atb", "set_env.sh")
    if os.path.isfile(nnal_script):
        scripts.append((nnal_script, "" if cxx_abi is None else f"--cxx_abi={cxx_abi}"))
    found = source(scripts, python, timeout)

    environment, left_out = {}, {}
    for name, value in found.items():
        if name in _SHELL_OWN or name in ("USER", "LC_ALL"):
            continue
        if _MARK_HOME in value:
            left_out[name] = "it points to the home of whoever sources the script; each program finds its own"
        elif re.search(r"[\x00-\x1f]", value):
            left_out[name] = "its value has control characters, which an environment file cannot hold"
        else:
            environment[name] = value

    paths = {name: split_path(environment.get(name, "")) for name in PATH_VARIABLES}
    libraries = [os.path.join(driver, folder) for folder in _DRIVER_LIBRARIES]
    paths["LD_LIBRARY_PATH"] = split_path(":".join([path for path in libraries if os.path.isdir(path)] + paths["LD_LIBRARY_PATH"]))
    if python:
        paths["PATH"] = split_path(":".join([os.path.dirname(python)] + paths["PATH"]))
    for name, value in (extra or {}).items():
        if name in paths:
            paths[name] = split_path(value) + [entry for entry in paths[name] if entry not in split_path(value)]
        else:
            environment[name] = value
    for name, entries in paths.items():
        environment.pop(name, None)
        if entries:
            environment[name] = ":".join(entries)

    toolkit_home = environment.get("ASCEND_TOOLKIT_HOME") or environment.get("ASCEND_HOME_PATH")
    nnal_home = environment.get("ATB_HOME_PATH")
    tree = records.find_tree(cann, version) or {}
    problems = _problems(ascend_root, driver, paths["LD_LIBRARY_PATH"], toolkit_home, nnal_home, tree.get("version"), cxx_abi)
    if python and os.access(python, os.X_OK):
        tried = [_import_problem(name, python, environment, driver, toolkit_home or ascend_root, timeout) for name in imports or []]
        problems += [found for found in tried if found]
    result.update(
        found=True, reason=None, version=tree.get("version"), environment=environment, paths=paths, left_out=left_out,
        toolkit_home=toolkit_home, nnal_home=nnal_home,
        problems=problems,
        env_file=env_file(environment, f"Environment of CANN {tree.get('version')}"),
    )
    return result


def _import_problem(name: str, python: str, environment: dict[str, str], driver: str, toolkit_home: str, timeout: float) -> dict | None:
    """Why `import <name>` fails in this environment, naming the path that is missing; None when it works."""
    home = os.environ.get("HOME") or "/"
    outcome = run.capture([python, "-c", f"import {name}"], timeout, {"HOME": home, "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **environment})
    if outcome.rc == 0:
        return None
    lines = [line.strip() for line in outcome.output.splitlines() if line.strip()]
    said = outcome.reason or (lines[-1] if lines else f"exit code {outcome.rc}")
    observed, expected, repair = f"{python} says to import {name}: {said}", "no error", f"run npu-exec {python} -c 'import {name}' and look at all of it"
    library = re.search(r"(\S+\.so[\w.]*): cannot open shared object file", said)
    module = re.search(r"No module named '([^']+)'", said)
    if library:
        part = library.group(1)
        known = [os.path.join(driver, folder) for folder in _DRIVER_LIBRARIES] + [os.path.join(toolkit_home, "lib64")]
        lies = next((folder for folder in known if os.path.exists(os.path.join(folder, part))), None)
        where = os.path.join(driver, "lib64", "driver") if re.match(r"lib(ascend_hal|drv|dcmi|c_sec|mmpa)", part) else os.path.join(toolkit_home, "lib64")
        expected = f"{part} in {lies or where}" + (", and that folder in LD_LIBRARY_PATH" if lies else "")
        brings = "the driver" if where.startswith(driver) else "the CANN toolkit"
        repair = f"add {lies} to LD_LIBRARY_PATH (cann_env_extra)" if lies else f"install {brings} again"
    elif module and module.group(1).split(".")[0] == name.split(".")[0]:
        folder = os.path.join(toolkit_home, "python", "site-packages")
        expected, repair = f"{os.path.join(folder, name.split('.')[0])}, and {folder} in PYTHONPATH", "install the CANN toolkit again"
    elif module:
        expected = f"package {module.group(1)} in the environment of {python}"
        repair = "run the playbook with --tags conda_py311, which installs what CANN's Python parts need"
    return _problem("ascend_env_import", observed, expected, repair)


def _problems(
    ascend_root: str, driver: str, folders: list[str], toolkit_home: str | None, nnal_home: str | None, version: str | None, cxx_abi: int | None,
) -> list[dict]:
    toolkit_libraries = os.path.join(toolkit_home or os.path.join(ascend_root, "ascend-toolkit", "latest"), "lib64")
    abi = "N" if cxx_abi is None else cxx_abi
    nnal_libraries = os.path.join(nnal_home or os.path.join(ascend_root, "nnal", "atb", "latest", "atb", f"cxx_abi_{abi}"), "lib")
    found = [
        _missing_library("libhccl.so", folders, toolkit_libraries, "the toolkit brings it", f"install the CANN toolkit {version} again"),
        _missing_library(
            "libascend_hal.so", folders, os.path.join(driver, "lib64", "driver"), "the driver brings it",
            "install the driver, or mount its folder into this container",
        ),
        _missing_library("libatb.so", folders, nnal_libraries, "NNAL brings it", f"install Ascend-cann-nnal_{version}"),
    ]
    problems = [problem for problem in found if problem]
    if nnal_home and cxx_abi is not None and os.path.basename(nnal_home) != f"cxx_abi_{cxx_abi}":
        problems.append(_problem(
            "ascend_env_cxx_abi", f"NNAL's set_env.sh chose {nnal_home}", f"the libraries with C++ ABI {cxx_abi}",
            f"look whether {ascend_root}/nnal/atb/set_env.sh still takes --cxx_abi={cxx_abi}",
        ))
    return problems
