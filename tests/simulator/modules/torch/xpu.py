"""Simulated by npuops: a CPU build has none of these devices."""


def is_available():
    return False


def device_count():
    return 0
