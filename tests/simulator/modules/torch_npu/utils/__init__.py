"""Simulated by npuops."""

from torch_npu import _C  # noqa: F401
