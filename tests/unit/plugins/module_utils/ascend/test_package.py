# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import Package, PackageError, action_of, family, reason_to_install
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "name, kind, version, chip, arch",
    [
        ("Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-aarch64.run", "driver", "25.0.rc1.1", "910b", "aarch64"),
        ("Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-x86-64.run", "driver", "25.0.rc1.1", "910b", "x86_64"),
        ("Ascend-hdk-910b-npu-driver_25.0.rc1_sph001_linux.run", "driver", "25.0.rc1_sph001", "910b", None),
        ("Ascend-hdk-310p-npu-driver_25.2.0_linux-aarch64.run", "driver", "25.2.0", "310p", "aarch64"),
        ("Atlas-A3-hdk-npu-driver_25.3.rc1_linux-aarch64.run", "driver", "25.3.rc1", "a3", "aarch64"),
        ("Ascend-hdk-910b-driver-25.5.0_ubuntu22.04-aarch64.run", "driver", "25.5.0", "910b", "aarch64"),
        ("Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run", "firmware", "7.7.0.1.231", "910b", None),
        ("Atlas-A3-hdk-npu-firmware_7.8.0.2.212.run", "firmware", "7.8.0.2.212", "a3", None),
        ("Ascend-hdk-910b-npu_25.0.rc1.1_linux-aarch64.zip", "hdk", "25.0.rc1.1", "910b", "aarch64"),
        ("Ascend910B-hdk-npu_25.0.rc1.1_linux-x86-64.zip", "hdk", "25.0.rc1.1", "910b", "x86_64"),
        ("Atlas-A3-hdk-npu_25.3.rc1_linux-aarch64.zip", "hdk", "25.3.rc1", "a3", "aarch64"),
        ("Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run", "toolkit", "8.1.RC1", None, "aarch64"),
        ("Ascend-cann-toolkit_8.1.RC1_linux-x86_64.zip", "toolkit", "8.1.RC1", None, "x86_64"),
        ("Ascend-cann-toolkit_8.3.RC1.alpha003_linux-x86_64.run", "toolkit", "8.3.RC1.alpha003", None, "x86_64"),
        ("Ascend-cann-kernels-910b_8.1.RC1_linux-aarch64.run", "kernels", "8.1.RC1", "910b", "aarch64"),
        ("Ascend-cann-kernels-910_6.3.RC1_linux.run", "kernels", "6.3.RC1", "910", None),
        ("Ascend-cann-kernels-910_93_8.0.RC1_linux-aarch64.run", "kernels", "8.0.RC1", "a3", "aarch64"),
        ("Ascend-cann-910b-ops_8.5.0_linux-aarch64.run", "kernels", "8.5.0", "910b", "aarch64"),
        ("Ascend-cann-A3-ops_9.0.0_linux-aarch64.run", "kernels", "9.0.0", "a3", "aarch64"),
        ("Atlas-A3-cann-kernels_8.3.RC1_linux-aarch64.run", "kernels", "8.3.RC1", "a3", "aarch64"),
        ("Ascend-cann-nnal_8.1.RC1_linux-x86_64.run", "nnal", "8.1.RC1", None, "x86_64"),
    ],
)
def test_names(name, kind, version, chip, arch):
    assert Package.parse(name) == Package(name=name, kind=kind, version=version, chip=chip, arch=arch, format=name[-3:])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "toolkit.run",
        "Ascend-hdk-910b-mcu_25.50.10.zip",
        "Ascend-cann-nnae_8.1.RC1_linux-aarch64.run",
        "Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run.part",
        "Ascend-cann-toolkit_8.1.RC1_linux-riscv64.run",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(PackageError) as refused:
        Package.parse(name)
    assert str(refused.value) == (
        f"{name!r} is not the name of an Ascend driver, firmware, toolkit, kernels or NNAL package; "
        "keep the vendor's file name, such as Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run."
    )


@given(st.text(max_size=80))
def test_any_name_is_a_package_or_refused(name):
    try:
        assert Package.parse(name).name == name
    except PackageError:
        pass


def test_another_kind_is_refused():
    with pytest.raises(PackageError) as refused:
        Package.of_kind("Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run", "driver")
    assert str(refused.value) == (
        "Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run is a firmware package, but kind=driver was asked for; "
        "give a file such as Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-aarch64.run."
    )
    assert Package.of_kind("Ascend-hdk-910b-npu_25.0.rc1.1_linux-aarch64.zip", "firmware").kind == "hdk"


@pytest.mark.parametrize(
    "spelling, name", [("910b", "910b"), ("Ascend910B", "910b"), ("ascend910_93", "a3"), ("A3", "a3"), ("ascend310p", "310p"), ("910A", "910")]
)
def test_families(spelling, name):
    assert family(spelling) == name


@pytest.mark.parametrize(
    "arguments, reason",
    [
        pytest.param(("toolkit", "8.1.RC1", None), "toolkit is not installed", id="fresh"),
        pytest.param(("kernels", "8.1.RC1", None), "kernels are not installed", id="fresh-kernels"),
        pytest.param(("driver", "25.0.rc1.1", "25.0.rc1"), "driver 25.0.rc1 is installed, 25.0.rc1.1 is wanted", id="upgrade"),
        pytest.param(("driver", "25.0.rc1.1", "25.0.rc1.1"), None, id="nothing-to-do"),
        pytest.param(("toolkit", "8.1.RC1", "8.1.rc1"), None, id="another-spelling"),
        pytest.param(("driver", "25.0.rc1.1", None, "no version.info"), "driver 25.0.rc1.1 is only partly installed: no version.info", id="interrupted"),
        pytest.param(("kernels", "8.1.RC1", "8.1.RC1", None, "910b", ["310p"]), "kernels 8.1.RC1 are installed for 310p, 910b is wanted", id="chip"),
        pytest.param(("kernels", "8.1.RC1", "8.1.RC1", None, "910b", ["310p", "910b"]), None, id="both-chips"),
        pytest.param(("nnal", "8.1.RC1", "8.1.RC1", None, None, None, True), "nnal 8.1.RC1 is installed, and installing again was asked for", id="force"),
    ],
)
def test_reasons(arguments, reason):
    assert reason_to_install(*arguments) == reason


@pytest.mark.parametrize(
    "arguments, action",
    [
        (("driver", "25.0.rc1.1", None), "install"),
        (("driver", "25.0.rc1.1", "24.1.0"), "upgrade"),
        (("driver", "25.0.rc1.1", "25.2.0"), "downgrade"),
        (("driver", "25.0.rc1.1", "24.1.0", "interrupted"), "install"),
        (("toolkit", "8.1.RC1", "8.0.RC3"), "install"),
    ],
)
def test_actions(arguments, action):
    assert action_of(*arguments) == action
