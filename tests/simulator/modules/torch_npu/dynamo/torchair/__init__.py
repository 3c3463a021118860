"""torchair (graph mode) as simulated by npuops: its real one imports pkg_resources, which setuptools 82 no longer has."""

try:
    import google.protobuf  # noqa: F401
    import pkg_resources  # noqa: F401
except ImportError as error:
    raise ImportError("_TorchairImportError: %s\n[ERROR] ERR00005 PTA internal error" % error)
