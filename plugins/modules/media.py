#!/usr/bin/python
# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the media on a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: media
short_description: Bring vendor packages, wheels and sources to a node, checked
version_added: 1.0.0
description:
  - The media are a directory on the controller, or an HTTP mirror, that hold everything an installation needs. C(manifest.yml) in it
    names every file with its SHA-256, size, version, architecture and origin.
  - Asks the node first, and sends only what is not there, in one call for any number of files. A node that has everything
    costs one remote call.
  - A file appears under its name only after its checksum was verified on the node.
  - Files of a directory are sent over Ansible's connection. From a mirror the node downloads by itself, and goes on where a
    download was interrupted.
extends_documentation_fragment:
  - npuops.ktransformers.attributes
  - npuops.ktransformers.attributes.controller
options:
  source:
    description:
      - A directory on the controller (relative to the current directory, else to the playbook's), or the address of a mirror,
        V(http://…) or V(https://…), with the same layout. An address may hold V(user:password@).
      - Needed unless O(names) is empty.
    type: str
  names:
    description:
      - Paths of files in the media, such as V(ascend/Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run).
      - A name that ends with V(/) means every file below that folder.
    type: list
    elements: str
    default: []
  dest:
    description: Directory on the node; the files keep their relative paths below it. Needed for O(state=present).
    type: path
  state:
    description:
      - V(present) brings the files to the node.
      - V(described) only says what the manifest knows of them, without a remote call.
      - V(indexed) writes C(manifest.yml) of a directory on the controller anew, without a remote call. Texts of the old one (C(origin),
        C(supplier) and any others) stay; O(names) and O(dest) do not count.
    type: str
    choices: [present, described, indexed]
    default: present
  missing:
    description:
      - What to do about files that cannot be had.
      - V(fail) fails. With O(state=described), V(report) only returns RV(problems), which the module M(npuops.ktransformers.preflight) takes as checks.
    type: str
    choices: [fail, report]
    default: fail
  mode:
    description: Permissions of the files on the node, as an octal number in quotes.
    type: raw
    default: '0644'
  validate_certs:
    description: Whether the certificate of an V(https://) mirror must be valid.
    type: bool
    default: true
  step:
    description: Set by the action plugin; not for use in tasks.
    type: str
    choices: [look, place, download]
    default: look
  entries:
    description: Set by the action plugin; not for use in tasks.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Path in the media.
        type: str
        required: true
      sha256:
        description: Expected checksum.
        type: str
        required: true
      size:
        description: Expected size in bytes.
        type: int
      origin:
        description: Where the file can be had.
        type: str
      supplier:
        description: Who supplies the file.
        type: str
      arrived:
        description: Where the file lies on the node after its transfer.
        type: path
attributes:
  check_mode:
    description: Tells what would be sent, and sends nothing.
    support: full
  diff_mode:
    description: Names the files that change, and why.
    support: full
notes:
  - With C(become) a file of a directory source is first sent to Ansible's remote temporary directory (C(ansible_remote_tmp)), which needs the room.
author: npuops contributors (@npuops)
"""

EXAMPLES = r"""
- name: Bring the CANN packages to the node
  npuops.ktransformers.media:
    source: /srv/media
    names:
      - ascend/Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run
      - ascend/Ascend-cann-kernels-910b_8.1.RC1_linux-aarch64.run
    dest: /var/lib/npuops/media
  register: cann_media

- name: Bring all wheels from a mirror
  npuops.ktransformers.media:
    source: https://mirror.example.com/npu-media
    names: [wheels/aarch64/]
    dest: /var/lib/npuops/media

- name: Say what the media know of a file
  npuops.ktransformers.media:
    source: /srv/media
    names: [source/op-plugin-7.0.0.tar.gz]
    state: described
    missing: report
  register: source_media

- name: Write the manifest of the media
  npuops.ktransformers.media:
    source: /srv/media
    state: indexed
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
files:
  description: The files, in the order of O(names).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Path in the media.
      type: str
    path:
      description: Path on the node; null when O(dest) is not given.
      type: str
    sha256:
      description: Checksum.
      type: str
    size:
      description: Bytes.
      type: int
    version:
      description: Version as the manifest says.
      type: str
    arch:
      description: V(aarch64), V(x86_64) or V(noarch).
      type: str
    origin:
      description: Where it can be had.
      type: str
    commit:
      description: Of an archive of sources, the commit that C(git archive) noted in it; else null.
      type: str
    lacks:
      description: Of an archive of sources, the submodules that it names and holds no files of; null where there are none.
      type: list
      elements: str
    changed:
      description: Whether the file was brought to the node by this call (in check mode, would be).
      type: bool
    reason:
      description: Why it was, null if it was not.
      type: str
problems:
  description:
    - Files that cannot be had, as checks that the module M(npuops.ktransformers.preflight) takes.
    - With O(state=described), files which the manifest lists and the directory does not hold are here, and do not fail.
  returned: always
  type: list
  elements: dict
  sample: []
manifest:
  description: Path of the manifest.
  returned: O(state=indexed)
  type: str
added:
  description: Names that are new in the manifest.
  returned: O(state=indexed)
  type: list
  elements: str
updated:
  description: Names whose content is another one than the manifest said.
  returned: O(state=indexed)
  type: list
  elements: str
removed:
  description: Names that were in the manifest and are not in the directory.
  returned: O(state=indexed)
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.npuops.ktransformers.plugins.module_utils import media

ARGUMENT_SPEC = {
    "source": {"type": "str"},
    "names": {"type": "list", "elements": "str", "default": []},
    "dest": {"type": "path"},
    "state": {"type": "str", "choices": ["present", "described", "indexed"], "default": "present"},
    "missing": {"type": "str", "choices": ["fail", "report"], "default": "fail"},
    "mode": {"type": "raw", "default": "0644"},
    "validate_certs": {"type": "bool", "default": True},
    "step": {"type": "str", "choices": ["look", "place", "download"], "default": "look"},
    "entries": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "size": {"type": "int"},
            "origin": {"type": "str"},
            "supplier": {"type": "str"},
            "arrived": {"type": "path"},
        },
    },
}


def file_mode(value):
    """Permissions as a number, from octal digits or from what YAML makes of 0644."""
    try:
        mode = value if isinstance(value, int) else int(str(value), 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise media.MediaError(f"mode {value!r} is no octal number such as '0644'")
    return mode


class Task:
    """One call on the node."""

    def __init__(self, module):
        self.module = module
        self.dest = module.params["dest"]
        self.mode = file_mode(module.params["mode"])
        self.sums = media.Sums(self.dest)
        self.files = []
        for entry in module.params["entries"]:
            media.check_name(entry["name"])
            self.files.append(media.File(*(entry[key] for key in media.File._fields)))

    def look(self):
        """Why each file must be fetched; finishes what only had to be renamed."""
        answer = {}
        for file in self.files:
            reason = media.reason_to_fetch(self.dest, file, self.sums)
            sent = True
            if reason and not self.module.check_mode and media.finish_partial(self.dest, file, self.mode):
                self.sums.remember(file.name, file.sha256)
                sent = False
            elif not reason:
                sent = False
                reason = self.permit(file)
            answer[file.name] = {"reason": reason, "send": sent, "path": file.path(self.dest), "partial": file.partial(self.dest)}
        return answer

    def permit(self, file):
        """Set the permissions; why, or None."""
        path = file.path(self.dest)
        found = os.stat(path).st_mode & 0o7777
        if found == self.mode:
            return None
        if not self.module.check_mode:
            os.chmod(path, self.mode)
        return f"has mode {found:04o} instead of {self.mode:04o}"

    def room(self, answer):
        """Refuse to fill the disk."""
        need = sum(file.size or 0 for file in self.files if answer[file.name]["send"])
        need -= sum(os.path.getsize(one["partial"]) for one in answer.values() if one["send"] and os.path.exists(one["partial"]))
        free = media.free_bytes(self.dest)
        if need > free:
            raise media.MediaError(
                f"{need / 1e6:.0f} MB are to be fetched to {self.dest}, where {free / 1e6:.0f} MB are free; make room there, or set media_dest"
            )

    def run(self):
        step = self.module.params["step"]
        if step == "look" or self.module.check_mode:
            answer = self.look()
            self.room(answer)
            if not self.module.check_mode:
                for one in answer.values():
                    if one["send"]:
                        media.make_folders(os.path.dirname(one["partial"]))
            return answer
        with media.one_at_a_time(self.dest):
            return self.place() if step == "place" else self.download()

    def place(self):
        for file, entry in zip(self.files, self.module.params["entries"]):
            media.place(self.dest, file, entry["arrived"], self.mode)
            self.sums.remember(file.name, file.sha256)
        return {}

    def download(self):
        answer = self.look()
        self.room(answer)
        mirror = media.Mirror(self.module.params["source"], self.module.params["validate_certs"])
        for file in self.files:
            if answer[file.name]["send"]:
                mirror.fetch(self.dest, file, self.mode)
                self.sums.remember(file.name, file.sha256)
        return answer


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    if not module.params["entries"]:
        module.exit_json(changed=False, entries={})
    if not module.params["dest"]:
        module.fail_json(msg="dest is missing: say in which directory on the node the files shall be")
    try:
        task = Task(module)
        try:
            answer = task.run()
        finally:
            if not module.check_mode:
                task.sums.save()
    except media.MediaError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"files of the media can't be brought to {module.params['dest']}: {exc}")
    module.exit_json(changed=any(one["reason"] for one in answer.values()), entries=answer)


if __name__ == "__main__":
    main()
