"""What holds for the whole collection: documented defaults, entries of every role, stacks, honest words."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from jinja2 import ChainableUndefined, Environment

CHECKOUT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (CHECKOUT / "roles").iterdir() if path.is_dir())
STAGES = [role for role in ROLES if role.name != "common"]
STACKS = sorted((CHECKOUT / "playbooks" / "vars" / "stacks").glob("*.yml"))
WANTED_STAGES = {"host", "hdk", "conda_py311", "cann", "torch_npu_opplugin", "weights_merge", "npu_graph_sink", "ktransformers", "verify"}


def role_id(role: Path) -> str:
    return role.name


def load(path: Path):
    return yaml.safe_load(path.read_text()) or {}


def specs(role: Path) -> dict:
    return load(role / "meta" / "argument_specs.yml")["argument_specs"]


def without_a_stack(value):
    """What a default is when no stack and no shared choice is set; scalars as text, as the spec may quote them."""
    if isinstance(value, dict):
        return {key: without_a_stack(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_a_stack(one) for one in value]
    if not isinstance(value, str):
        return str(value)
    rendered = Environment(undefined=ChainableUndefined).from_string(value).render()
    if value != rendered and rendered[:1] in {"[", "{"}:
        return without_a_stack(ast.literal_eval(rendered))
    return rendered


def test_every_stage_is_there():
    assert {role.name for role in STAGES} == WANTED_STAGES


@pytest.mark.parametrize("role", STAGES, ids=role_id)
def test_a_stage_has_its_entries(role):
    assert {"main", "preflight", "verify"} <= set(specs(role))
    for entry in ("main", "preflight", "verify"):
        assert (role / "tasks" / f"{entry}.yml").is_file()
        assert specs(role)[entry]["short_description"]


@pytest.mark.parametrize("role", ROLES, ids=role_id)
def test_documented_defaults_are_the_real_ones(role):
    defaults = load(role / "defaults" / "main.yml")
    options = specs(role)["main"].get("options", {}) if "main" in specs(role) else {}
    documented = {name: without_a_stack(option["default"]) for name, option in options.items() if "default" in option}
    real = {name: without_a_stack(value) for name, value in defaults.items() if name in documented}
    assert documented == real
    undocumented = sorted(set(defaults) - set(options))
    assert undocumented == [], "variables that nobody explained"


@pytest.mark.parametrize("role", ROLES, ids=role_id)
def test_options_are_described_with_their_type(role):
    for entry, spec in specs(role).items():
        for name, option in (spec.get("options") or {}).items():
            assert option.get("description"), f"{entry}: {name}"
            assert option.get("type"), f"{entry}: {name}"


@pytest.mark.parametrize("role", ROLES, ids=role_id)
def test_a_role_defines_variables_of_its_own_prefix_only(role):
    names = [*load(role / "defaults" / "main.yml"), *(load(role / "vars" / "main.yml") if (role / "vars" / "main.yml").is_file() else [])]
    assert [name for name in names if not re.match(rf"_{{0,2}}{role.name}_", name)] == []


@pytest.mark.parametrize("stack", STACKS, ids=lambda path: path.stem)
def test_every_pin_of_a_stack_is_read_by_a_role(stack):
    read = set(re.findall(r"npu_stack_pins\.(\w+)", "\n".join((role / "defaults" / "main.yml").read_text() for role in ROLES)))
    pins = load(stack)
    assert pins["stack"] == stack.stem
    assert sorted(set(pins) - read - {"stack", "stack_title"}) == [], "pins that nothing follows"


def test_stacks_pin_the_same_things():
    guide, *others = (set(load(stack)) for stack in sorted(STACKS, key=lambda stack: stack.stem != "guide"))
    # Where the shapes of the engine differ; the guide's are the defaults of the role ktransformers.
    own = {"build_environment", "replacements", "edits", "server_launcher", "server_arguments", "server_optimize_config_path", "model_name"}
    for other in others:
        assert other - {f"ktransformers_{name}" for name in own} == guide


def tracked(*folders: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--", *folders], cwd=CHECKOUT, capture_output=True, check=True).stdout.decode()
    return [CHECKOUT / name for name in listed.split("\0") if name and (CHECKOUT / name).is_file()]


def test_the_product_does_not_know_the_simulator():
    told = [
        f"{path.relative_to(CHECKOUT)}:{number}"
        for path in tracked("roles", "plugins", "playbooks")
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if re.search(r"simulat|rehears", line, re.IGNORECASE)
    ]
    assert told == []


def test_no_task_sources_a_vendor_script():
    pattern = re.compile(r"^\s*(source|\.)\s+\S*(set_env|setenv)|source \S*set_env")
    told = [
        f"{path.name}:{line.strip()}"
        for path in tracked("roles", "playbooks")
        if path.suffix in {".yml", ".j2"}
        for line in path.read_text().splitlines()
        if pattern.search(line) and not line.strip().startswith("#")
    ]
    assert told == []


def test_modes_of_files_are_strings():
    for path in tracked("roles"):
        if path.suffix == ".yml":
            assert not re.search(r"^\s+mode: 0?\d+\s*$", path.read_text(), re.MULTILINE), path
