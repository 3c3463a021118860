# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a place can be written to at all, whoever asks."""

from __future__ import annotations

import os
import typing as t


def read_only_mount(path: str) -> t.Optional[str]:
    """Where the read-only file system begins that holds `path` or will hold it; None when it can be written to.

    Asked of the folders and not of /proc/mounts, since a part of a writable file system may be mounted read-only as well.
    """
    folder = os.path.realpath(path)
    while not os.path.exists(folder) and folder != "/":
        folder = os.path.dirname(folder)
    if not _is_read_only(folder):
        return None
    while not os.path.ismount(folder) and folder != "/" and _is_read_only(os.path.dirname(folder)):
        folder = os.path.dirname(folder)
    return folder


def _is_read_only(folder: str) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False
