# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import pairings, records


@pytest.mark.parametrize("cann, driver, pair", [
    ("8.1.RC1", "25.0.rc1.1", None), ("8.1.RC1", "24.1.0", ("25.0.RC1", "25.0.rc1.1")), ("8.1.RC1.beta1", "24.1.0", ("25.0.RC1", "25.0.rc1.1")),
    ("8.1.RC1", "25.5.0", None), ("8.3.RC1", "25.2.0", ("25.3.RC1", "25.3.rc1")), ("8.3.RC1", "25.3.rc1", None), ("7.0.0", "1.0", None),
])
def test_the_vendors_table(cann, driver, pair):
    assert pairings.older_than_the_pair(cann, driver) == pair


@pytest.mark.parametrize("version, wanted, met", [
    ("7.7.0.1.238", '"7.7"', True), ("7.6.0.2.220", "7.7", False), ("7.7.0.1.238", ">=7.6, <=7.7", True), ("7.8.0.1", ">=7.6, <=7.7", False),
    ("7.5.9", ">=7.6, <=7.7", False), ("7.7", "<7.7", False), ("7.6.9", "<7.7", True), ("7.7.1", ">7.7", True), ("7.7", ">7.7", False),
    ("7.9.1", ">=7.6, <=7.7, 7.9", True), ("7.9.1", ">=7.6", True), ("7.5", "7.4, 7.5", True), ("7.5", "", True), ("7.5", "whatever", True),
])
def test_what_a_package_asks_of_another(version, wanted, met):
    assert pairings.satisfies(version, wanted) is met


@pytest.mark.parametrize("version, wanted, met", [
    ("7.35.23", "4.0.0", True), ("3.9.0", "4.0.0", False), ("4.0.0", "4.0.0", True), ("5.0", "[4.0.0,6.0)", True), ("6.0", "[4.0.0,6.0)", False),
    ("6.0", '"(4.0,6.0]"', True), ("4.0", "(4.0,6.0]", False), ("9", "[4.0,]", True), ("1.0", "", True),
])
def test_what_cann_asks_of_the_driver(version, wanted, met):
    assert pairings.driver_satisfies(version, wanted) is met


def found(tree):
    problems = records.pairing_problems(
        records.read_driver(str(tree.ascend), str(tree.root / "etc")), records.read_firmware(str(tree.ascend)), records.read_cann(str(tree.ascend))
    )
    return {problem["id"]: (problem["severity"], problem["observed"]) for problem in problems}


def test_a_node_whose_parts_fit(tree):
    tree.driver()
    info = tree.ascend / "driver/version.info"
    info.chmod(0o644)
    info.write_text(info.read_text() + "ascendhal_version=7.35.23\n")
    tree.toolkit()
    tree.kernels()
    asks = 'required_driver_ascendhal_version=4.0.0\nrequired_package_opp_version="7.7"\n'
    tree.install("ascend-toolkit/8.1.RC1/runtime/version.info", f"Version=7.7.0.1.238\n{asks}")
    assert found(tree) == {}


def test_a_driver_that_is_older_than_the_toolkit(tree):
    tree.driver("24.1.0")
    tree.toolkit()
    assert found(tree) == {"ascend_pair_hdk": ("warning", "driver 24.1.0 is older than 25.0.rc1.1, and CANN 8.1.RC1 was published with HDK 25.0.RC1")}


def test_lines_that_ask_for_more_than_there_is(tree):
    tree.driver()
    info = tree.ascend / "driver/version.info"
    info.chmod(0o644)
    info.write_text(info.read_text() + "ascendhal_version=7.35.23\n")
    tree.toolkit()
    tree.install("ascend-toolkit/8.1.RC1/runtime/version.info", "Version=7.7.0.1.238\nrequired_driver_ascendhal_version=8.0.0\n")
    tree.install("ascend-toolkit/8.1.RC1/opp_kernel/version.info", 'Version=7.5.0.1.1\nversion_dir=8.1.RC1\nrequired_package_runtime_version=">=7.4, <=7.5"\n')
    assert found(tree) == {
        "ascend_required_driver": ("error", "runtime of CANN 8.1.RC1 asks for ascendhal 8.0.0 of the driver, which has 7.35.23"),
        "ascend_required_package": ("warning", "opp_kernel of CANN 8.1.RC1 asks for runtime >=7.4, <=7.5, which is 7.7.0.1.238"),
    }
