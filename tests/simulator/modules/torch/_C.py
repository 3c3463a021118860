"""Simulated by npuops: torch 2.3.1's wheels are built with the old C++ ABI."""

_GLIBCXX_USE_CXX11_ABI = False
