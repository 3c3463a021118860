#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ascend_package
short_description: Install, upgrade or remove one package of Ascend's driver, firmware or CANN
version_added: 1.0.0
description:
  - Decides from the package's file name and from what is on disk, so the file itself is only needed where something has to be done.
  - Refuses what would break the node before it starts, and names all reasons at once, each with its repair.
  - Believes the disk and not the exit code of the vendor's installer, keeps the installer's log, and records a reboot that is owed, so that
    M(npuops.ktransformers.npu_info) knows of it even after a failed run.
extends_documentation_fragment:
  - npuops.ktransformers.roots
  - npuops.ktransformers.attributes
options:
  kind:
    description: What the package is.
    type: str
    choices: [driver, firmware, toolkit, kernels, nnal]
    required: true
  src:
    description:
      - Path of the vendor's C(.run) package on the node, with the vendor's own file name. It need not be there when nothing has to be done, or in check mode.
      - The vendor's C(.zip) does as well. The package is unpacked below O(state_dir), and the signature files stay there.
      - Required with O(state=present). With O(state=absent) it names the version, and is used when the vendor's uninstall script is gone.
    type: path
  state:
    description: Whether the package's version is to be installed or removed.
    type: str
    choices: [present, absent]
    default: present
  version:
    description: With O(state=absent) and without O(src), which version of CANN's parts to remove. The default is the one that C(latest) stands for.
    type: str
  install_path:
    description: Where the vendor's packages are installed.
    type: path
    default: /usr/local/Ascend
  install_for_all:
    description:
      - Whether every user of the node may use the driver (device nodes get mode 0666) or CANN. As root, CANN is always installed for all.
      - An upgrade of the driver keeps what was chosen at its installation.
    type: bool
    default: false
  install_username:
    description: Owner of the driver's device nodes. The user must exist, and cannot be changed by an upgrade.
    type: str
    default: HwHiAiUser
  install_usergroup:
    description: Group of the driver's device nodes. Its members may use the NPUs.
    type: str
    default: HwHiAiUser
  force:
    description:
      - Install again what is there already, go back to an older driver or firmware, and go on while the NPUs are in use (the driver then wants a reboot).
    type: bool
    default: false
  accept_eula:
    description: Whether Huawei's licence is accepted. Nothing is installed without it.
    type: bool
    default: false
  sha256:
    description: Checksum that the file must have, in hexadecimal. Checked before the installer starts.
    type: str
  cxx_abi:
    description: With O(kind=nnal), the C++ ABI that must be served after the installation.
    type: int
    choices: [0, 1]
  driver_version:
    description: With O(kind=toolkit), the driver that the node is going to have, so that check mode can judge the pair before the driver is there.
    type: str
  kernel_modules:
    description:
      - With O(kind=driver), where its kernel modules come from. V(build) demands dkms, gcc, make and the headers of the running kernel.
      - V(prebuilt) trusts that the package's ready-made modules fit the running kernel.
    type: str
    choices: [build, prebuilt]
    default: build
  signature_ca:
    description:
      - Path of the vendor's root certificate (PEM) on the node. The signature (C(.cms)) in a C(.zip) must then verify against it before anything runs.
      - Needs C(openssl) on the node.
    type: path
  signature_ignore_time:
    description: Whether a signature counts although its certificate has expired since.
    type: bool
    default: false
  npu_smi:
    description: Path of C(npu-smi), asked for programs that use the NPUs. An empty text looks in /usr/local/bin, /usr/local/sbin and E(PATH).
    type: str
    default: ''
  timeout:
    description: Seconds after which the installer is killed.
    type: int
    default: 3600
  fail_on_problems:
    description: Whether problems fail the module. With V(false), check mode only returns them (RV(problems)); a real run still changes nothing and fails.
    type: bool
    default: true
  log_dir:
    description: Where the installers' logs are kept. The default is the folder C(logs) below O(state_dir).
    type: path
attributes:
  check_mode:
    description: Tells what would be done. An earlier step that is still missing (user, driver, toolkit, the file itself) does not fail it.
    support: full
  diff_mode:
    description: Shows the version before and after.
    support: full
notes:
  - Driver and firmware need root. CANN's parts do not, where O(install_path) may be written.
seealso:
  - module: npuops.ktransformers.npu_info
  - module: npuops.ktransformers.media
author: npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Install the driver
  npuops.ktransformers.ascend_package:
    kind: driver
    src: /var/lib/npuops/media/ascend/Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-aarch64.run
    accept_eula: true
  become: true
  register: hdk_driver

- name: Install CANN's toolkit as an ordinary user
  npuops.ktransformers.ascend_package:
    kind: toolkit
    src: /home/me/media/Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run
    install_path: /home/me/Ascend
    state_dir: /home/me/.npuops
    accept_eula: true

- name: Remove NNAL
  npuops.ktransformers.ascend_package:
    kind: nnal
    state: absent
"""

RETURN = r"""
kind:
  description: What the package is.
  returned: always
  type: str
  sample: driver
reason:
  description: Why something has to be done, or null when the node is as wanted.
  returned: always
  type: str
  sample: driver 25.0.rc1 is installed, 25.0.rc1.1 is wanted
version_before:
  description: Version on disk before, or null.
  returned: always
  type: str
  sample: 25.0.rc1
version_after:
  description: Version on disk afterwards, in check mode the one that would be there, or null.
  returned: always
  type: str
  sample: 25.0.rc1.1
problems:
  description: What is in the way, each with V(id), V(severity), V(observed), V(expected) and V(repair).
  returned: always
  type: list
  elements: dict
  sample:
    - id: ascend_chip
      severity: error
      observed: Ascend-cann-kernels-310p_8.1.RC1_linux-aarch64.run is for chip 310p, this node has 910b
      expected: a package for 910b
      repair: choose the package by the chip that npu_info reports
command:
  description: The vendor's command line, empty when nothing has to be done.
  returned: always
  type: list
  elements: str
  sample: [bash, /media/Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-aarch64.run, --nox11, --upgrade, --quiet]
installer_rc:
  description: Exit code of the vendor's installer, null when it did not run or was killed.
  returned: always
  type: int
  sample: 0
log:
  description: Path of the installer's log, null when it did not run or the log could not be kept.
  returned: always
  type: str
  sample: /var/lib/npuops/logs/driver-25.0.rc1.1-upgrade-20250718T101112.log
log_tail:
  description: Last lines of that log.
  returned: always
  type: list
  elements: str
  sample: ['[Driver] [2025-07-18 10:12:15] [INFO]upgradePercentage:100%']
signatures:
  description: Paths of the signature files that came with a C(.zip).
  returned: always
  type: list
  elements: str
  sample: []
seconds:
  description: How long it took.
  returned: always
  type: float
  sample: 63.2
reboot_required:
  description: Whether this change needs a reboot to take effect.
  returned: always
  type: bool
reboot_reason:
  description: Why, or null.
  returned: always
  type: str
  sample: firmware 7.7.0.1.231 takes effect with a reboot
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.checks import refusals
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.env import EnvironmentProblem
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.install import Result, carry_out
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import KINDS, PackageError
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Plan, Roots, Wish, make
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.problem import Runner


def argument_spec() -> dict:
    return {
        "kind": {"type": "str", "choices": list(KINDS), "required": True},
        "src": {"type": "path"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "version": {"type": "str"},
        "install_path": {"type": "path", "default": "/usr/local/Ascend"},
        "install_for_all": {"type": "bool", "default": False},
        "install_username": {"type": "str", "default": "HwHiAiUser"},
        "install_usergroup": {"type": "str", "default": "HwHiAiUser"},
        "force": {"type": "bool", "default": False},
        "accept_eula": {"type": "bool", "default": False},
        "sha256": {"type": "str"},
        "cxx_abi": {"type": "int", "choices": [0, 1]},
        "driver_version": {"type": "str"},
        "kernel_modules": {"type": "str", "choices": ["build", "prebuilt"], "default": "build"},
        "signature_ca": {"type": "path"},
        "signature_ignore_time": {"type": "bool", "default": False},
        "npu_smi": {"type": "str", "default": ""},
        "timeout": {"type": "int", "default": 3600},
        "fail_on_problems": {"type": "bool", "default": True},
        "state_dir": {"type": "path", "default": "/var/lib/npuops"},
        "log_dir": {"type": "path"},
        "sysfs_root": {"type": "path", "default": "/sys"},
        "proc_root": {"type": "path", "default": "/proc"},
        "dev_root": {"type": "path", "default": "/dev"},
        "etc_root": {"type": "path", "default": "/etc"},
    }


def answer(plan: Plan, problems: list, result: Result | None = None) -> dict:
    """The module's return values, before the run (or without one) and after it."""
    after = result.after.version if result else plan.wanted if plan.reason else plan.before.version
    return {
        "changed": plan.reason is not None,
        "kind": plan.wish.kind,
        "reason": plan.reason,
        "version_before": plan.before.version,
        "version_after": after,
        "problems": problems,
        "command": list(plan.command),
        # Not `rc`: Ansible takes any value of that name but 0 for a failure, and 2 means that a reboot is due.
        "installer_rc": result.rc if result else None,
        "log": result.log if result else None,
        "log_tail": result.log_tail if result else [],
        "signatures": result.signatures if result else [],
        "seconds": result.seconds if result else 0.0,
        "reboot_required": bool(result and result.reboot_reason),
        "reboot_reason": result.reboot_reason if result else None,
        "diff": {
            "before_header": plan.wish.kind,
            "after_header": plan.wish.kind,
            "before": f"{plan.before.version or 'absent'}\n" if plan.reason else "",
            "after": f"{after or 'absent'}\n" if plan.reason else "",
        },
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), required_if=[("state", "present", ["src"])], supports_check_mode=True)
    given = module.params
    roots = Roots(
        ascend=given["install_path"], etc=given["etc_root"], sysfs=given["sysfs_root"], proc=given["proc_root"], dev=given["dev_root"],
        state=given["state_dir"],
    )
    wish = Wish(
        kind=given["kind"], src=given["src"], state=given["state"], version=given["version"], install_for_all=given["install_for_all"],
        username=given["install_username"], usergroup=given["install_usergroup"], force=given["force"], accept_eula=given["accept_eula"],
        sha256=given["sha256"], cxx_abi=given["cxx_abi"], kernel_modules=given["kernel_modules"], signature_ca=given["signature_ca"],
        signature_ignore_time=given["signature_ignore_time"], npu_smi=given["npu_smi"], driver_version=given["driver_version"],
    )
    try:
        plan = make(wish, roots)
        problems = refusals(plan, roots, Runner(os.geteuid(), os.uname().machine, module.check_mode))
        errors = [problem for problem in problems if problem["severity"] == "error"]
        if errors and (given["fail_on_problems"] or not module.check_mode):
            text = "; ".join(f"{problem['observed']}, expected {problem['expected']}: {problem['repair']}" for problem in errors)
            refused = answer(plan, problems)
            refused.update(changed=False, msg=f"{plan.reason}, but it must not be changed yet: {text}")
            module.fail_json(**refused)
        if plan.reason is None or module.check_mode:
            module.exit_json(**answer(plan, problems))
        result = carry_out(plan, roots, given["log_dir"] or os.path.join(roots.state, "logs"), given["timeout"])
    except (PackageError, EnvironmentProblem) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"{exc.filename or given['state_dir']}: {exc.strerror}; look at this path, or choose another state_dir.")
    if result.failure:
        where = f"; the whole log is {result.log}" if result.log else ""
        module.fail_json(msg=f"{result.failure}{where}.", **answer(plan, problems, result))
    module.exit_json(**answer(plan, problems, result))


if __name__ == "__main__":
    main()
