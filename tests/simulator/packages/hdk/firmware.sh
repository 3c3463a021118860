#!/bin/bash
# install.sh of the SIMULATED firmware package. It always asks for a reboot, and always with exit code 0.
payload=$(cd "$(dirname "$0")" && pwd)
. "$payload/sim.conf"
. "$payload/common.sh"
TAG=Firmware
. "$payload/hdk_common.sh"

run_name=${1#--}
shift 2
start_time=$(stamp)
command_line="$*"
lock="" type="" operation=Install check=n version=n uninstall=n force=n
[ $# -gt 0 ] || { echo "[Firmware] [$(stamp)] [ERROR]ERR_NO:0x0004;ERR_DES: Unrecognized parameters. Try './xxx.run --help' for more information."; exit 1; }
start_log
for argument in "$@"; do
    case "$argument" in
        --full) type=full ;;
        --upgrade) type=${type:-full} operation=Upgrade ;;
        --check) check=y ;;
        --version) version=y ;;
        --uninstall) uninstall=y operation=Uninstall ;;
        --quiet|--force) ;;
        *) usage_error "$argument" ;;
    esac
done
if [ $version = y ]; then show "[INFO]firmware version :$PKG_VERSION"; leave 0; fi
if [ $check = y ]; then leave 0; fi
path=$(get Driver_Install_Path_Param)
if [ $uninstall = y ]; then
    installed=$(get Firmware_Install_Path_Param)
    [ -n "$installed" ] || refuse "ERR_NO:0x0080;ERR_DES:Firmware package is not installed on this device, uninstall failed"
    bash "$installed/firmware/script/uninstall.sh"; exit $?
fi
[ -n "$type" ] || usage_error
show "[WARNING]${yellow}Do not power off or restart the system during the installation/upgrade$plain"
# ASSUMPTION: wording of these two (facts 2.3: likely).
if [ -z "$path" ] || [ ! -x "$path/driver/tools/upgrade-tool" ]; then
    operation_log "$operation" failed "$type"
    refuse "ERR_NO:0x0080;ERR_DES:driver not installed, please install driver first"
fi
free=$(sim_free_mb "$path" firmware)
[ "$free" -gt 32 ] || refuse "free space only ${free}M, cannot install firmware package (greater than 32M), please make sure enough space under the installation path"
recorded=$(get Firmware_Install_Path_Param)
old=$(sed -n 's/^Version=//p' "${recorded:-$path}/firmware/version.info" 2>/dev/null)
[ -n "$old" ] && both "[INFO]base version is $old."
put Firmware_Install_Type "$type"
put Firmware_Install_Path_Param "$path"
rm -f "$path/firmware/version.info"
both "[INFO]upgradePercentage: 0%"
sim_kill_at firmware 0
mkdir -p "$path/firmware"
(cd "$payload/tree" && tar -cf - firmware) | tar -xpf - --no-same-owner -C "$path"
if sim_fault firmware.fail; then
    operation_log "$operation" failed "$type"
    refuse "The firmware of [0] chips are successfully upgraded, upgrade failed, details in : $log_file"
fi
for percent in 40 90; do both "[INFO]upgradePercentage: $percent%"; sim_kill_at firmware $percent; done
cp "$payload/version.info" "$path/firmware/version.info" && chmod 444 "$path/firmware/version.info"
both "[INFO]upgradePercentage: 100%"
chips=$(sim_npus | wc -l); [ "$chips" -gt 0 ] || chips=8
both "[INFO]The firmware of [$chips] chips are successfully upgraded."
owe_reboot firmware
operation_log "$operation" success "$type"
word=installed; [ "$operation" = Upgrade ] && word=upgraded
both "[INFO]${green}Firmware package $word successfully! $plain${red}Reboot now or after driver installation for the installation/upgrade to take effect. $plain"
leave 0
