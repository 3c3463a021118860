#!/bin/bash
# script/uninstall.sh of the SIMULATED firmware.
@WORLD@
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
. "$here/sim_common.sh"
TAG=Firmware
. "$here/hdk_common.sh"
start_time=$(stamp) run_name=Ascend-firmware command_line=${*:-none} lock="" operation=Uninstall
start_log
path=$(get Firmware_Install_Path_Param)
[ -n "$path" ] || refuse "ERR_NO:0x0080;ERR_DES:Firmware package is not installed on this device, uninstall failed"
both "[INFO]base version is $(sed -n 's/^Version=//p' "$path/firmware/version.info")."
rm -rf "$path/firmware"
sed -i '/^Firmware_Install_/d' "$info"
grep -qi Install_Path_Param "$info" || rm -f "$info"
operation_log Uninstall success
both "[INFO]${green}Firmware package uninstalled successfully! Uninstallation takes effect immediately. $plain"
leave 0
