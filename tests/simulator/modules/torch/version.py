__version__ = "2.3.1"
debug = False
cuda = None
git_version = "simulated by npuops"
hip = None
