"""The role host installs packages of the operating system from the media; dpkg is a stand-in that notes how it was called."""

from __future__ import annotations

import os

import pytest

from tests.unit.roles.playing import lay_media, role, run
from tests.unit.roles.role_vars import npu

FOLDER = "os/ubuntu-22.04-aarch64"
NAMES = ("dkms_2.8.7_all.deb", "gcc_11.2.0_arm64.deb", "libgcc-11-dev_11.2.0_arm64.deb")


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder of stand-ins that comes first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in (
        ("dpkg-query", 'echo "not-installed dkms"; echo "installed make"; echo "dpkg-query: no packages found matching gcc" >&2; exit 1'),
        ("dpkg", f'printf "%s\\n" "$@" > {tmp_path}/called; echo "Setting up dkms (2.8.7) ..."'),
    ):
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def play(base, *entries, files=NAMES, arguments=()):
    media = lay_media(base / "media", {f"{FOLDER}/{name}": b"package" for name in files} or {"other": b""})
    given = {
        "npu_node": npu(), "host_become": False, "host_packages_source": "media", "host_media_source": str(media), "host_media_dest": str(base / "node"),
        "host_packages": {"Debian": ["dkms", "gcc", "make"]}, "host_kernel_headers": False, "host_disk_checks": [], "host_ports": [],
    }
    return run(base, {"node-1": {"result": 1}}, [role("host", entry, **given) for entry in entries], arguments)


def test_all_of_the_folder_goes_to_dpkg_in_one_call(tools):
    done = play(tools, "preflight", "packages")
    assert done.returncode == 0, done.stdout
    options = ["--install", "--refuse-downgrade", "--skip-same-version", "--force-confdef", "--force-confold"]
    assert (tools / "called").read_text().splitlines() == options + [f"{tools}/node/{FOLDER}/{name}" for name in NAMES]


def test_check_mode_installs_nothing(tools):
    done = play(tools, "packages", arguments=("--check",))
    assert done.returncode == 0, done.stdout
    assert not (tools / "called").exists()
    assert not (tools / "node").exists()


def test_what_is_neither_installed_nor_in_the_media_is_named_before_anything_is_changed(tools):
    done = play(tools, "preflight", "packages", files=NAMES[:1])
    assert done.returncode != 0
    assert f"host-packages: neither installed nor in {FOLDER}/ of the media: gcc; expected packages for ubuntu 22.04" in done.stdout
    assert not (tools / "node").exists()
