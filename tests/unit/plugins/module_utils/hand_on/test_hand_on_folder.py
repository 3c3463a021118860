# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is missing in a folder, and what a manifest that was received may say."""

from __future__ import annotations

import json
import shutil

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.hand_on import folder
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import manifest

from tests.unit.plugins.module_utils.hand_on.merges import PLAN, make

A, B = "npuops-a.safetensors", "npuops-b.safetensors"


def wanted(path):
    return folder.parse((path / ".npuops-merge" / "manifest.json").read_bytes(), "one")


def test_a_complete_folder(merge):
    assert folder.look(str(merge)) == folder.Look([], PLAN, 4, 4500021)
    assert folder.look(str(merge), PLAN).complete
    assert folder.compare(str(merge), wanted(merge))[1] == {}


@pytest.mark.parametrize(
    "change, reason",
    [
        pytest.param(lambda path: shutil.rmtree(path), "{} holds no merged weights", id="nothing"),
        pytest.param(lambda path: (path / ".npuops-merge/manifest.json").unlink(), "{} holds weights that have not arrived as a whole", id="begun"),
        pytest.param(lambda path: (path / A).unlink(), "of 4 files in {}, 1 are missing or were changed: " + A, id="missing"),
        pytest.param(lambda path: (path / A).write_bytes(b"x"), "of 4 files in {}, 1 are missing or were changed: " + A, id="changed"),
        pytest.param(
            lambda path: (path / "more.safetensors").touch(), "{} holds safetensors files that do not belong to the merge: more.safetensors", id="foreign"
        ),
    ],
)
def test_why_a_folder_is_not_complete(merge, change, reason):
    change(merge)
    assert folder.look(str(merge)).reasons == [reason.format(merge)]


def test_another_merge(merge):
    assert folder.look(str(merge), "cd" * 32).reasons == [f"{merge} holds another merge (abababababab where cdcdcdcdcdcd is wanted)"]


def test_what_is_missing_is_told_file_by_file(merge, tmp_path):
    dest = tmp_path / "dest"
    shutil.copytree(merge, dest, copy_function=shutil.copy2)
    journal = manifest.Journal(str(dest), [record for name, record in wanted(merge).records.items() if name != "config.json"])
    journal.close()
    (dest / A).write_bytes(b"short")
    (dest / "empty.json").unlink()
    kept, missing = folder.compare(str(dest), wanted(merge))
    assert list(kept) == [B]
    assert missing == {
        A: "has 5 bytes instead of 3000000",
        "config.json": "is there, and no record says that it has arrived",
        "empty.json": "is not there",
    }


def test_a_folder_in_the_place_of_a_file(merge, tmp_path):
    (tmp_path / "dest" / A).mkdir(parents=True)
    with pytest.raises(folder.HandOnError, match=f"^{tmp_path}/dest/{A} is in the way: it is no file; move it away$"):
        folder.compare(str(tmp_path / "dest"), wanted(merge))


def test_an_earlier_merge_is_cleared_away(merge, tmp_path):
    old = make(tmp_path / "old", {A: 10, "npuops-z.safetensors": 20, "config.json": 5}, plan="cd" * 32)
    (old / "notes.txt").touch()
    (old / ".npuops-x.partial").touch()
    keep = folder.partial(str(old), wanted(merge).records[B])
    open(keep, "w").close()
    kept, _missing = folder.compare(str(old), wanted(merge))
    folder.clear(str(old), wanted(merge), kept)
    assert sorted(path.name for path in old.iterdir()) == [".npuops-merge", keep.rpartition("/")[2], "notes.txt"]


def test_a_part_is_never_read_by_the_engine(merge):
    record = wanted(merge).records[A]
    part = folder.partial("/w", record)
    assert not part.endswith(".safetensors") and manifest.is_partial(part.rpartition("/")[2])
    assert folder.partial("/w", record._replace(digest="other")) != part


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda value: value.update(format=2), id="format"),
        pytest.param(lambda value: value.pop("files"), id="no-files"),
        pytest.param(lambda value: value["files"][0].update(name="../../etc/passwd"), id="traversal"),
        pytest.param(lambda value: value["files"][0].update(name="/etc/passwd"), id="absolute"),
        pytest.param(lambda value: value["files"][0].update(name=".."), id="dots"),
        pytest.param(lambda value: value["files"][0].update(name=".npuops-merge"), id="our-folder"),
        pytest.param(lambda value: value["files"][0].update(name="a\0b"), id="nul"),
        pytest.param(lambda value: value["files"][0].update(name=7), id="number"),
        pytest.param(lambda value: value["files"][0].update(size=-1), id="size"),
        pytest.param(lambda value: value["files"][0].update(size="9"), id="size-as-text"),
        pytest.param(lambda value: value["files"][0].update(more=1), id="another-field"),
        pytest.param(lambda value: value["files"][0].update(digest=None), id="digest"),
    ],
)
def test_a_manifest_that_is_none(merge, change):
    value = json.loads((merge / ".npuops-merge" / "manifest.json").read_text())
    change(value)
    with pytest.raises(folder.HandOnError, match="^one sent something that is no manifest of a merge; it and this node need the same version"):
        folder.parse(json.dumps(value).encode(), "one")


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b"7", b"[" * 100000])
def test_no_manifest_at_all(raw):
    with pytest.raises(folder.HandOnError, match="is no manifest of a merge"):
        folder.parse(raw, "one")


def test_room(tmp_path):
    assert folder.too_little_room(str(tmp_path / "not" / "there"), 1000, 0) is None
    assert folder.too_little_room(str(tmp_path), 0, 1 << 60) is None
    text = folder.too_little_room(str(tmp_path / "not" / "there"), 10**18, 0)
    assert text.startswith(f"{tmp_path} has ") and "1000000000.0 GB of merged weights are to be received there" in text


def test_what_is_in_the_way(merge):
    assert folder.in_the_way(str(merge)) == []
    (merge / ".npuops-merge/manifest.json").unlink()
    assert folder.in_the_way(str(merge)) == []  # of a merge, by its names
    (merge / "more.safetensors").touch()
    assert folder.in_the_way(str(merge)) == [
        f"{merge} holds safetensors files that do not belong to the merge: more.safetensors; the engine would read them, so move them away"
    ]


@pytest.mark.parametrize("ident", ["", "../../../etc/passwd", "A" * 32, "a" * 31])
def test_an_id_that_is_none(ident):
    assert folder.nonce_path("/w", ident) is None
