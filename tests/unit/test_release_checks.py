"""What `make release-check` must refuse: each kind of wrong tarball, planted."""

from __future__ import annotations

import io
import tarfile

import pytest

from tests.release import checks

GOOD = "# x\n" + "".join(f"\n## {name}\n\nText.\n" for name in checks.SECTIONS)


def member(name: str, mode: int = 0o644, size: int = 1, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """A member as it comes back from an archive."""
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname, info.size = mode, kind, link, size if kind == tarfile.REGTYPE else 0
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        archive.addfile(info, io.BytesIO(b"x" * info.size))
    raw.seek(0)
    with tarfile.open(fileobj=raw) as archive:
        return archive.getmembers()[0]


def test_what_belongs_is_taken():
    files = ["plugins/test/ascend_version.py", "roles/host/README.md", "meta/runtime.yml"]
    assert checks.misplaced([member("plugins", 0o755, kind=tarfile.DIRTYPE), *map(member, files)]) == []


@pytest.mark.parametrize(
    "planted, reason",
    [
        pytest.param(member("Makefile"), "not on the list", id="another-entry"),
        pytest.param(member("tests/conftest.py"), "not on the list", id="tests"),
        pytest.param(member("roles/host/tests/x.yml"), "a test", id="tests-of-a-role"),
        pytest.param(member("plugins/modules/test_x.py"), "a test", id="a-test-beside-a-module"),
        pytest.param(member("plugins/modules/__pycache__/x.pyc"), "left over", id="cache"),
        pytest.param(member("docs/.DS_Store"), "left over", id="hidden"),
        pytest.param(member("roles/host/tasks/main.yml.orig"), "left over", id="of-a-merge"),
        pytest.param(member("docs/here", kind=tarfile.SYMTYPE, link="../../etc/passwd"), "a link to ../../etc/passwd", id="link-out"),
        pytest.param(member("docs/pipe", kind=tarfile.FIFOTYPE), "neither file nor folder", id="pipe"),
        pytest.param(member("plugins/modules/x.py", 0o755), "executable (755)", id="executable"),
        pytest.param(member("docs/large.md", size=checks.LARGEST + 1), "1000001 bytes", id="large"),
    ],
)
def test_what_does_not_belong_is_named(planted, reason):
    (told,) = checks.misplaced([planted])
    assert told.startswith(f"{planted.name}: ")
    assert reason in told


def test_a_module_that_is_missing_or_too_many_is_named():
    both = {"README.md", "MANIFEST.json", "FILES.json"}
    assert checks.unlike(both, {"README.md"}) == []
    assert checks.unlike(both, {"README.md", "plugins/modules/x.py"}) == [
        "plugins/modules/x.py: in the repository, not in the tarball; look at build_ignore of galaxy.yml"
    ]
    assert checks.unlike({*both, "docs/notes.md"}, {"README.md"}) == ["docs/notes.md: in the tarball, not in the repository; remove it, or `git add` it"]


def test_versions_that_differ_are_named():
    galaxy = {"namespace": "a", "name": "b", "version": "1.0.0"}
    assert checks.unlisted({"collection_info": galaxy}, galaxy, "a-b-1.0.0.tar.gz") == []
    assert len(checks.unlisted({"collection_info": {**galaxy, "version": "0.9.0"}}, galaxy, "a-b-0.9.0.tar.gz")) == 2
    assert checks.newer("1.0.0", {"a.b.old": "1.0.0", "a.b.new": "1.1.0"}) == ["a.b.new: version_added 1.1.0, this is 1.0.0"]


@pytest.mark.parametrize(
    "released, rst, fragments, final, reason",
    [
        pytest.param({}, "", ["x.yml"], False, None, id="worked-on"),
        pytest.param({"releases": {"1.0.0": {}}}, "v1.0.0\n======\n", [], True, None, id="released"),
        pytest.param({}, "", [], False, "neither an entry", id="nothing"),
        pytest.param({}, "", ["x.yml"], True, "has no entry 1.0.0", id="not-released-on-the-day"),
        pytest.param({"releases": {"1.0.0": {}}}, "v1.0.0\n======\n", ["x.yml"], False, "raise the version", id="a-fragment-came-later"),
        pytest.param({"releases": {"1.0.0": {}}}, "v0.9.0\n======\n", [], True, "no section v1.0.0", id="page-not-made"),
    ],
)
def test_the_rule_of_the_changelog(released, rst, fragments, final, reason):
    told = checks.changelog("1.0.0", released, rst, fragments, final)
    assert (told == []) if reason is None else (len(told) == 1 and reason in told[0])


@pytest.mark.parametrize(
    "text, reason",
    [
        pytest.param(GOOD, None, id="good"),
        pytest.param(GOOD.replace("## Support", "## Help"), "no section Support", id="section"),
        pytest.param(GOOD + "[here](docs/x.md)\n", "docs/x.md is no full address", id="relative-link"),
        pytest.param(GOOD + "[here]\n\n[here]: docs/x.md\n", "docs/x.md is no full address", id="relative-reference"),
        pytest.param(GOOD.replace("## Installation\n\nText.", "## Installation\n\n    pip install ansible-core"), "names pip for Ansible", id="pip"),
        pytest.param(GOOD + "npuops-ktransformers-0.9.0.tar.gz\n", "this is 1.0.0", id="old-version"),
        pytest.param(GOOD + "[x](https://github.com/npuops/ktransformers/blob/main/docs/gone.md)\n", "docs/gone.md is not in the repository", id="dead"),
    ],
)
def test_the_front_page(text, reason):
    told = checks.front_page(text, "1.0.0")
    assert (told == []) if reason is None else (len(told) == 1 and reason in told[0])


@pytest.mark.parametrize(
    "metadata, python, reason",
    [
        pytest.param({"version": 1, "dependencies": {"python": "meta/r.txt"}}, ["requests>=2"], None, id="good"),
        pytest.param({"version": 3, "dependencies": {}}, [], "version 3", id="version"),
        pytest.param({"version": 1, "dependencies": {"python": "meta/gone.txt"}}, [], "meta/gone.txt is not in the tarball", id="missing-file"),
        pytest.param({"version": 1, "dependencies": {"galaxy": "meta/r.txt"}}, [], "galaxy means nothing", id="key"),
        pytest.param({"version": 1}, ["ansible-core>=2.17"], "has its own", id="ansible"),
        pytest.param({"version": 1}, ["requests==2.0"], "a pin", id="pin"),
    ],
)
def test_the_metadata_of_execution_environments(metadata, python, reason):
    told = checks.execution_environment(metadata, {"meta/r.txt"}, python)
    assert (told == []) if reason is None else (len(told) == 1 and reason in told[0])
