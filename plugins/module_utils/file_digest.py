# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file holds, told by a checksum."""
from __future__ import annotations

import hashlib
import os
import stat

_CHUNK = 1 << 20


def sha256_of(path: str) -> str:
    """The file's SHA-256 in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(block)
    return digest.hexdigest()


def content_and_mode(path: str) -> str:
    """SHA-256 and mode as four octal digits, with a blank between them; empty for a file that is not there or cannot be read."""
    try:
        return f"{sha256_of(path)} {stat.S_IMODE(os.stat(path).st_mode):04o}"
    except OSError:
        return ""
