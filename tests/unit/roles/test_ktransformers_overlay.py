"""The Arm replacements of the guide as an overlay that comes off again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.npuops.ktransformers.plugins.module_utils import overlay
from ansible_collections.npuops.ktransformers.plugins.module_utils.overlay import OverlayError
from ansible_collections.npuops.ktransformers.plugins.modules import ktransformers_overlay

SPEC = yaml.safe_load((Path(__file__).resolve().parents[3] / "roles/ktransformers/meta/argument_specs.yml").read_text())
GUIDE = {name: SPEC["argument_specs"]["main"]["options"][f"ktransformers_{name}"]["default"] for name in ("replacements", "edits")}
REPLACED = ["csrc/ktransformers_ext/CMakeLists.txt", "setup.py", "third_party/llamafile/iqk_mul_mat.inc", "third_party/llamafile/sgemm.cpp",
            "third_party/llamafile/tinyblas_cpu_sgemm.inc"]


@pytest.fixture
def tree(tmp_path):
    """The files of the private v0.2.4 tree that the guide touches."""
    for path in REPLACED:
        for name, text in ((path, f"x86 {path}\n"), (f"for_arm/{Path(path).name}", f"arm {path}\n")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    (tmp_path / "setup.py").chmod(0o755)
    (tmp_path / "requirements-local_chat.txt").write_text("fire\ncpufeature\nprotobuf\n")
    return tmp_path


def plan(tree, machine="aarch64", **changes):
    return overlay.plan(str(tree), changes.get("replacements", GUIDE["replacements"]), changes.get("edits", GUIDE["edits"]), machine)


def lay(tree, machine="aarch64", **changes):
    wanted = plan(tree, machine, **changes)
    pending = [change.path for change in wanted if change.pending]
    overlay.apply(str(tree), wanted)
    return pending


def take_off(tree):
    return lay(tree, replacements=[], edits=[])


def contents(tree):
    return {str(path.relative_to(tree)): (path.read_bytes(), path.stat().st_mode) for path in sorted(tree.rglob("*")) if path.is_file()}


def test_the_guides_changes_are_laid_and_come_off_again(tree):
    before = contents(tree)
    assert sorted(lay(tree)) == sorted([*REPLACED, "requirements-local_chat.txt"])
    assert all((tree / path).read_text() == f"arm {path}\n" for path in REPLACED)
    assert (tree / "requirements-local_chat.txt").read_text() == "fire\n#cpufeature\nprotobuf\n"
    assert (tree / "setup.py").stat().st_mode & 0o777 == 0o755
    assert lay(tree) == []
    assert len(take_off(tree)) == 6
    assert contents(tree) == before


def test_another_machine_needs_none_of_it(tree):
    assert plan(tree, "x86_64") == []
    lay(tree)
    assert len(lay(tree, "x86_64")) == 6, "what was laid for another machine comes off"


def test_a_public_tree_is_left_as_it_is(tmp_path):
    (tmp_path / "requirements-local_chat.txt").write_text("fire\ncpufeature; sys_platform == 'win32' or sys_platform == 'Windows'\n")
    assert plan(tmp_path) == []


def test_a_file_may_be_replaced_and_edited(tree):
    edits = [{"path": "setup.py", "pattern": "^arm", "replacement": "edited arm"}]
    lay(tree, edits=edits)
    assert (tree / "setup.py").read_text() == "edited arm setup.py\n"
    assert lay(tree, edits=edits) == []
    assert lay(tree, edits=[]) == ["setup.py"]
    assert (tree / "setup.py").read_text() == "arm setup.py\n"


def test_a_file_that_was_not_there_goes_again(tree):
    (tree / "setup.py").unlink()
    lay(tree)
    assert (tree / "setup.py").read_text() == "arm setup.py\n"
    take_off(tree)
    assert not (tree / "setup.py").exists()


def test_what_somebody_else_changed_is_refused(tree):
    lay(tree)
    (tree / "setup.py").write_text("by hand\n")
    with pytest.raises(OverlayError, match="setup.py was changed after the overlay was laid over it"):
        plan(tree)
    (tree / overlay.FOLDER / "setup.py").unlink()
    with pytest.raises(OverlayError, match="the original of .*setup.py that was kept is gone; lay the source tree again"):
        plan(tree)


def test_an_original_that_somebody_put_back_is_replaced_again(tree):
    lay(tree)
    (tree / "setup.py").write_text("x86 setup.py\n")
    assert lay(tree) == ["setup.py"]


def test_an_interrupted_run_is_finished(tree, monkeypatch):
    written = []

    def stop_at_the_third(path, data, like, write=overlay._write):
        if path.endswith("sgemm.cpp") and overlay.FOLDER not in path:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data, like)

    before = contents(tree)
    monkeypatch.setattr(overlay, "_write", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        lay(tree)
    monkeypatch.undo()
    assert written
    assert "third_party/llamafile/sgemm.cpp" in lay(tree)
    take_off(tree)
    assert contents(tree) == before


def test_the_digest_follows_the_result(tree):
    first = overlay.digest(plan(tree))
    lay(tree)
    assert overlay.digest(plan(tree)) == first
    assert overlay.digest(plan(tree, edits=[])) != first
    assert overlay.digest(plan(tree, "x86_64")) == overlay.digest([])


@pytest.mark.parametrize("changes, message", [
    pytest.param({"replacements": [{"src": "../x", "dest": "setup.py"}]}, r"the overlay names \.\./x, which is outside the tree", id="source-outside"),
    pytest.param({"edits": [{"path": "/etc/passwd", "pattern": "a", "replacement": "b"}]}, "names /etc/passwd, which is outside the tree", id="absolute"),
    pytest.param({"edits": [{"path": "setup.py", "pattern": "(", "replacement": "b"}]}, r"'\(' with 'b' is no edit of a line", id="bad-expression"),
    pytest.param({"edits": [{"path": "setup.py", "pattern": "x86", "replacement": r"\2"}]}, "is no edit of a line", id="bad-group"),
])
def test_an_overlay_that_cannot_be(tree, changes, message):
    with pytest.raises(OverlayError, match=message):
        plan(tree, **changes)


def test_check_mode_shows_each_file_and_writes_none(tree):
    before = contents(tree)
    module = type("Module", (), {"check_mode": True, "params": {
        "path": str(tree), "replacements": [], "edits": [{"path": "setup.py", "pattern": "x86", "replacement": "arm"}], "state": "present"}})
    result = ktransformers_overlay.run(module)
    assert result["changed"]
    assert [(one["before"], one["after"]) for one in result["diff"]] == [("x86 setup.py\n", "arm setup.py\n")]
    assert contents(tree) == before
    module.params["path"] = str(tree / "nowhere")
    assert ktransformers_overlay.run(module)["changed"] is False
    module.check_mode = False
    with pytest.raises(OverlayError, match="is no source tree; lay it first"):
        ktransformers_overlay.run(module)
