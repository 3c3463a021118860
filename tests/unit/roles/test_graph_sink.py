"""npu_graph_sink on toolkit trees laid out as CANN 8.1.RC1 lays them (facts: a link in latest, the file in <version>)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import graph_sink
from ansible_collections.npuops.ktransformers.plugins.module_utils.elf import ElfError, read_library
from ansible_collections.npuops.ktransformers.plugins.module_utils.graph_sink import Detour, Seen, Toolkit
from ansible_collections.npuops.ktransformers.plugins.modules import npu_graph_sink

from tests.simulator.elf import shared_object

ORIGINAL = ("rtMalloc", "rtFree", "_ZN3cce7runtime4ApiE")
WANTED = ("rtMalloc", "rtFree", "rtGraphCapture")


def library(note: bytes, exports=ORIGINAL, arch="aarch64") -> bytes:
    return shared_object(arch, "libruntime.so", exports, note=note)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class Node:
    """A toolkit tree, a source folder and a state folder below one temporary folder; `run` calls the module's code."""

    def __init__(self, base: Path) -> None:
        self.root, self.source, self.state = base / "Ascend", base / "arm", base / "state"
        self.real = self.install("8.1.RC1", library(b"8.1"))
        self.new = write(self.source / "libruntime.so", library(b"graph", WANTED))
        write(self.source / "libgraph_capture.so", shared_object("aarch64", "libgraph_capture.so"))

    def install(self, version: str, content: bytes, inner: str = "V100R001C21SPC001B238") -> Path:
        """What the toolkit's installer leaves: the real files in <version>, links in latest."""
        base = self.root / "ascend-toolkit"
        real = base / version / "aarch64-linux" / "lib64" / "libruntime.so"
        if real.exists():
            real.unlink()
        write(real, content).chmod(0o440)
        write(base / version / "aarch64-linux" / graph_sink.RECORD, f"version={version}\ninnerversion={inner}\n".encode())
        write(base / version / "runtime" / "version.info", b"Version=7.7.0.1.238\ntimestamp=20250428_203017761\n")
        latest = base / "latest" / "aarch64-linux"
        (latest / "lib64").mkdir(parents=True, exist_ok=True)
        for link, target in [
            (base / version / "lib64", "aarch64-linux/lib64"),
            (base / version / "runtime/lib64", "../aarch64-linux/lib64"),
            (base / "latest/lib64", "aarch64-linux/lib64"),
            (base / "latest/runtime", f"../{version}/runtime"),
            (latest / graph_sink.RECORD, f"../../{version}/aarch64-linux/{graph_sink.RECORD}"),
            (latest / "lib64/libruntime.so", f"../../../{version}/aarch64-linux/lib64/libruntime.so"),
        ]:
            if link.is_symlink() or link.exists():
                link.unlink()
            link.symlink_to(target)
        return real

    @property
    def latest(self) -> Path:
        return self.root / "ascend-toolkit/latest/lib64/libruntime.so"

    def doors(self):
        """The content that each path shows."""
        base = self.root / "ascend-toolkit"
        paths = [self.latest, base / "latest/runtime/lib64/libruntime.so", base / "8.1.RC1/lib64/libruntime.so", self.real]
        return {path.read_bytes() for path in paths}

    def by_the_guide(self) -> None:
        """`mv …/libruntime.so …/libruntime.so.bak; cp arm/libruntime.so …/libruntime.so`"""
        self.latest.rename(self.latest.with_name("libruntime.so.bak"))
        self.latest.write_bytes(self.new.read_bytes())

    def run(self, state="present", check=False, **params):
        module = type("Module", (), {})()
        module.check_mode = check
        module.params = {"ascend_root": str(self.root), "version": None, "path": str(self.source), "source": None, "state": state, "accept_unknown": False,
                         "state_dir": str(self.state), "units": ["ktransformers.service"], "proc_root": "/proc", **params}
        return {"present": npu_graph_sink.present, "absent": npu_graph_sink.absent, "described": npu_graph_sink.described}[state](module)

    def snapshot(self):
        return {str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else os.readlink(path) if path.is_symlink() else None
                for path in sorted(self.root.rglob("*")) + sorted(self.state.rglob("*"))}


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_every_path_shows_the_new_library_and_the_original_is_kept(node):
    original = node.real.read_bytes()
    result = node.run()
    assert (result["changed"], result["state_before"]) == (True, "pristine")
    assert node.doors() == {node.new.read_bytes()}
    assert Path(result["kept"]).read_bytes() == original
    assert result["kept"] == str(node.state / "graph_sink/8.1.RC1/libruntime.so")
    assert oct(node.real.stat().st_mode & 0o777) == "0o440"
    assert sorted(path.name for path in node.real.parent.iterdir()) == ["libruntime.so"]


def test_second_run_changes_nothing_and_absent_restores(node):
    before = node.snapshot()
    node.run()
    again = node.run()
    assert (again["changed"], again["reason"], again["state_before"]) == (False, None, "ours")
    result = node.run("absent")
    assert result["changed"]
    assert node.snapshot() == before
    assert node.run("absent")["changed"] is False


def test_check_mode_says_the_same_and_changes_nothing(node):
    before = node.snapshot()
    checked = node.run(check=True)
    assert node.snapshot() == before
    done = node.run()
    assert (checked["changed"], checked["reason"], checked["diff"]) == (done["changed"], done["reason"], done["diff"])


def test_a_swap_by_hand_is_taken_over(node):
    original = node.real.read_bytes()
    node.by_the_guide()
    result = node.run()
    assert (result["changed"], result["state_before"]) == (True, "by-hand")
    assert node.latest.is_symlink()
    assert not node.latest.with_name("libruntime.so.bak").is_symlink()
    assert node.doors() == {node.new.read_bytes()}
    assert Path(result["kept"]).read_bytes() == original
    node.run("absent")
    assert node.doors() == {original}


def test_a_backup_beside_the_real_file_is_the_original(node):
    original = node.real.read_bytes()
    write(node.real.with_name("libruntime.so.bak"), original)
    node.real.chmod(0o640)
    node.real.write_bytes(library(b"some other graph library", WANTED))
    result = node.run()
    assert result["state_before"] == "by-hand"
    assert Path(result["kept"]).read_bytes() == original
    assert node.doors() == {node.new.read_bytes()}


def test_an_unknown_library_is_refused_and_left(node):
    node.run()
    node.real.chmod(0o640)
    node.real.write_bytes(library(b"who knows"))
    before = node.snapshot()
    for state in ("present", "absent"):
        with pytest.raises(graph_sink.GraphSinkError, match="is neither the original .* nor what was installed here"):
            node.run(state)
    assert node.snapshot() == before
    assert "accept_unknown" in node.run("described")["refusal"]
    assert node.run(accept_unknown=True)["changed"]
    assert node.doors() == {node.new.read_bytes()}


def test_a_copy_over_the_original_is_refused(node):
    node.real.chmod(0o640)
    node.real.write_bytes(node.new.read_bytes())
    with pytest.raises(graph_sink.GraphSinkError, match="nobody kept the original of CANN 8.1.RC1; install the toolkit again"):
        node.run()


def test_a_toolkit_installed_again_is_swapped_again(node):
    node.run()
    node.install("8.1.RC1", library(b"8.1"))
    result = node.run()
    assert (result["changed"], result["state_before"]) == (True, "pristine")
    assert node.doors() == {node.new.read_bytes()}


def test_an_upgrade_of_the_same_version_is_kept_anew(node):
    node.run()
    upgraded = library(b"8.1 B240")
    node.install("8.1.RC1", upgraded, inner="V100R001C21SPC001B240")
    result = node.run()
    assert result["reason"].startswith("CANN 8.1.RC1 brought a new libruntime.so")
    assert Path(result["kept"]).read_bytes() == upgraded
    node.run("absent")
    assert node.doors() == {upgraded}


def test_a_new_version_beside_is_swapped_and_absent_restores_both(node):
    node.run()
    newer = node.install("8.2.RC1", library(b"8.2"))
    assert node.run()["version"] == "8.2.RC1"
    assert newer.read_bytes() == node.new.read_bytes()
    assert [one["version"] for one in node.run("absent")["toolkits"]] == ["8.1.RC1", "8.2.RC1"]
    assert (node.real.read_bytes(), newer.read_bytes()) == (library(b"8.1"), library(b"8.2"))


def test_another_library_to_install_replaces_ours(node):
    original = node.real.read_bytes()
    node.run()
    node.new.write_bytes(library(b"graph 2", WANTED))
    assert node.run()["changed"]
    assert node.doors() == {node.new.read_bytes()}
    node.run("absent")
    assert node.real.read_bytes() == original


def test_a_crash_between_record_and_rename_is_finished(node):
    original = node.real.read_bytes()
    node.run()
    node.real.unlink()
    write(node.real, original)
    assert node.run()["changed"]
    assert node.doors() == {node.new.read_bytes()}


def test_a_lost_original_is_said(node):
    node.run()
    Path(node.run()["kept"]).unlink()
    for state in ("present", "absent"):
        with pytest.raises(graph_sink.GraphSinkError, match="the original libruntime.so of CANN 8.1.RC1 that was kept here is gone"):
            node.run(state)


def test_a_removed_toolkit_is_forgotten(node):
    node.run()
    node.real.unlink()
    (node.real.parent.parent / graph_sink.RECORD).unlink()
    assert node.run("absent")["toolkits"][0]["reason"] == "CANN 8.1.RC1 is gone"
    assert not (node.state / "graph_sink").exists()


def test_a_read_only_toolkit_folder_of_an_ordinary_user_stays_read_only(node):
    node.real.parent.chmod(0o555)
    node.run()
    assert oct(node.real.parent.stat().st_mode & 0o777) == "0o555"
    node.real.parent.chmod(0o755)


@pytest.mark.parametrize("name, content, message", [
    pytest.param("libruntime.so", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer of 56 bytes", id="lfs-pointer"),
    pytest.param("libruntime.so", b"hello", "does not begin as an ELF file", id="no-library"),
    pytest.param("libruntime.so", library(b"x", WANTED)[:700], "ends too early", id="truncated"),
    pytest.param("libruntime.so", library(b"x", WANTED, "x86_64"), "is built for x86_64, CANN 8.1.RC1 on this node for aarch64", id="other-architecture"),
    pytest.param("libruntime.so", library(b"x", ("rtMalloc",)), r"lacks 1 functions that CANN 8.1.RC1 offers \(rtFree\)", id="other-cann"),
    pytest.param("libruntime.so", None, "libruntime.so does not exist; it comes with the source tree", id="missing"),
    pytest.param("libgraph_capture.so", None, r"has no libgraph_capture\*.so, which the engine imports", id="no-plugin"),
    pytest.param("libgraph_capture.so", shared_object("x86_64", "libgraph_capture.so"), "is built for x86_64, this node is aarch64", id="plugin-architecture"),
])
def test_a_library_that_cannot_serve_is_refused(node, name, content, message):
    if content is None:
        (node.source / name).unlink()
    else:
        (node.source / name).write_bytes(content)
    before = node.snapshot()
    with pytest.raises(graph_sink.GraphSinkError, match=message):
        node.run()
    assert node.snapshot() == before


def test_the_folder_of_the_source_tree_follows_the_toolkit(node, tmp_path):
    arm = tmp_path / "tree/ktransformers/util/npu_graph_so/arm"
    arm.parent.mkdir(parents=True)
    node.source.rename(arm)
    result = node.run(path=None, source=str(tmp_path / "tree"))
    assert (result["folder"], result["plugin"]) == (str(arm), str(arm / "libgraph_capture.so"))
    assert node.doors() == {(arm / "libruntime.so").read_bytes()}


def test_a_bare_node(tmp_path):
    node = Node(tmp_path)
    node.root = tmp_path / "nowhere"
    answer = {"changed": False, "found": False, "state_before": None, "reason": f"there is no CANN toolkit below {node.root}",
              "verdict": "missing", "words": "no CANN toolkit"}
    assert node.run(check=True) == answer
    assert node.run("described") == {**answer, "refusal": None, "in_use": None}
    with pytest.raises(graph_sink.GraphSinkError, match="install it with the role cann"):
        node.run()


def test_the_layout_from_8_5_on_is_found(tmp_path):
    tree = tmp_path / "cann-8.5.0"
    real = write(tree / "x86_64-linux/lib64/libruntime.so", library(b"8.5", arch="x86_64"))
    write(tree / "x86_64-linux" / graph_sink.RECORD, b"version=8.5.0\ninnerversion=V100R001C25SPC001B212\n")
    (tree / "lib64").symlink_to("x86_64-linux/lib64")
    (tmp_path / "cann").symlink_to("cann-8.5.0")
    found = graph_sink.find_toolkit(str(tmp_path))
    assert found == Toolkit("8.5.0", "V100R001C25SPC001B212", str(tmp_path / "cann"), str(tree), "x86_64", str(real))


def test_a_damaged_record_is_named(node):
    node.run()
    record = node.state / "graph_sink/8.1.RC1/record.json"
    record.write_text("{")
    with pytest.raises(graph_sink.GraphSinkError, match="record.json is not what this collection wrote there"):
        node.run()
    record.write_text(json.dumps({"version": "8.1.RC1"}))
    assert node.run("described")["state_before"] == "unknown"


TOOLKIT = Toolkit("8.1.RC1", "B238 2025", "/a/latest", "/a/8.1.RC1", "aarch64", "/a/8.1.RC1/aarch64-linux/lib64/libruntime.so")
RECORD = {"original_sha256": "o", "installed_sha256": ["n1", "n2"], "identity": "B238 2025"}
DETOUR = (Detour("/a/latest/aarch64-linux/lib64/libruntime.so", "n1", True),)


@pytest.mark.parametrize("seen, state", [
    pytest.param({"sha256": "o"}, "pristine", id="first-contact"),
    pytest.param({"sha256": "o", "backup_sha256": "o"}, "pristine", id="backup-is-a-copy"),
    pytest.param({"sha256": "o", "backup_sha256": "w"}, "pristine", id="backup-is-the-new-one"),
    pytest.param({"sha256": "x", "backup_sha256": "o"}, "by-hand", id="backup-beside"),
    pytest.param({"sha256": "w", "backup_sha256": "o"}, "by-hand", id="backup-beside-wanted"),
    pytest.param({"sha256": "o", "detours": DETOUR}, "by-hand", id="link-moved-aside"),
    pytest.param({"sha256": "w"}, "unknown", id="copied-through-the-link"),
    pytest.param({"sha256": "w", "backup_sha256": "w"}, "unknown", id="guide-followed-twice"),
    pytest.param({"sha256": "n1", "record": RECORD}, "ours", id="ours-earlier"),
    pytest.param({"sha256": "n2", "record": RECORD}, "ours", id="ours"),
    pytest.param({"sha256": "o", "record": RECORD}, "pristine", id="restored"),
    pytest.param({"sha256": "o", "record": RECORD, "detours": DETOUR}, "by-hand", id="restored-then-by-hand"),
    pytest.param({"sha256": "x", "record": RECORD}, "unknown", id="changed-after-us"),
    pytest.param({"sha256": "x", "record": {**RECORD, "identity": "B200"}}, "pristine", id="toolkit-upgraded"),
])
def test_classify(seen, state):
    assert graph_sink.classify(Seen(toolkit=TOOLKIT, wanted_sha256="w", **seen)) == state


def test_the_summary_says_what_is_there(node):
    def says():
        seen = node.run("described")
        return seen["verdict"], seen["words"]

    assert says() == ("missing", "the vendor's")
    assert node.run(check=True)["verdict"] == "missing"
    assert node.run()["verdict"] == "ok"
    assert says() == ("ok", "in CANN 8.1.RC1, original kept")
    node.new.write_bytes(library(b"graph 2", WANTED))
    assert says() == ("different", "an earlier one")
    node.run("absent")
    node.by_the_guide()
    assert says() == ("different", "replaced by hand")


def test_a_link_overwritten_after_us_is_put_back(node):
    node.run()
    node.latest.unlink()
    node.latest.write_bytes(b"a file of its own")
    result = node.run()
    assert "is a file of its own, expected a link" in result["reason"]
    assert node.latest.is_symlink() and node.doors() == {node.new.read_bytes()}


@pytest.mark.parametrize("content, message", [
    pytest.param(b"", "does not begin as an ELF file", id="empty"),
    pytest.param(b"\x7fELF\x01\x01" + bytes(60), "is not a 64-bit little-endian library", id="32-bit"),
    pytest.param(b"\x7fELF\x02\x01" + bytes(10) + b"\x02\x00" + bytes(46), "but no shared library", id="program"),
])
def test_elf_refuses(tmp_path, content, message):
    with pytest.raises(ElfError, match=message):
        read_library(str(write(tmp_path / "x.so", content)))


@pytest.mark.parametrize("cut", range(1, 1200, 37))
def test_elf_survives_damage(tmp_path, cut):
    damaged = bytearray(library(b"x"))
    for index in range(40, 64):
        damaged[index] ^= cut & 0xFF
    try:
        read_library(str(write(tmp_path / "x.so", bytes(damaged[:cut + 64]))))
    except ElfError as exc:
        assert str(tmp_path) in str(exc)


MAPS = """import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
kept = mmap.mmap(file, 0, prot=mmap.PROT_READ)
os.close(file)
print("mapped", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def a_program_that_maps(path: Path):
    """A process that holds the file mapped until the block ends."""
    with subprocess.Popen([sys.executable, "-c", MAPS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "mapped\n"
        yield child
        child.stdin.close()


def test_a_library_that_a_program_has_loaded_is_left(node, tmp_path):
    before = node.snapshot()
    with a_program_that_maps(node.latest) as child:
        for check in (False, True):
            with pytest.raises(graph_sink.GraphSinkError, match=rf"libruntime.so is in use by process {child.pid} \(.*python.*\): .*kill {child.pid}, or"):
                node.run(check=check)
        assert f"process {child.pid} " in node.run("described")["in_use"]
        assert node.snapshot() == before
    assert node.run("described")["in_use"] is None
    assert node.run()["changed"]
    # With the wanted library in place nobody is asked; for the way back somebody is.
    with a_program_that_maps(node.real) as child:
        assert (node.run()["changed"], node.run("described")["in_use"]) == (False, None)
        with pytest.raises(graph_sink.GraphSinkError, match=f"is in use by process {child.pid}"):
            node.run("absent")
    assert node.run("absent")["changed"]


def test_a_file_in_the_place_of_a_link_is_in_use_as_well(node):
    node.by_the_guide()
    with a_program_that_maps(node.latest) as child, pytest.raises(graph_sink.GraphSinkError, match=f"is in use by process {child.pid}"):
        node.run()


def process(proc: Path, pid: int, path: str, inode: int, group: str = "/user.slice", command: bytes = b"python\0serve.py\0") -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "maps").write_text(f"7f00-7f10 r--p 00000000 fd:01 1 /usr/lib/libc.so.6\n7f10-7f20 r-xp 00000000 00:2a {inode}                 {path}\n")
    (proc / str(pid) / "cgroup").write_text(f"0::{group}\n")
    (proc / str(pid) / "cmdline").write_bytes(command)
    (proc / str(pid) / "comm").write_text("python\n")


def test_our_units_are_no_foreign_users_and_containers_are(node, tmp_path):
    proc, inode = tmp_path / "proc", node.real.stat().st_ino
    process(proc, 10, str(node.real), inode, "/system.slice/ktransformers.service")
    process(proc, 11, str(node.real), inode + 1, "/system.slice/ktransformers.service/worker")
    process(proc, 12, "/some/other/libruntime.so", inode + 1)
    (proc / "self").symlink_to("10")
    assert node.run("described", proc_root=str(proc))["in_use"] is None
    # The same file by the path that a container has for it; then one that replaced its command line.
    process(proc, 21, "/usr/local/Ascend/libruntime.so", inode, "/docker/1f")
    process(proc, 20, str(node.real), 0, command=b"x" * 200)
    process(proc, 22, str(node.real), 0, command=b"")
    users = graph_sink.find_users([str(node.real)], ["ktransformers.service"], str(proc))
    assert [(user.pid, user.command) for user in users] == [(20, "x" * 79 + "…"), (21, "python serve.py"), (22, "python")]
    with pytest.raises(graph_sink.GraphSinkError, match=r"end them \(kill 20 21 22, or what started them\)"):
        node.run(proc_root=str(proc))
    assert node.run(proc_root=str(tmp_path / "nowhere"))["changed"]
