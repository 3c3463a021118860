# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile

import pytest
from ansible_collections.npuops.ktransformers.plugins.modules import source_tree
from ansible_collections.npuops.ktransformers.plugins.modules.source_tree import SourceError, Sources

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(command, environ_update=None):
    done = subprocess.run(command, env={**os.environ, **(environ_update or {})}, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def pack(path, members, commit=None):
    """An archive of (name, content | ('link', target) | ('hard', target) | ('dir',) | ('pipe',))."""
    headers = {"comment": commit} if commit else {}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, str):
                info.size, info.mode = len(what), 0o6755
                archive.addfile(info, io.BytesIO(what.encode()))
                continue
            info.type = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "dir": tarfile.DIRTYPE, "pipe": tarfile.FIFOTYPE}[what[0]]
            info.linkname = what[1] if len(what) > 1 else ""
            info.mode = 0o755
            archive.addfile(info)
    return str(path)


@pytest.fixture
def lay(tmp_path):
    def call(src, state="present", check=False, **options):
        params = {
            "src": str(src),
            "name": None,
            "digest": None,
            "version": "HEAD",
            "submodules": True,
            "only": {},
            "clones": [],
            "parts": [],
            "parts_folder": "source/kt.submodules/",
            "dest": str(tmp_path / "opt/kt"),
            "store": str(tmp_path / "store"),
            **options,
        }
        return (source_tree.present if state == "present" else source_tree.absent)(Sources(params, run), check)

    return call


@pytest.fixture
def repository(tmp_path):
    """A repository with a branch v1 and, on main, a second commit."""
    folder = tmp_path / "repository"

    def git(*arguments):
        environment = {f"GIT_{who}_{what}": "npuops@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        code, out, err = run(["git", "-C", str(folder), *arguments], environment)
        assert code == 0, err
        return out.strip()

    folder.mkdir()
    git("init", "-q", "-b", "main")
    for text in ("one", "two"):
        (folder / "file").write_text(text)
        git("add", "file")
        git("commit", "-qm", text)
        if text == "one":
            git("branch", "v1")
    git("tag", "-a", "-m", "two", "second")
    git.folder = folder
    return git


@pytest.mark.parametrize(
    "src, kind",
    [
        ("https://gitee.com/ascend/op-plugin.git", "git"),
        ("git@gitee.com:ascend/op-plugin.git", "git"),
        ("file:///srv/kt.git", "git"),
        ("/media/source/op-plugin-7.0.0.bundle", "bundle"),
        ("/media/source/op-plugin-7.0.0.tar.gz", "archive"),
    ],
)
def test_kind_of(src, kind):
    assert source_tree.kind_of(src) == kind


def test_kind_of_refuses_the_rest():
    with pytest.raises(SourceError) as error:
        source_tree.kind_of("/media/kt.zip")
    assert str(error.value) == ("/media/kt.zip is no source that can be laid: expected a git URL, a .bundle, or an archive named .tar.gz, .tgz, .tar, .tar.xz.")


def test_an_archive_is_laid_once(tmp_path, lay):
    src = pack(tmp_path / "kt.tar.gz", [("kt-1/", ("dir",)), ("kt-1/a/run.sh", "echo"), ("kt-1/link", ("link", "a/run.sh"))], commit=COMMIT)
    planned = lay(src, check=True)
    assert not (tmp_path / "store").exists()
    first = lay(src)
    assert (planned["changed"], planned["tree"], planned["needs_src"]) == (True, first["tree"], True)
    assert first["commit"] == COMMIT
    assert os.path.realpath(tmp_path / "opt/kt") == first["tree"]
    assert (tmp_path / "opt/kt/link").read_text() == "echo"
    assert (tmp_path / "opt/kt/a/run.sh").stat().st_mode & 0o7777 == 0o755
    os.unlink(src)
    again = lay(src, digest=first["digest"])
    assert (again["changed"], again["reason"], again["needs_src"], again["commit"]) == (False, None, False, COMMIT)


def test_a_new_archive_does_not_mix_with_the_old_tree_and_back_is_one_link(tmp_path, lay):
    old = pack(tmp_path / "old.tar.gz", [("kt/only-old", "1")])
    new = pack(tmp_path / "new.tar.gz", [("kt/only-new", "2")])
    was = lay(old)
    now = lay(new)
    assert os.listdir(tmp_path / "opt/kt") == ["only-new"]
    assert now["reason"] == f"{tmp_path}/opt/kt is {was['tree']}, {now['tree']} is wanted"
    back = lay(old)
    assert (back["changed"], back["needs_src"], back["tree"]) == (True, False, was["tree"])
    assert os.listdir(tmp_path / "opt/kt") == ["only-old"]


def test_an_interrupted_run_is_not_taken_for_complete(tmp_path, lay):
    src = pack(tmp_path / "kt.tar.gz", [("kt/a", "1"), ("kt/b", "2")])
    tree = lay(src, check=True)["tree"]
    os.makedirs(tree)
    with open(tree + ".json", "w", encoding="utf-8") as stream:
        stream.write('{"digest": "')
    result = lay(src)
    assert result["needs_src"] and sorted(os.listdir(tree)) == ["a", "b"]


@pytest.mark.parametrize(
    "members, complaint",
    [
        pytest.param([("kt/a", "1"), ("other", "2")], "holds 2 top-level entries (kt, other…), expected one folder; pack the folder itself.", id="two-tops"),
        pytest.param([("file", "1")], "holds the file file, expected one folder; pack the folder itself.", id="no-folder"),
        pytest.param([("kt/../../evil", "1")], "holds kt/../../evil, which lies outside its own folder; get the archive again from its supplier.", id="dotdot"),
        pytest.param([("/etc/evil", "1")], "holds /etc/evil, which lies outside its own folder; get the archive again from its supplier.", id="absolute"),
        pytest.param(
            [("kt/out", ("link", "../../etc"))],
            "holds the link kt/out -> ../../etc, which leaves the tree; get the archive again from its supplier.",
            id="link",
        ),
        pytest.param([("kt", ("link", "store"))], "holds the link kt -> store, which leaves the tree; get the archive again from its supplier.", id="top-link"),
        pytest.param(
            [("kt/out", ("hard", "/etc/passwd"))],
            "holds the link kt/out -> /etc/passwd, which leaves the tree; get the archive again from its supplier.",
            id="hard-link",
        ),
        pytest.param([("kt/pipe", ("pipe",))], "holds kt/pipe, which is a device or a pipe; get the archive again from its supplier.", id="pipe"),
        pytest.param([("kt/s", ("link", ".")), ("kt/t", ("link", "s/..")), ("kt/t/../x/y", "1"), ("kt/t/evil/deep", "1")], None, id="link-through-link"),
    ],
)
def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path, lay, members, complaint):
    src = pack(tmp_path / "kt.tar.gz", members)
    if complaint is None:
        # kt/t is lexically kt itself, but leads one folder up: nothing may land there.
        with pytest.raises(SourceError, match="lies outside its own folder"):
            lay(src)
    else:
        with pytest.raises(SourceError) as error:
            lay(src)
        assert str(error.value) == f"{src} {complaint}"
    assert os.listdir(tmp_path / "store") == []
    assert not os.path.lexists(tmp_path / "opt/kt")


def test_a_link_to_a_place_of_another_computer_is_left_out(tmp_path, lay):
    src = pack(tmp_path / "kt.tar.gz", [("kt/a", "1"), ("kt/out", ("link", f"{tmp_path}/elsewhere")), ("kt/out/evil", "2")])
    result = lay(src)
    assert result["left_out"] == [f"kt/out -> {tmp_path}/elsewhere"]
    # What the archive has behind the link is a file of the tree.
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "opt/kt/out").is_symlink()
    assert lay(src)["changed"] is False


def test_a_damaged_archive_names_the_file(tmp_path, lay):
    src = pack(tmp_path / "kt.tar.gz", [("kt/a", "x" * 100000)])
    os.truncate(src, os.path.getsize(src) - 30)
    with pytest.raises(SourceError, match=r"kt\.tar\.gz cannot be unpacked: .*; compare its sha256 with the media's manifest"):
        lay(src)
    assert os.listdir(tmp_path / "store") == []


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, lay):
    (tmp_path / "opt/kt").mkdir(parents=True)
    with pytest.raises(SourceError) as error:
        lay(pack(tmp_path / "kt.tar.gz", [("kt/a", "1")]))
    assert str(error.value) == (
        f"{tmp_path}/opt/kt is a folder that was not laid by this collection; expected a link or nothing: move it away or choose another path."
    )


def test_a_missing_archive_without_digest(tmp_path, lay):
    with pytest.raises(SourceError, match=r"gone\.tar\.gz does not exist and its digest is not given; fetch it from the media first\."):
        lay(tmp_path / "gone.tar.gz")


@pytest.mark.parametrize(
    "version, content, branch",
    [
        ("HEAD", "two", None),
        ("v1", "one", "v1"),
        ("second", "two", None),
    ],
)
def test_a_repository_is_cloned_once(tmp_path, lay, repository, version, content, branch):
    url = f"file://{repository.folder}"
    first = lay(url, version=version)
    assert (tmp_path / "opt/kt/file").read_text() == content
    assert first["commit"] == first["digest"] == repository("rev-parse", version + "^{commit}")
    head = run(["git", "-C", first["tree"], "symbolic-ref", "--short", "-q", "HEAD"])[1].strip()
    assert head == (branch or "")
    assert lay(url, version=version)["changed"] is False


def test_a_commit_needs_no_network_once_it_is_laid(lay, repository):
    commit = repository("rev-parse", "v1")
    lay(f"file://{repository.folder}", version=commit)
    os.rename(repository.folder, f"{repository.folder}-away")
    again = lay(f"file://{repository.folder}", version=commit)
    assert (again["changed"], again["commit"]) == (False, commit)


def test_an_unknown_branch(lay, repository):
    with pytest.raises(SourceError) as error:
        lay(f"file://{repository.folder}", version="nope")
    assert str(error.value) == f"file://{repository.folder} has no branch or tag nope; correct the version."


def test_a_bundle(tmp_path, lay, repository):
    bundle = str(tmp_path / "kt.bundle")
    repository("bundle", "create", bundle, "HEAD", "main", "v1")
    first = lay(bundle)
    assert (first["kind"], first["commit"]) == ("bundle", repository("rev-parse", "main"))
    other = lay(bundle, version="v1")
    assert other["tree"] != first["tree"]
    assert (tmp_path / "opt/kt/file").read_text() == "one"
    with pytest.raises(SourceError, match="has no v9: correct the version"):
        lay(bundle, version="v9")


def test_absent_removes_what_was_laid_and_nothing_else(tmp_path, lay):
    lay(pack(tmp_path / "old.tar.gz", [("kt/a", "1")]))
    lay(pack(tmp_path / "new.tar.gz", [("kt/a", "2")]))
    other = lay(pack(tmp_path / "other.tar.gz", [("o/a", "3")]), dest=str(tmp_path / "opt/other"))
    (tmp_path / "store/by-hand").mkdir()
    gone = lay("", state="absent", check=True)
    assert gone["changed"] and (tmp_path / "opt/kt/a").exists()
    lay("", state="absent")
    assert sorted(os.listdir(tmp_path / "store")) == sorted(["by-hand", os.path.basename(other["tree"]), os.path.basename(other["tree"]) + ".json"])
    assert os.listdir(tmp_path / "opt") == ["other"]
    assert lay("", state="absent")["changed"] is False


def test_the_record_says_where_the_tree_came_from(tmp_path, lay):
    src = pack(tmp_path / "kt.tar.gz", [("kt/a", "1")])
    result = lay(src)
    with open(result["tree"] + ".json", encoding="utf-8") as stream:
        assert json.load(stream) == {"dest": f"{tmp_path}/opt/kt", "source": src, "version": "HEAD", "digest": result["digest"], "commit": None}
