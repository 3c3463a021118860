# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is changed in a source tree for a machine."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  replacements:
    description: Files of the tree that are copied over others.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: The file that is copied, relative to the tree.
        type: str
        required: true
      dest:
        description: The file that it replaces, relative to the tree.
        type: str
        required: true
      machine:
        description: Machine, as C(uname -m) says it, that this is for. All machines without it.
        type: str
  edits:
    description: Lines that are changed. They are read from the original, so that an edit is never made twice.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file, relative to the tree.
        type: str
        required: true
      pattern:
        description: Regular expression of what is replaced in a line.
        type: str
        required: true
      replacement:
        description: What stands in its place. C(\1) is the first group of O(edits[].pattern).
        type: str
        required: true
      machine:
        description: Machine, as C(uname -m) says it, that this is for. All machines without it.
        type: str
"""
