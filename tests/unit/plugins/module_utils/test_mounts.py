"""Where a read-only file system begins."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.mounts import read_only_mount


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """Makes folders below tmp_path read-only, and mount points: disk(mounts, read_only)."""
    def lay(mounts, read_only):
        marks = tuple(str(tmp_path / name) for name in read_only)
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(
            f_flag=os.ST_RDONLY if any(str(path) == mark or str(path).startswith(mark + "/") for mark in marks) else 0))
        monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in {str(tmp_path / name) for name in mounts})
    (tmp_path / "opt/weights/deep").mkdir(parents=True)
    return lay


@pytest.mark.parametrize("mounts, read_only, path, expected", [
    pytest.param(["opt"], [], "opt/weights/deep", None, id="writable"),
    pytest.param(["opt/weights"], ["opt/weights"], "opt/weights/deep", "opt/weights", id="its-own-mount"),
    pytest.param(["opt/weights"], ["opt/weights"], "opt/weights/deep/not/yet", "opt/weights", id="not-there-yet"),
    pytest.param([], ["opt/weights"], "opt/weights/deep", "opt/weights", id="part-of-a-file-system"),
    pytest.param(["opt", "opt/weights"], ["opt"], "opt/weights/deep", "opt/weights", id="mount-in-a-mount"),
    pytest.param(["opt/weights"], ["opt/weights"], "opt/other", None, id="beside-it"),
])
def test_where_a_read_only_file_system_begins(disk, tmp_path, mounts, read_only, path, expected):
    disk(mounts, read_only)
    assert read_only_mount(str(tmp_path / path)) == (expected and str(tmp_path / expected))


def test_a_link_counts_as_what_it_leads_to(disk, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "opt/weights")
    disk(["opt/weights"], ["opt/weights"])
    assert read_only_mount(str(tmp_path / "link/deep")) == str(tmp_path / "opt/weights")
