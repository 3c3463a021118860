# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: submodules_folder
author: npuops contributors (@npuops)
version_added: 1.0.0
short_description: Say where the media have the submodules of a source tree
description:
  - The folder is named like the source, and holds a file for each submodule, and for each repository that the source's build would clone.
positional: _input
options:
  _input:
    description: The source, as its name in the media or the URL of its repository.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show where the submodules belong
  ansible.builtin.debug:
    msg: "{{ 'source/ktransformers-c007d40b.tar.gz' | npuops.ktransformers.submodules_folder }}"
  # source/ktransformers-c007d40b.submodules/
"""

RETURN = r"""
_value:
  description: Path of the folder in the media, with a slash at its end.
  type: str
"""

import typing as t

from ansible_collections.npuops.ktransformers.plugins.module_utils.source_parts import media_folder


class FilterModule:
    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {"submodules_folder": media_folder}
