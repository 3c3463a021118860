# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of the media."""

from __future__ import annotations

import tarfile

import pytest
import yaml
from ansible_collections.npuops.ktransformers.plugins.module_utils.media import MediaError
from ansible_collections.npuops.ktransformers.plugins.plugin_utils import manifest, media_source

SHA = "ab" * 32


@pytest.mark.parametrize(
    "name, version, arch",
    [
        ("ascend/Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-aarch64.run", "25.0.rc1.1", "aarch64"),
        ("ascend/Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-x86-64.run", "25.0.rc1.1", "x86_64"),
        ("ascend/Ascend-hdk-910b-npu-firmware_7.7.0.1.231.run", "7.7.0.1.231", "noarch"),
        ("ascend/Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run", "8.1.RC1", "aarch64"),
        ("ascend/Ascend-cann-nnal_8.1.RC1_linux-x86_64.run", "8.1.RC1", "x86_64"),
        ("conda/Miniconda3-py311_24.9.2-0-Linux-aarch64.sh", "py311_24.9.2-0", "aarch64"),
        ("conda/channel/linux-aarch64/openssl-3.0.15-h1234_0.conda", "3.0.15", "aarch64"),
        ("conda/channel/noarch/repodata.json", None, "noarch"),
        ("wheels/aarch64/torch-2.3.1-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "2.3.1", "aarch64"),
        ("wheels/x86_64/numpy-1.26.4-cp311-cp311-manylinux_2_17_x86_64.whl", "1.26.4", "x86_64"),
        ("wheels/aarch64/sympy-1.12-py3-none-any.whl", "1.12", "noarch"),
        ("wheels/torch_npu-2.3.1.post2-1-cp311-cp311-linux_aarch64.whl", "2.3.1.post2", "aarch64"),
        ("wheels/aarch64/requirements.lock", None, "aarch64"),
        ("source/op-plugin-7.0.0.tar.gz", "7.0.0", "noarch"),
        ("source/ktransformers-v0.2.4-npu.tar.gz", "0.2.4-npu", "noarch"),
        ("source/ktransformers-v0.2.4-npu.bundle", "0.2.4-npu", "noarch"),
        ("os/ubuntu/cmake_3.22.1-1ubuntu1.22.04.2_arm64.deb", "3.22.1-1ubuntu1.22.04.2", "aarch64"),
        ("os/euler/cmake-3.22.0-5.oe2203.aarch64.rpm", "3.22.0-5.oe2203", "aarch64"),
        ("README", None, "noarch"),
    ],
)  # fmt: skip
def test_guess(name, version, arch):
    assert manifest.guess(name) == ({"version": version, "arch": arch} if version else {"arch": arch})


def entry(path, **more):
    return dict({"path": path, "sha256": SHA, "size": 1}, **more)


def made(*paths):
    return manifest.Manifest({path: entry(path) for path in paths}, "/srv/media/manifest.yml")


@pytest.mark.parametrize(
    "text, message",
    [
        pytest.param("", "/m has no list 'files'; index the media again: ansible-playbook npuops.ktransformers.media", id="empty"),
        pytest.param("files: 5", "/m has no list 'files'; index the media again: ansible-playbook npuops.ktransformers.media", id="no-list"),
        pytest.param("files: [{path: a}]", "/m: the entry a has no sha256 of 64 hexadecimal digits; index the media again: "
                     "ansible-playbook npuops.ktransformers.media", id="no-checksum"),
        pytest.param(f"files: [{{sha256: {SHA}}}]", "/m: the entry number 1 has no path; index the media again: "
                     "ansible-playbook npuops.ktransformers.media", id="no-path"),
        pytest.param(f"files: [{{path: ../etc, sha256: {SHA}}}]",
                     "/m: the entry ../etc has a path that is none: '../etc' is no name in the media: it must be a relative path without '..', "
                     "as in ascend/NAME.run; index the media again: ansible-playbook npuops.ktransformers.media", id="path-that-leaves"),
        pytest.param(f"files: [{{path: a, sha256: {SHA}, size: big}}]", "/m: the entry a has the size 'big', which is no number of bytes; "
                     "index the media again: ansible-playbook npuops.ktransformers.media", id="size"),
    ],
)  # fmt: skip
def test_manifests_that_are_none(text, message):
    with pytest.raises(MediaError) as caught:
        manifest.parse(text, "/m")
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["a: [", b"\xff\xfe\x00", "files: !!python/object/apply:os.system [id]"])
def test_no_yaml(text):
    with pytest.raises(MediaError, match="/m is no YAML "):
        manifest.parse(text, "/m")


@pytest.mark.parametrize(
    "names, chosen, unknown",
    [
        pytest.param(["b/y", "a/x"], ["b/y", "a/x"], [], id="order-of-names"),
        pytest.param(["a/", "a/x", "a/x"], ["a/s/z", "a/x"], [], id="folder-and-twins"),
        pytest.param(["a"], [], ["a"], id="folder-without-slash"),
        pytest.param(["c/", "q"], [], ["c/", "q"], id="unknown"),
    ],
)
def test_select(names, chosen, unknown):
    entries, missing = manifest.select(made("a/x", "a/s/z", "b/y", "ab/c"), names)
    assert ([one["path"] for one in entries], missing) == (chosen, unknown)


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b", "../"])
def test_select_refuses_what_leaves_the_media(name):
    with pytest.raises(MediaError, match="is no name in the media"):
        manifest.select(made("a"), [name])


def test_not_listed_names_what_looks_alike():
    there = made("ascend/Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run", "ascend/Ascend-cann-nnal_8.1.RC1_linux-aarch64.run", "wheels/aarch64/a.whl")
    found = media_source.not_listed(there, "ascend/Ascend-cann-toolkit_8.1.RC1_linux-x86_64.run")
    assert found["observed"] == (
        "ascend/Ascend-cann-toolkit_8.1.RC1_linux-x86_64.run is not in /srv/media/manifest.yml, which has "
        "ascend/Ascend-cann-toolkit_8.1.RC1_linux-aarch64.run, ascend/Ascend-cann-nnal_8.1.RC1_linux-aarch64.run"
    )
    assert manifest.similar(there, "wheels/x86_64/") == ["wheels/aarch64/", "wheels/"]
    assert manifest.similar(there, "a.whl") == ["wheels/aarch64/a.whl"]
    assert manifest.similar(there, "quite another thing") == []


def lay(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_index(tmp_path):
    lay(tmp_path, a="one", sub__b="two", **{".hidden": "x", "sub__.git__x": "x", "manifest.yml": "x", ".npuops-sums.json": "{}"})
    first = manifest.index(str(tmp_path), None)
    assert (first.added, first.updated, first.removed) == (["a", "sub/b"], [], [])
    files = yaml.safe_load(first.text)["files"]
    assert files[0] == {
        "path": "a", "sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", "size": 3, "arch": "noarch",
    }  # fmt: skip
    assert list(manifest.parse(first.text, "/m").entries) == ["a", "sub/b"]
    assert manifest.index(str(tmp_path), first.text).text == first.text


def pack(folder, name, *, submodule):
    lay(folder, **{"kt__.gitmodules": '[submodule "llama"]\n\tpath = third_party/llama\n\turl = https://git.example.invalid/llama\n'})
    if submodule:
        lay(folder, kt__third_party__llama__file="x")
    target = folder / "media" / "source" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder / "kt", "kt")
    return target


def test_index_looks_into_sources(tmp_path):
    target = pack(tmp_path, "kt.tar.gz", submodule=False)
    first = manifest.index(str(tmp_path / "media"), None)
    assert yaml.safe_load(first.text)["files"][0]["lacks"] == ["third_party/llama"]
    assert manifest.index(str(tmp_path / "media"), first.text).text == first.text
    pack(tmp_path, "kt.tar.gz", submodule=True)
    assert "lacks" not in yaml.safe_load(manifest.index(str(tmp_path / "media"), first.text).text)["files"][0]
    target.write_bytes(target.read_bytes()[:-30])
    with pytest.raises(MediaError, match=r"source/kt.tar.gz is no archive that can be read to its end \(.+\); get it again from where it came from"):
        manifest.index(str(tmp_path / "media"), first.text)


def test_index_keeps_what_people_wrote(tmp_path):
    lay(tmp_path, a="one", b="two", c="three")
    old = {
        "files": [
            {"path": "a", "sha256": SHA, "size": 9, "origin": "https://example.com/下载", "version": "mine", "licence": "MIT"},
            {"path": "gone", "sha256": SHA, "origin": "x"},
            {"path": "b"},
        ]
    }
    found = manifest.index(str(tmp_path), yaml.safe_dump(old))
    assert (found.added, found.updated, found.removed) == (["c"], ["a", "b"], ["gone"])
    files = {one["path"]: one for one in yaml.safe_load(found.text)["files"]}
    assert (files["a"]["origin"], files["a"]["version"], files["a"]["licence"], files["a"]["size"]) == ("https://example.com/下载", "mine", "MIT", 3)
    assert "https://example.com/下载" in found.text
