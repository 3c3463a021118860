# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real environment and a real pip; the wheels are made here and come from a folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
import zipfile
from types import SimpleNamespace

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.python_env import PythonEnvError
from ansible_collections.npuops.ktransformers.plugins.modules import python_packages


def make_wheel(folder, name, version, requires=(), code="", tag="py3-none-any"):
    """A wheel of one module; returns its path and sha256."""
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"__version__ = '{version}'\n{code}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: npuops\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{one},,\n" for one in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for one, text in files.items():
            archive.writestr(zipfile.ZipInfo(one), text)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), record)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    return str(folder / "bin/python")


@pytest.fixture
def wheels(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def lock(wheels):
    def write(*pinned):
        text = "".join(f"{name}=={version} --hash=sha256:{digest}\n" for name, version, digest in pinned)
        (wheels / "requirements.lock").write_text(text)
        return hashlib.sha256(text.encode()).hexdigest()

    return write


@pytest.fixture
def bring(tmp_path, wheels, python):
    """Calls the module's work; cleans the environment up at the end."""

    def run(command, environ_update=None):
        done = subprocess.run(command, env={**os.environ, **(environ_update or {})}, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def sha256(path):
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()

    def call(check=False, **options):
        params = {
            "python": python,
            "requirements": [],
            "constraints": [],
            "constraints_file": None,
            "lock": str(wheels / "requirements.lock"),
            "lock_sha256": None,
            "find_links": str(wheels),
            "exclude": [],
            "index": False,
            "index_url": None,
            "extra_index_urls": [],
            "imports": [],
            "home": str(tmp_path / "home"),
            "log": str(tmp_path / "logs/pip.log"),
            **options,
        }
        return python_packages.Packages(SimpleNamespace(params=params, check_mode=check, run_command=run, sha256=sha256)).bring()

    call.log = tmp_path / "logs/pip.log"
    yield call
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "nsalpha", "nsbeta"], check=True, capture_output=True)


def test_a_locked_set_is_installed_once(tmp_path, wheels, lock, bring):
    alpha, beta = make_wheel(wheels, "nsalpha", "1.0", ["nsbeta==2.0"]), make_wheel(wheels, "nsbeta", "2.0")
    lock(("nsalpha", "1.0", alpha[1]), ("nsbeta", "2.0", beta[1]))
    planned = bring(check=True, requirements=["nsalpha"])
    assert (planned["changed"], planned["needs_lock"], planned["needs_wheels"]) == (True, False, True)
    assert planned["reason"] == "nsalpha==1.0 is not installed, and 1 more"
    assert planned["diff"] == {"before": "", "after": "nsalpha==1.0\nnsbeta==2.0\n"}
    assert not bring.log.exists()

    first = bring(requirements=["nsalpha"], imports=["nsalpha"])
    assert first["diff"] == planned["diff"]
    assert first["env"]["packages"]["nsbeta"]["version"] == "2.0" and "judged" not in first["env"]
    os.unlink(beta[0])
    again = bring(requirements=["nsalpha"])
    assert (again["changed"], again["reason"], again["needs_wheels"]) == (False, None, False)
    assert (tmp_path / "home").is_dir(), "pip has a home of its own"


def test_only_what_differs_is_touched(wheels, lock, bring):
    alpha, beta = make_wheel(wheels, "nsalpha", "1.0"), make_wheel(wheels, "nsbeta", "2.0")
    lock(("nsalpha", "1.0", alpha[1]), ("nsbeta", "2.0", beta[1]))
    bring()
    newer = make_wheel(wheels, "nsbeta", "2.1")
    lock(("nsalpha", "1.0", alpha[1]), ("nsbeta", "2.1", newer[1]))
    os.unlink(alpha[0])
    result = bring()
    assert result["reason"] == "nsbeta is 2.0, ==2.1 is wanted"
    assert result["diff"] == {"before": "nsbeta==2.0\n", "after": "nsbeta==2.1\n"}


def test_a_changed_wheel_is_refused(wheels, lock, bring):
    make_wheel(wheels, "nsalpha", "1.0")
    lock(("nsalpha", "1.0", "0" * 64))
    with pytest.raises(PythonEnvError) as error:
        bring()
    assert str(error.value) == (
        "pip could not install nsalpha: ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. "
        "If you have updated the package versions, please update the hashes. Otherwise, examine the package contents carefully; "
        f"someone may have tampered with them.; its whole output is in {bring.log}."
    )
    assert "Got" in bring.log.read_text()


def test_a_missing_wheel_is_named(lock, bring):
    lock(("nsalpha", "1.0", "0" * 64))
    with pytest.raises(PythonEnvError, match="pip could not install nsalpha: ERROR: .*nsalpha==1.0"):
        bring()


@pytest.mark.parametrize("there", [False, True], ids=["missing", "another"])
def test_the_lock_is_asked_for(wheels, lock, bring, there):
    if there:
        lock(("nsalpha", "1.0", "0" * 64))
    planned = bring(check=True, lock_sha256="f" * 64)
    assert (planned["changed"], planned["needs_lock"], planned["needs_wheels"]) == (True, True, True)
    assert planned["reason"] == "the lock of the wheels is not on the node"
    with pytest.raises(PythonEnvError) as error:
        bring(lock_sha256="f" * 64)
    assert str(error.value) == f"{wheels}/requirements.lock is not the lock with sha256 {'f' * 64}; fetch it from the media first."


def test_a_lock_of_another_stack(wheels, lock, bring):
    alpha = make_wheel(wheels, "nsalpha", "1.0")
    lock(("nsalpha", "1.0", alpha[1]))
    with pytest.raises(PythonEnvError) as error:
        bring(check=True, requirements=["nsalpha==2.0", "nsbeta"])
    assert str(error.value) == (
        f"{wheels}/requirements.lock does not fit the stack: it has no nsbeta; it has nsalpha 1.0, ==2.0 is wanted; "
        "make the lock from the stack's requirements."
    )


def test_excluded_names_stay_as_they_are(wheels, lock, bring):
    alpha, beta = make_wheel(wheels, "nsalpha", "1.0"), make_wheel(wheels, "nsbeta", "2.0")
    lock(("nsalpha", "1.0", alpha[1]), ("nsbeta", "2.0", beta[1]))
    assert "nsbeta" not in bring(exclude=["nsbeta"])["env"]["packages"]


def test_a_set_that_contradicts_itself(wheels, lock, bring):
    alpha = make_wheel(wheels, "nsalpha", "1.0", ["nsbeta>=3"])
    lock(("nsalpha", "1.0", alpha[1]))
    with pytest.raises(PythonEnvError) as error:
        bring()
    assert str(error.value) == (
        "the installed set contradicts itself, pip check says: nsalpha 1.0 requires nsbeta, which is not installed.; correct the lock or the requirements."
    )


def test_a_module_that_cannot_be_imported(wheels, lock, bring, python):
    alpha = make_wheel(wheels, "nsalpha", "1.0", code="raise ImportError('libnothing.so: cannot open shared object file')\n")
    lock(("nsalpha", "1.0", alpha[1]))
    with pytest.raises(PythonEnvError) as error:
        bring(imports=["nsalpha"])
    assert str(error.value) == f"{python} cannot import nsalpha: ImportError: libnothing.so: cannot open shared object file; the traceback is in {bring.log}."


def test_check_mode_on_a_bare_node(tmp_path, bring):
    absent = str(tmp_path / "bin/python")
    planned = bring(check=True, python=absent, lock_sha256="f" * 64)
    assert (planned["changed"], planned["reason"], planned["needs_wheels"]) == (True, f"{absent} does not exist", True)
    with pytest.raises(PythonEnvError) as error:
        bring(python=absent)
    assert str(error.value) == f"{absent} does not exist; create the environment first."


def test_constraints_are_written_once(tmp_path, lock, bring):
    lock()
    file = tmp_path / "etc/constraints.txt"
    options = {"constraints": ["nsalpha==1.0", "setuptools<82"], "constraints_file": str(file)}
    assert bring(check=True, **options)["reason"] == f"{file} does not hold the constraints"
    assert not file.exists()
    assert bring(**options)["changed"]
    assert file.read_text().splitlines()[1:] == ["nsalpha==1.0", "setuptools<82"]
    assert file.stat().st_mode & 0o777 == 0o644
    assert bring(**options)["changed"] is False
    file.write_text("nsalpha==2.0\n")
    assert bring(**options)["changed"] and "nsalpha==1.0" in file.read_text()


def test_an_index_is_resolved_under_the_constraints(wheels, bring, monkeypatch):
    make_wheel(wheels, "nsalpha", "1.0", ["nsbeta"])
    make_wheel(wheels, "nsbeta", "2.0")
    make_wheel(wheels, "nsbeta", "3.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    result = bring(index=True, index_url="file:///nowhere", lock=None, find_links=None, requirements=["nsalpha"], constraints=["nsbeta<3"])
    assert result["diff"] == {"before": "", "after": "nsalpha==1.0\nnsbeta==2.0\n"}
    assert result["needs_wheels"] is False
    # A URL may hold a token.
    assert "nowhere" not in bring.log.read_text().splitlines()[0]


@pytest.mark.parametrize(
    "out, error",
    [
        ("ERROR: first\nERROR: second\nhint", "ERROR: first"),
        ("a\nb\n", "b"),
        ("", "no output"),
    ],
)
def test_first_error(out, error):
    assert python_packages.first_error(out) == error


def test_the_tests_own_interpreter_is_not_touched():
    assert subprocess.run([sys.executable, "-c", "import nsalpha"], capture_output=True).returncode == 1
