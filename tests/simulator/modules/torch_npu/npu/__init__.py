"""torch_npu.npu as simulated by npuops: devices are the device nodes."""

import torch_npu.utils  # noqa: F401
from torch_npu.npu._devices import count, reason

_current = 0


def device_count():
    return count()


def is_available():
    return device_count() > 0


def set_device(device):
    global _current
    index = int(str(device).rpartition(":")[2])
    if index >= device_count():
        raise RuntimeError("Invalid device ID: %d (simulated by npuops: %s)" % (index, reason()))
    _current = index


def current_device():
    return _current


def get_device_name(device=None):
    return "Ascend910B4"


def synchronize(device=None):
    return None


def mem_get_info(device=None):
    """(free, total) bytes of a 910B4."""
    return 29 << 30, 32 << 30


class NPUGraph:
    """Simulated: captures and replays nothing."""

    def replay(self):
        return None
