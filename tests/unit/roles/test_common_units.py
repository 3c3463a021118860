"""Our units after a run that stopped them and failed: told, and started again by the next one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.roles.playing import keep, role, run

SYSTEMCTL = """#!/bin/bash
echo "$*" >> {base}/calls
case "$*" in
    "show --property=Id,UnitFileState,ActiveState "*) cat {base}/told ;;
esac
"""
TOLD = """Id=running.service
ActiveState=active
UnitFileState=enabled

ActiveState=inactive
UnitFileState=enabled
Id=ktransformers.service

Id=failed.service
ActiveState=failed
UnitFileState=enabled

Id=switched-off.service
ActiveState=inactive
UnitFileState=disabled

Id=gone.service
ActiveState=inactive
UnitFileState=
"""


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node whose systemctl tells what the test writes, and notes how it was called."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL.format(base=tmp_path))
    (tmp_path / "bin/systemctl").chmod(0o755)
    (tmp_path / "told").write_text(TOLD)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    return tmp_path


def starts(base: Path) -> list[str]:
    calls = (base / "calls").read_text().splitlines() if (base / "calls").exists() else []
    return [name for line in calls if line.startswith("start --no-block ") for name in line.split()[2:]]


@pytest.mark.parametrize("scope, arguments, started", [
    ("system", (), ["ktransformers.service", "failed.service"]), ("system", ("--check",), []), ("user", (), [])])  # fmt: skip
def test_what_is_enabled_and_does_not_run_is_started(node, scope, arguments, started):
    hosts = {"node": {"npu_scope": scope, "npu_managed_units": ["running.service", "ktransformers.service"]}}
    done = run(node, hosts, [role("common", "start_units"), keep("common_units_down")], arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert starts(node) == started
    assert (node / "calls").exists() == (scope == "system")


def test_a_node_without_systemd_has_no_units_down(node):
    (node / "bin/systemctl").write_text("#!/bin/bash\necho 'System has not been booted with systemd' >&2\nexit 1\n")
    done = run(node, {"node": {}}, [role("common", "start_units"), keep("common_units_down")])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (node / "node.json").read_text() == "[]"
