# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated wheelhouse: a small wheel for every line of the guide's pip set, and their lock.

Versions: the newest that satisfied the guide's pins when they were resolved (facts: python-stack.md 1.2). No dependencies.
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
import zipfile
from pathlib import Path

import published
from runpack import World
from tree import DATE

MODULES = Path(__file__).resolve().parent / "modules"
TORCH_NPU_VERSION = "2.3.1.post6"
# What tells the published wheel from one built by oneself: both bear the same version (facts: python-stack.md 2).
PUBLIC_GIT = "eb3b35e3a2d7bab1ec3e9b28be40ea6558f2efac"
OWN_GIT = "5cad2de39"

# distribution → (version, importable names)
GUIDE: dict[str, tuple[str, tuple[str, ...]]] = {
    "numpy": ("1.26.4", ("numpy",)),
    "torch": ("2.3.1", ("torch",)),
    "torchvision": ("0.18.1", ("torchvision",)),
    "torchaudio": ("2.3.1", ("torchaudio",)),
    "packaging": ("26.3", ("packaging",)),
    "ninja": ("1.13.2", ("ninja",)),
    "transformers": ("4.43.2", ("transformers",)),
    "fire": ("0.7.1", ("fire",)),
    "protobuf": ("7.36.2", ("google/protobuf",)),
    "attrs": ("26.1.0", ("attr", "attrs")),
    "decorator": ("5.3.1", ("decorator",)),
    "cloudpickle": ("3.1.3", ("cloudpickle",)),
    "ml-dtypes": ("0.5.4", ("ml_dtypes",)),
    "scipy": ("1.17.1", ("scipy",)),
    "tornado": ("6.6.1", ("tornado",)),
    "absl-py": ("2.5.1", ("absl",)),
    "psutil": ("7.2.2", ("psutil",)),
    "pyyaml": ("6.0.4", ("yaml",)),
    "setuptools": ("81.0.0", ("setuptools", "pkg_resources")),
    "wheel": ("0.48.0", ("wheel",)),
}
# Only for x86: the guide leaves it out on Arm.
X86_ONLY = {"cpufeature": ("0.2.1", ("cpufeature",))}
EXTRA_FILES = {
    # Whoever imports packaging means it: pip carries the real one along.
    "packaging": {
        f"packaging/{name}.py": f"from pip._vendor.packaging.{name} import *  # noqa: F401,F403\n"
        for name in ("version", "specifiers", "requirements", "markers", "tags", "utils")
    },
    "setuptools": {
        "pkg_resources/__init__.py": '"""Simulated by npuops."""\nfrom pip._vendor.packaging.version import parse as parse_version  # noqa: F401\n'
    },
}


def wheel(
    name: str,
    version: str,
    files: dict[str, bytes | str],
    *,
    tag: str = "py3-none-any",
    scripts: dict[str, str] | None = None,
    requires: tuple[str, ...] = (),
    summary: str = "",
) -> tuple[str, bytes]:
    """(file name, bytes) of a wheel with these files; scripts: console script → "module:function". The same input gives the same bytes."""
    spelled = name.replace("-", "_")
    info = f"{spelled}-{version}.dist-info"
    content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
    metadata = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Simulated by npuops{': ' + summary if summary else ''}. Not the real {name}.\n"
    )
    content[f"{info}/METADATA"] = (metadata + "".join(f"Requires-Dist: {item}\n" for item in requires)).encode()
    pure = "true" if tag.endswith("any") else "false"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: npuops-simulator\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode()
    if scripts:
        content[f"{info}/entry_points.txt"] = ("[console_scripts]\n" + "".join(f"{script} = {target}\n" for script, target in scripts.items())).encode()
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n" for path, data in content.items()
    )
    content[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            entry = zipfile.ZipInfo(path, time.gmtime(DATE)[:6])
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return f"{spelled}-{version}-{tag}.whl", raw.getvalue()


def folder(path: Path, below: str = "") -> dict[str, str]:
    """Text files of a folder, by their path in the wheel."""
    return {
        (f"{below}/" if below else "") + item.relative_to(path).as_posix(): item.read_text()
        for item in sorted(path.rglob("*"))
        if item.is_file() and "__pycache__" not in item.parts
    }


def guide_wheel(name: str, version: str, modules: tuple[str, ...]) -> tuple[str, bytes]:
    if name == "torch":
        return wheel(
            name,
            version,
            folder(MODULES / "torch", "torch"),
            scripts={"torchrun": "torch.distributed.run:main"},
            summary="answers a deployment's questions, computes on lists",
        )
    files: dict[str, bytes | str] = {}
    for module in modules:
        files[f"{module}/__init__.py"] = f'"""{name} as simulated by npuops: a name and a version."""\n__version__ = "{version}"\n'
    files.update(EXTRA_FILES.get(name, {}))
    scripts = {"ninja": "ninja:main"} if name == "ninja" else None
    if scripts:
        files["ninja/__init__.py"] = f'"""Simulated by npuops."""\n__version__ = "{version}"\n\n\ndef main():\n    print("{version}.simulated")\n'
    return wheel(name, version, files, scripts=scripts)


def wheelhouse(arch: str, real: str = "") -> dict[str, bytes]:
    """File name → bytes of the wheels for `arch`, with requirements.lock.

    real: distributions, with commas, whose published wheel takes the simulated one's place, or "all" of the published set.
    """
    from_pypi = published.wheels(arch, real) if real else {}
    names = {} if real == published.ALL else {**GUIDE, **(X86_ONLY if arch == "x86_64" else {})}
    made = {name: guide_wheel(name, *names[name]) for name in names if name not in from_pypi}
    files: dict[str, bytes] = {}
    head = f"# Wheels for {arch}, all simulated but the published: {real or 'none'}"
    lines = [f"{head}; pip install --no-index --find-links . --require-hashes -r requirements.lock"]
    for name, (file, content) in sorted({**made, **from_pypi}.items()):
        files[file] = content
        version = file.split("-")[1]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(content).hexdigest()}")
    files["requirements.lock"] = ("\n".join(lines) + "\n").encode()
    return files


def torch_npu_files(world: World, private: bool) -> dict[str, str]:
    """torch_npu's Python files: the guide's adapted build (private operators) or what the public one has."""
    files = folder(MODULES / "torch_npu", "torch_npu")
    state = f"{world.root}/var/lib/npuops-simulator"
    devices = "torch_npu/npu/_devices.py"
    files[devices] = files[devices].replace("@DEV@", world.dev).replace("@STATE@", state).replace("@PROC@", world.proc)
    if not private:
        del files["torch_npu/_private_operators.py"]
    files["torch_npu/version.py"] = f"__version__ = '{TORCH_NPU_VERSION}'\ngit_version = '{OWN_GIT if private else PUBLIC_GIT}'\n"
    files["torchair/__init__.py"] = '"""Simulated by npuops."""\nfrom torch_npu.dynamo.torchair import *  # noqa: F401,F403\n'
    return files


def public_torch_npu(arch: str, world: World, tag: str = "cp311-cp311") -> tuple[str, bytes]:
    """The published torch_npu: the same version as the guide's build, without its private operators. For tests."""
    return wheel(
        "torch_npu",
        TORCH_NPU_VERSION,
        dict(torch_npu_files(world, private=False)),
        requires=("torch ==2.3.1",),
        tag=f"{tag}-manylinux_2_17_{arch}.manylinux2014_{arch}",
        summary="the published build, without the guide's operators",
    )
