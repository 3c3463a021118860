"""The simulated Miniconda and its conda: what a deployment types, and what it gets for mistakes."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

from tests.unit.simulator.simulated import ARCH, OTHER_ARCH

# isort: split
import channel
import conda

VERSION = "{}.{}".format(*sys.version_info)


def lay_media(node) -> None:
    node.channel = node.media / "channel"
    name, content = conda.installer(ARCH, sys.executable, node.world, internet=str(node.channel))
    node.installer = node.file(name, content)
    for path, data in channel.channel(ARCH, sys.executable).items():
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
        [str(node.prefix / "bin/conda"), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600, check=False, **keywords
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
    done = call(conda_node, "install", "-y", "-p", str(env), "--override-channels", "-c", "conda-forge", "libstdcxx-ng=11")
    assert done.returncode == 0, done.stderr
    assert b"GLIBCXX_3.4.32" not in (env / "lib/libstdc++.so.6").read_bytes()
    assert "All requested packages already installed" in call(conda_node, "install", "-y", "-p", str(env), *offline(conda_node), "libstdcxx-ng").stdout
    # The real solver takes the other version, and keeps what it wasn't asked for.
    done = call(conda_node, "install", "-y", "-q", "-p", str(env), *offline(conda_node), "libstdcxx-ng>=13")
    assert done.returncode == 0, done.stderr
    assert b"GLIBCXX_3.4.32" in (env / "lib/libstdc++.so.6").read_bytes()
    listed = json.loads(call(conda_node, "list", "--json", "-p", str(env)).stdout)
    assert {item["name"] for item in listed} == {"python", "pip", "libgcc-ng", "libstdcxx-ng", "openssl", "ca-certificates"}
    assert json.loads((env / "conda-meta" / "libstdcxx-ng-13.2.0-h7e041cc_5.json").read_text())["version"] == "13.2.0"
    assert json.loads(call(conda_node, "env", "list", "--json").stdout) == {"envs": [str(conda_node.prefix), str(env)]}
    assert json.loads(call(conda_node, "info", "--json").stdout)["root_prefix"] == str(conda_node.prefix)
    ran = call(conda_node, "run", "-p", str(env), "python", "-c", "import sys; print(sys.prefix)")
    assert ran.stdout.strip() == str(env)
    assert call(conda_node, "remove", "-y", "-p", str(env), "libgcc-ng", "--dry-run").stdout.count("libstdcxx-ng") == 0
    assert call(conda_node, "remove", "-y", "-p", str(env), "libstdcxx-ng").returncode == 0
    assert not (env / "lib/libstdc++.so.6").exists() and (env / "bin/python").exists()
    assert call(conda_node, "remove", "-y", "-p", str(env), "--all").returncode == 0
    assert not env.exists()


@pytest.mark.skipif(channel.ask(sys.executable).base == "/usr", reason="a distribution's own Python gets links, not a tree")
def test_python_of_an_environment_is_a_tree_of_its_own_that_loads_its_own_libraries(conda_node):
    env = conda_node.prefix / "envs/py311"
    done = call(conda_node, "create", "-y", "-q", "-p", str(env), *offline(conda_node), f"python={VERSION}", "libstdcxx-ng")
    assert done.returncode == 0, done.stderr
    code = """
import ctypes, json, os, sys, sqlite3, ssl, sysconfig, tempfile
ctypes.CDLL("libstdc++.so.6")
with open("/proc/self/maps") as maps:
    loaded = {line.split(None, 5)[5].strip() for line in maps if "/libstdc++.so" in line}
print(json.dumps([sys.prefix, sys.base_prefix, os.path.dirname(tempfile.__file__), sysconfig.get_config_var("prefix"), sorted(loaded)]))
"""
    python = subprocess.run([str(env / "bin/python"), "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    library = env / "lib" / f"python{VERSION}"
    assert json.loads(python) == [str(env), str(env), str(library), str(env), [str(env / "lib/libstdc++.so.6.0.32")]]
    pip = subprocess.run([str(env / "bin/pip"), "--version"], capture_output=True, text=True, check=True).stdout
    assert str(library / "site-packages/pip") in pip


def test_a_system_node_gets_links_to_its_own_python(tmp_path):
    made = channel.python_package(ARCH, "/usr/bin/python3", system=True)
    assert (made.build, made.files["bin/python"]) == ("machine_0", "/usr/bin/python3")
    assert b"home = /usr/bin\n" in made.files["pyvenv.cfg"][0]
    assert channel.python_package(OTHER_ARCH, sys.executable, system=False).build == "machine_0"


def test_an_installer_for_another_machine_carries_the_solver_or_says_why_not(user_node, tmp_path, monkeypatch):
    monkeypatch.setattr(channel, "CACHE", tmp_path)
    wheel = tmp_path / f"py_rattler-{conda.rattler_version()}-cp310-abi3-manylinux_2_28_{OTHER_ARCH}.whl"
    wheel.write_bytes(b"a wheel")
    assert b"py_rattler.whl" in unpacked(conda.installer(OTHER_ARCH, sys.executable, user_node.world))
    wheel.unlink()

    def refuse(arch):
        raise OSError(f"py-rattler for {arch} can't be fetched: no network")

    monkeypatch.setattr(conda, "rattler_wheel", refuse)
    monkeypatch.setattr(conda, "has_rattler", lambda python: False)
    lay_media(user_node)
    assert user_node.run(user_node.installer, "-b", "-p", str(user_node.prefix)).returncode == 0
    known = json.loads((user_node.prefix / "simulator/known.json").read_text())
    assert known["no_solver"] == f"py-rattler for {ARCH} can't be fetched: no network"


def test_a_conda_without_solver_says_so(conda_node):
    known = conda_node.prefix / "simulator/known.json"
    known.write_text(json.dumps({**json.loads(known.read_text()), "no_solver": "py-rattler can't be fetched: no network"}))
    (conda_node.prefix / "simulator/rattler.py").write_text("raise ImportError\n")
    done = call(conda_node, "create", "-y", "-n", "x", *offline(conda_node), "pip")
    assert done.returncode == 1
    assert "this conda has no solver: py-rattler can't be fetched: no network" in done.stderr


def unpacked(package: tuple[str, bytes]) -> bytes:
    """The tar archive behind the shell lines of an installer."""
    start = package[1].index(b"\x1f\x8b\x08")
    return gzip.decompress(package[1][start:])


@pytest.mark.parametrize(
    "arguments, words",
    [
        pytest.param(
            ["create", "-y", "-p", "{prefix}/envs/x", "--override-channels", "-c", "{channel}", "python=3.99"],
            "LibMambaUnsatisfiableError: Encountered problems while solving:\nCannot solve the request because of: No candidates were found for python 3.99.*.",
            id="no-such-version",
        ),
        pytest.param(
            ["create", "-y", "-p", "{prefix}/envs/x", "--override-channels", "-c", "{channel}", "nosuchpackage"],
            "No candidates were found for nosuchpackage *.",
            id="no-such-package",
        ),
        pytest.param(
            ["create", "-y", "-p", "{prefix}/envs/x", "--override-channels", "-c", "{channel}", "libgcc-ng=11", "libstdcxx-ng=13"],
            "No candidates were found for libgcc-ng 11.*.",
            id="contradiction",
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
            "No candidates were found for pip *.",
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
        packages = json.loads(index.read_text())["packages.conda"]
        assert packages
        for name, record in packages.items():
            assert (index.parent / name).stat().st_size == record["size"]
