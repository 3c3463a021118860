"""torch as simulated by npuops: what a deployment asks of it, and arithmetic on small lists in pure Python."""

import os as _os
import random as _random

from torch import _C, cuda, version, xpu  # noqa: F401
from torch.version import __version__  # noqa: F401

__simulated__ = "by npuops"


def compiled_with_cxx11_abi():
    return _C._GLIBCXX_USE_CXX11_ABI


def get_num_threads():
    return int(_os.environ.get("OMP_NUM_THREADS", "1"))


def manual_seed(seed):
    _random.seed(seed)


class Tensor:
    """A matrix as a list of rows. On a device it is the same list: nothing is computed elsewhere."""

    def __init__(self, rows, device="cpu"):
        self.rows = [list(row) if isinstance(row, (list, tuple)) else [row] for row in rows]
        self.device = device

    @property
    def shape(self):
        return (len(self.rows), len(self.rows[0]) if self.rows else 0)

    def to(self, device):
        return Tensor(self.rows, str(device))

    def npu(self, index=0):
        from torch import npu  # set by torch_npu

        npu.set_device(index)
        return self.to("npu:%d" % index)

    def cpu(self):
        return self.to("cpu")

    def _each(self, other, operation):
        other = other.rows if isinstance(other, Tensor) else [[other] * len(row) for row in self.rows]
        return Tensor([[operation(a, b) for a, b in zip(x, y)] for x, y in zip(self.rows, other)], self.device)

    def __add__(self, other):
        return self._each(other, lambda a, b: a + b)

    def __sub__(self, other):
        return self._each(other, lambda a, b: a - b)

    def __mul__(self, other):
        return self._each(other, lambda a, b: a * b)

    def __matmul__(self, other):
        return Tensor([[sum(a * b for a, b in zip(row, column)) for column in zip(*other.rows)] for row in self.rows], self.device)

    def sum(self):
        return Tensor([[sum(map(sum, self.rows))]], self.device)

    def item(self):
        return self.rows[0][0]

    def tolist(self):
        return [list(row) for row in self.rows]

    def __repr__(self):
        return "tensor(%r%s)" % (self.rows, "" if self.device == "cpu" else ", device='%s'" % self.device)


def tensor(data, device="cpu", dtype=None):
    return Tensor(data, device)


def _filled(shape, make, device):
    rows, columns = (shape + (1,))[:2] if not isinstance(shape[0], (list, tuple)) else (tuple(shape[0]) + (1,))[:2]
    return Tensor([[make() for _ in range(columns)] for _ in range(rows)], device)


def ones(*shape, device="cpu", dtype=None):
    return _filled(shape, lambda: 1.0, device)


def zeros(*shape, device="cpu", dtype=None):
    return _filled(shape, lambda: 0.0, device)


def randn(*shape, device="cpu", dtype=None):
    return _filled(shape, lambda: _random.gauss(0.0, 1.0), device)


def matmul(left, right):
    return left @ right


float16, float32, bfloat16, int8, int32, int64 = "torch.float16", "torch.float32", "torch.bfloat16", "torch.int8", "torch.int32", "torch.int64"
