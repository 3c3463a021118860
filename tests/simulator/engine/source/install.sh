#!/usr/bin/env bash
# Simulated install.sh of the private v0.2.4 tree.
# ASSUMPTION: it installs what local_chat needs and builds; the server's requirements and custom_flashinfer (CUDA) are left out.
set -e

echo "simulated KTransformers: install.sh of v0.2.4 with NPU support"
if [[ "$#" -gt 0 ]]; then
    echo "Unknown parameter passed: $1"
    exit 1
fi
if [[ -z "${ASCEND_TOOLKIT_HOME:-}" ]]; then
    echo "install.sh: ASCEND_TOOLKIT_HOME is not set, source set_env.sh of the CANN toolkit first" >&2
    exit 1
fi

# clear build dirs
rm -rf build
rm -rf *.egg-info
rm -rf csrc/build
rm -rf csrc/ktransformers_ext/build
rm -rf ~/.ktransformers
echo "Installing python dependencies from requirements.txt"
pip install -r requirements-local_chat.txt
echo "Installing ktransformers"
KTRANSFORMERS_FORCE_BUILD=TRUE pip install -v . --no-build-isolation

echo "Installation completed successfully"
