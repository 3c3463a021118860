# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a node shows what it is: other folders than usual in a chroot, a container or an image."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  sysfs_root:
    description: Where sysfs is.
    type: path
    default: /sys
  proc_root:
    description: Where procfs is.
    type: path
    default: /proc
  dev_root:
    description: Where the device nodes are.
    type: path
    default: /dev
  etc_root:
    description: Where the system's configuration is.
    type: path
    default: /etc
  state_dir:
    description: Where this collection keeps what it has to remember about the node, such as an owed reboot.
    type: path
    default: /var/lib/npuops
"""
