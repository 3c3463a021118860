"""Who builds torch_npu for whom, and what is refused before anything is built."""

from __future__ import annotations

import pytest

from tests.unit.roles.playing import keep, lay_media, play, role, run

WHEEL = "wheels/torch_npu-2.3.1.post6-cp311-cp311-linux_{}.whl"


def host(base, architecture, **variables):
    return {
        "architecture": architecture,
        "media_source": f"{base}/media",
        "npu_state_dir": f"{base}/state",
        "npu_scope": "user",
        "npu_preflight_collect": True,
        **variables,
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("torch")
    lay_media(base / "media", {"source/op-plugin-7.0.0.tar.gz": b"source", WHEEL.format("x86_64"): b"wheel"})
    return base


@pytest.fixture(scope="module")
def hosts(base):
    return {
        "arm-1": host(base, "aarch64"),
        "x86-1": host(base, "x86_64"),
        "arm-2": host(base, "aarch64"),
        "x86-2": host(base, "x86_64"),
        "arm-3": host(base, "aarch64", torch_npu_opplugin_builder="arm-2"),
        "ready": host(base, "x86_64", torch_npu_opplugin_wheel=WHEEL.format("x86_64")),
        "wrong-wheel": host(base, "aarch64", torch_npu_opplugin_wheel=WHEEL.format("x86_64")),
        "no-wheel": host(base, "aarch64", torch_npu_opplugin_wheel=WHEEL.format("aarch64")),
        "wrong-builder": host(base, "aarch64", torch_npu_opplugin_builder="x86-1"),
        "no-source": host(base, "x86_64", torch_npu_opplugin_source="", torch_npu_opplugin_builder="x86-1"),
    }


FACTS = [{"name": "Say the architecture", "ansible.builtin.set_fact": {"architecture": "{{ architecture }}", "cacheable": True}}]


@pytest.fixture(scope="module")
def found(base, hosts):
    wanted = "{'builder': __torch_npu_opplugin_the_builder, 'builds': __torch_npu_opplugin_builds, 'problems': npu_problems | default([])}"
    return play(base, hosts, [*FACTS, role("torch_npu_opplugin", "preflight"), keep(wanted)])


@pytest.mark.parametrize(
    "name, builder, builds",
    [
        ("arm-1", "arm-1", True),
        ("x86-1", "x86-1", True),
        ("arm-2", "arm-1", False),
        ("x86-2", "x86-1", False),
        ("arm-3", "arm-2", False),
        ("ready", "x86-1", False),
    ],
)
def test_one_builder_for_each_architecture(found, name, builder, builds):
    assert (found[name]["builder"], found[name]["builds"]) == (builder, builds)
    assert found[name]["problems"] == []


@pytest.mark.parametrize(
    "name, problem, observed",
    [
        ("wrong-wheel", "torch_npu_opplugin-wheel", "torch_npu_opplugin_wheel is torch_npu-2.3.1.post6-cp311-cp311-linux_x86_64.whl, the node is aarch64"),
        ("no-wheel", "media-torch_npu-2.3.1.post6-cp311-cp311-linux_aarch64.whl", None),
        ("wrong-builder", "torch_npu_opplugin-builder", "torch_npu_opplugin_builder is x86-1"),
        ("no-source", "torch_npu_opplugin-source", "torch_npu_opplugin_source and torch_npu_opplugin_wheel are both empty"),
    ],
)
def test_what_is_refused(found, name, problem, observed):
    assert [one["id"] for one in found[name]["problems"]] == [problem]
    one = found[name]["problems"][0]
    assert observed in (None, one["observed"])
    assert one["expected"] and one["repair"]


def test_a_build_before_its_foundations_is_refused(tmp_path, base, hosts):
    variables = {"npu_preflight_done": True, "npu_python": f"{tmp_path}/bin/python", "ascend_root": f"{tmp_path}/Ascend"}
    done = run(tmp_path, {"arm-1": {**hosts["arm-1"], **variables}}, [*FACTS, role("torch_npu_opplugin", "build")])
    assert done.returncode == 2
    assert "arm-1 has no python, torch, cann. Run the stages conda_py311 and cann first." in " ".join(done.stdout.split())


def test_check_mode_says_what_is_missing_and_goes_on(tmp_path, base, hosts):
    variables = {"npu_preflight_done": True, "npu_python": f"{tmp_path}/bin/python", "ascend_root": f"{tmp_path}/Ascend", "npu_state_dir": f"{tmp_path}/state"}
    found = play(
        tmp_path, {"arm-1": {**hosts["arm-1"], **variables}}, [*FACTS, role("torch_npu_opplugin", "main"), keep("npu_stages.torch_npu_opplugin")], ("--check",)
    )
    assert found["arm-1"]["state"] == "missing"
    assert found["arm-1"]["note"] == f"{tmp_path}/bin/python does not exist"
    assert not (tmp_path / "state").exists()


def test_without_the_builders_wheel_a_node_says_where_to_get_it(tmp_path, base, hosts):
    variables = {"npu_preflight_done": True, "npu_python": f"{tmp_path}/bin/python", "npu_state_dir": f"{tmp_path}/state"}
    two = {name: {**hosts[name], **variables} for name in ("arm-1", "arm-2")}
    done = run(tmp_path, two, [*FACTS, role("torch_npu_opplugin", "install")], ("--limit", "arm-2"))
    assert done.returncode == 2
    words = " ".join(done.stdout.split())
    assert "arm-1, which builds torch_npu for aarch64, has no wheel." in words
    assert "--limit arm-1" in words
