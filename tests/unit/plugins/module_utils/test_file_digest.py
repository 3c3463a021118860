# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import file_digest


def test_content_and_mode(tmp_path):
    path = tmp_path / "npu-chat"
    path.write_text("x")
    path.chmod(0o755)
    assert file_digest.content_and_mode(str(path)) == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 0755"
    assert file_digest.content_and_mode(str(tmp_path / "none")) == ""
    assert file_digest.content_and_mode(str(tmp_path)) == ""


def test_more_than_one_block(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"ab" * (1 << 20))
    assert file_digest.sha256_of(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_digest.sha256_of(str(tmp_path / "none"))
