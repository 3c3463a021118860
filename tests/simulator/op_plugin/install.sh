#!/bin/bash
# install.sh of the adapted op-plugin, as SIMULATED by npuops (facts: ascend-vendor.md 7). The real one is not public; its options
# are those of the public ci/build.sh: --python= and --pytorch=, in this form only.
set -e
CUR_DIR=$(cd "$(dirname "$0")" && pwd)
PY_VERSION=3.8
PYTORCH=master

if [ $# -gt 2 ]; then
    echo "ERROR Unsupported parameters: at most --python and --pytorch"
    exit 1
fi
for argument in "$@"; do
    case "$argument" in
        --python=?*) PY_VERSION=${argument#--python=} ;;
        --pytorch=?*) PYTORCH=${argument#--pytorch=} ;;
        *) echo "ERROR Unsupported parameters: $argument"; exit 1 ;;
    esac
done
cd "$CUR_DIR"
echo "[npuops simulator] op-plugin is simulated: nothing is compiled"
# ASSUMPTION: the private script wants CANN's environment, as the guide sources it before; the public one compiles without.
if [ -z "$ASCEND_TOOLKIT_HOME" ]; then
    echo "ERROR ASCEND_TOOLKIT_HOME is not set, please source set_env.sh of the CANN toolkit first"
    exit 1
fi
if [ ! -d build/pytorch ]; then
    echo "Cloning into '$CUR_DIR/build/pytorch'..."
    echo "fatal: unable to access the repository ascend/pytorch: Could not resolve host (npuops simulator)" >&2
    exit 128
fi
if [ "$(cat build/pytorch/BRANCH)" != "$PYTORCH" ]; then
    echo "error: pathspec '$PYTORCH' did not match any file(s) known to git" >&2
    exit 1
fi
"python$PY_VERSION" "$CUR_DIR/build/pytorch/setup.py" "$CUR_DIR"
ls dist/*.whl
