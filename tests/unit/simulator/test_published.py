"""The published wheels take the place of the simulated ones; nothing is fetched here."""

from __future__ import annotations

import hashlib

import pytest

import tests.unit.simulator.simulated  # noqa: F401  puts the simulator on the path

# isort: split
import published
import wheels


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache that holds one wheel, and a lock that wants it."""
    content = b"a wheel as published"
    folder = tmp_path / "published-aarch64"
    folder.mkdir()
    (folder / "numpy-1.26.4-cp311-cp311-manylinux2014_aarch64.whl").write_bytes(content)
    monkeypatch.setattr(published, "CACHE", tmp_path)
    line = f"numpy==1.26.4 --hash=sha256:{hashlib.sha256(content).hexdigest()}"
    lock = tmp_path / "requirements-aarch64.lock"
    lock.write_text(f"# a comment with == in it\n{line}\n")
    monkeypatch.setattr(published, "lock_path", lambda arch: lock)
    return line


def test_a_published_wheel_takes_the_simulated_ones_place(kept):
    house = wheels.wheelhouse("aarch64", "numpy")
    lock = house["requirements.lock"].decode()
    assert kept in lock.splitlines()
    assert house["numpy-1.26.4-cp311-cp311-manylinux2014_aarch64.whl"] == b"a wheel as published"
    assert [name for name in house if name.startswith("numpy-")] == ["numpy-1.26.4-cp311-cp311-manylinux2014_aarch64.whl"]
    assert "\ntorch==2.3.1 " in lock


def test_all_of_the_published_set_and_nothing_else(kept):
    house = wheels.wheelhouse("aarch64", "all")
    assert sorted(house) == ["numpy-1.26.4-cp311-cp311-manylinux2014_aarch64.whl", "requirements.lock"]


def test_a_changed_file_of_the_cache_is_fetched_again(kept, tmp_path, monkeypatch):
    next((tmp_path / "published-aarch64").glob("*.whl")).write_bytes(b"another")
    asked = []

    def download(lines, arch, folder):
        asked.extend(lines)
        (folder / "numpy-1.26.4-py3-none-any.whl").write_bytes(b"a wheel as published")

    monkeypatch.setattr(published, "download", download)
    assert published.wheels("aarch64", "numpy") == {"numpy": ("numpy-1.26.4-py3-none-any.whl", b"a wheel as published")}
    assert asked == [kept]


@pytest.mark.parametrize(
    "arch, names, message",
    [
        ("x86_64", "all", "no published wheels are locked for x86_64: take --arch aarch64"),
        ("aarch64", "numpy,nonsense", "requirements-aarch64.lock has no nonsense"),
    ],
)
def test_what_is_not_locked_is_refused(arch, names, message):
    with pytest.raises(ValueError) as refused:
        published.pins(arch, names)
    assert str(refused.value) == message


def test_the_lock_is_one_hash_a_line_and_holds_what_the_guide_wants():
    pins = published.pins("aarch64", "all")
    assert all(line.count(" --hash=sha256:") == 1 for line in pins.values())
    assert {name: version for name, (version, _modules) in wheels.GUIDE.items()}.items() <= {
        name: line.partition(" ")[0].partition("==")[2] for name, line in pins.items()
    }.items()
    assert pins["torch-npu"].startswith("torch-npu==2.3.1.post6 ")
