# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Submodules, and what a build would clone, from files of the media and without a network. The repositories are real ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.source_parts import (
    PartsError,
    archive_commit,
    look_into,
    media_folder,
    read_gitmodules,
    unsupplied,
)
from ansible_collections.npuops.ktransformers.plugins.modules import source_tree
from ansible_collections.npuops.ktransformers.plugins.modules.source_tree import SourceError, Sources

WHO = {f"GIT_{who}_{what}": "npuops@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
# As on a node: nobody's configuration, and no way to any server.
NODE = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}


def run(command, environ_update=None):
    done = subprocess.run(command, env={**os.environ, **NODE, **(environ_update or {})}, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def git(folder, *arguments):
    code, out, err = run(["git", "-c", "protocol.file.allow=always", "-C", str(folder), *arguments], WHO)
    assert code == 0, err
    return out.strip()


@pytest.mark.parametrize(
    "source",
    ["source/op-plugin-7.0.0.tar.gz", "op-plugin-7.0.0.tgz", "source/op-plugin-7.0.0.bundle", "https://example.org/ascend/op-plugin-7.0.0.git/",
     "git@example.org:ascend/op-plugin-7.0.0.git", "source/op-plugin-7.0.0.tar.xz"],
)
def test_the_folder_of_the_parts_is_named_like_the_source(source):
    assert media_folder(source) == "source/op-plugin-7.0.0.submodules/"


def repository(folder: Path, branch: str = "main") -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", branch)
    commit(folder, "one")
    return folder


def commit(folder: Path, text: str) -> str:
    (folder / "file").write_text(f"{text} of {folder.name}")
    git(folder, "add", "--all")
    git(folder, "commit", "-qm", text)
    return git(folder, "rev-parse", "HEAD")


def add(folder: Path, path: str, other: Path) -> None:
    """A submodule whose URL nobody can reach."""
    git(folder, "submodule", "--quiet", "add", str(other), path)
    git(folder, "config", "-f", ".gitmodules", f"submodule.{path}.url", f"https://git.example.invalid/{other.name}.git")
    git(folder, "commit", "-qam", f"add {path}")


def archive(folder: Path, target: Path, commit: str = "HEAD") -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    git(folder, "archive", f"--prefix={folder.name}/", "-o", str(target), commit)
    return target


def bundle(folder: Path, target: Path, *references: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    git(folder, "bundle", "create", "-q", str(target), *(references or ("HEAD",)))
    return target


@dataclass
class World:
    """engine: llama (with nested) at third_party/llama, pybind at two places. Each submodule has moved on since it was recorded."""

    base: Path
    engine: Path
    llama: Path
    pybind: Path
    nested: Path
    heads: dict[str, str]

    def parts(self, kind: str, *names: str) -> list[Path]:
        folder = self.base / "parts"
        if kind == "archive":
            return [archive(getattr(self, name), folder / f"{name}-x.tar.gz", self.heads[name]) for name in names]
        return [bundle(getattr(self, name), folder / f"{name}.bundle") for name in names]


@pytest.fixture
def world(tmp_path):
    nested, pybind, llama, engine = (repository(tmp_path / f"origin/{name}") for name in ("nested", "pybind", "llama", "engine"))
    add(llama, "deps/nested", nested)
    add(engine, "third_party/llama", llama)
    add(engine, "third_party/pybind", pybind)
    add(engine, "kernel/pybind", pybind)
    heads = {path.name: git(path, "rev-parse", "HEAD") for path in (nested, pybind, llama, engine)}
    for path in (nested, pybind, llama):
        commit(path, "two")
    return World(tmp_path, engine, llama, pybind, nested, heads)


@pytest.fixture
def lay(tmp_path):
    def call(src, parts=(), check=False, **options):
        params = {"src": str(src), "name": None, "digest": None, "version": "HEAD", "submodules": True, "only": {}, "clones": [],
                  "parts": [{"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in parts],
                  "parts_folder": "source/kt.submodules/", "dest": str(tmp_path / "opt/kt"), "store": str(tmp_path / "store"), **options}  # fmt: skip
        return source_tree.present(Sources(params, run), check)

    return call


def where(tmp_path, path: str) -> str:
    return (tmp_path / "opt/kt" / path / "file").read_text()


@pytest.mark.parametrize("kind", ["archive", "bundle"])
def test_a_bundle_gets_its_submodules_at_the_commits_that_it_records(tmp_path, world, lay, kind):
    parts = world.parts("bundle", "llama") + world.parts(kind, "pybind", "nested")
    result = lay(bundle(world.engine, tmp_path / "kt.bundle"), parts)
    # Each of them has a newer commit, which is in the bundles as well.
    assert [where(tmp_path, path) for path in ("third_party/llama", "third_party/llama/deps/nested", "third_party/pybind", "kernel/pybind")] == [
        "one of llama", "one of nested", "one of pybind", "one of pybind"]  # fmt: skip
    assert git(tmp_path / "opt/kt", "status", "--porcelain") == ""
    again = lay(tmp_path / "kt.bundle", parts)
    assert (again["changed"], again["digest"], again["needs_parts"]) == (False, result["digest"], False)


def test_a_laid_submodule_is_never_fetched_again(tmp_path, world, lay):
    lay(bundle(world.engine, tmp_path / "kt.bundle"), world.parts("bundle", "llama", "pybind", "nested"))
    shutil.rmtree(tmp_path / "parts")
    # What builds do. The URLs lead nowhere, and no transport is allowed at all.
    code, _out, err = run(["git", "-C", str(tmp_path / "opt/kt"), "submodule", "update", "--init", "--depth=1", "--recursive"], {"GIT_ALLOW_PROTOCOL": "none"})
    assert code == 0, err


def test_all_that_is_missing_is_named_at_once(tmp_path, world, lay):
    parts = [archive(world.pybind, tmp_path / "parts/pybind-new.tar.gz")]
    with pytest.raises(SourceError) as error:
        lay(bundle(world.engine, tmp_path / "kt.bundle"), parts)
    llama, pybind, newer = world.heads["llama"], world.heads["pybind"], git(world.pybind, "rev-parse", "HEAD")
    assert str(error.value) == (
        "kt.bundle needs 3 more repositories, which are not in source/kt.submodules/ of the media: "
        f"third_party/llama (https://git.example.invalid/llama.git, commit {llama}): put llama-{llama}.tar.gz, or a git bundle with that commit; "
        f"third_party/pybind (https://git.example.invalid/pybind.git, commit {pybind}): put pybind-{pybind}.tar.gz, or a git bundle with that commit "
        f"(there: pybind-new.tar.gz is commit {newer}); "
        f"kernel/pybind (https://git.example.invalid/pybind.git, commit {pybind}): put pybind-{pybind}.tar.gz, or a git bundle with that commit "
        f"(there: pybind-new.tar.gz is commit {newer}). "
        "Put them into source/kt.submodules/ and index the media again; docs/air-gap.md has the commands."
    )
    assert not os.path.lexists(tmp_path / "opt/kt") and os.listdir(tmp_path / "store") == []


def test_an_archive_does_not_tell_the_commits_of_what_lies_in_it(tmp_path, world, lay):
    src, parts = bundle(world.engine, tmp_path / "kt.bundle"), world.parts("archive", "llama", "pybind", "nested")
    with pytest.raises(SourceError, match=r"1 more .*third_party/llama/deps/nested .*does not tell\): take a git bundle for what it lies in, or name its"):
        lay(src, parts)
    lay(src, parts, only={"third_party/llama": "", "third_party/llama/deps/nested": world.heads["nested"]})
    assert where(tmp_path, "third_party/llama/deps/nested") == "one of nested"


def test_a_bundle_without_the_commit_is_none(tmp_path, world, lay):
    orphan = git(world.pybind, "commit-tree", "HEAD^{tree}", "-m", "another history")
    git(world.pybind, "branch", "-f", "other", orphan)
    parts = [*world.parts("bundle", "llama", "nested"), bundle(world.pybind, tmp_path / "parts/pybind.bundle", "other")]
    with pytest.raises(SourceError, match=rf"needs 2 more .*third_party/pybind .*\(there: pybind.bundle has refs/heads/other {orphan[:12]}\)"):
        lay(bundle(world.engine, tmp_path / "kt.bundle"), parts)


def test_only_what_is_asked_for_is_laid(tmp_path, world, lay):
    lay(bundle(world.engine, tmp_path / "kt.bundle"), world.parts("archive", "llama"), only={"third_party/llama": ""})
    assert where(tmp_path, "third_party/llama") == "one of llama"
    assert os.listdir(tmp_path / "opt/kt/third_party/pybind") == os.listdir(tmp_path / "opt/kt/third_party/llama/deps/nested") == []


def test_an_archive_is_told_the_commits(tmp_path, world, lay):
    only = {"third_party/llama": world.heads["llama"], "third_party/llama/deps/nested": world.heads["nested"]}
    src = archive(world.engine, tmp_path / "kt.tar.gz")
    bare = lay(src)
    assert os.listdir(tmp_path / "opt/kt/third_party/llama") == []
    full = lay(src, world.parts("archive", "llama", "nested"), only=only)
    assert (where(tmp_path, "third_party/llama"), where(tmp_path, "third_party/llama/deps/nested")) == ("one of llama", "one of nested")
    # More in it is another tree, so that a build of it is another build.
    assert full["digest"] != bare["digest"] and full["commit"] == bare["commit"] == world.heads["engine"]
    with pytest.raises(SourceError, match=r"kernel/pybind .*, a commit that an archive does not tell\): take a git bundle"):
        lay(src, world.parts("archive", "pybind"), only={"kernel/pybind": None})


def test_what_an_archive_holds_already_stays(tmp_path, world, lay):
    work = tmp_path / "work/kt"
    shutil.copytree(world.engine, work, ignore=shutil.ignore_patterns(".git"))
    (work / "third_party/pybind/file").write_text("the supplier's")
    subprocess.run(["tar", "-C", str(work.parent), "-czf", str(tmp_path / "kt.tar.gz"), "kt"], check=True)
    lay(tmp_path / "kt.tar.gz", world.parts("archive", "pybind"), only={"third_party/pybind": world.heads["pybind"]})
    assert where(tmp_path, "third_party/pybind") == "the supplier's"


def test_a_repository_on_the_disk_may_have_its_submodules_there(tmp_path, world, lay):
    """git's protocol.file.allow forbids it for submodules; who gives file:// as the source has allowed it."""
    folder = repository(tmp_path / "origin/local")
    git(folder, "submodule", "--quiet", "add", str(world.pybind), "pybind")
    git(folder, "commit", "-qam", "local")
    lay(f"file://{folder}")
    assert where(tmp_path, "pybind") == "two of pybind"


def test_a_submodule_that_no_server_gives_is_named(tmp_path, world, lay):
    with pytest.raises(SourceError, match=r"where the node reaches no git server, third_party/llama \(https://git\.example\.invalid/llama\.git, commit"):
        lay(f"file://{world.engine}")
    # With its files in the media no server is asked.
    lay(f"file://{world.engine}", world.parts("bundle", "llama") + world.parts("archive", "pybind", "nested"))
    assert where(tmp_path, "third_party/llama/deps/nested") == "one of nested"


CI_BUILD = """set -e
cd "$(dirname "$0")/.."
[ -d build/pytorch ] || { echo "would clone"; exit 128; }
cd build/pytorch
[ "$(git symbolic-ref --short HEAD)" = v2 ]
git submodule update --init --depth=1 --recursive
"""


@pytest.fixture
def plugin(tmp_path, world):
    """op-plugin and Ascend's pytorch (branch v2, with submodules), and what upstream's ci/build.sh does with them."""
    pytorch = repository(tmp_path / "origin/pytorch", "v2")
    add(pytorch, "third_party/llama", world.llama)
    # The submodule was added at its newest commit.
    plugin = repository(tmp_path / "origin/op-plugin")
    (plugin / "ci").mkdir()
    (plugin / "ci/build.sh").write_text(CI_BUILD)
    commit(plugin, "build")
    return plugin, pytorch


CLONES = [{"path": "build/pytorch", "url": "https://gitee.example.invalid/ascend/pytorch.git", "version": "v2"}]


@pytest.mark.parametrize("kind", ["archive", "bundle"])
def test_what_a_build_would_clone_is_laid_ready_on_its_branch(tmp_path, world, plugin, lay, kind):
    op_plugin, pytorch = plugin
    parts = [bundle(pytorch, tmp_path / "parts/any.bundle", "v2"), *world.parts("bundle", "llama", "nested")]
    src = archive(op_plugin, tmp_path / "op.tar.gz") if kind == "archive" else bundle(op_plugin, tmp_path / "op.bundle")
    lay(src, parts, clones=CLONES)
    code, out, err = run(["bash", str(tmp_path / "opt/kt/ci/build.sh")], {"GIT_ALLOW_PROTOCOL": "none"})
    assert code == 0, out + err
    assert where(tmp_path, "build/pytorch/third_party/llama") == "two of llama"


def test_a_clone_wants_bundles(tmp_path, world, plugin, lay):
    op_plugin, pytorch = plugin
    src = archive(op_plugin, tmp_path / "op.tar.gz")
    with pytest.raises(SourceError, match=r"build/pytorch \(https://gitee\.example\.invalid/ascend/pytorch\.git, branch v2\): put pytorch-v2\.bundle, a git"):
        lay(src, clones=CLONES)
    parts = [bundle(pytorch, tmp_path / "parts/pytorch.bundle", "v2"), archive(world.llama, tmp_path / "parts/llama-1.tar.gz")]
    with pytest.raises(SourceError, match=r"build/pytorch/third_party/llama .*an archive will not do .* \(there: llama-1\.tar\.gz is commit"):
        lay(src, parts, clones=CLONES)
    # From a git server the build may clone by itself.
    assert lay(f"file://{op_plugin}", clones=CLONES)["changed"]


def test_a_submodule_that_leaves_the_tree_is_refused(tmp_path, world, lay):
    git(world.engine, "rm", "-q", "--cached", "third_party/pybind")
    shutil.rmtree(world.engine / "third_party/pybind")
    (world.engine / "third_party/pybind").symlink_to(tmp_path)
    only = {"third_party/pybind/x": world.heads["pybind"]}
    (world.engine / ".gitmodules").write_text('[submodule "x"]\n\tpath = third_party/pybind/x\n\turl = https://git.example.invalid/pybind.git\n')
    commit(world.engine, "evil")
    git(world.engine, "update-index", "--add", "--cacheinfo", f"160000,{world.heads['pybind']},kernel/pybind")
    bundled = bundle(world.engine, tmp_path / "kt.bundle")
    folder = tmp_path / "by-hand"
    git(tmp_path, "clone", "-q", str(bundled), str(folder))
    shutil.rmtree(folder / ".git")
    filler = source_tree.Filler([], lambda *_a, **_k: "", lambda *_a: "", only, False)
    with pytest.raises(PartsError, match=r"the submodule third_party/pybind/x leads out of the tree"):
        filler.submodules(str(folder))


@pytest.mark.parametrize("name, commit", [
    ("pybind11-bb05e0810b87e74709d9f4c4545f1f57a1b386f5.tar.gz", "bb05e0810b87e74709d9f4c4545f1f57a1b386f5"),
    ("pybind11-bb05e08.tar.gz", "bb05e08"), ("pybind11.tar.gz", ""), ("pybind11-2.13.6.tar.gz", "")])  # fmt: skip
def test_an_archive_that_does_not_tell_is_believed_by_its_name(tmp_path, name, commit):
    subprocess.run(["tar", "-C", str(tmp_path), "-czf", str(tmp_path / name), "--files-from", os.devnull], check=True)
    assert archive_commit(str(tmp_path / name)) == commit


def test_gitmodules_are_read_as_git_writes_them(tmp_path):
    (tmp_path / ".gitmodules").write_text(
        '# c\n[submodule "a b"]\n\tpath = x/a\n\turl = https://e/a.git\n\tbranch = dev\n[submodule "c"]\npath="x/c"\n[submodule "d"]\nurl=e\n'
    )
    assert read_gitmodules(str(tmp_path)) == [("x/a", "https://e/a.git"), ("x/c", "")]
    assert read_gitmodules(str(tmp_path / "nowhere")) == []


def test_an_archive_tells_which_submodules_it_lacks(tmp_path, world):
    told = look_into(str(archive(world.engine, tmp_path / "kt.tar.gz")))
    assert told == {"commit": world.heads["engine"], "lacks": ["third_party/llama", "third_party/pybind", "kernel/pybind"]}
    # Packed with its submodules, but for one; the names begin with a dot.
    work = tmp_path / "work/kt"
    shutil.copytree(world.engine, work, ignore=shutil.ignore_patterns(".git"))
    shutil.rmtree(work / "kernel/pybind")
    subprocess.run(["tar", "-C", str(work.parent), "-czf", str(tmp_path / "full.tar.gz"), "./kt"], check=True)
    assert look_into(str(tmp_path / "full.tar.gz")) == {"lacks": ["kernel/pybind"]}
    assert look_into(str(archive(world.nested, tmp_path / "nested.tar.gz"))) == {"commit": git(world.nested, "rev-parse", "HEAD")}


LLAMA, PYBIND = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    "lacks, only, files, missing",
    [
        pytest.param(["llama", "pybind", "docs"], {}, [], ["llama", "pybind"], id="nothing-beside-it"),
        pytest.param(["llama"], {}, [{"name": f"s/llama-{LLAMA}.tar.gz"}], ["llama"], id="nobody-says-which-commit"),
        pytest.param(["llama", "pybind"], {"llama": LLAMA}, [{"name": "s/x.tar.gz", "commit": LLAMA}], ["pybind"], id="one-of-two"),
        pytest.param(["llama"], {"llama": LLAMA}, [{"name": f"s/llama-{LLAMA[:8]}.tgz", "commit": None}], [], id="commit-in-the-name"),
        pytest.param(["llama"], {"llama": LLAMA}, [{"name": "s/x.tar.gz", "commit": PYBIND}], ["llama"], id="another-commit"),
        pytest.param(["llama"], {"llama": LLAMA}, [{"name": "s/x.bundle", "commit": None}], [], id="a-bundle-may-hold-it"),
        pytest.param(["llama"], {"llama": None}, [{"name": "s/x.bundle"}], ["llama"], id="a-commit-that-nobody-tells"),
        pytest.param(["deps/wanted"], {"deps/wanted": PYBIND}, [], ["deps/wanted"], id="asked-for"),
        pytest.param([], {"llama": LLAMA}, [], [], id="whole"),
    ],
)
def test_what_would_be_missing_is_known_from_the_manifest(lacks, only, files, missing):
    assert unsupplied(lacks, ("llama", "pybind"), only, files) == missing
