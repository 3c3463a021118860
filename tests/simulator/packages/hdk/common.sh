# Shared by the simulated driver's and firmware's installers and uninstallers (facts: ascend-vendor.md 2.2 to 2.4, 4.1 to 4.3).
# After the behaviour of the vendor's open driver source, verylucky01/driver on GitHub. Needs TAG (Driver or Firmware).

info=$SIM_ROOT/etc/ascend_install.info
seclog=$SIM_ROOT/var/log/ascend_seclog
log_file=$seclog/ascend_install.log
default_path=$SIM_ROOT/usr/local/Ascend
red='\033[31m' green='\033[32m' yellow='\033[33m' plain='\033[0m'

stamp() { printf '%(%Y-%m-%d %H:%M:%S)T' -1; }
show() { echo -e "[$TAG] [$(stamp)] $1"; }
log() { echo "[$TAG] [$(stamp)] [uid=0(root)] $1" >> "$log_file"; }
both() { show "$1"; log "$(echo -e "$1" | sed 's/\x1b\[[0-9;]*m//g')"; }
leave() { both "[INFO]End time: $(stamp)"; rm -f "$lock"; exit "$1"; }
refuse() { both "[ERROR]$1"; leave 1; }
usage_error() { show "[ERROR]ERR_NO:0x0004;ERR_DES: Unrecognized parameters${1:+: $1}. Try './xxx.run --help' for more information."; leave 1; }

get() { sed -n "s/^$1=//p" "$info" 2>/dev/null | tail -1; }
put() {
    touch "$info"
    if grep -q "^$1=" "$info"; then sed -i "s|^$1=.*|$1=$2|" "$info"; else echo "$1=$2" >> "$info"; fi
    chmod 644 "$info"
}

start_log() {
    if [ "$SIM_PRIVILEGED" != y ]; then
        echo "[$TAG] [$(stamp)] [ERROR]ERR_NO:0x0093;ERR_DES:do not have root permission, operation failed, please use root permission!"
        echo "$SIM_LINE"
        exit 1
    fi
    umask 0022
    mkdir -p "$seclog" "$SIM_STATE" && chmod 750 "$seclog"
    touch "$log_file" && chmod 640 "$log_file"
    both "[INFO]Start time: $(stamp)"
    show "[INFO]LogFile: $log_file"
    show "[INFO]OperationLogFile: $seclog/operation.log"
    both "[INFO]$SIM_LINE"
}

# $1 Install|Upgrade|Uninstall  $2 success|failed  $3 install type
operation_log() {
    local level=SUGGESTION type="install_type=$3; "
    case "$1" in Upgrade) level=MINOR type="" ;; Uninstall) level=MAJOR type="" ;; esac
    echo "$1 $level root $start_time 127.0.0.1 $run_name $2 ${type}cmdlist=$command_line." >> "$seclog/operation.log"
    chmod 640 "$seclog/operation.log"
}

owe_reboot() { mkdir -p "$SIM_STATE"; sim_boot_id > "$SIM_STATE/reboot-owed.$1"; }

module_loaded() { grep -q '^drv_pcie_host ' "$SIM_PROC/modules" 2>/dev/null || { [ -z "$SIM_ROOT" ] && [ -e "$SIM_STATE/module-loaded" ]; }; }

# Who has a device node open: real processes, and those that a test lays into npu-processes ("NPU PID MEMORY NAME" a line).
npu_users() {
    local link
    if [ -r "$SIM_STATE/npu-processes" ]; then awk 'NF {print $4}' "$SIM_STATE/npu-processes"; fi
    find /proc/[0-9]*/fd -maxdepth 1 -lname "$SIM_DEV/davinci*" 2>/dev/null | while read -r link; do
        cat "${link%/fd/*}/comm" 2>/dev/null
    done
}

refuse_busy() {
    local user users
    users=$(npu_users | sort -u)
    [ -n "$users" ] || return 0
    for user in $users; do log "[ERROR]$SIM_DEV/davinci_manager has used by $user"; done
    both "[ERROR]${red}The davinci nodes are occupied by some processes, please stop processes and install or uninstall again, details in : $log_file $plain"
    show "[INFO]If you want to install or uninstall the driver forcibly, add the force parameter. For details, see [--help]."
    operation_log "$operation" failed "$type"
    leave 1
}

base_version() {
    local path version
    path=$(get Driver_Install_Path_Param)
    version=$(sed -n 's/^Version=//p' "$path/driver/version.info" 2>/dev/null)
    if [ -n "$version" ]; then both "[INFO]base version is $version."; else log "[INFO]base version was destroyed or not exist."; fi
}

make_nodes() {
    local node mode=660
    [ "$(get Driver_Install_For_All)" = yes ] && mode=666
    mkdir -p "$SIM_DEV"
    # ASSUMPTION: plain files stand for the character devices. They vanish with a container's /dev and come back with simulated-reboot.
    for node in davinci0 davinci1 davinci2 davinci3 davinci4 davinci5 davinci6 davinci7 davinci_manager devmm_svm hisi_hdc; do
        : > "$SIM_DEV/$node"
        chown "$(get UserName):$(get UserGroup)" "$SIM_DEV/$node" 2>/dev/null
        chmod $mode "$SIM_DEV/$node"
    done
}

load_modules() {
    if [ -w "$SIM_PROC/modules" ] && [ -f "$SIM_PROC/modules" ] && [ "$SIM_PROC" != /proc ]; then
        sed -i '/^drv_/d' "$SIM_PROC/modules"
        for module in drv_pcie_host drv_devmng_host drv_devmm_host drv_davinci_intf_host; do
            echo "$module 1048576 1 - Live 0x0000000000000000 (OE)" >> "$SIM_PROC/modules"
        done
    fi
    touch "$SIM_STATE/module-loaded"
    make_nodes
}

unload_modules() {
    if [ "$SIM_PROC" != /proc ] && [ -f "$SIM_PROC/modules" ]; then sed -i '/^drv_/d' "$SIM_PROC/modules"; fi
    rm -f "$SIM_STATE/module-loaded" "$SIM_DEV"/davinci[0-9] "$SIM_DEV/davinci_manager" "$SIM_DEV/devmm_svm" "$SIM_DEV/hisi_hdc"
}

# The vendor's files are immutable: plain rm fails even for root. Below a simulated root nobody could clean up after that.
freeze() { if [ -z "$SIM_ROOT" ]; then chattr -R +i "$1/driver/version.info" "$1"/driver/script/*.sh 2>/dev/null; fi; true; }
thaw() { if [ -z "$SIM_ROOT" ]; then chattr -R -i "$1/driver" 2>/dev/null; fi; chmod -R u+w "$1/driver" 2>/dev/null; true; }

remove_driver_files() {
    local path=$1
    thaw "$path"
    rm -rf "$path/driver"
    rm -f "$SIM_ROOT/etc/ld.so.conf.d/ascend_driver_so.conf" "$SIM_ROOT/usr/local/bin/npu-smi" "$SIM_ROOT/usr/local/sbin/npu-smi" "$SIM_ROOT/lib/davinci.conf" \
        "$SIM_ROOT/usr/bin/hccn_tool" "$SIM_ROOT/usr/bin/msnpureport" "$SIM_ROOT/etc/init.d/host_sys_init.sh" "$SIM_ROOT/lib/modules/$(sim_kernel)/updates/drv_pcie_host.ko"
    rm -rf "$SIM_ROOT/usr/local/dcmi"
}

uninstall_driver() {
    local path
    path=$(get Driver_Install_Path_Param)
    if [ -z "$path" ]; then
        operation_log Uninstall failed
        refuse "ERR_NO:0x0080;ERR_DES:Driver package is not installed on this device, uninstall failed"
    fi
    if [ "$force" = n ]; then refuse_busy; fi
    thaw "$path"
    rm -f "$path/driver/version.info"
    log "[INFO]rm -rf version.info success"
    if sim_fault driver.uninstall-fail; then
        operation_log Uninstall failed
        refuse "ERR_NO:0x0090;ERR_DES:uninstall driver failed, details in : $log_file"
    fi
    remove_driver_files "$path"
    rmdir "$path" 2>/dev/null
    sed -i '/^Driver_Install_\(Path_Param\|Type\|Mode\|For_All\)=/d' "$info"
    grep -qi Install_Path_Param "$info" || rm -f "$info"
    operation_log Uninstall success
    if [ "$force" = y ] || sim_fault driver.hot-reset-fails; then
        owe_reboot driver
        show "[INFO]${green}Driver package uninstalled successfully! $plain${red}Reboot needed for uninstallation to take effect! $plain"
    else
        unload_modules
        rm -f "$SIM_STATE/reboot-owed.driver"
        show "[INFO]${green}Driver package uninstalled successfully! Uninstallation takes effect immediately. $plain"
    fi
    leave 0
}
