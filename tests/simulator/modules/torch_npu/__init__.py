"""torch_npu as simulated by npuops. The order of its imports is the real one's, so are its ImportErrors."""

import os

import torch

if not os.environ.get("ASCEND_HOME_PATH"):
    print("Warning : ASCEND_HOME_PATH environment variable is not set.")

try:
    import torch_npu.npu  # noqa: F401
except ImportError:
    # The real handler imports the same, fails alike, and its own hint never prints (facts: python-stack.md 4.2).
    from torch_npu.utils import error_code  # noqa: F401

from torch_npu import npu
from torch_npu.version import __version__  # noqa: F401

try:
    from torch_npu._private_operators import *  # noqa: F401,F403
except ImportError:
    pass  # the public wheel: it imports, and fails at the first prompt

torch.npu = npu
