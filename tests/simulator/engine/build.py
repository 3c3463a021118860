# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lay the simulated KTransformers: its source tree into the media, the two weight sets onto the node.

    python tests/simulator/engine/build.py --media DIR --node DIR [--arch ARCH] [--python PYTHON]

Nothing that is there with the right bytes is written again, and weights that are there are never touched.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))

import elf
from cann import LIBRARIES
from tree import DATE, Tree

from engine.first_prompt import GRAPH_MARK

FIXTURES = HERE.parent.parent / "fixtures" / "weights"
VERSION = "0.2.4"
NAME = f"ktransformers-v{VERSION}-npu"
ORIGIN = f"simulated: KTransformers v{VERSION} with NPU support, the deployment guide's private tree"
SUPPLIER = "who supplies the deployment guide's private parts"
# The engine's own modules, which the source tree carries as ktransformers/simulated. build.py stays here.
ENGINE = ("answers", "chat", "contract", "first_prompt", "flags", "forward", "ggml", "loader", "model_folder", "rules", "server", "server_flags",
          "session", "settings", "startup", "tensors", "tokenizer")
# Folder of the source tree that is named for an architecture, as the guide names it.
GRAPH_FOLDERS = {"arm": "aarch64", "x86": "x86_64"}
PLUGIN = '''"""Stands for the capture plugin libgraph_capture, a compiled module (simulated: it captures nothing)."""


def graph_capture_init():
    return 0


def graph_capture_destroy():
    return 0


def graph_capture_begin(stream, capture_error_mode="global"):
    return 0


def graph_capture_end(stream):
    return 0


def graph_capture_replay(stream):
    return 0


def graph_capture_launch_callback(func, data, block, stream):
    return func(data)
'''
CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
                 "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def build(media: Path, node: Path, arch: str, python: str) -> list[dict]:
    """Lay everything; the manifest's entries of what is in the media: path, version, arch, origin, supplier.

    arch: aarch64 or x86_64, of the node. python: the interpreter that the node's environment is made from.
    """
    # Where numpy lies is the node's matter and not the tree's: installing the test tools must not make another tree of it.
    pointer = node.resolve() / "etc" / "npuops-simulated-numpy"
    write(pointer, f"{real_numpy(python) or ''}\n".encode())
    tree = source_tree(pointer)
    archive = f"source/{NAME}.tar.gz"
    write(media / archive, tree.tar(NAME, 9))
    entries = [{"path": archive, "version": VERSION, "arch": "noarch", "origin": ORIGIN, "supplier": SUPPLIER}]
    bundle = git_bundle(tree)
    if bundle is not None:
        write(media / f"source/{NAME}.bundle", bundle)
        entries.append({**entries[0], "path": f"source/{NAME}.bundle", "origin": ORIGIN + ", as a git bundle"})
    weights(node / "mnt" / "weights")
    return entries


def source_tree(numpy_pointer: Path) -> Tree:
    """The tree that the guide calls the project's files; every file of it says that it is simulated.

    numpy_pointer: the file that names the folder of a real numpy.
    """
    tree = Tree()
    for path in sorted((HERE / "source").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            tree.file(path.relative_to(HERE / "source").as_posix(), path.read_bytes(), 0o755 if path.suffix == ".sh" else 0o644)
    for name in ENGINE:
        tree.file(f"ktransformers/simulated/{name}.py", (HERE / f"{name}.py").read_bytes())
    tree.file("ktransformers/simulated/__init__.py", '"""The simulated engine."""\n')
    tree.file("ktransformers/simulated/numpy_pointer.txt", f"{numpy_pointer}\n")
    exports, needed = LIBRARIES["libruntime.so"][1:]
    for folder, arch in GRAPH_FOLDERS.items():
        below = f"ktransformers/util/npu_graph_so/{folder}"
        tree.file(f"{below}/libruntime.so", elf.shared_object(arch, "libruntime.so", (*exports, "rtSimulatedGraphCallback"), needed, GRAPH_MARK), 0o755)
        tree.file(f"{below}/libgraph_capture.py", PLUGIN)
    return tree


def real_numpy(python: str) -> str | None:
    """The folder of a numpy that `python` could import, or None.

    The simulated wheelhouse has a stand-in of numpy only; with the real one of the test tools the engine really computes. It
    has to be a build for the same Python, so the interpreter that runs this is asked too when it is of the same version.
    """
    question = "import sys, numpy; numpy.einsum; print(sys.version_info[:2]); print(numpy.__path__[0])"
    version = subprocess.run([python, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True, check=False)
    for interpreter in dict.fromkeys((python, sys.executable)):
        found = subprocess.run([interpreter, "-c", question], capture_output=True, text=True, check=False)
        lines = found.stdout.splitlines()
        if found.returncode == 0 and len(lines) == 2 and lines[0] == version.stdout.strip():
            return os.path.dirname(lines[1])
    return None


def write(path: Path, data: bytes) -> None:
    """Write a file, unless it has these bytes already; it appears whole or not at all."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(data)
    fresh.replace(path)


def git_bundle(tree: Tree) -> bytes | None:
    """The tree as one commit on main, tagged v0.2.4-npu; None without git. The same bytes for the same tree and git."""
    if shutil.which("git") is None:
        return None
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER")
           for key, value in (("NAME", "simulated"), ("EMAIL", "simulated@example.invalid"), ("DATE", f"{DATE} +0000"))}
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **who}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        tree.lay(work)

        def git(*command: str) -> None:
            subprocess.run(["git", "-c", "core.autocrlf=false", "-c", "pack.threads=1", *command], cwd=work, env=environment, check=True,
                           capture_output=True)

        git("init", "--quiet", "--initial-branch=main")
        git("add", "--all", "--force")
        git("commit", "--quiet", "--no-gpg-sign", "-m", f"KTransformers v{VERSION} with NPU support, simulated")
        git("tag", f"v{VERSION}-npu")
        # HEAD too: without it a clone checks nothing out.
        git("bundle", "create", "--quiet", "../bundle", "HEAD", "main", f"v{VERSION}-npu")
        return (Path(folder) / "bundle").read_bytes()


def weights(folder: Path) -> None:
    """The Q4_K_M and the W8A8 set of the tiny model that the vendor's own quantizer wrote, as the guide's folders."""
    pair = FIXTURES / "tiny-msmodelslim"
    for source, target in ((pair / "gguf", folder / "DeepSeek-R1-Q4_K_M"), (pair / "w8a8", folder / "DeepSeek-R1-W8A8")):
        for path in sorted(source.iterdir()):
            lay(target / path.name, path.read_bytes())
    target = folder / "DeepSeek-R1-W8A8"
    stand_in = FIXTURES / "stand-in" / "configuration_deepseek.py"
    lay(target / "configuration_deepseek.py", (stand_in if stand_in.exists() else HERE / "stand_in" / "configuration_deepseek.py").read_bytes())


def lay(path: Path, data: bytes) -> None:
    """A weight file that is not there yet. Two are changed into what DeepSeek-R1's own look like, for transformers 4.43.2."""
    if path.exists():
        return
    if path.name == "tokenizer.json":
        data = json.dumps(with_merge_strings(json.loads(data)), ensure_ascii=False, indent=1).encode()
    elif path.name == "tokenizer_config.json":
        data = json.dumps({**json.loads(data), "chat_template": CHAT_TEMPLATE}, ensure_ascii=False, indent=1).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)


def with_merge_strings(tokenizer: dict) -> dict:
    """tokenizers 0.19 reads merges only as 'a b'; the tiny model's are pairs, as 0.20 and later write them."""
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--media", type=Path, required=True, help="folder of the media")
    parser.add_argument("--node", type=Path, required=True, help="root of the simulated node")
    parser.add_argument("--arch", default=platform.machine(), choices=["aarch64", "x86_64"])
    parser.add_argument("--python", default=sys.executable, help="what the node's Python environment is made from")
    options = parser.parse_args()
    print(json.dumps(build(options.media, options.node, options.arch, options.python), indent=2))


if __name__ == "__main__":
    main()
