#!/bin/bash
# Runs the uninstaller of every inner package of the SIMULATED CANN, after the vendor's script of this name.
here=$(cd "$(dirname "$0")" && pwd)
total=0
uninstall_package() {
    if [ ! -d "$here/$1" ]; then
        echo "[$(date +'%Y-%m-%d %H:%M:%S')] [ERROR]: $here/$1: No such file or directory"
        total=1
        return 1
    fi
    bash "$here/$1/uninstall.sh" || total=1
}
if [ -n "$*" ]; then
    echo "[$(date +'%Y-%m-%d %H:%M:%S')] [ERROR]: $*, parameter is not supported."
    exit 1
fi
uninstall_package "runtime/script"
uninstall_package "compiler/script"
uninstall_package "hccl/script"
uninstall_package "opp/test-ops/script"
uninstall_package "opp/script"
uninstall_package "toolkit/script"
uninstall_package "tools/aoe/script"
uninstall_package "tools/ncs/script"
uninstall_package "mindstudio-toolkit/script"
uninstall_package "pyACL/script"
uninstall_package "combo_script"
exit $total
