#!/bin/bash
# aarch64-linux/script/uninstall.sh of the SIMULATED toolkit. As the vendor's, it pipes its work through tee without pipefail:
# it says success and returns 0 whatever happened.
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
log_dir=@LOG_DIR@
log_file=$log_dir/ascend_toolkit_install.log
mkdir -p "$log_dir"
say() { echo "[Toolkit] [$(date +'%Y-%m-%d %H:%M:%S')] [$1]: $2" | tee -a "$log_file"; }
say INFO "LogFile:$log_file"
say INFO "[npuops simulator] simulated: nothing of the vendor runs here"
form_path=$(dirname "$(dirname "$here")")
if [ ! -f "$form_path/cann_uninstall.sh" ]; then
    say ERROR "cann_uninstall.sh file not found"
    exit 1
fi
"$form_path/cann_uninstall.sh" | tee -a "$log_file"
if [ $? -eq 0 ]; then
    say INFO "toolkit uninstall success"
    exit 0
fi
say ERROR "toolkit uninstall failed, Please refer to the log for more details: $log_file"
exit 1
