"""Simulated by npuops."""


def is_available():
    return True
