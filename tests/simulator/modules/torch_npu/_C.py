"""Stands for torch_npu's compiled module: asks the loader for CANN's libraries, in the order the real one's NEEDED entries do.

libhccl.so missing: set_env.sh was not sourced. libascend_hal.so, which comes behind it: the driver's folder is not searched.
"""

import ctypes as _ctypes


def _load(library):
    try:
        return _ctypes.CDLL(library, mode=_ctypes.RTLD_GLOBAL)
    except OSError as error:
        problem = str(error)
    raise ImportError(problem)


for _library in ("libhccl.so", "libascendcl.so", "libacl_op_compiler.so", "libge_runner.so", "libgraph.so", "libacl_tdt_channel.so"):
    _loaded = _load(_library)
    if _library == "libascendcl.so" and not hasattr(_loaded, "aclAppLog"):
        raise ImportError(__file__.rpartition("/")[0] + "/lib/libnpu_profiler.so: undefined symbol: aclAppLog")


def _npu_getDeviceCount():
    from torch_npu.npu._devices import count

    return count()
