# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ascend_package against the simulated vendor packages, whole and with their faults: what it refuses, says, and recovers from."""

from __future__ import annotations

import shutil

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import info, install
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.checks import refusals
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Roots, Wish, make
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.problem import Runner

from tests.unit.simulator.simulated import ARCH, OTHER_ARCH, Node

# isort: split
from cann import CANN_8_1, CANN_8_2, kernels_package
from hdk import HDK_24_1, HDK_25_0, HDK_25_3
from media import vendor_zip

REFUSED = "refused"


@pytest.fixture
def bare(tmp_path):
    node = Node(tmp_path, privileged=True)
    node.add_user()
    return node


@pytest.fixture
def user(tmp_path):
    return Node(tmp_path, privileged=False)


def roots(node):
    root = node.root
    return Roots(str(node.ascend), f"{root}/etc", f"{root}/sys", f"{root}/proc", f"{root}/dev", f"{root}/var/lib/npuops")


def bring(node, kind, src=None, **options):
    """What the module does: decide, refuse or run. Returns the result, None when there is nothing to do, or (REFUSED, {id: problem})."""
    src = str(src or node.package(kind))
    wish = Wish(kind=kind, src=src, accept_eula=True, npu_smi=f"{node.root}/usr/local/bin/npu-smi", **options)
    plan = make(wish, roots(node), as_root=node.world.privileged)
    if plan.reason is None:
        return None
    problems = refusals(plan, roots(node), Runner(0 if node.world.privileged else 1000, ARCH))
    errors = {problem["id"]: problem for problem in problems if problem["severity"] == "error"}
    if errors:
        return REFUSED, errors
    return install.carry_out(plan, roots(node), f"{node.root}/var/lib/npuops/logs", 60)


def npu(node):
    where = roots(node)
    return info.gather(
        where.sysfs, where.proc, where.dev, where.etc, where.ascend, where.state, npu_smi_path=f"{node.root}/usr/local/bin/npu-smi", npu_smi_timeout=10
    )


def test_a_node_from_bare_to_served(bare):
    for kind in ("driver", "firmware"):
        assert bring(bare, kind).failure is None, kind
    assert npu(bare)["reboot_reason"] == "firmware 7.7.0.1.231 takes effect with a reboot"
    bare.run(bare.root / "simulated-reboot")
    for kind in ("toolkit", "kernels", "nnal"):
        assert bring(bare, kind).failure is None, kind
    seen = npu(bare)
    assert (seen["reboot_required"], seen["problems"], len(seen["smi"]["devices"])) == (False, [], 8)
    assert [seen["driver"]["complete"], seen["nnal"]["complete"], seen["cann"]["latest"], seen["cann"]["trees"][0]["kernels"]["chips"]] == [
        True,
        True,
        "8.1.RC1",
        ["910b"],
    ]
    assert [bring(bare, kind) for kind in ("driver", "firmware", "toolkit", "kernels", "nnal")] == [None] * 5


def test_upgrade_and_the_way_back(bare):
    assert bring(bare, "driver", bare.package("driver", HDK_24_1)).failure is None
    result = bring(bare, "driver", install_for_all=True)  # the option is dropped: an upgrade refuses it
    assert (result.failure, result.after.version) == (None, HDK_25_0.driver)
    refused, errors = bring(bare, "driver", bare.package("driver", HDK_24_1))
    assert (refused, list(errors)) == (REFUSED, ["ascend_downgrade"])
    result = bring(bare, "driver", bare.package("driver", HDK_24_1), force=True)
    assert (result.failure, result.after.version) == (None, HDK_24_1.driver)


@pytest.mark.parametrize("percent", ["10", "30", "40", "90"])
def test_a_driver_installation_that_was_cut_off_is_repeated(bare, percent):
    fault = bare.fault("driver.kill", percent)
    result = bring(bare, "driver")
    assert result.failure.startswith(f"the driver installer returned {result.rc}, and the driver is only partly there: ")
    assert npu(bare)["driver"]["state"] == "partial"
    fault.unlink()
    result = bring(bare, "driver")
    assert (result.failure, result.after.version) == (None, "25.0.rc1.1")


def test_firmware_that_was_cut_off_owes_a_reboot_and_is_repeated(bare):
    bring(bare, "driver")
    fault = bare.fault("firmware.kill", "90")
    assert bring(bare, "firmware").failure is not None
    fault.unlink()
    assert bring(bare, "firmware").failure is None
    assert npu(bare)["reboot_required"] is True


@pytest.mark.parametrize("fault", ["driver.hot-reset-fails", "driver.chips-not-ready", "driver.modules-stuck"])
def test_a_driver_that_waits_for_a_reboot(bare, fault):
    bare.fault(fault)
    result = bring(bare, "driver")
    assert (result.failure, result.rc) == (None, 2)
    seen = npu(bare)
    assert (seen["reboot_required"], seen["smi"]["available"]) == (True, False)
    bare.run(bare.root / "simulated-reboot")
    seen = npu(bare)
    assert (seen["reboot_required"], seen["smi"]["available"]) == (False, True)


def test_a_failing_driver_says_what_to_do(bare):
    bare.fault("driver.no-prebuilt")
    status = bare.root / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("Package: dkms", "Package: other"))
    refused, errors = bring(bare, "driver")
    assert (refused, list(errors)) == (REFUSED, ["ascend_build_tools"])
    result = bring(bare, "driver", kernel_modules="prebuilt")
    assert result.failure.startswith("the driver installer returned 1")
    assert "Drv_dkms_env_check failed" in result.failure and result.failure.endswith("; install dkms, gcc, make and linux-headers-$(uname -r)")


def test_a_damaged_package_is_found_before_it_runs(bare):
    path = bare.package("driver")
    data = bytearray(path.read_bytes())
    data[-20] ^= 0xFF
    path.write_bytes(data)
    before = bare.snapshot()
    refused, errors = bring(bare, "driver", path)
    assert (refused, list(errors)) == (REFUSED, ["ascend_integrity"])
    after = {path: state for path, state in bare.snapshot().items() if not path.startswith("root/log")}  # makeself keeps a log of --check
    assert after == before


def test_busy_npus(bare):
    bring(bare, "driver", bare.package("driver", HDK_24_1))
    (bare.root / "var/lib/npuops-simulator/npu-processes").write_text("3 4711 17320 python3\n")
    refused, errors = bring(bare, "driver")
    assert (refused, errors["ascend_busy"]["observed"]) == (REFUSED, "the NPUs are in use by python3 (4711)")
    result = bring(bare, "driver", force=True)
    assert (result.failure, result.rc) == (None, 2)
    assert npu(bare)["reboot_required"] is True


@pytest.mark.parametrize("kind, first", [("firmware", "ascend_driver_first"), ("kernels", "ascend_toolkit_first"), ("nnal", "ascend_toolkit_first")])
def test_the_order_is_kept(bare, kind, first):
    refused, errors = bring(bare, kind)
    assert (refused, list(errors)) == (REFUSED, [first])


def test_another_architecture_and_another_chip(user):
    refused, errors = bring(user, "toolkit", user.package("toolkit", arch=OTHER_ARCH))
    assert (refused, list(errors)) == (REFUSED, ["ascend_arch"])
    bring(user, "toolkit")
    refused, errors = bring(user, "kernels", user.file(*kernels_package(CANN_8_1, ARCH, user.world, chip="310p")))
    assert (refused, list(errors)) == (REFUSED, ["ascend_chip"])


def test_a_toolkit_that_fails_half_way_says_so_and_is_repeated(user):
    fault = user.fault("toolkit.fail", "1")
    assert "CANN-" in bring(user, "toolkit").failure
    fault.unlink()
    assert bring(user, "toolkit").failure is None


def test_a_toolkit_that_says_success_and_is_not_there(user):
    fault = user.fault("toolkit.lie")
    result = bring(user, "toolkit")
    assert result.rc == 0 and result.failure.startswith("the toolkit installer returned 0, but ")
    fault.unlink()
    assert bring(user, "toolkit").failure is None


def test_a_toolkit_that_was_cut_off_is_repeated(user):
    fault = user.fault("toolkit.kill", "hccl")
    assert bring(user, "toolkit").failure is not None
    fault.unlink()
    assert bring(user, "toolkit").failure is None


@pytest.mark.parametrize("fault, value", [("kernels.fail", "1"), ("kernels.kill", "opp_kernel"), ("kernels.kill", "start")])
def test_kernels_that_fail_are_repeated(user, fault, value):
    bring(user, "toolkit")
    path = user.fault(fault, value)
    assert bring(user, "kernels").failure is not None
    path.unlink()
    assert bring(user, "kernels").failure is None


@pytest.mark.parametrize("fault, value", [("nnal.fail", ""), ("nnal.kill", "start"), ("nnal.kill", "copied")])
def test_nnal_that_fails_is_repeated(user, fault, value):
    bring(user, "toolkit")
    path = user.fault(fault, value)
    assert bring(user, "nnal").failure is not None
    path.unlink()
    assert bring(user, "nnal").failure is None


def test_installing_again(user):
    for kind in ("toolkit", "kernels", "nnal"):
        bring(user, kind)
    for kind in ("toolkit", "kernels", "nnal"):
        assert bring(user, kind, force=True).failure is None, kind
    assert [bring(user, kind) for kind in ("toolkit", "kernels", "nnal")] == [None, None, None]


def test_a_toolkit_with_a_part_gone_is_repaired(user):
    bring(user, "toolkit")
    shutil.rmtree(user.toolkit / "8.1.RC1/hccl")
    result = bring(user, "toolkit")
    assert (result.failure, (user.toolkit / "8.1.RC1/hccl").is_dir()) == (None, True)


def test_two_versions_side_by_side_and_one_removed(user):
    bring(user, "toolkit")
    assert bring(user, "toolkit", user.package("toolkit", CANN_8_2)).failure is None
    seen = npu(user)["cann"]
    assert ([tree["version"] for tree in seen["trees"]], seen["latest"]) == ([CANN_8_2.version, "8.1.RC1"], CANN_8_2.version)
    assert bring(user, "toolkit") is None  # still there, though latest is another
    result = bring(user, "toolkit", user.package("toolkit", CANN_8_2), state="absent")
    assert (result.failure, result.after.version) == (None, "8.1.RC1")


def test_byte_code_that_python_wrote_goes_with_the_toolkit(user):
    bring(user, "toolkit")
    folder = user.toolkit / "8.1.RC1"
    for module in ("acl", "gone"):
        (folder / f"python/site-packages/{module}/__pycache__").mkdir(parents=True)
        (folder / f"python/site-packages/{module}/__pycache__/__init__.cpython-311.pyc").touch()
    assert (bring(user, "toolkit", state="absent").failure, folder.exists()) == (None, False)


def test_somebody_elses_files_survive_the_removal_of_the_toolkit(user):
    bring(user, "toolkit")
    folder = user.toolkit / "8.1.RC1"
    theirs = [folder / "python/site-packages/acl/__pycache__/notes.txt", folder / "mine.txt"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    bring(user, "toolkit", state="absent")
    assert [path.exists() for path in theirs] == [True, True]


def test_an_uninstaller_that_leaves_a_part_and_says_success(user):
    bring(user, "toolkit")
    user.fault("hccl.uninstall-fail")
    result = bring(user, "toolkit", state="absent")
    assert result.rc == 0 and result.failure.startswith("the toolkit uninstaller returned 0, but ")


def test_an_uninstaller_that_fails(bare):
    bring(bare, "driver")
    fault = bare.fault("driver.uninstall-fail")
    assert bring(bare, "driver", state="absent").failure.startswith("the driver uninstaller returned 1, and ")
    fault.unlink()
    result = bring(bare, "driver", state="absent")
    assert (result.failure, npu(bare)["driver"]["state"]) == (None, "absent")


def test_the_vendors_archive(bare):
    packages = [bare.package("driver", HDK_25_3), bare.package("firmware", HDK_25_3)]
    src = bare.file(f"Ascend-hdk-910b-npu_25.3.rc1_linux-{ARCH.replace('_', '-')}.zip", vendor_zip(*((path.name, path.read_bytes()) for path in packages)))
    for kind, version in (("driver", HDK_25_3.driver), ("firmware", HDK_25_3.firmware)):
        result = bring(bare, kind, src)
        assert (result.failure, result.after.version, len(result.signatures)) == (None, version, 4)
        assert bring(bare, kind, src) is None
