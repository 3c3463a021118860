"""What goes wrong with driver, firmware and CANN on real servers, on two simulated nodes: one of root's, one without root.

Each test leaves its node as the next one finds it, for an installation is a story; the tests run in the order of this file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.integration.nodes import CHECKOUT, INVENTORY, Node, Run, simulate
from tests.unit.simulator.simulated import ARCH, OTHER_ARCH

# isort: split
from cann import CANN_8_2, toolkit_package
from hdk import HDK_25_3, driver_package, firmware_package
from runpack import World

UPGRADE = ("-e", f"hdk_driver_version={HDK_25_3.driver}", "-e", f"hdk_firmware_version={HDK_25_3.firmware}")
# systemd of a node that has one unit of ours, which holds an NPU as long as it runs.
SYSTEMCTL = """#!/bin/bash
unit=ktransformers.service
case "$1" in
    show) state=inactive; [ -e {node}/run/unit-runs ] && state=active; printf 'Id=%s\\nLoadState=loaded\\nActiveState=%s\\n' $unit $state ;;
    stop) echo stop $2 >> {node}/run/unit-calls; rm -f {node}/run/unit-runs {state}/npu-processes ;;
    start) echo start $2 >> {node}/run/unit-calls; touch {node}/run/unit-runs; echo "0 4711 17320 python3" > {state}/npu-processes ;;
    is-enabled) echo enabled ;;
    is-active) [ -e {node}/run/unit-runs ] ;;
esac
"""


class Server(Node):
    """A node, the playbooks of single roles, and what went wrong on it."""

    def role(self, name: str, *arguments: str, entry: str = "main", keep: str = "", **options) -> Run:
        """Play a role, or one of its entries; `keep` is an expression whose value each host leaves for `kept`."""
        playbook = self.root / f"{name}-{entry}.yml"
        tasks: list[dict] = [{"name": name, "ansible.builtin.include_role": {"name": f"npuops.ktransformers.{name}", "tasks_from": entry, "public": True}}]
        if keep:
            kept = {"content": f"{{{{ {keep} | to_json }}}}", "dest": f"{self.root}/{{{{ inventory_hostname }}}}.json", "mode": "0644"}
            tasks.append({"name": "Keep", "ansible.builtin.copy": kept})
        playbook.write_text(yaml.safe_dump([{"name": name, "hosts": "npu", "gather_facts": False, "tasks": tasks}], sort_keys=False))
        if entry == "main" and not keep:
            playbook.write_text(yaml.safe_dump([{"name": name, "hosts": "npu", "gather_facts": False, "roles": [f"npuops.ktransformers.{name}"]}]))
        inventory = options.pop("inventory", self.root / "hosts.yml" if (self.root / "hosts.yml").exists() else INVENTORY)
        plugins = {"ANSIBLE_CONNECTION_PLUGINS": str(CHECKOUT / "tests/integration/connection_plugins")}
        return self.play(*arguments, playbook=playbook, inventory=inventory, extra={**plugins, **options.pop("extra", {})}, **options)

    def kept(self, host: str) -> dict:
        return json.loads((self.root / f"{host}.json").read_text())

    @contextmanager
    def fault(self, name: str, content: str = "") -> Iterator[None]:
        path = self.path / "var/lib/npuops-simulator/faults" / name
        path.write_text(content)
        try:
            yield
        finally:
            path.unlink()

    def changes(self, before: dict[str, str], beside: str = "") -> set[str]:
        """What is another since a snapshot, but for what begins with `beside`."""
        after = self.snapshot()
        names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        return {name for name in names if not (beside and (name.startswith(beside) or beside.startswith(name + "/")))}

    @property
    def world(self) -> World:
        return World(str(self.path), (self.root / "hosts.yml").exists(), f"{self.path}/sys", f"{self.path}/proc", f"{self.path}/dev")

    def add_media(self, *packages: tuple[str, bytes]) -> None:
        """Put packages into the media, and into the manifest."""
        manifest = self.root / "media/manifest.yml"
        listed = {entry["path"]: entry for entry in yaml.safe_load(manifest.read_text())["files"]}
        for name, content in packages:
            (self.root / "media/ascend" / name).write_bytes(content)
            old = listed.get(f"ascend/{name}", {"version": "1", "arch": "noarch", "origin": "test"})
            listed[f"ascend/{name}"] = {**old, "path": f"ascend/{name}", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        manifest.write_text(yaml.safe_dump({"files": list(listed.values())}))

    def boot_id(self) -> str:
        return (self.path / "proc/sys/kernel/random/boot_id").read_text()


def failed(run: Run, *says: str) -> None:
    assert run.rc != 0, run.output[-3000:]
    for text in says:
        assert text in run.flat(), f"not said: {text}\n{run.output[-4000:]}"


def done(run: Run) -> Run:
    assert run.rc == 0, run.output[-5000:]
    assert run.recap("failed") == 0
    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A bare server of root's, which Ansible reaches as another computer and may reboot. No task becomes another user."""
    root = tmp_path_factory.mktemp("server")
    server = Server(simulate(root, "--privileged").root)
    interpreter = sys.executable
    if os.geteuid() != 0:
        wrapper = root / "python-as-root"
        wrapper.write_text(f'#!/bin/sh\nexec unshare --map-root-user {sys.executable} "$@"\n')
        wrapper.chmod(0o755)
        interpreter = str(wrapper)
    node = server.path
    variables = {
        "ansible_connection": "other_computer", "ansible_python_interpreter": interpreter, "ansible_remote_tmp": f"{root}/tmp",
        "npu_scope": "system", "hdk_become": False, "cann_become": False, "npu_accept_eula": True, "media_source": f"{root}/media",
        "npu_state_dir": f"{node}/var/lib/npuops", "npu_config_dir": f"{node}/etc/npuops", "npu_bin_dir": f"{node}/usr/local/bin",
        "ascend_root": f"{node}/usr/local/Ascend", "npu_smi": f"{node}/usr/local/bin/npu-smi", "npu_python": f"{node}/opt/python",
        "npu_sysfs_root": f"{node}/sys", "npu_proc_root": f"{node}/proc", "npu_dev_root": f"{node}/dev", "npu_etc_root": f"{node}/etc",
        "hdk_reboot_command": f"{node}/simulated-reboot", "hdk_boot_time_command": f"cat {node}/proc/sys/kernel/random/boot_id", "hdk_ready_timeout": 10,
    }
    (root / "hosts.yml").write_text(yaml.safe_dump({"npu": {"hosts": {"server": None}, "vars": variables}}))
    # The role makes the user with the system's own tools, which would be this computer's: it is there, and that part passed over.
    for name, line in (("passwd", "HwHiAiUser:x:1000:1000::/home/HwHiAiUser:/bin/bash\n"), ("group", "HwHiAiUser:x:1000:\n")):
        path = node / "etc" / name
        path.write_text(path.read_text() + line)
    server.add_media(driver_package(HDK_25_3, ARCH, server.world), firmware_package(HDK_25_3, server.world))
    return server


def hdk(server: Server, *arguments: str, **options) -> Run:
    return server.role("hdk", "--skip-tags", "hdk_users", *arguments, **options)


def driver_version(server: Server) -> str | None:
    path = server.path / "usr/local/Ascend/driver/version.info"
    return path.read_text().split("\n")[0] if path.exists() else None


MEDIA = "var/lib/npuops/media"


def test_a_package_for_another_chip_and_computer_is_refused_before_it_is_fetched(server: Server):
    name = f"Ascend-hdk-310p-npu-driver_25.0.rc1.1_linux-{OTHER_ARCH.replace('_', '-')}.run"
    server.add_media((name, b"never run"))
    before = server.snapshot()
    run = hdk(server, "-e", json.dumps({"hdk_files": {"driver": f"ascend/{name}"}}))
    failed(run, f"ascend_arch: {name} is for {OTHER_ARCH}, this node is {ARCH}", f"ascend_chip: {name} is for chip 310p, this node has 910b")
    assert server.changes(before) == set()


def test_missing_kernel_headers_are_named_with_the_command_that_installs_them(server: Server):
    status = server.path / "var/lib/dpkg/status"
    whole = status.read_text()
    status.write_text(whole.replace("Package: linux-headers-5.15.0-25-generic", "Package: linux-headers-5.15.0-24-generic"))
    before = server.snapshot()
    failed(hdk(server), "not installed: linux-headers-5.15.0-25-generic", "apt-get install linux-headers-5.15.0-25-generic")
    assert server.changes(before, MEDIA) == set()
    status.write_text(whole)


def test_a_full_disk_is_told_as_such(server: Server):
    with server.fault("driver.free-mb", "100"):
        failed(hdk(server), "free space only 100M", "make room on the disk", "the whole log is")
    assert driver_version(server) is None


def test_a_driver_that_was_cut_off_is_half_installed_and_repaired_by_the_next_run(server: Server):
    with server.fault("driver.kill", "40"):
        failed(hdk(server), "the driver is only partly there", "version.info is missing: an installation or removal was interrupted")
    assert "Driver_Install_Path_Param=" in (server.path / "etc/ascend_install.info").read_text()
    # This run ends after the installation, before the reboot.
    done(hdk(server, "--tags", "hdk_install"))
    assert driver_version(server) == "Version=25.0.rc1.1"
    assert (server.path / "var/lib/npuops/reboot-owed.json").exists()


def test_nothing_is_installed_upon_an_owed_reboot(server: Server):
    failed(server.role("cann"), "owes a reboot (firmware 7.7.0.1.231 takes effect with a reboot)", "run the playbook with --tags hdk")
    assert not (server.path / "usr/local/Ascend/ascend-toolkit").exists()


def test_the_run_after_one_that_died_before_the_reboot_reboots(server: Server):
    before = server.boot_id()
    done(hdk(server))
    assert server.boot_id() != before
    again = done(hdk(server))
    assert again.recap("changed") == 0, again.output[-3000:]


def test_a_driver_is_not_upgraded_under_the_feet_of_others(server: Server):
    processes = server.path / "var/lib/npuops-simulator/npu-processes"
    processes.write_text("3 815 17320 training\n")
    before = server.snapshot()
    failed(hdk(server, *UPGRADE), "the NPUs are in use by training (815)", "stop these programs or containers")
    assert server.changes(before, MEDIA) == set()
    processes.unlink()


def test_our_own_unit_is_stopped_for_an_upgrade_and_started_again(server: Server):
    node = server.path
    tools = server.root / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(SYSTEMCTL.format(node=node, state=node / "var/lib/npuops-simulator"))
    (tools / "systemctl").chmod(0o755)
    extra = {"PATH": f"{tools}:{os.environ['PATH']}"}
    (node / "etc/systemd/system").mkdir(parents=True)
    (node / "etc/systemd/system/ktransformers.service").write_text("[Service]\n")
    subprocess.run([tools / "systemctl", "start", "ktransformers.service"], check=True)
    run = done(hdk(server, *UPGRADE, extra=extra))
    assert driver_version(server) == f"Version={HDK_25_3.driver}"
    assert (node / "run/unit-calls").read_text().splitlines()[1:] == ["stop ktransformers.service", "start ktransformers.service"]
    assert "Install in this order firmware, driver" in run.output
    again = done(hdk(server, *UPGRADE, extra=extra))
    assert again.recap("changed") == 0, again.output[-3000:]
    subprocess.run([tools / "systemctl", "stop", "ktransformers.service"], check=True)
    (node / "etc/systemd/system/ktransformers.service").unlink()


def test_an_older_driver_is_refused(server: Server):
    before = server.snapshot()
    failed(hdk(server), f"ascend_downgrade: driver {HDK_25_3.driver} is installed and newer than 25.0.rc1.1", "force: true")
    assert server.changes(before) == set()


def test_an_npu_smi_that_does_not_answer_is_told_from_an_installed_driver(server: Server):
    odd = server.root / "odd"
    (odd / "folder").mkdir(parents=True)
    for name, body in (("garbage", r"printf '\377\376|||---\n'"), ("hangs", "sleep 600")):
        (odd / name).write_text(f"#!/bin/bash\n{body}\n")
        (odd / name).chmod(0o755)
    inventory = yaml.safe_load((server.root / "hosts.yml").read_text())
    inventory["npu"]["hosts"] = {name: {"npu_smi": str(odd / name)} for name in ("folder", "garbage", "hangs", "missing")}
    (server.root / "odd-hosts.yml").write_text(yaml.safe_dump(inventory))
    done(server.role("hdk", *UPGRADE, entry="verify", keep="npu_stages.hdk", inventory=server.root / "odd-hosts.yml"))
    for name, said in (
        ("folder", f"{odd}/folder is a folder (a container's bind mount makes one where the file is missing); remove it and install the driver again"),
        ("garbage", "|||--- (npu-smi returned 0)"),
        ("hangs", f"{odd}/hangs did not answer within 20 s and was killed"),
        ("missing", f"npu-smi was not found ({odd}/missing); the driver brings it"),
    ):
        stage = server.kept(name)
        assert (stage["found"], stage["state"]) == (f"driver {HDK_25_3.driver}, firmware {HDK_25_3.firmware}", "failed")
        assert stage["note"].startswith("npu-smi does not answer: ") and stage["note"].endswith(said), stage


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A node whose driver an administrator has installed; everything else is done without root."""
    return Server(simulate(tmp_path_factory.mktemp("user")).root)


def test_system_scope_without_root_is_one_of_the_problems(node: Server):
    before = node.snapshot()
    scope = ("-e", "npu_scope=system", "-e", "ansible_become_exe=/nonexistent/sudo", "-e", "ansible_become_user=nobody", "-e", "host_packages_source=mirror")
    run = node.role("host", *scope, "-e", "host_memory_min_gb=5000", entry="preflight")
    failed(run, "host-become: the user of this connection cannot become root", "or set npu_scope: user", "host-memory: 1100 GB of memory")
    assert node.changes(before) == set()


def test_a_path_that_cannot_be_written(node: Server):
    (node.path / "opt/file").write_text("")
    failed(node.role("cann", "-e", f"ascend_root={node.path}/opt/file/Ascend"), f"ascend_no_folder: {node.path}/opt/file is no folder")


def test_a_package_that_was_damaged_before_it_came_into_the_media(node: Server):
    path = next((node.root / "media/ascend").glob("Ascend-cann-toolkit_*"))
    whole = path.read_bytes()
    node.add_media((path.name, whole[:-20] + bytes([whole[-20] ^ 0xFF]) + whole[-19:]))
    failed(node.role("cann"), "Error in SHA256 checksums", "the package is corrupted: send it again")
    assert not (node.path / "usr/local/Ascend/ascend-toolkit").exists()
    node.add_media((path.name, whole))


@pytest.mark.parametrize("name, content, says", [
    pytest.param("toolkit.free-mb", "1", ["the free space of", "make room on the disk"], id="full-disk"),
    pytest.param("toolkit.fail", "3", ["the toolkit installer returned 3", "the whole log is"], id="fails-half-way"),
    pytest.param("toolkit.lie", "", ["the toolkit installer returned 0, but the toolkit is only partly there"], id="says-success"),
])
def test_a_toolkit_that_fails(node: Server, name: str, content: str, says: list[str]):
    with node.fault(name, content):
        failed(node.role("cann"), *says)
    assert not (node.path / "etc/npuops/npu.env").exists()


def test_the_next_run_repairs_it_and_is_readable_for_all_in_spite_of_umask_027(node: Server):
    done(node.role("cann", umask=0o027))
    ours = {name: stat.S_IMODE((node.path / name).stat().st_mode) for name in ("etc/npuops", "etc/npuops/npu.env", "usr/local/bin/npu-exec")}
    assert ours == {"etc/npuops": 0o755, "etc/npuops/npu.env": 0o644, "usr/local/bin/npu-exec": 0o755}
    closed = [
        path for folder, _folders, files in os.walk(node.path / "usr/local/Ascend/ascend-toolkit") for path in [folder, *(f"{folder}/{name}" for name in files)]
        if os.path.isdir(path) and not os.stat(path).st_mode & 0o005 == 0o005
    ]
    assert closed == []
    again = done(node.role("cann"))
    assert again.recap("changed") == 0, again.output[-3000:]


def test_latest_that_points_to_another_version_is_warned_of_and_repaired(node: Server):
    environment = (node.path / "etc/npuops/npu.env").read_text()
    name, content = toolkit_package(CANN_8_2, ARCH, node.world)
    (node.root / name).write_bytes(content)
    command = ["bash", str(node.root / name), "--quiet", "--install", f"--install-path={node.path}/usr/local/Ascend"]
    subprocess.run(command, check=True, capture_output=True)
    run = done(node.role("cann"))
    assert run.recap("changed") == 0, run.output[-3000:]
    assert f"cann-latest: CANN 8.1.RC1 is installed, but {node.path}/usr/local/Ascend/ascend-toolkit/latest stands for {CANN_8_2.version}" in run.flat()
    assert (node.path / "etc/npuops/npu.env").read_text() == environment
    assert CANN_8_2.version not in environment
    done(node.role("cann", "-e", "cann_force=true"))
    assert "cann-latest" not in done(node.role("cann")).output


def test_what_cannot_be_imported_is_named_with_the_missing_path(node: Server):
    acl = next((node.path / "usr/local/Ascend/ascend-toolkit/8.1.RC1/python/site-packages").glob("acl"))
    acl.rename(acl.with_name("gone"))
    done(node.role("cann", "-e", f"npu_python={sys.executable}", entry="verify", keep="npu_stages.cann"))
    stage = node.kept("simulated-800i-a2")
    assert stage["state"] == "failed"
    assert f"No module named 'acl'; expected {acl}, and {acl.parent} in PYTHONPATH; install the CANN toolkit again" in stage["note"], stage
    acl.with_name("gone").rename(acl)
