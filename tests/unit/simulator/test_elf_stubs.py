"""The stub libraries are real enough: the loader loads and calls them, and says itself what is missing."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys

import pytest

from tests.unit.simulator.simulated import ARCH

# isort: split
from cann import LIBRARIES, TORCH_NPU_SYMBOLS, exports_of
from elf import MACHINES, shared_object


def test_a_stub_can_be_loaded_and_called(tmp_path):
    (tmp_path / "libstub.so").write_bytes(shared_object(ARCH, "libstub.so", ["rtInit", "rtSetDevice", "a", "b", "c"]))
    library = ctypes.CDLL(str(tmp_path / "libstub.so"))
    assert [library.rtInit(), library.rtSetDevice(3), library.c()] == [0, 0, 0]
    with pytest.raises(AttributeError):
        library.rtMissing  # noqa: B018


def test_the_loader_names_what_a_stub_needs(tmp_path):
    (tmp_path / "libhccl.so").write_bytes(shared_object(ARCH, "libhccl.so", ["HcclInit"], ("libascend_hal.so",)))
    load = [sys.executable, "-c", "import ctypes; ctypes.CDLL('libhccl.so')"]
    missing = subprocess.run(load, env={"LD_LIBRARY_PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert "libascend_hal.so: cannot open shared object file: No such file or directory" in missing.stderr
    (tmp_path / "libascend_hal.so").write_bytes(shared_object(ARCH, "libascend_hal.so"))
    assert subprocess.run(load, env={"LD_LIBRARY_PATH": str(tmp_path)}, check=False).returncode == 0


@pytest.mark.parametrize("arch", sorted(MACHINES))
def test_header_and_symbols_can_be_read_by_their_sections(arch):
    image = shared_object(arch, "libruntime.so", ["rtMalloc", "rtFree"], ("libascend_hal.so",), b"a mark")
    assert image[:6] == b"\x7fELF\x02\x01"
    kind, machine = struct.unpack_from("<HH", image, 16)
    assert (kind, machine) == (3, MACHINES[arch])
    sections_at, count = struct.unpack_from("<Q", image, 40)[0], struct.unpack_from("<H", image, 60)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, sections_at + index * 64) for index in range(count)]
    symbols = next(section for section in sections if section[1] == 11)
    names_at = sections[symbols[6]][4]
    names = []
    for at in range(symbols[4] + 24, symbols[4] + symbols[5], 24):
        offset = names_at + struct.unpack_from("<I", image, at)[0]
        names.append(image[offset : image.index(b"\0", offset)].decode())
    assert names == ["rtFree", "rtMalloc"]
    assert b"a mark" in image and b"npuops simulator" in image


def test_the_published_torch_npu_finds_every_name_in_one_library():
    exports = [name for library in (*LIBRARIES, "libatb.so") for name in exports_of(library)]
    assert len(TORCH_NPU_SYMBOLS) == 175
    assert [name for name in TORCH_NPU_SYMBOLS if exports.count(name) == 0] == []
    assert "aclAppLog" in exports_of("libascendcl.so") and "HcclAllGather" in exports_of("libhccl.so")
    assert "_ZN3atb13CreateContextEPPNS_7ContextE" in exports_of("libatb.so")
