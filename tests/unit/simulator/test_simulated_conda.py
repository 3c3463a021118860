"""The simulated Miniconda and its conda: what a deployment types, and what it gets for mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.unit.simulator.simulated import ARCH, OTHER_ARCH

# isort: split
import conda

VERSION = "{}.{}".format(*sys.version_info)


def lay_media(node) -> None:
    name, content = conda.installer(ARCH, sys.executable, node.world)
    node.installer = node.file(name, content)
    node.channel = node.media / "channel"
    for path, data in conda.channel(ARCH, sys.executable).items():
        (node.channel / path).parent.mkdir(parents=True, exist_ok=True)
        (node.channel / path).write_bytes(data)
    node.prefix = node.root / "opt/miniconda3"


@pytest.fixture
def conda_node(user_node):
    lay_media(user_node)
    done = user_node.run(user_node.installer, "-b", "-p", str(user_node.prefix))
    assert done.returncode == 0, done.stderr
    return user_node


def call(node, *arguments: str, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(node.prefix / "bin/conda"), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False, **keywords
    )


def offline(node) -> list[str]:
    return ["--override-channels", "-c", str(node.channel), "--offline"]


def test_the_installer_refuses_an_existing_prefix_unless_it_updates(conda_node):
    prefix = str(conda_node.prefix)
    done = conda_node.run(conda_node.installer, "-b", "-p", prefix)
    assert done.returncode == 1
    assert done.stderr == f"ERROR: File or directory already exists: '{prefix}'\nIf you want to update an existing installation, use the -u option.\n"
    assert conda_node.run(conda_node.installer, "-b", "-u", "-p", prefix).returncode == 0


def test_the_installer_asks_for_the_licence_without_batch_mode(user_node):
    lay_media(user_node)
    done = user_node.run(user_node.installer, "-p", str(user_node.prefix))
    assert done.returncode == 2
    assert "Do you accept the license terms? [yes|no]" in done.stdout
    assert not user_node.prefix.exists()
    assert "-p PREFIX    install prefix" in user_node.run(user_node.installer, "-h").stdout


@pytest.mark.parametrize("damage", ["payload", "outside", "arch"])
def test_the_installer_leaves_nothing_when_it_cannot_install(user_node, tmp_path, damage):
    lay_media(user_node)
    prefix = user_node.prefix
    if damage == "payload":
        user_node.installer.write_bytes(user_node.installer.read_bytes()[:-2000])
    elif damage == "outside":
        prefix = tmp_path / "elsewhere"
    else:
        user_node.installer = user_node.file(*conda.installer(OTHER_ARCH, sys.executable, user_node.world))
    assert user_node.run(user_node.installer, "-b", "-p", str(prefix)).returncode == 1
    assert not (prefix / "bin/conda").exists() or damage == "payload"


def test_default_channels_need_accepted_terms(conda_node):
    env = str(conda_node.prefix / "envs/py311")
    done = call(conda_node, "create", "-y", "-q", "-p", env, f"python={VERSION}")
    assert done.returncode == 1
    assert "CondaToSNonInteractiveError: Terms of Service have not been accepted for the following channels." in done.stderr
    assert not (conda_node.prefix / "envs/py311").exists()
    assert call(conda_node, "tos", "accept", "--override-channels", "--channel", "defaults").returncode == 0
    assert "accepted" in call(conda_node, "tos", "view").stdout
    assert call(conda_node, "create", "-y", "-q", "-p", env, "--dry-run", f"python={VERSION}").returncode == 0


def test_create_install_and_list_from_a_mirror(conda_node):
    assert call(conda_node, "--version").stdout == "conda 24.9.2\n"
    env = conda_node.prefix / "envs/py311"
    done = call(conda_node, "create", "-y", "-q", "-n", "py311", *offline(conda_node), f"python={VERSION}")
    assert done.returncode == 0, done.stderr
    assert "simulated" in done.stdout
    python = subprocess.run([str(env / "bin/python"), "-m", "pip", "--version"], capture_output=True, text=True, check=True).stdout
    assert str(env) in python
    done = call(conda_node, "install", "-y", "-p", str(env), "--override-channels", "-c", "conda-forge", "libstdcxx-ng")
    assert done.returncode == 0
    assert b"GLIBCXX_3.4.32" in (env / "lib/libstdc++.so.6").read_bytes()
    assert "All requested packages already installed" in call(conda_node, "install", "-y", "-p", str(env), *offline(conda_node), "libstdcxx-ng").stdout
    listed = json.loads(call(conda_node, "list", "--json", "-p", str(env)).stdout)
    assert {item["name"] for item in listed} == {"python", "pip", "libgcc-ng", "libstdcxx-ng"}
    assert json.loads((env / "conda-meta" / "libstdcxx-ng-13.2.0-h7e041cc_5.json").read_text())["version"] == "13.2.0"
    assert json.loads(call(conda_node, "env", "list", "--json").stdout) == {"envs": [str(conda_node.prefix), str(env)]}
    assert json.loads(call(conda_node, "info", "--json").stdout)["root_prefix"] == str(conda_node.prefix)
    ran = call(conda_node, "run", "-p", str(env), "python", "-c", "import sys; print(sys.prefix)")
    assert ran.stdout.strip() == str(env)
    assert call(conda_node, "remove", "-y", "-p", str(env), "--all").returncode == 0
    assert not env.exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        pytest.param(
            ["create", "-y", "-p", "{prefix}/envs/x", "--override-channels", "-c", "{channel}", "python=3.99"], "PackagesNotFoundError", id="no-such-version"
        ),
        pytest.param(
            ["create", "-y", "-p", "{prefix}/envs/x", "--override-channels", "-c", "{channel}", "nosuchpackage"],
            "PackagesNotFoundError",
            id="no-such-package",
        ),
        pytest.param(
            ["create", "-y", "-p", "{prefix}/envs/x", "--override-channels", "-c", "{channel}/nowhere", "pip"],
            "UnavailableInvalidChannel",
            id="no-such-channel",
        ),
        pytest.param(["create", "-y", "-p", "/opt/elsewhere", "--override-channels", "-c", "{channel}", "pip"], "outside the simulated node", id="outside"),
        pytest.param(["list", "-p", "{prefix}/envs/x"], "EnvironmentLocationNotFound", id="no-such-environment"),
        pytest.param(
            ["create", "-y", "-p", "{prefix}/envs/x", "--override-channels", "-c", "conda-forge", "--offline", "pip"],
            "PackagesNotFoundError",
            id="offline-without-mirror",
        ),
    ],
)
def test_mistakes(conda_node, arguments, words):
    filled = [item.format(prefix=conda_node.prefix, channel=conda_node.channel) for item in arguments]
    done = call(conda_node, *filled)
    assert done.returncode == 1
    assert words in done.stderr
    assert not (conda_node.prefix / "envs/x").exists()


def test_config_is_kept_in_condarc(conda_node):
    call(conda_node, "config", "--system", "--add", "channels", "mirror")
    call(conda_node, "config", "--set", "auto_activate_base", "false")
    shown = json.loads(call(conda_node, "config", "--show", "--json").stdout)
    assert (shown["channels"], shown["auto_activate_base"]) == (["mirror"], False)
    assert (conda_node.prefix / ".condarc").read_text() == "channels:\n  - mirror\nauto_activate_base: false\n"


def test_the_channel_mirror_has_what_its_index_says(user_node):
    lay_media(user_node)
    for index in user_node.channel.rglob("repodata.json"):
        packages = json.loads(index.read_text())["packages"]
        assert packages
        for name, record in packages.items():
            assert (index.parent / name).stat().st_size == record["size"]
