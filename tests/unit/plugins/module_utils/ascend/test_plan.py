# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import PackageError
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import DEFAULT_ROOT, Roots, Wish, install_command, make

from tests.unit.plugins.module_utils.ascend.node_tree import ARCH, DRIVER_PACKAGE, FIRMWARE_PACKAGE, KERNELS_PACKAGE, NNAL_PACKAGE, TOOLKIT_PACKAGE

USER = ["--install-username=HwHiAiUser", "--install-usergroup=HwHiAiUser"]


@pytest.mark.parametrize(
    "kind, action, options, roots, as_root, words",
    [
        pytest.param("driver", "install", {}, DEFAULT_ROOT, True, ["--full", "--quiet", *USER], id="driver"),
        pytest.param(
            "driver",
            "install",
            {"install_for_all": True},
            "/opt/Ascend",
            True,
            ["--full", "--quiet", "--install-for-all", *USER, "--install-path=/opt/Ascend"],
            id="driver-for-all-elsewhere",
        ),
        pytest.param("driver", "upgrade", {"install_for_all": True}, "/opt/Ascend", True, ["--upgrade", "--quiet"], id="an-upgrade-takes-no-options"),
        pytest.param("driver", "upgrade", {"force": True}, DEFAULT_ROOT, True, ["--upgrade", "--quiet", "--force"], id="a-forced-upgrade"),
        pytest.param("driver", "downgrade", {"force": True}, DEFAULT_ROOT, True, ["--full", "--quiet", *USER, "--force"], id="a-downgrade-is-an-overwrite"),
        pytest.param("firmware", "install", {"install_for_all": True, "force": True}, DEFAULT_ROOT, True, ["--full", "--quiet"], id="firmware"),
        pytest.param("firmware", "upgrade", {}, DEFAULT_ROOT, True, ["--upgrade", "--quiet"], id="firmware-upgrade"),
        pytest.param("toolkit", "install", {}, "/home/me/Ascend", False, ["--install", "--quiet", "--install-path=/home/me/Ascend"], id="toolkit-of-a-user"),
        pytest.param(
            "kernels",
            "install",
            {"install_for_all": True},
            DEFAULT_ROOT,
            True,
            ["--install", "--quiet", "--install-path=/usr/local/Ascend", "--install-for-all"],
            id="kernels-for-all",
        ),
        pytest.param("nnal", "install", {}, DEFAULT_ROOT, True, ["--install", "--quiet", "--install-path=/usr/local/Ascend"], id="nnal"),
    ],
)
def test_commands(kind, action, options, roots, as_root, words, tmp_path):
    wish = Wish(kind=kind, src="/media/X.run", **options)
    assert install_command(wish, "/media/X.run", action, Roots(ascend=roots, etc=str(tmp_path)), as_root) == ["bash", "/media/X.run", "--nox11", *words]


def test_where_the_system_has_a_record_of_cann_the_path_is_not_given_again(tree):
    tree.write("etc/Ascend/ascend_cann_install.info", f"Install_Path={tree.ascend}\n")
    wish = Wish(kind="toolkit", src=f"/media/{TOOLKIT_PACKAGE}")
    assert make(wish, tree.roots, as_root=True).command[3:] == ("--install", "--quiet")
    assert make(wish, tree.roots, as_root=False).command[3:] == ("--install", "--quiet", f"--install-path={tree.ascend}")


def plan(tree, name, **options):
    kind = next(kind for kind in ("driver", "firmware", "toolkit", "kernels", "nnal") if kind in name)
    return make(Wish(kind=kind, src=f"/media/{name}", **options), tree.roots)


def test_a_bare_node_wants_everything(tree):
    for name in (DRIVER_PACKAGE, FIRMWARE_PACKAGE, TOOLKIT_PACKAGE, KERNELS_PACKAGE, NNAL_PACKAGE):
        found = plan(tree, name)
        assert (found.action, found.before.version, found.reason.endswith("not installed")) == ("install", None, True)


def test_a_finished_node_wants_nothing(tree):
    tree.driver()
    tree.firmware()
    tree.toolkit()
    tree.kernels()
    tree.nnal()
    for name in (DRIVER_PACKAGE, FIRMWARE_PACKAGE, TOOLKIT_PACKAGE, KERNELS_PACKAGE, NNAL_PACKAGE):
        found = plan(tree, name)
        assert (found.reason, found.command) == (None, ())


@pytest.mark.parametrize(
    "version, options, action, reason",
    [
        ("25.0.rc1", {}, "upgrade", "driver 25.0.rc1 is installed, 25.0.rc1.1 is wanted"),
        ("25.2.0", {}, "downgrade", "driver 25.2.0 is installed, 25.0.rc1.1 is wanted"),
        ("25.0.rc1.1", {"force": True}, "reinstall", "driver 25.0.rc1.1 is installed, and installing again was asked for"),
    ],
)
def test_another_driver(tree, version, options, action, reason):
    tree.driver(version)
    found = plan(tree, DRIVER_PACKAGE, **options)
    assert (found.action, found.reason, found.command[3]) == (action, reason, "--upgrade" if action == "upgrade" else "--full")


def test_an_interrupted_driver_is_installed_anew(tree):
    tree.driver()
    (tree.ascend / "driver/version.info").unlink()
    found = plan(tree, DRIVER_PACKAGE)
    assert (found.action, found.command[3]) == ("install", "--full")
    assert found.reason.startswith("driver 25.0.rc1.1 is only partly installed: ")


def test_over_the_same_version_cann_is_upgraded(tree):
    tree.toolkit()
    tree.kernels()
    tree.nnal()
    for name, option in ((TOOLKIT_PACKAGE, "--upgrade"), (KERNELS_PACKAGE, "--upgrade"), (NNAL_PACKAGE, "--install")):
        found = plan(tree, name, force=True, install_for_all=True)
        assert (found.action, found.command[3]) == ("reinstall", option)
        assert ("--install-for-all" in found.command) is (option == "--install")
    other_chip = KERNELS_PACKAGE.replace("910b", "310p")
    assert (plan(tree, other_chip).action, plan(tree, other_chip).command[3]) == ("install", "--install")


def test_kernels_that_version_cfg_does_not_list_were_interrupted(tree):
    tree.toolkit()
    tree.kernels()
    cfg = tree.ascend / "ascend-toolkit/latest/version.cfg"
    cfg.write_text(cfg.read_text().replace("opp_kernel_installed_version=[7.7.0.1.238:8.1.RC1]", ""))
    found = plan(tree, KERNELS_PACKAGE)
    assert (found.action, found.command[3]) == ("reinstall", "--upgrade")
    assert found.reason == (
        f"kernels 8.1.RC1 are only partly installed: version.cfg of {tree.ascend}/ascend-toolkit does not list opp_kernel of 8.1.RC1: "
        "an installation was interrupted"
    )


def test_a_toolkit_beside_another(tree):
    tree.toolkit("8.0.RC3")
    found = plan(tree, TOOLKIT_PACKAGE)
    assert (found.action, found.reason) == ("install", "toolkit 8.0.RC3 is installed, 8.1.RC1 is wanted")
    tree.toolkit("8.1.RC1", latest=False)
    assert plan(tree, TOOLKIT_PACKAGE).reason is None


def test_kernels_of_the_new_layout(tree):
    tree.cann85(kernels=False)
    name = f"Ascend-cann-910b-ops_8.5.0_linux-{ARCH}.run"
    wish = Wish(kind="kernels", src=f"/media/{name}")
    assert make(wish, tree.roots).reason == "kernels are not installed"
    tree.cann85()
    assert make(wish, tree.roots).reason is None


def test_present_needs_a_package(tree):
    with pytest.raises(PackageError) as refused:
        make(Wish(kind="driver"), tree.roots)
    assert str(refused.value) == "kind=driver has no src; give the path of the package (its name is enough where nothing has to be installed)."


def uninstallers(tree):
    tree.driver()
    tree.firmware()
    tree.toolkit()
    tree.kernels()
    tree.nnal()
    for path in (
        "driver/script/uninstall.sh",
        "firmware/script/uninstall.sh",
        f"ascend-toolkit/8.1.RC1/{ARCH}-linux/script/uninstall.sh",
        "ascend-toolkit/8.1.RC1/opp_kernel/script/uninstall.sh",
        "nnal/atb/8.1.RC1/scripts/uninstall.sh",
    ):
        tree.install(path, "#!/bin/bash\n", 0o755)


@pytest.mark.parametrize(
    "kind, script, words, reason",
    [
        ("driver", "driver/script/uninstall.sh", ["--quiet"], "driver 25.0.rc1.1 is installed"),
        ("firmware", "firmware/script/uninstall.sh", [], "firmware 7.7.0.1.231 is installed"),
        ("toolkit", f"ascend-toolkit/8.1.RC1/{ARCH}-linux/script/uninstall.sh", [], "toolkit 8.1.RC1 is installed"),
        ("kernels", "ascend-toolkit/8.1.RC1/opp_kernel/script/uninstall.sh", [], "kernels 8.1.RC1 are installed"),
        ("nnal", "nnal/atb/latest/scripts/uninstall.sh", [], "nnal 8.1.RC1 is installed"),
    ],
)
def test_removals(tree, kind, script, words, reason):
    wish = Wish(kind=kind, state="absent")
    assert (make(wish, tree.roots).reason, make(wish, tree.roots).command) == (None, ())
    uninstallers(tree)
    found = make(wish, tree.roots)
    assert (found.action, found.reason, found.wanted) == ("remove", reason, None)
    assert found.command == ("bash", f"{tree.ascend}/{script}", *words)


def test_only_the_named_version_is_removed(tree):
    uninstallers(tree)
    assert make(Wish(kind="toolkit", state="absent", version="8.2.RC1"), tree.roots).reason is None
    assert make(Wish(kind="nnal", state="absent", version="8.2.RC1"), tree.roots).reason is None
    assert make(Wish(kind="toolkit", state="absent", src=f"/media/{TOOLKIT_PACKAGE}"), tree.roots).reason == "toolkit 8.1.RC1 is installed"


@pytest.mark.parametrize(
    "name, force, words",
    [
        (DRIVER_PACKAGE, False, ("--nox11", "--uninstall")),
        (DRIVER_PACKAGE, True, ("--nox11", "--uninstall", "--force")),
        (TOOLKIT_PACKAGE, False, ("--nox11", "--uninstall", "--quiet")),
    ],
)
def test_without_a_script_the_package_removes_itself(tree, name, force, words):
    tree.driver()
    tree.toolkit()
    assert plan(tree, name, state="absent", force=force).command[2:] == words


def test_a_half_removed_driver_is_removed_to_the_end(tree):
    tree.driver_record()
    found = plan(tree, DRIVER_PACKAGE, state="absent")
    assert (found.reason, found.command[2:]) == ("incomplete driver is installed", ("--nox11", "--uninstall"))


def test_what_an_uninstaller_forgets_is_no_driver(tree):
    tree.install("driver/notes.txt")
    assert make(Wish(kind="driver", state="absent"), tree.roots).reason is None
