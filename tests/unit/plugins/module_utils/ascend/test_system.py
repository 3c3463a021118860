# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import system

UNATTENDED = "Package: unattended-upgrades\nStatus: install ok installed\n\n"
ON = 'APT::Periodic::Unattended-Upgrade "1";\n'
OFF = 'APT::Periodic::Unattended-Upgrade "0";\n'


def etc(tree) -> str:
    return str(tree.root / "etc")


def test_the_newest_symbol_version_of_the_systems_library(tree):
    assert system.libstdcxx(etc(tree))[0] is None
    tree.write("usr/lib64/libstdc++.so.6", "\x7fELF\0GLIBCXX_3.4.9\0GLIBCXX_3.4.30\0GLIBCXX_3.4.29\0GLIBCXX_DEBUG\0")
    assert system.libstdcxx(etc(tree)) == ("3.4.30", None)


def clock(tree) -> dict:
    return system.clock(str(tree.root / "proc"), etc(tree))


def test_a_clock_of_which_nothing_is_known(tree):
    reason = f"there is no {tree.root}/run/systemd/timesync/synchronized, and no time service runs"
    assert clock(tree) == {"synchronized": None, "source": None, "reason": reason}


def test_a_clock_that_timesyncd_keeps(tree):
    tree.write("run/systemd/timesync/synchronized", "")
    assert clock(tree) == {"synchronized": True, "source": "systemd-timesyncd", "reason": None}


@pytest.mark.parametrize("state, synchronized, reason", [
    (True, True, None), (False, False, "the kernel says that its clock is not synchronized, and chronyd runs"),
])
def test_a_clock_that_the_kernel_knows_of(tree, monkeypatch, state, synchronized, reason):
    tree.write("proc/4711/comm", "chronyd\n")
    monkeypatch.setattr(system, "_top", lambda etc_root: "/")
    monkeypatch.setattr(system.os.path, "exists", lambda path: False)
    monkeypatch.setattr(system, "_kernel_clock", lambda: state)
    assert clock(tree) == {"synchronized": synchronized, "source": "chronyd", "reason": reason}


def test_the_kernel_can_be_asked():
    assert system._kernel_clock() in (True, False)


@pytest.mark.parametrize("files, by", [
    pytest.param({}, None, id="nothing"),
    pytest.param({"20auto-upgrades": ON}, "20auto-upgrades", id="on"),
    pytest.param({"20auto-upgrades": OFF}, None, id="off"),
    pytest.param({"20auto-upgrades": ON, "99mine": OFF}, None, id="the-last-one-counts"),
    pytest.param({"20auto-upgrades": OFF, "99mine": ON}, "99mine", id="on-again"),
    pytest.param({"20auto-upgrades": f"// {ON}"}, None, id="a-comment"),
    pytest.param({"20auto-upgrades": ON, "99mine.bak": OFF}, "20auto-upgrades", id="apt-passes-over-it"),
    pytest.param({"10all": 'APT {\n Periodic {\n  Unattended-Upgrade "1";\n };\n};\nUnattended-Upgrade::Mail "0";\n'}, "10all", id="nested"),
])
def test_automatic_updates_of_apt(tree, files, by):
    tree.write("var/lib/dpkg/status", UNATTENDED)
    for name, text in files.items():
        tree.write(f"etc/apt/apt.conf.d/{name}", text)
    assert system.automatic_updates(etc(tree)) == {"enabled": by is not None, "by": f"{tree.root}/etc/apt/apt.conf.d/{by}" if by else None}


def test_settings_of_a_program_that_is_not_installed(tree):
    tree.write("var/lib/dpkg/status", UNATTENDED.replace("install ok installed", "deinstall ok config-files"))
    tree.write("etc/apt/apt.conf.d/20auto-upgrades", ON)
    assert system.automatic_updates(etc(tree))["enabled"] is False


@pytest.mark.parametrize("timer, settings, drop_in, enabled", [
    ("dnf-automatic-install", "", "", True), ("dnf-automatic-notifyonly", "apply_updates = yes", "", False),
    ("dnf-automatic", "apply_updates = yes\n", "", True), ("dnf-automatic", "apply_updates = no\n", "", False),
    ("dnf-automatic-install", "", "[Unit]\nConditionPathExists=!/\n", False),
])
def test_automatic_updates_of_dnf(tree, timer, settings, drop_in, enabled):
    path = tree.write(f"etc/systemd/system/timers.target.wants/{timer}.timer", "")
    tree.write("etc/dnf/automatic.conf", f"[commands]\n{settings}")
    if drop_in:
        tree.write(f"etc/systemd/system/{timer}.service.d/npuops.conf", drop_in)
    assert system.automatic_updates(etc(tree)) == {"enabled": enabled, "by": str(path) if enabled else None}


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LINE = "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0 100 0 0 10 0\n"


def test_who_listens(tree):
    tree.write("proc/net/tcp", HEAD + LINE.format(address="0100007F:2712", state="0A", inode=77) + LINE.format(address="0100007F:63DD", state="01", inode=78))
    tree.write("proc/net/tcp6", HEAD + LINE.format(address="00000000000000000000000000000000:1F90", state="0A", inode=79) + "garbage\n")
    tree.write("proc/4711/comm", "python3\n")
    tree.write("proc/4711/cgroup", "0::/user.slice/user@1000.service/app.slice/ktransformers.service\n")
    (tree.root / "proc/4711/fd").mkdir()
    os.symlink("socket:[77]", tree.root / "proc/4711/fd/3")
    os.symlink("/dev/null", tree.root / "proc/4711/fd/0")
    assert system.listeners((10002, 25565, 8080), str(tree.root / "proc")) == [
        {"port": 10002, "listening": True, "pid": 4711, "name": "python3", "unit": "ktransformers.service"},
        {"port": 25565, "listening": False, "pid": None, "name": None, "unit": None},
        {"port": 8080, "listening": True, "pid": None, "name": None, "unit": None},
    ]
    assert system.listeners((), str(tree.root / "proc")) == []
