#!/bin/bash
# scripts/uninstall.sh of the SIMULATED NNAL.
version=@VERSION@ log_dir=@LOG_DIR@
log_file=$log_dir/cann_atb_install.log
say() { mkdir -p "$log_dir"; [ -f "$log_file" ] && chmod 640 "$log_file"; echo "[atb] [$(date +%Y%m%d-%H:%M:%S)] [$1] $2" | tee -a "$log_file"; }
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
target=$(dirname "$here")
atb=$(dirname "$target")
say INFO "Ascend-cann-atb uninstall $version start! (npuops simulator)"
[ "$(readlink -f "$atb/latest")" = "$target" ] && rm -f "$atb/latest"
rm -f "$atb/set_env.sh"
chmod -R u+w "$target" && rm -rf "$target"
rmdir "$atb" "$(dirname "$atb")" 2>/dev/null
say INFO "Ascend-cann-atb uninstall $version success!"
