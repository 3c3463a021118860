"""The step that brings a source tree to a node, from the media and from a git server."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.unit.roles.playing import keep, lay_media, play, role, run

FACTS = "{'tree': common_source_tree, 'digest': common_source_digest, 'commit': common_source_commit, 'changed': common_source_changed}"


def archive(content: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        info = tarfile.TarInfo("engine-1/file")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def with_a_submodule(base: Path, who: dict[str, str]) -> dict[str, bytes]:
    """A bundle that records a submodule, and the folder beside it with the submodule."""

    def git(folder: Path, *arguments: str) -> None:
        subprocess.run(["git", "-c", "protocol.file.allow=always", *arguments], cwd=folder, env={**os.environ, **who}, check=True)

    for name in ("git-part", "git-whole"):
        (base / name).mkdir()
        git(base / name, "init", "-q", "-b", "main")
    (base / "git-part/file").write_text("from its own file")
    git(base / "git-part", "add", "file")
    git(base / "git-part", "commit", "-qm", "one")
    git(base / "git-whole", "submodule", "--quiet", "add", str(base / "git-part"), "third_party/part")
    git(base / "git-whole", "config", "-f", ".gitmodules", "submodule.third_party/part.url", "https://git.example.invalid/part.git")
    (base / "git-whole/file").write_text("from a bundle")
    git(base / "git-whole", "add", "file")
    git(base / "git-whole", "commit", "-qam", "one")
    git(base / "git-whole", "bundle", "create", "-q", str(base / "whole.bundle"), "HEAD")
    git(base / "git-part", "archive", "--prefix=part/", "-o", str(base / "part.tar.gz"), "HEAD")
    return {"source/whole-1.bundle": (base / "whole.bundle").read_bytes(), "source/whole-1.submodules/part.tar.gz": (base / "part.tar.gz").read_bytes()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A media directory, and a repository with one commit that is a bundle in the media too."""
    base = tmp_path_factory.mktemp("common")
    repository = base / "repository"
    repository.mkdir()
    (repository / "file").write_text("from git")
    who = {f"GIT_{role}_{what}": "npuops@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "file"],
        ["commit", "-qm", "one"],
        ["bundle", "create", "-q", str(base / "engine.bundle"), "HEAD", "main"],
    ):
        subprocess.run(["git", *command], cwd=repository, env={**os.environ, **who}, check=True)
    files = {"source/engine-1.tar.gz": archive(b"from an archive"), "source/engine-1.bundle": (base / "engine.bundle").read_bytes()}
    lay_media(base / "media", {**files, **with_a_submodule(base, who)})
    return base


@pytest.fixture(scope="module")
def hosts(base):
    sources = {"archive": "source/engine-1.tar.gz", "bundle": "source/engine-1.bundle", "git": f"file://{base}/repository", "whole": "source/whole-1.bundle"}
    return {
        name: {
            "common_source": source,
            "common_source_dest": f"{base}/{name}/opt/engine",
            "npu_state_dir": f"{base}/{name}/state",
            "media_source": f"{base}/media",
        }
        for name, source in sources.items()
    }


@pytest.fixture(scope="module")
def runs(base, hosts):
    """What three runs found on each host: check mode on a bare node, for real, once more."""
    once = [role("common", "source"), keep(FACTS)]
    checked = play(base, hosts, once, ("--check",))
    bare = [name for name in hosts if (base / name).exists()]
    both = play(base, hosts, [role("common", "source"), keep(f"[{FACTS}]"), role("common", "source"), keep(f"result + [{FACTS}]")])
    return {"checked": checked, "bare": bare, "first": {name: both[name][0] for name in hosts}, "second": {name: both[name][1] for name in hosts}}


def test_check_mode_on_a_bare_node_knows_where_the_tree_will_be(runs):
    assert runs["bare"] == []
    for name, found in runs["checked"].items():
        assert found["tree"] == runs["first"][name]["tree"]
        assert found["digest"] == runs["first"][name]["digest"]


@pytest.mark.parametrize("name, content", [("archive", "from an archive"), ("bundle", "from git"), ("git", "from git"), ("whole", "from a bundle")])
def test_the_link_leads_to_the_tree(base, runs, name, content):
    found = runs["first"][name]
    link = base / name / "opt/engine"
    assert os.path.realpath(link) == os.path.realpath(found["tree"])
    assert (link / "file").read_text() == content
    assert found["changed"]
    assert len(found["commit"]) == (0 if name == "archive" else 40)


def test_submodules_come_from_the_folder_beside_the_source(base):
    assert (base / "whole/opt/engine/third_party/part/file").read_text() == "from its own file"
    # Only who needs them gets them.
    assert not (base / "bundle/state/media/source/whole-1.submodules").exists()


@pytest.mark.parametrize("name", ["archive", "bundle", "git", "whole"])
def test_a_second_run_changes_nothing_and_says_the_same(runs, name):
    assert runs["second"][name] == {**runs["first"][name], "changed": False}


def test_what_the_media_do_not_have_is_named(tmp_path, base):
    lay_media(tmp_path / "media", {"source/engine-1.tar.gz": archive(b"1")})
    hosts = {
        "node": {
            "common_source": "source/engine-2.tar.gz",
            "common_source_dest": f"{tmp_path}/engine",
            "npu_state_dir": f"{tmp_path}/state",
            "media_source": f"{tmp_path}/media",
        }
    }
    done = run(tmp_path, hosts, [role("common", "source"), keep(FACTS)])
    assert done.returncode == 2
    assert "source/engine-2.tar.gz" in done.stdout and f"{tmp_path}/media/manifest.yml" in done.stdout
    assert not (tmp_path / "state").exists()
