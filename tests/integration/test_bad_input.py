"""What is wrong is named once, with what was expected and what to do, and the node stays as it was."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

from tests.integration.nodes import CHECKOUT, Node

FIXTURES = CHECKOUT / "tests" / "fixtures" / "weights"
W8A8 = "mnt/weights/DeepSeek-R1-W8A8"
GGUF = "mnt/weights/DeepSeek-R1-Q4_K_M"


@contextmanager
def set_aside(*paths: Path):
    """Let a test damage `paths` and put them back as they were."""
    for path in paths:
        kept = path.with_name(path.name + ".kept-by-the-test")
        shutil.move(path, kept)
        shutil.copytree(kept, path, symlinks=True) if kept.is_dir() else shutil.copy2(kept, path)
    try:
        yield
    finally:
        for path in paths:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            shutil.move(path.with_name(path.name + ".kept-by-the-test"), path)


def refused(node: Node, *arguments: str, says: list[str], **options) -> None:
    before = node.snapshot()
    run = node.play(*arguments, **options)
    assert run.rc != 0, run.output[-4000:]
    for text in says:
        assert re.search(text, run.flat(), re.IGNORECASE), f"not said: {text}\n{run.output[-5000:]}"
    after = node.snapshot()
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()


def shard(folder: Path) -> Path:
    return sorted(folder.glob("quant_model_weight*-00001-of-*.safetensors"))[0]


def test_an_inventory_that_is_not_there(bare_node: Node):
    # inventory_unparsed_failed makes Ansible itself refuse it, where it would go on with no host at all.
    refused(bare_node, inventory="/nonexistent/inventory", says=[r"/nonexistent/inventory"])


def test_an_inventory_without_the_group(bare_node: Node, tmp_path: Path):
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("web: {hosts: {one: {ansible_connection: local}}}\n")
    refused(bare_node, inventory=inventory, says=[r"No host of the inventory matches 'npu'", r"cp -r inventories/example inventory"])


def test_an_unknown_stack(bare_node: Node):
    refused(bare_node, "-e", "npu_stack=gude", says=[r"npu_stack is 'gude'", "guide, upstream-2025-10"])


def test_an_option_of_the_wrong_type(bare_node: Node):
    refused(bare_node, "-e", "host_memory_min_gb=plenty", says=["host_memory_min_gb", "plenty"])


def test_too_little_memory(bare_node: Node):
    refused(bare_node, "-e", "host_memory_min_gb=5000", says=["5000", "memory"])


def test_too_little_disk(bare_node: Node):
    checks = json.dumps({"host_disk_checks": [{"path": str(bare_node.path), "min_gb": 9000000}]})
    refused(bare_node, "-e", checks, says=["9000000", "free"])


def test_no_npu(bare_node: Node):
    devices = bare_node.path / "sys/bus/pci/devices"
    with set_aside(devices):
        shutil.rmtree(devices)
        devices.mkdir()
        refused(bare_node, says=["19e5", "no .*NPU|NPU.*not found|0 "])


def test_no_licence(bare_node: Node):
    refused(bare_node, "-e", "npu_accept_eula=false", says=["npu_accept_eula|accept_eula"])


def test_swapped_weight_folders(bare_node: Node):
    w8a8, gguf = bare_node.path / W8A8, bare_node.path / GGUF
    refused(bare_node, "-e", f"weights_merge_gguf_path={w8a8}", "-e", f"weights_merge_safetensors_path={gguf}", says=["swapped"])


def test_missing_weights(bare_node: Node):
    refused(bare_node, "-e", f"weights_merge_gguf_path={bare_node.path}/mnt/nothing", says=["mnt/nothing", "modelscope.cn"])


def test_a_truncated_gguf(bare_node: Node):
    folder = bare_node.path / GGUF
    with set_aside(folder):
        victim = sorted(folder.glob("*.gguf"))[1]
        victim.write_bytes(victim.read_bytes()[:-1000])
        refused(bare_node, says=[re.escape(victim.name), "truncated|ends at|short"])


def test_overlapping_offsets(bare_node: Node):
    folder = bare_node.path / W8A8
    with set_aside(folder):
        victim = shard(folder)
        raw = victim.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        first, second = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])[:2]
        header[second]["data_offsets"][0] -= 1
        text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
        victim.chmod(0o600)
        victim.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
        refused(bare_node, says=[re.escape(victim.name), "overlap|offset"])


def test_a_git_lfs_pointer(bare_node: Node):
    folder = bare_node.path / W8A8
    with set_aside(folder):
        victim = shard(folder)
        victim.chmod(0o600)
        victim.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4294967296\n")
        refused(bare_node, says=[re.escape(victim.name), "LFS pointer"])


def test_a_gguf_of_another_shape(bare_node: Node):
    other = FIXTURES / "tiny-deepseek-v3" / "gguf"
    refused(bare_node, "-e", f"weights_merge_gguf_path={other}", says=["expert", "4", "3"])


def test_a_gguf_of_the_same_shapes_and_another_model(bare_node: Node):
    other = FIXTURES / "tiny-a" / "gguf"
    refused(bare_node, "-e", f"weights_merge_gguf_path={other}", "--tags", "weights_merge", says=["0 of 6", "model"])


def test_a_file_missing_in_the_media(bare_node: Node):
    package = next((bare_node.root / "media" / "ascend").glob("Ascend-cann-toolkit_*"))
    with set_aside(package):
        package.unlink()
        refused(bare_node, says=[re.escape(package.name), "media"])


def test_a_corrupted_file_in_the_media(bare_node: Node):
    package = next((bare_node.root / "media" / "ascend").glob("Ascend-cann-toolkit_*"))
    with set_aside(package):
        raw = bytearray(package.read_bytes())
        raw[-10] ^= 0xFF
        package.write_bytes(bytes(raw))
        run = bare_node.play("--tags", "cann")
    assert run.rc != 0
    assert re.search(rf"{re.escape(package.name)}.*sha256|sha256.*{re.escape(package.name)}", run.flat()), run.output[-4000:]
    assert not (bare_node.path / "usr/local/Ascend/ascend-toolkit").exists()
