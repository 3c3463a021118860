"""pyACL as simulated by npuops: loads CANN's libraries as the real module does, then answers from the device nodes."""

import ctypes
import glob
import os

__version__ = "simulated by npuops"

try:
    _library = ctypes.CDLL("libascendcl.so", mode=ctypes.RTLD_GLOBAL)
except OSError as error:
    raise ImportError(str(error)) from None


def init(config=None):
    return _library.aclInit(None)


def finalize():
    return _library.aclFinalize()


def get_soc_name():
    return "Ascend910B4"


class rt:  # noqa: N801 (the real module's name)
    @staticmethod
    def get_device_count():
        """(count, error code), from the device nodes; NPUOPS_SIMULATED_DEV is where a simulated node keeps them."""
        return len(glob.glob(os.environ.get("NPUOPS_SIMULATED_DEV", "/dev") + "/davinci[0-9]*")), 0

    @staticmethod
    def set_device(_device):
        return 0
