#!/bin/sh
# NAME:  @NAME@ (SIMULATED by npuops: nothing of Anaconda is inside)
# A Miniconda-style installer: -b batch, -p PREFIX, -u update, -f no error if PREFIX exists, -s skip scripts, -h help.
set -eu
THIS=$0
PREFIX="@HOME_DIR@/miniconda3"
BATCH=0 FORCE=0 UPDATE=0
node_root="@ROOT@"
HEADER_LINES=@HEADER_LINES@
SHA256=@SHA256@

usage="
usage: $0 [options]

Installs Miniconda3 @VERSION@ (simulated by npuops)

-b           run install in batch mode (without manual intervention),
             it is expected the license terms (if any) are agreed upon
-f           no error if install prefix already exists
-h           print this help message and exit
-p PREFIX    install prefix, defaults to $PREFIX, must not contain spaces.
-s           skip running pre/post-link/install scripts
-u           update an existing installation
-t           run package tests after installation (may install conda-build)
"

while getopts "bfhkmp:sut" option; do
    case "$option" in
        h) printf "%s\\n" "$usage"; exit 2 ;;
        b) BATCH=1 ;;
        f) FORCE=1 ;;
        p) PREFIX=$OPTARG ;;
        u) FORCE=1; UPDATE=1 ;;
        k|m|s|t) ;;
        *) printf "ERROR: did not recognize option '%s', please try -h\\n" "$option"; exit 1 ;;
    esac
done

echo "[npuops simulator] $(basename "$THIS") is simulated: nothing of Anaconda is inside."
if [ "$(uname -m)" != "@ARCH@" ]; then
    printf "WARNING:\\n    Your operating system appears not to be @ARCH@, but you are trying to install a @ARCH@ version of Miniconda3.\\n"
    [ "$BATCH" = 1 ] && exit 1
fi
if [ "$BATCH" = 0 ]; then
    printf "\\nWelcome to Miniconda3 @VERSION@\\n\\nIn order to continue the installation process, please review the license agreement.\\n"
    printf "Do you accept the license terms? [yes|no]\\n>>> "
    answer=""
    # ASSUMPTION: the end of input is a no; the real installer asks for ever.
    read -r answer || answer=no
    case "$answer" in
        [Yy][Ee][Ss]) ;;
        *) printf "The license agreement wasn't approved, aborting installation.\\n"; exit 2 ;;
    esac
fi
case "$PREFIX" in
    *\ *) printf "ERROR: Cannot install into directories with spaces\\n" >&2; exit 1 ;;
    /*) ;;
    *) PREFIX=$(pwd)/$PREFIX ;;
esac
if [ -n "$node_root" ]; then
    case "$PREFIX/" in
        "$node_root"/*) ;;
        *) echo "[npuops simulator] refused: $PREFIX lies outside the simulated node $node_root" >&2; exit 1 ;;
    esac
fi
if [ "$FORCE" = 0 ] && [ -e "$PREFIX" ]; then
    printf "ERROR: File or directory already exists: '%s'\\n" "$PREFIX" >&2
    printf "If you want to update an existing installation, use the -u option.\\n" >&2
    exit 1
fi
seen=$(tail -n "+$((HEADER_LINES + 1))" "$THIS" | sha256sum | cut -d' ' -f1)
if [ "$seen" != "$SHA256" ]; then
    printf "WARNING: md5sum mismatch of tar archive\\nexpected: %s\\n     got: %s\\n" "$SHA256" "$seen" >&2
    # The real installer warns of a damaged archive, then fails while it unpacks.
fi
if ! mkdir -p "$PREFIX"; then
    printf "ERROR: Could not create directory: '%s'\\n" "$PREFIX" >&2
    exit 1
fi
PREFIX=$(cd "$PREFIX" && pwd)
printf "PREFIX=%s\\n" "$PREFIX"
printf "Unpacking payload ...\\n"
if ! tail -n "+$((HEADER_LINES + 1))" "$THIS" | tar -xzf - -C "$PREFIX" --no-same-owner 2>/dev/null; then
    printf "ERROR: could not extract the payload\\n" >&2
    exit 1
fi
python="@PYTHON@"
if [ ! -x "$python" ]; then python=$(command -v python3.11 || command -v python3); fi
printf "\\nInstalling base environment...\\n\\nPreparing transaction: ...working... done\\nExecuting transaction: ...working... done\\n"
sed -i "1s|.*|#!$python|" "$PREFIX/bin/conda"
if [ -f "$PREFIX/simulator/py_rattler.whl" ]; then
    "$python" -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])' "$PREFIX/simulator/py_rattler.whl" "$PREFIX/simulator/py-rattler"
    rm "$PREFIX/simulator/py_rattler.whl"
fi
ln -sf "$python" "$PREFIX/bin/python3"
ln -sf python3 "$PREFIX/bin/python"
: >> "$PREFIX/conda-meta/history"
if [ "$UPDATE" = 1 ]; then echo "updated an existing installation"; fi
printf "installation finished.\\n"
exit 0
