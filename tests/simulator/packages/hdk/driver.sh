#!/bin/bash
# install.sh of the SIMULATED driver package.
payload=$(cd "$(dirname "$0")" && pwd)
. "$payload/sim.conf"
. "$payload/common.sh"
TAG=Driver
. "$payload/hdk_common.sh"

run_name=${1#--}
shift 2   # --<run name> --<folder>, put there by the header
start_time=$(stamp)
command_line="$*"
lock=""
[ $# -gt 0 ] || { echo "[Driver] [$(stamp)] [ERROR]ERR_NO:0x0004;ERR_DES: Unrecognized parameters. Try './xxx.run --help' for more information."; exit 1; }
start_log
log "[INFO]UserCommand: $run_name $command_line"

count=0 types=0 type="" quiet=n force=n upgrade=n uninstall=n version=n check=n all=n user_given=n group_given=n path_given="" operation=Install
user=$(get UserName); group=$(get UserGroup)
user=${user:-HwHiAiUser} group=${group:-HwHiAiUser}
for argument in "$@"; do
    count=$((count + 1))
    case "$argument" in
        --full|--run|--debug|--devel|--docker)
            types=$((types + 1))
            [ -n "$type" ] && refuse "ERR_NO:0x0004;ERR_DES:only support one type: full/debug/run/docker/devel, operation failed!"
            type=${argument#--} ;;
        --upgrade) types=$((types + 1)); upgrade=y operation=Upgrade ;;
        --uninstall) uninstall=y operation=Uninstall ;;
        --version) version=y ;;
        --check) check=y ;;
        --quiet) quiet=y ;;
        --force) force=y ;;
        --norebuild) ;;
        --vnpu_guest) ;;
        --install-for-all) all=y; count=$((count - 1)) ;;
        --install-username=*) user=${argument#*=} user_given=y ;;
        --install-usergroup=*) group=${argument#*=} group_given=y ;;
        --install-path=*)
            path_given=${argument#*=}
            [ -n "$path_given" ] || refuse "ERR_NO:0x0003;ERR_DES:install path is null, install failed" ;;
        *) usage_error "$argument" ;;
    esac
done

# --- what fits this node ------------------------------------------------------------------------------------------------
if [ "$(uname -m)" != "${PKG_ARCH/-/_}" ]; then
    show "[ERROR]${red}Arch mismatch, src package is $PKG_ARCH, cur os is $(uname -m) $plain"
    leave 1
fi
if [ $types -gt 0 ] && [ "$type" != docker ]; then
    # Devices of another chip refuse; no device at all is accepted.
    found=$(for folder in "$SIM_SYSFS"/bus/pci/devices/*; do [ "$(cat "$folder/vendor" 2>/dev/null)" = 0x19e5 ] && cat "$folder/device"; done | grep '^0xd[0-9]0[0-9]$')
    if [ -n "$found" ] && ! echo "$found" | grep -q "$PKG_PCI"; then
        refuse "The current installation package and environment is not match, please check."
    fi
fi
mkdir -p "$SIM_STATE"
if ! (set -o noclobber; echo $$ > "$SIM_STATE/driver.lock") 2>/dev/null; then
    if kill -0 "$(cat "$SIM_STATE/driver.lock")" 2>/dev/null; then
        refuse "ERR_NO:0x0094;ERR_DES:There is already a process being executed,please do not execute multiple tasks at the same time"
    fi
    echo $$ > "$SIM_STATE/driver.lock"
fi
lock=$SIM_STATE/driver.lock
base_version
[ $types -gt 0 ] && show "[WARNING]${yellow}Do not power off or restart the system during the installation/upgrade$plain"

# --- which options go together ------------------------------------------------------------------------------------------
if [ $uninstall = y ]; then
    if [ $count -ne 1 ] && ! { [ $force = y ] && [ $count -eq 2 ]; }; then
        refuse "ERR_NO:0x0004;ERR_DES:uninstall can't use with other parameters except force."
    fi
elif [ $version = y ] || [ $check = y ]; then
    [ $count -eq 1 ] || refuse "ERR_NO:0x0004;ERR_DES:version/check can't use with other parameters."
else
    if [ $types -ne 1 ]; then
        if [ $force = y ]; then refuse "ERR_NO:0x0004;ERR_DES:The parameter needs to be used with full/debug/run/upgrade/uninstall."; fi
        refuse "ERR_NO:0x0004;ERR_DES:The parameter needs to be used with full/debug/run/docker/upgrade/devel."
    fi
    if [ $all = y ] && { [ "$type" = docker ] || [ $upgrade = y ]; }; then refuse "ERR_NO:0x0004;ERR_DES:install-for-all param need used with full/debug/run/devel."; fi
    if [ -n "$path_given" ] && [ $upgrade = y ]; then refuse "ERR_NO:0x0004;ERR_DES:install-path param need used with full/debug/run/docker/devel."; fi
    if [ $user_given != $group_given ]; then
        refuse "ERR_NO:0x0004;ERR_DES:Username and usergroup are not specified at the same time."
    fi
    if [ $user_given = y ] && [ $upgrade = y ]; then refuse "ERR_NO:0x0004;ERR_DES:install-username and install-usergroup params need used with full/debug/run/docker/devel."; fi
fi
if [ $version = y ]; then show "[INFO]driver version :$PKG_VERSION"; leave 0; fi
if [ $check = y ]; then leave 0; fi
if [ $uninstall = y ]; then uninstall_driver; fi

# --- what the node needs first ------------------------------------------------------------------------------------------
missing=""
if [ -n "$SIM_ROOT" ]; then
    for tool in $(sim_fault_value driver.missing-tools); do missing="$missing$tool,"; done
else
    for tool in which groups awk chattr lsattr ldconfig lspci ifconfig find sed modprobe udevadm modinfo useradd systemctl; do
        command -v $tool > /dev/null || missing="$missing$tool,"
    done
    command -v update-rc.d > /dev/null || command -v chkconfig > /dev/null || missing="${missing}update-rc.d,chkconfig,"
fi
[ -n "$missing" ] && refuse "The list of missing tools: $missing"

old_user=$(get UserName); old_group=$(get UserGroup)
if [ $user_given = y ]; then
    if { [ -n "$old_user" ] && [ "$old_user" != "$user" ]; } || { [ -n "$old_group" ] && [ "$old_group" != "$group" ]; }; then
        refuse "ERR_NO:0x0095;ERR_DES:The user and group are not same with last installation,do not support overwriting installation"
    fi
fi
[ $upgrade = y ] && [ "$(get Driver_Install_For_All)" = yes ] && all=y
if [ "$user" = root ] && [ $all = n ]; then refuse "ERR_NO:0x0091;ERR_DES:username not permission for root"; fi
grep -q "^$user:" "$SIM_ROOT/etc/passwd" || refuse "ERR_NO:0x0091;ERR_DES:$user not exists! Please add $user"
grep -q "^$group:" "$SIM_ROOT/etc/group" || refuse "ERR_NO:0x0091;ERR_DES:$group group not exists! Please add $group group"
primary=$(awk -F: -v name="$user" '$1 == name {print $4}' "$SIM_ROOT/etc/passwd")
if ! awk -F: -v name="$group" -v gid="$primary" -v user="$user" '$1 == name && ($3 == gid || index("," $4 ",", "," user ",")) {found = 1} END {exit !found}' "$SIM_ROOT/etc/group"; then
    refuse "ERR_NO:0x0096;ERR_DES:$group not right! Please check the relatianship of $user and $group"
fi
# 25.0.rc1.1 says this only when they were passed.
[ $user_given = y ] && show "[INFO]set username and usergroup, $user:$group"

recorded=$(get Driver_Install_Path_Param)
path=${path_given:-${recorded:-$default_path}}
path=${path%/}
case "$path" in /*) ;; *) refuse "ERR_NO:0x0003;ERR_DES:install-path input error, install failed" ;; esac
case "$path" in *[!A-Za-z0-9._/@-]*) refuse "ERR_NO:0x0003;ERR_DES:The given path $path is invalid according to regular-expression" ;; esac
sim_stay_inside "$path"
if [ ! -d "$path" ]; then
    if [ "$path" != "$default_path" ] && [ ! -d "$(dirname "$path")" ]; then
        refuse "ERR_NO:0x0003;ERR_DES:install path $(dirname "$path") not exists,runpackage only support create one level of directory,need create $(dirname "$path")."
    fi
    mkdir -p "$path" || refuse "ERR_NO:0x0003;ERR_DES:install path $path cannot be created"
    chmod 755 "$path"
fi
if [ -z "$SIM_ROOT" ]; then
    folder=$path
    while [ "$folder" != / ]; do
        if [ "$(stat -c %U "$folder")" != root ]; then
            log "[ERROR][$(basename "$folder")] permision not right, it should belong to root."
            refuse "${red}The given directory, including its parents, should belong to root, details in : $log_file $plain"
        fi
        mode=$(stat -c %a "$folder"); mode=${mode: -3}
        if { [ "$mode" -lt 755 ] && [ $all = n ]; } || [ "$mode" -lt 750 ]; then
            log "[ERROR][$(basename "$folder")] permission is too small."
            refuse "${red}The given directory, or its parents, permission is too small, details in : $log_file $plain"
        fi
        folder=$(dirname "$folder")
    done
fi
free=$(sim_free_mb "$path" driver)
[ "$free" -gt 300 ] || refuse "free space only ${free}M, cannot install driver package (greater than 300M), please make sure enough space under the installation path"
case "$(sed -n 's/^Version=//p' "$path/firmware/version.info" 2>/dev/null)" in
    *.*.*.11.*|*.11) both "[WARNING]Download and install the 23.0.RC1 driver package. Then upgrade to the target version. "; leave 1 ;;
esac

# --- over an installed driver -------------------------------------------------------------------------------------------
loaded=n; module_loaded && loaded=y
if [ -n "$recorded" ]; then
    installed=$(sed -n 's/^Version=//p' "$recorded/driver/version.info" 2>/dev/null)
    if [ -n "$installed" ] && [ $upgrade = n ] && [ $quiet = n ]; then
        show "[INFO]Driver package has been installed on the path $recorded, the version is $installed, and the version of this package is $PKG_VERSION,do you want to continue?  [y/n]"
        tries=0
        while true; do
            read -r answer
            case "$answer" in
                n) show "[INFO]installation Stoped!"; leave 0 ;;
                y) break ;;
                *) show "[ERROR]ERR_NO:0x0002;ERR_DES:input error, please input again!" ;;
            esac
            # ASSUMPTION: the vendor's loop never ends without input; this one does, after enough lines to be noticed.
            tries=$((tries + 1)); [ $tries -lt 1000 ] || leave 1
        done
    fi
    if [ $force = n ]; then refuse_busy; fi
    thaw "$recorded"
    rm -f "$recorded/driver/version.info"
    remove_driver_files "$recorded"
else
    [ $upgrade = y ] && operation=Install   # an upgrade of nothing is a plain install of type full
fi
[ $upgrade = y ] && type=$(get Driver_Install_Type)
type=${type:-full}

# --- install: the record first, version.info near the end --------------------------------------------------------------
failed() {
    both "[ERROR]$1"
    show "[INFO]Failed to ${operation,,} driver package, please retry after uninstall and reboot!"
    operation_log "$operation" failed "$type"
    leave 1
}
progress() { both "[INFO]upgradePercentage:$1%"; sim_kill_at driver "$1"; }

[ -z "$old_user" ] && put UserName "$user"
[ -z "$old_group" ] && put UserGroup "$group"
put Driver_Install_Type "$type"
put Driver_Install_Path_Param "$path"
put Driver_Install_For_All "$([ $all = y ] && echo yes || echo no)"
put Driver_Install_Mode normal

installed_package() {
    awk -v name="$1" '$1 == "Package:" {current = $2} $1 == "Status:" && current == name && $0 ~ /install ok installed/ {found = 1} END {exit !found}' \
        "$SIM_ROOT/var/lib/dpkg/status" 2>/dev/null && return 0
    if [ -z "$SIM_ROOT" ] && command -v rpm > /dev/null; then rpm -qa 2>/dev/null | grep -q "^$1"; else return 1; fi
}
kernel=$(sim_kernel)
if [ "$type" != docker ] && [ "$type" != devel ]; then
    absent=""
    for program in dkms gcc; do
        installed_package $program || { log "[WARNING]The program '$program' is currently not installed."; absent=y; }
    done
    if ! installed_package "linux-headers-$kernel" && ! installed_package "kernel-headers-$kernel"; then log "[WARNING]linux headers is currently not installed."; absent=y; fi
    if [ -z "$absent" ]; then
        show "[INFO]driver install type: DKMS"
    else
        log "[INFO]not detect driver dkms dependence"
        # ASSUMPTION: prebuilt modules fit the guide's kernel, and those that a test names in prebuilt-kernels.
        if [ "$kernel" = 5.15.0-25-generic ] && ! sim_fault driver.no-prebuilt || grep -qx "$kernel" "$SIM_STATE/prebuilt-kernels" 2>/dev/null; then
            show "[INFO]driver install type: Direct"
        else
            log "[ERROR]driver vermagic check failed."
            failed "${red}Drv_dkms_env_check failed, details in : $log_file $plain"
        fi
    fi
fi
progress 10
(cd "$payload/tree" && tar -cf - driver) | tar -xpf - --no-same-owner -C "$path" || failed "${red}Drv_file_copy failed, details in : $log_file $plain"
sed -i "s|%PATH%|$path|g" "$path/driver/bin/setenv.bash"
progress 30
if sim_fault driver.crl-fail; then failed "${red}Device_images_crl_check failed, details in : $log_file $plain"; fi
mkdir -p "$SIM_ROOT/etc/ld.so.conf.d" "$SIM_ROOT/lib" "$SIM_ROOT/usr/local/bin" "$SIM_ROOT/usr/local/sbin" "$SIM_ROOT/usr/local/dcmi" "$SIM_ROOT/usr/bin" "$SIM_ROOT/etc/init.d"
echo "DAVINCI_HOME_PATH=$path" > "$SIM_ROOT/lib/davinci.conf"
printf '%s\n' "$path/driver/lib64/common" "$path/driver/lib64/driver" "$path/driver/lib64" > "$SIM_ROOT/etc/ld.so.conf.d/ascend_driver_so.conf"
[ -f "$SIM_ROOT/etc/vnpu.cfg" ] || printf 'vnpu_config_recover:enable\n[vnpu-config start]\n[vnpu-config end]\n' > "$SIM_ROOT/etc/vnpu.cfg"
chmod 600 "$SIM_ROOT/etc/vnpu.cfg"
[ -f "$SIM_ROOT/etc/hccn.conf" ] || : > "$SIM_ROOT/etc/hccn.conf"
progress 40
if sim_fault driver.fail; then failed "${red}Driver_ko_install failed, details in : $log_file $plain"; fi
mkdir -p "$SIM_ROOT/lib/modules/$kernel/updates"
echo "simulated by npuops" > "$SIM_ROOT/lib/modules/$kernel/updates/drv_pcie_host.ko"
for folder in bin sbin; do rm -f "$SIM_ROOT/usr/local/$folder/npu-smi"; install -m 555 "$payload/npu-smi" "$SIM_ROOT/usr/local/$folder/npu-smi"; done
echo "/* simulated by npuops */" > "$SIM_ROOT/usr/local/dcmi/dcmi_interface_api.h"
for tool in hccn_tool msnpureport; do ln -sfn "$path/driver/tools/$tool" "$SIM_ROOT/usr/bin/$tool"; done
printf '#!/bin/sh\n# simulated by npuops\n' > "$SIM_ROOT/etc/init.d/host_sys_init.sh"; chmod 755 "$SIM_ROOT/etc/init.d/host_sys_init.sh"
home=$SIM_ROOT$(awk -F: -v name="$user" '$1 == name {print $6}' "$SIM_ROOT/etc/passwd")
if [ -d "$home" ] && ! grep -q "driver/bin/setenv.bash" "$home/.bashrc" 2>/dev/null; then echo "source $path/driver/bin/setenv.bash" >> "$home/.bashrc"; fi
progress 90

if [ "$type" = docker ] || [ "$type" = devel ]; then reset=success
elif [ $force = y ] || sim_fault driver.hot-reset-fails || sim_fault driver.chips-not-ready; then reset=failed
elif sim_fault driver.modules-stuck; then reset=stuck
else reset=success
fi
if [ $reset = success ]; then
    [ "$type" = docker ] || load_modules
    rm -f "$SIM_STATE/reboot-owed.driver"
    both "[INFO]Waiting for device startup..."
    both "[INFO]Device startup success"
else
    owe_reboot driver
fi
cp "$payload/version.info" "$path/driver/version.info" && chmod 444 "$path/driver/version.info"
[ -z "$SIM_ROOT" ] && ldconfig 2>/dev/null
freeze "$path"
progress 100
word=installed; [ "$operation" = Upgrade ] && word=upgraded
operation_log "$operation" success "$type"
case $reset in
    success)
        both "[INFO]${green}Driver package $word successfully! The new version takes effect immediately. $plain"
        leave 0 ;;
    failed)
        if sim_fault driver.chips-not-ready; then both "[WARNING]There are some chips not ready, please check after reboot"; fi
        both "[INFO]${green}Driver package $word successfully! $plain${red}Reboot needed for installation/upgrade to take effect! $plain" ;;
    stuck)
        both "[INFO]${green}Driver package $word finished! $plain"
        both "[WARNING]${yellow}Kernel modules can not be removed, reboot needed for installation/upgrade to take effect! $plain" ;;
esac
leave 2
