#!/bin/bash
# script/uninstall.sh of the SIMULATED driver: takes --quiet and --force only.
@WORLD@
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
. "$here/sim_common.sh"
TAG=Driver
. "$here/hdk_common.sh"
force=n type="" operation=Uninstall command_line=${*:-none} lock=""
start_time=$(stamp)
start_log
base_version
run_name=Ascend-driver-$(sed -n 's/^Version=//p' "$here/../version.info" 2>/dev/null)
for argument in "$@"; do
    case "$argument" in
        --quiet) ;;
        --force) force=y ;;
        *) refuse "ERR_NO:0x0004;ERR_DES: Unrecognized parameters: $argument. Only support '--quiet' and '--force'." ;;
    esac
done
uninstall_driver
