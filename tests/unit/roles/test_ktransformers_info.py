"""What the role decides by: is the build what it should be, and does the service run on it?"""

from __future__ import annotations

import json
import os
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.modules import ktransformers_info as info

BUILT = {"version": "0.2.4", "record": "r1"}
ENGINE = {"digest": "s1", "overlay": {"digest": "o1"}, "cann": {"version": "8.1.RC1", "identity": "B238"},
          "environment": {"python": "python3.11", "torch_npu": {"version": "2.3.1.post6", "record": "t1"}, "ktransformers": BUILT, "extension": True}}
KEY = ["source s1", "overlay o1", "python python3.11", "torch_npu 2.3.1.post6 t1", "cann 8.1.RC1 B238", "build bash install.sh"]


def build_of(tmp_path, stamp, engine=None, job_state="done"):
    folder = tmp_path / "job"
    folder.mkdir()
    if job_state:
        # The worker is gone, and has left its result.
        (folder / "job.json").write_text(json.dumps({"token": "x", "digest": "d", "title": "t", "pid": 1, "boot_id": "b", "host": "h", "started": 1.0}))
        (folder / "result.json").write_text(json.dumps({"token": "x", "state": job_state, "result": {}, "error": None}))
    if stamp is not None:
        (tmp_path / "build.json").write_text(json.dumps(stamp))
    params = {"build": ["bash", "install.sh"], "build_stamp": str(tmp_path / "build.json"), "build_dir": str(folder)}
    return info.look_at_build({**ENGINE, **(engine or {})}, params)


def without(**changes):
    return {"environment": {**ENGINE["environment"], **changes}}


@pytest.mark.parametrize("stamp, engine, reason, stale", [
    pytest.param({"key": KEY, "record": "r1"}, None, None, False, id="as-it-should-be"),
    pytest.param(None, None, "nobody noted its build", False, id="not-noted"),
    pytest.param(None, without(ktransformers=None), "the environment has no KTransformers", True, id="environment-made-anew"),
    pytest.param({"key": KEY, "record": "r1"}, without(ktransformers=None), "the environment has no KTransformers", True, id="removed"),
    pytest.param({"key": KEY, "record": "r1"}, without(extension=False), "the environment has no KTransformers", True, id="extension-gone"),
    pytest.param({"key": KEY, "record": "r0"}, None, "KTransformers was installed by somebody else since", True, id="installed-over"),
    pytest.param({"key": [*KEY[:4], "cann 8.0 B1", KEY[5]], "record": "r1"}, None, "the environment has another build: cann changed", False, id="cann-changed"),
    pytest.param({"key": ["source s0", *KEY[1:]], "record": "r1"}, None, "the environment has another build: source changed", False, id="source-changed"),
])
def test_whether_the_build_is_current(tmp_path, stamp, engine, reason, stale):
    build = build_of(tmp_path, stamp, engine)
    assert (build["current"], build["reason"], build["stale"]) == (reason is None, reason, stale)
    assert build["key"] == KEY


def test_a_job_that_is_not_done_has_nothing_to_forget(tmp_path):
    assert build_of(tmp_path, None, without(ktransformers=None), job_state=None)["stale"] is False


def test_a_node_without_anything_is_described(tmp_path):
    params = {"source": str(tmp_path / "none"), "chat_module": "ktransformers.local_chat", "server_module": "", "rule": "rules/a.yaml", "build": [],
              "replacements": [], "edits": []}
    seen = info.look_at_tree(params, "aarch64")
    assert (seen["found"], seen["reason"]) == (False, f"{tmp_path}/none is not there yet")
    assert seen["rule"] == f"{tmp_path}/none/rules/a.yaml"
    assert info.look_at_cann(str(tmp_path)) is None


def test_paths_are_told_by_the_link(tmp_path):
    plugin = tmp_path / "sources/kt-1/ktransformers/util/npu_graph_so/arm/libgraph_capture.so"
    plugin.parent.mkdir(parents=True)
    plugin.write_bytes(b"")
    (tmp_path / "sources/kt-1.json").write_text('{"digest": "abc", "commit": "c007d40b"}')
    (tmp_path / "opt").symlink_to("sources/kt-1")
    params = {"source": str(tmp_path / "opt"), "chat_module": "x", "server_module": "", "rule": "a.yaml", "build": [], "replacements": [], "edits": []}
    seen = info.look_at_tree(params, "aarch64")
    assert (seen["digest"], seen["commit"], seen["tree"]) == ("abc", "c007d40b", str(tmp_path / "sources/kt-1"))
    assert seen["plugin_path"] == str(tmp_path / "opt/ktransformers/util/npu_graph_so/arm")
    assert info.look_at_tree(params, "x86_64")["plugin_path"] is None


class Systemctl:
    """Stands for the module: a node whose systemctl says what the test wants."""

    def __init__(self, **values):
        self.out = "".join(f"{name}={value}\n" for name, value in values.items())

    def get_bin_path(self, _name):
        return "/usr/bin/systemctl"

    def run_command(self, command, **_options):
        return 0, "systemd 249 (249.11-0ubuntu3.16)\n+PAM +AUDIT\n" if command[1:] == ["--version"] else self.out, ""


@pytest.mark.parametrize("started_ago, written_ago, reload, stale", [
    pytest.param(100, 200, "no", False, id="started-with-these-files"),
    pytest.param(200, 100, "no", True, id="written-after-the-start"),
    pytest.param(100, 200, "yes", True, id="systemd-has-not-read-it"),
])
def test_a_unit_whose_files_are_newer_than_its_start(tmp_path, started_ago, written_ago, reload, stale):
    unit = tmp_path / "ktransformers.service"
    unit.write_text("")
    os.utime(unit, (time.time() - written_ago,) * 2)
    started = int((time.clock_gettime(time.CLOCK_MONOTONIC) - started_ago) * 1e6)
    module = Systemctl(LoadState="loaded", ActiveState="active", SubState="running", UnitFileState="enabled", NeedDaemonReload=reload,
                       ExecMainStartTimestampMonotonic=max(started, 1), Result="success")
    seen = info.look_at_unit(module, "ktransformers.service", [str(unit), str(tmp_path / "none")])
    assert seen == {"systemd": 249, "load_state": "loaded", "state": "active", "sub_state": "running", "enabled": True, "result": "success", "stale": stale}


def test_no_systemd_no_unit():
    assert info.look_at_unit(type("Module", (), {"get_bin_path": lambda self, name: None})(), "ktransformers.service", []) == {}
    assert info.look_at_unit(Systemctl(), "", []) == {}


@pytest.mark.parametrize("config, layers", [('{"num_hidden_layers": 61}', 61), ("{", 0), ("[]", 0), (None, 0)])
def test_layers(tmp_path, config, layers):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert info.layers_of(str(tmp_path)) == layers
