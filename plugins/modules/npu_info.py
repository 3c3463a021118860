#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: npu_info
short_description: Tell everything about a node's Ascend NPUs
version_added: 1.0.0
description:
  - Reads PCI ids from sysfs, the records of the vendor's installers, device nodes and what C(npu-smi) prints. Works before and after a driver is there.
  - Changes nothing and needs no root. What cannot be read is null, with a reason beside it; the module does not fail on a broken node.
extends_documentation_fragment:
  - npuops.ktransformers.roots
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.reads
options:
  ascend_root:
    description: Where the vendor's packages are installed.
    type: path
    default: /usr/local/Ascend
  npu_smi:
    description: Path of C(npu-smi). An empty text looks in /usr/local/bin, /usr/local/sbin and E(PATH).
    type: str
    default: ''
  npu_smi_timeout:
    description: Seconds after which C(npu-smi) is killed. A dead NPU can make it hang.
    type: int
    default: 20
  query_smi:
    description: Whether to run C(npu-smi) at all. It takes a second or more on a node with eight NPUs.
    type: bool
    default: true
  disk_paths:
    description: Paths whose file systems are described in RV(npu.disks). A path that is not there yet is answered for its nearest parent.
    type: list
    elements: path
    default: []
  ports:
    description: TCP ports that RV(npu.ports) tells who listens on. Programs of other users are only named to root.
    type: list
    elements: int
    default: []
seealso:
  - module: npuops.ktransformers.ascend_package
  - module: npuops.ktransformers.ascend_env_info
author: npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Learn about this node's NPUs
  npuops.ktransformers.npu_info:
    disk_paths: [/mnt/weights]
  register: npu_node

- name: Refuse a node without NPUs
  ansible.builtin.assert:
    that: npu_node.npu.found
    fail_msg: "{{ inventory_hostname }}: {{ npu_node.npu.reason }}"
"""

RETURN = r"""
npu:
  description: What was learned.
  returned: always
  type: dict
  contains:
    found:
      description: Whether an Ascend NPU is on the PCI bus.
      type: bool
      sample: true
    reason:
      description: Why none was found, or null.
      type: str
      sample: null
    product:
      description: Product name by PCI ids, or null for ids that are not known.
      type: str
      sample: Atlas 800I A2
    chip_family:
      description: Chip family as package names spell it.
      type: str
      sample: 910b
    count:
      description: Number of NPUs on the bus.
      type: int
      sample: 8
    devices:
      description: The NPUs in bus order (C(npu-smi) numbers them in another order).
      type: list
      elements: dict
      sample:
        - pci_address: '0000:01:00.0'
          vendor_id: '0x19e5'
          device_id: '0xd802'
          subsystem_vendor_id: '0x19e5'
          subsystem_device_id: '0x3005'
          product: Atlas 800I A2
          numa_node: 0
    nodes:
      description: Device nodes with mode, owner and group.
      type: list
      elements: dict
      sample: [{path: /dev/davinci0, mode: '0660', owner: HwHiAiUser, group: HwHiAiUser}]
    driver:
      description:
        - Version (null with a reason when none is installed or an installation was interrupted), RV(ignore:complete), C(inner_version), C(path),
          C(user) and C(group) of the device nodes, C(install_for_all), C(compatible_firmware) (lowest and highest version), C(compatible_version),
          and whether the kernel has the driver's module loaded.
      type: dict
      sample:
        version: 25.0.rc1.1
        reason: null
        complete: true
        inner_version: V100R001C21SPC002B220
        path: /usr/local/Ascend/driver
        user: HwHiAiUser
        group: HwHiAiUser
        install_for_all: false
        compatible_firmware: [7.0.0, 7.7.99]
        module_loaded: true
    firmware:
      description: Version of the installed firmware package, or null with a reason.
      type: dict
      sample: {version: 7.7.0.1.231, reason: null, package_version: 25.0.rc1.1}
    cann:
      description: All installed CANN trees, newest first, which version C(latest) stands for, and in which layout (V(ascend-toolkit), or V(cann) from 8.5 on).
      type: dict
      sample:
        latest: 8.1.RC1
        reason: null
        layout: ascend-toolkit
        trees:
          - version: 8.1.RC1
            path: /usr/local/Ascend/ascend-toolkit/8.1.RC1
            toolkit: 8.1.RC1
            toolkit_reason: null
            inner_version: V100R001C21SPC001B238
            kernels: {version: 8.1.RC1, chips: [910b]}
            kernels_reason: null
    nnal:
      description: Version and path of NNAL (ATB), or null with a reason, and the C++ ABIs that it has libraries for.
      type: dict
      sample: {version: 8.1.RC1, path: /usr/local/Ascend/nnal/atb/8.1.RC1, reason: null, complete: true, cxx_abis: [0, 1]}
    smi:
      description:
        - What C(npu-smi info) prints. Megabytes, watts, degrees Celsius and percent as numbers; null where the table does not say.
        - A reason when it is not there, hangs or refuses.
      type: dict
      sample:
        available: true
        path: /usr/local/bin/npu-smi
        reason: null
        npu_smi_version: 25.0.rc1.1
        driver_version: 25.0.rc1.1
        devices:
          - npu_id: 0
            chip_id: 0
            phy_id: null
            name: 910B4
            health: OK
            bus_id: '0000:C1:00.0'
            power_w: 93.6
            temp_c: 32
            hugepages_used: 0
            hugepages_total: 0
            aicore_pct: 0
            memory_used_mb: 0
            memory_total_mb: 0
            hbm_used_mb: 2871
            hbm_total_mb: 32768
        processes: [{npu_id: 0, chip_id: 0, pid: 4711, name: python3, memory_mb: 17320}]
    problems:
      description:
        - What is wrong with the above, each with V(id), V(severity), V(observed), V(expected) and V(repair).
          Versions of driver, firmware and CANN that do not work together, parts of CANN that ask for others in their version.info,
          and chips whose health is not V(OK).
      type: list
      elements: dict
      sample:
        - id: ascend_health
          severity: error
          observed: 'NPU 3 chip 0 (910B4, 0000:82:00.0) is in health Alarm'
          expected: health OK
          repair: see `npu-smi info -t health -i 3` and its error code
    reboot_required:
      description: Whether an installation of this boot still waits for a reboot, or the loaded driver module is not the installed one.
      type: bool
      sample: false
    reboot_reason:
      description: Which one and why, or null.
      type: str
      sample: firmware 7.7.0.1.231 takes effect after a reboot
    host:
      description:
        - Architecture, kernel, distribution, C library, processors, NUMA nodes, memory in mebibytes and the id of this boot.
        - C(glibcxx) is the newest GLIBCXX version of the system's own libstdc++, C(clock) tells whether the clock is synchronized and by what,
          C(automatic_updates) whether the system installs updates by itself, and which file says so.
      type: dict
      sample:
        architecture: aarch64
        kernel: 5.15.0-25-generic
        os_id: ubuntu
        os_name: Ubuntu
        os_version: '22.04'
        glibc: '2.35'
        cpu_count: 192
        numa_nodes: 8
        memory_total_mb: 1546000
        memory_available_mb: 1530000
        boot_id: 6f0f2c1e-1f0c-4b6a-8d3c-0d8d6f6c8a11
        glibcxx: 3.4.30
        glibcxx_reason: null
        clock: {synchronized: true, source: chronyd, reason: null}
        automatic_updates: {enabled: true, by: /etc/apt/apt.conf.d/20auto-upgrades}
    ports:
      description: Who listens on O(ports). Process, name and unit are null where nobody listens, or where it is not to be seen.
      type: list
      elements: dict
      sample: [{port: 10002, listening: true, pid: 4711, name: python3, unit: ktransformers.service}]
    disks:
      description: The file systems of O(disk_paths), sizes in mebibytes.
      type: list
      elements: dict
      sample: [{path: /mnt/weights, mount: /mnt, fstype: xfs, total_mb: 3662109, free_mb: 3100000, read_only: null}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.info import gather


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sysfs_root": {"type": "path", "default": "/sys"},
            "proc_root": {"type": "path", "default": "/proc"},
            "dev_root": {"type": "path", "default": "/dev"},
            "etc_root": {"type": "path", "default": "/etc"},
            "ascend_root": {"type": "path", "default": "/usr/local/Ascend"},
            "state_dir": {"type": "path", "default": "/var/lib/npuops"},
            "npu_smi": {"type": "str", "default": ""},
            "npu_smi_timeout": {"type": "int", "default": 20},
            "query_smi": {"type": "bool", "default": True},
            "disk_paths": {"type": "list", "elements": "path", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    npu = gather(
        npu_smi_path=options.pop("npu_smi"),
        query=options.pop("query_smi"),
        disk_paths=tuple(options.pop("disk_paths")),
        ports=tuple(options.pop("ports")),
        **options,
    )
    module.exit_json(changed=False, npu=npu)


if __name__ == "__main__":
    main()
