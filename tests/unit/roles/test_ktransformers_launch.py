"""The launch scripts and the unit, as the role's own templates and variables render them."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[3]
ROLE = CHECKOUT / "roles" / "ktransformers"
FILES = ("npu-chat", "npu-serve", "ktransformers.service")
ENGINE = {"cores": 192, "architecture": "aarch64", "rule": "/opt/ktransformers/rules/800IA2.yaml", "devices": ["/dev/davinci0", "/dev/davinci_manager"],
          "plugin_path": "/opt/ktransformers/ktransformers/util/npu_graph_so/arm", "digests": {"env": "e1", "build": "b1", "libruntime": "l1", "weights": None},
          "unit": {"systemd": 249}}
CASES = {
    "system": {},
    "user": {"npu_scope": "user", "npu_state_dir": "/home/me/npuops", "npu_bin_dir": "/home/me/bin", "npu_model_path": "/home/me/weights"},
    "other": {
        "__ktransformers_register_engine": {"engine": {**ENGINE, "unit": {"systemd": 255}}},
        "ktransformers_tp": 2, "ktransformers_nproc_per_node": 2, "ktransformers_use_cuda_graph": False, "ktransformers_cpu_infer": 20,
        "ktransformers_server_launcher": "python", "ktransformers_server_arguments": {"backend_type": "balance_serve"},
        "ktransformers_server_optimize_config_path": "rules/serve.yaml", "ktransformers_extra_environment": {"PROF_DECODE": "1", "NOTE": "it's"},
        "ktransformers_host": "0.0.0.0", "ktransformers_model_path": "/data/my model", "ktransformers_extra_arguments": {"force_think": True}},
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """{case: {file: text}}: one run of Ansible for all of them."""
    base = tmp_path_factory.mktemp("launch")
    (base / "templates").symlink_to(ROLE / "templates")
    for case, variables in CASES.items():
        (base / f"{case}.yml").write_text(yaml.safe_dump({"__ktransformers_register_engine": {"engine": ENGINE}, **variables}))
    plays = [{
        "hosts": "localhost", "connection": "local", "gather_facts": False,
        "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml"), f"{base}/{case}.yml"],
        "tasks": [{"ansible.builtin.copy": {"dest": f"{base}/{case}-{{{{ item }}}}",
                                            "content": "{{ lookup('ansible.builtin.template', item ~ '.j2') }}"}, "loop": list(FILES)}],
    } for case in CASES]
    (base / "play.yml").write_text(yaml.safe_dump(plays))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_HOME": str(base / "home"), "ANSIBLE_LOCALHOST_WARNING": "false"}
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", "play.yml"]
    done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {case: {name: (base / f"{case}-{name}").read_text() for name in FILES} for case in CASES}


def command_of(script: str) -> str:
    return " ".join(script[script.index("exec "):].replace("\\\n", " ").split())


def test_the_chat_is_the_guides_torchrun_line(rendered):
    script = rendered["system"]["npu-chat"]
    assert command_of(script) == (
        'exec /usr/local/bin/npu-exec torchrun --nproc_per_node 1 --master_port "${MASTER_PORT:-25565}" -m ktransformers.local_chat --cpu_infer 189 '
        "--model_path /mnt/weights/DeepSeek-R1-q4km-w8a8 --gguf_path /mnt/weights/DeepSeek-R1-q4km-w8a8 "
        '--optimize_config_path /opt/ktransformers/rules/800IA2.yaml --use_cuda_graph True --max_new_tokens 500 --tp 1 "$@"')
    assert script.splitlines()[4:12] == [
        "export CAPTURE_PLUGIN_PATH=/opt/ktransformers/ktransformers/util/npu_graph_so/arm", "export INF_NAN_MODE_FORCE_DISABLE=1",
        "export TASK_QUEUE_ENABLE=0", "export USE_MERGE=0", "unset PROF_DECODE", "unset PROF_PREFILL", "unset PROF_RANK", "cd /opt/ktransformers"]


def test_the_server_listens_on_this_computer_only(rendered):
    assert command_of(rendered["system"]["npu-serve"]) == (
        'exec /usr/local/bin/npu-exec torchrun --nproc_per_node 1 --master_port "${MASTER_PORT:-25565}" -m ktransformers.server.main '
        "--host 127.0.0.1 --port 10002 --model_name DeepSeek-R1 --model_path /mnt/weights/DeepSeek-R1-q4km-w8a8 --gguf_path /mnt/weights/DeepSeek-R1-q4km-w8a8 "
        "--optimize_config_path /opt/ktransformers/rules/800IA2.yaml --cpu_infer 189 --max_new_tokens 500 --use_cuda_graph --tp 1 "
        '--backend_type ktransformers "$@"')


def test_everything_may_be_changed(rendered):
    chat, serve = rendered["other"]["npu-chat"], rendered["other"]["npu-serve"]
    assert command_of(chat) == (
        'exec /usr/local/bin/npu-exec torchrun --nproc_per_node 2 --master_port "${MASTER_PORT:-25565}" -m ktransformers.local_chat --cpu_infer 20 '
        "--model_path '/data/my model' --gguf_path /mnt/weights/DeepSeek-R1-q4km-w8a8 --optimize_config_path /opt/ktransformers/rules/800IA2.yaml "
        '--use_cuda_graph False --max_new_tokens 500 --tp 2 --force_think True "$@"')
    assert "CAPTURE_PLUGIN_PATH" not in chat and "export PROF_DECODE=1" in chat and "unset PROF_DECODE" not in chat
    assert "export RANK=0 LOCAL_WORLD_SIZE=2\nexec /usr/local/bin/npu-exec /opt/miniconda3/envs/py311/bin/python -m ktransformers.server.main" in serve
    assert "--optimize_config_path /opt/ktransformers/rules/serve.yaml" in serve
    assert "--no-use_cuda_graph" in serve and "--backend_type balance_serve" in serve and "--host 0.0.0.0" in serve


def test_a_user_without_root_keeps_his_home(rendered):
    assert "export HOME=/home/me/npuops/ktransformers/home\n" in rendered["user"]["npu-chat"]
    assert "export HOME" not in rendered["system"]["npu-chat"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["npu-chat", "npu-serve"])
def test_the_scripts_are_bash(rendered, case, name):
    checked = subprocess.run(["bash", "-n"], input=rendered[case][name], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert rendered[case][name].endswith('"$@"\n')


def unit_of(text: str) -> dict:
    """{directive: [values]} of the unit."""
    values: dict = {}

    class Collect(dict):
        def __setitem__(self, key, value):
            if key in self and isinstance(value, list):
                value = self[key] + value
            super().__setitem__(key, value)

    parser = configparser.RawConfigParser(dict_type=Collect, strict=False, empty_lines_in_values=False)
    parser.optionxform = str
    parser.read_string(text)
    for section in parser.sections():
        for key, value in parser.items(section):
            values[key] = value.split("\n")
    return values


def test_the_unit_is_closed_but_for_the_npu(rendered):
    unit = unit_of(rendered["system"]["ktransformers.service"])
    expected = {
        "User": ["ktransformers"], "SupplementaryGroups": ["HwHiAiUser"], "ExecStart": ["/usr/local/bin/npu-serve"], "EnvironmentFile": ["/etc/npuops/npu.env"],
        "CapabilityBoundingSet": [""], "NoNewPrivileges": ["yes"], "DevicePolicy": ["closed"], "ProtectSystem": ["strict"], "ProtectHome": ["yes"],
        "DeviceAllow": ["/dev/davinci0 rw", "/dev/davinci_manager rw"], "SystemCallFilter": ["@system-service", "~@privileged"],
        "KillSignal": ["SIGINT"], "LimitMEMLOCK": ["infinity"], "Restart": ["on-failure"], "StateDirectory": ["ktransformers"],
    }
    assert {name: unit.get(name) for name in expected} == expected
    # Each of these would keep the engine from its NPU, its compiler or its memory.
    assert not {"PrivateDevices", "PrivateUsers", "MemoryDenyWriteExecute", "ProcSubset"} & set(unit)
    assert "Environment=HF_HOME=/var/lib/ktransformers/huggingface" in rendered["system"]["ktransformers.service"].splitlines()


def seconds_of_trying(unit: dict) -> list[int]:
    """When a unit that fails at once is started again, until systemd gives up; seconds after the first start (systemd.service(5), RestartSteps=)."""
    first, burst = int(unit["RestartSec"][0]), int(unit["StartLimitBurst"][0])
    steps, last = int(unit.get("RestartSteps", ["0"])[0]), int(unit.get("RestartMaxDelaySec", ["0"])[0])
    delays = [first * (last / first) ** (min(count, steps) / steps) if steps else first for count in range(burst - 1)]
    return [round(sum(delays[:count])) for count in range(1, burst)]


@pytest.mark.parametrize("case, steps", [("system", False), ("other", True)])
def test_a_failing_service_is_tried_for_hours_and_does_not_spin(rendered, case, steps):
    """systemd 249 and 255: only the later one knows a growing delay."""
    unit = unit_of(rendered[case]["ktransformers.service"])
    assert ("RestartSteps" in unit, "RestartMaxDelaySec" in unit) == (steps, steps)
    starts = seconds_of_trying(unit)
    assert starts[0] >= 30 and len([moment for moment in starts if moment <= 3600]) <= 31
    assert starts[-1] >= 3 * 3600
    # systemd counts the starts of the last interval: a longer one than all of the trying, or it would never give up.
    assert unit["StartLimitIntervalSec"] == ["1d"] and starts[-1] < 86400


def test_the_unit_changes_with_what_it_runs_on(rendered):
    lines = rendered["system"]["ktransformers.service"].splitlines()
    assert [line for line in lines if line.startswith("X-Npuops-")][:4] == [
        "X-Npuops-Build=b1", "X-Npuops-Env=e1", "X-Npuops-Libruntime=l1", "X-Npuops-Weights=none"]
    launch = [line for line in lines if line.startswith("X-Npuops-Launch=")]
    assert len(launch) == 1
    assert launch[0] not in rendered["other"]["ktransformers.service"]


def test_weights_in_a_home_stay_readable(rendered):
    assert unit_of(rendered["user"]["ktransformers.service"])["ProtectHome"] == ["read-only"]


def test_readiness_is_the_open_port(rendered):
    assert "/dev/tcp/127.0.0.1/10002" in unit_of(rendered["other"]["ktransformers.service"])["ExecStartPost"][0]
