"""build.py from the command line: the media's layout, its manifest, and that a second call changes nothing."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile

import pytest
import yaml

from tests.unit.simulator.simulated import ARCH, SIMULATOR

# isort: split
import media


def build(root, *arguments: str) -> str:
    return subprocess.run([sys.executable, str(SIMULATOR / "build.py"), "--root", str(root), *arguments], capture_output=True, text=True, check=True).stdout


def state(root) -> dict[str, tuple]:
    return {path.relative_to(root).as_posix(): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in root.rglob("*")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    build(folder)
    return folder


def test_the_manifest_describes_every_file(root):
    media = root / "media"
    files = yaml.safe_load((media / "manifest.yml").read_text())["files"]
    assert {item["path"] for item in files} == {path.relative_to(media).as_posix() for path in media.rglob("*") if path.is_file()} - {"manifest.yml"}
    for item in files:
        content = (media / item["path"]).read_bytes()
        assert (item["sha256"], item["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
        assert item["arch"] in (ARCH, "noarch")
        assert item["origin"].startswith("simulated")
    hdk = ARCH.replace("_", "-")
    assert {
        "ascend/Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run",
        f"ascend/Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-{hdk}.run",
        f"ascend/Ascend-cann-toolkit_8.1.RC1_linux-{ARCH}.run",
        f"ascend/Ascend-cann-kernels-910b_8.1.RC1_linux-{ARCH}.run",
        f"ascend/Ascend-cann-nnal_8.1.RC1_linux-{ARCH}.run",
        f"conda/Miniconda3-py311_24.9.2-0-Linux-{ARCH}.sh",
        f"wheels/{ARCH}/requirements.lock",
        "source/op-plugin-7.0.0.tar.gz",
        "source/ktransformers-v0.2.4-npu.tar.gz",
    } <= {item["path"] for item in files}
    assert (root / "node/mnt/weights/DeepSeek-R1-Q4_K_M").is_dir()


def test_a_second_call_changes_nothing(root):
    before = state(root)
    assert "nothing to do" in build(root)
    assert state(root) == before


def test_the_node_is_never_laid_again(root):
    changed = root / "node/etc/os-release"
    changed.write_text("changed by a playbook\n")
    (root / ".simulator.json").unlink()
    assert "node kept as it was" in build(root)
    assert changed.read_text() == "changed by a playbook\n"


def test_other_arguments_build_other_media(tmp_path):
    build(tmp_path, "--arch", "aarch64", "--release", "upstream-2025-10", "--system")
    names = {path.name for path in (tmp_path / "media/ascend").iterdir()}
    assert names == {
        "Ascend-hdk-910b-npu-driver_25.3.rc1_linux-aarch64.run",
        "Ascend-hdk-910b-npu-firmware_7.8.0.2.212.run",
        "Ascend-cann-toolkit_8.3.RC1_linux-aarch64.run",
        "Ascend-cann-kernels-910b_8.3.RC1_linux-aarch64.run",
        "Ascend-cann-nnal_8.3.RC1_linux-aarch64.run",
    }
    # --system: the hardware to look at, and nothing that an installer would lay.
    assert not (tmp_path / "node/usr").exists() and (tmp_path / "node/sys/bus/pci/devices").is_dir()


def test_the_vendors_zip_holds_packages_and_their_signatures():
    content = media.vendor_zip(("driver.run", b"a driver"), ("firmware.run", b"a firmware"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert sorted(archive.namelist()) == [f"{name}.run{end}" for name in ("driver", "firmware") for end in ("", ".cms", ".crl")]
        assert archive.read("firmware.run") == b"a firmware"
