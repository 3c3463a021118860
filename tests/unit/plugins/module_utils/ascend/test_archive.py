# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io
import os
import zipfile

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import archive, install
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.package import PackageError
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Wish, make

from tests.unit.plugins.module_utils.ascend.node_tree import ARCH, DRIVER_PACKAGE, FIRMWARE_PACKAGE, HDK_ARCH

HDK = f"Ascend-hdk-910b-npu_25.0.rc1.1_linux-{HDK_ARCH}.zip"
TOOLKIT = f"Ascend-cann-toolkit_8.1.RC1_linux-{ARCH}.zip"


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def hdk(tree, nested=False, driver=b"driver", firmware=b"firmware", name=HDK):
    members = {DRIVER_PACKAGE: driver, FIRMWARE_PACKAGE: firmware}
    if nested:
        data = zipped(**{name: zipped(**members), f"{name}.cms": b"signature", f"{name}.crl": b"list"})
    else:
        data = zipped(**members, **{f"{DRIVER_PACKAGE}.cms": b"signature"})
    path = tree.root / f"media/{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_what_an_archive_holds(tree, nested):
    src = hdk(tree, nested)
    assert (archive.find_run(src, "driver"), archive.find_run(src, "firmware")) == (DRIVER_PACKAGE, FIRMWARE_PACKAGE)
    folder = tree.root / "unpacked"
    unpacked = archive.unpack(src, "driver", str(folder))
    assert (unpacked.run, open(unpacked.run, "rb").read()) == (f"{folder}/{DRIVER_PACKAGE}", b"driver")
    if nested:
        assert (unpacked.signed, unpacked.signatures) == (f"{folder}/{HDK}", [f"{folder}/{HDK}.cms", f"{folder}/{HDK}.crl"])
    else:
        assert (unpacked.signed, unpacked.signatures) == (unpacked.run, [f"{folder}/{DRIVER_PACKAGE}.cms"])
    archive.clean(unpacked)
    assert sorted(os.listdir(folder)) == [os.path.basename(path) for path in unpacked.signatures]


@pytest.mark.parametrize("member", ["../evil.run", "/etc/evil.run", "a/../../evil.run", "..\\evil.run"])
def test_members_that_point_out_are_refused(tree, member):
    path = tree.root / HDK
    path.write_bytes(zipped(**{member: b""}))
    with pytest.raises(PackageError) as refused:
        archive.unpack(str(path), "driver", str(tree.root / "unpacked"))
    assert str(refused.value) == f"{HDK} holds the member {member!r}, which points out of it; get the archive from the vendor again."
    assert not (tree.root / "evil.run").exists()


def test_links_are_refused(tree):
    path = tree.root / HDK
    with zipfile.ZipFile(path, "w") as file:
        link = zipfile.ZipInfo(DRIVER_PACKAGE)
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    with pytest.raises(PackageError, match="points out of it"):
        archive.unpack(str(path), "driver", str(tree.root / "unpacked"))


def test_an_archive_without_the_package(tree):
    path = tree.root / TOOLKIT
    path.write_bytes(zipped(**{"readme.txt": b""}))
    with pytest.raises(PackageError) as refused:
        archive.unpack(str(path), "toolkit", str(tree.root / "unpacked"))
    assert str(refused.value) == f"{TOOLKIT} holds 0 toolkit packages, expected one (it holds readme.txt); get the archive from the vendor again."


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-30], lambda data: data.replace(b"PK\x03\x04", b"PKPK", 1)], ids=["empty", "cut", "header"]
)
def test_damaged_archives(tree, damage):
    path = tree.root / TOOLKIT
    path.write_bytes(damage(zipped(**{f"Ascend-cann-toolkit_8.1.RC1_linux-{ARCH}.run": b"x" * 1000})))
    with pytest.raises(PackageError) as refused:
        archive.unpack(str(path), "toolkit", str(tree.root / "unpacked"))
    assert str(refused.value).startswith(TOOLKIT) and str(refused.value).endswith("; send it again.")


@pytest.mark.parametrize("state", ["there", "not yet there"])
def test_the_hdks_archive_is_judged_by_its_name(tree, state):
    src = hdk(tree) if state == "there" else f"/media/{HDK}"
    for kind in ("driver", "firmware"):
        plan = make(Wish(kind=kind, src=src), tree.roots)
        assert plan.reason == f"{kind} is not installed"
        assert plan.unpack_folder == f"{tree.roots.state}/unpacked/{HDK[:-4]}"
    tree.driver()
    tree.firmware()
    assert [make(Wish(kind=kind, src=src), tree.roots).reason for kind in ("driver", "firmware")] == [None, None]
    tree.driver("25.0.rc1")
    (tree.ascend / "firmware/version.info").write_text("Version=7.6.0.1.1\npackage_version=25.0.rc1\n")
    reason = make(Wish(kind="firmware", src=src), tree.roots).reason
    assert (
        reason
        == {
            "there": "firmware 7.6.0.1.1 is installed, 7.7.0.1.231 is wanted",
            "not yet there": "firmware 25.0.rc1 is installed, 25.0.rc1.1 is wanted",
        }[state]
    )
    assert make(Wish(kind="driver", src=src), tree.roots).action == "upgrade"


def installer(tree, brings):
    path = tree.package(DRIVER_PACKAGE, brings)
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    return data


def test_a_driver_from_an_archive(tree):
    brings = tree.payload()
    brings.driver()
    plan = make(Wish(kind="driver", src=hdk(tree, nested=True, driver=installer(tree, brings))), tree.roots)
    result = install.carry_out(plan, tree.roots, str(tree.root / "logs"), 60)
    folder = f"{tree.roots.state}/unpacked/{HDK[:-4]}"
    assert (result.failure, result.after.version) == (None, "25.0.rc1.1")
    assert result.signatures == [f"{folder}/{HDK}.cms", f"{folder}/{HDK}.crl"]
    assert sorted(os.listdir(folder)) == [f"{HDK}.cms", f"{HDK}.crl"]


def signed(tree, monkeypatch, openssl, nested=True, **options):
    brings = tree.payload()
    brings.driver()
    src = hdk(tree, nested=nested, driver=installer(tree, brings))
    monkeypatch.setenv("PATH", f"{os.path.dirname(tree.program('bin/openssl', openssl))}:{os.environ['PATH']}")
    plan = make(Wish(kind="driver", src=src, signature_ca="/ca.pem", **options), tree.roots)
    return install.carry_out(plan, tree.roots, str(tree.root / "logs"), 60)


@pytest.mark.parametrize("ignore_time", [False, True])
def test_a_signature(tree, monkeypatch, ignore_time):
    result = signed(tree, monkeypatch, f'echo "$*" > {tree.root}/openssl-called', signature_ignore_time=ignore_time)
    assert result.failure is None
    folder = f"{tree.roots.state}/unpacked/{HDK[:-4]}"
    assert (tree.root / "openssl-called").read_text().split() == [
        "cms",
        "-verify",
        "-binary",
        "-inform",
        "DER",
        "-in",
        f"{folder}/{HDK}.cms",
        "-content",
        f"{folder}/{HDK}",
        "-CAfile",
        "/ca.pem",
        "-purpose",
        "any",
        *(["-no_check_time"] if ignore_time else []),
        "-out",
        "/dev/null",
    ]


def test_a_signature_that_does_not_verify_stops_everything(tree, monkeypatch):
    with pytest.raises(PackageError) as refused:
        signed(tree, monkeypatch, "echo CMS Verification failure >&2; exit 4")
    assert str(refused.value) == (
        f"the signature {tree.roots.state}/unpacked/{HDK[:-4]}/{HDK}.cms does not verify against /ca.pem (CMS Verification failure); "
        "get the archive from the vendor again, or correct signature_ca."
    )
    assert tree.calls == []


def test_a_signature_that_is_missing_stops_everything(tree, monkeypatch):
    path = tree.root / f"media/{TOOLKIT}"
    path.parent.mkdir()
    run = f"Ascend-cann-toolkit_8.1.RC1_linux-{ARCH}.run"
    path.write_bytes(zipped(**{run: b""}))
    plan = make(Wish(kind="toolkit", src=str(path), signature_ca="/ca.pem"), tree.roots)
    with pytest.raises(PackageError) as refused:
        install.carry_out(plan, tree.roots, str(tree.root / "logs"), 60)
    assert str(refused.value) == f"{run} came without its .cms signature; get the vendor's .zip, or leave signature_ca out."
