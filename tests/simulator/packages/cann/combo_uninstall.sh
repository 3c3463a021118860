#!/bin/bash
# The last step of removing the SIMULATED toolkit: records, environment script, then the version's folder if it is empty.
version=@VERSION@ arch=@ARCH@ record_root="@ROOT@" privileged=@PRIVILEGED@
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
version_dir=$(dirname "$here")
top=$(dirname "$version_dir")
if [ "$privileged" = y ]; then record=$record_root/etc/Ascend/ascend_cann_install.info; else record=@HOME@/Ascend/ascend_cann_install.info; fi
say() { echo "[Toolkit] [$(date +'%Y-%m-%d %H:%M:%S')] [$1]: $2"; }
rm -f "$version_dir/$arch-linux/ascend_toolkit_install.info" "$version_dir/$arch-linux/install.conf"
# What is left of a part whose uninstaller failed stays; the rest of the version goes.
left=$(find "$version_dir" -type f ! -path "$here/*" ! -path "$version_dir/cann_uninstall.sh" ! -path "*/script/*" ! -name create_version_softlink.sh ! -name ascend_package_db.info | head -1)
if [ -z "$left" ]; then
    chmod -R u+w "$version_dir" && rm -rf "$version_dir"
    say INFO " delete directory $version_dir successfully."
else
    rm -rf "$here"
    say INFO " delete operation, the directory $version_dir is not empty."
fi
[ -d "$top/latest" ] && find "$top/latest" -xtype l -delete
rm -f "$top/$(echo "$version" | cut -d. -f1,2)"
# ASSUMPTION: latest is not pointed at another version that is still there.
others=$(find "$top" -mindepth 3 -maxdepth 3 -name ascend_toolkit_install.info ! -path "$top/latest/*" 2>/dev/null | head -1)
if [ -z "$others" ]; then
    rm -rf "$top/latest" "$top/set_env.sh"
    path=$(sed -n 's/^Install_Path=//p' "$record" 2>/dev/null)
    if [ -n "$path" ] && [ -z "$(find "$path" \( -name ascend_toolkit_install.info -o -name ascend_nnae_install.info -o -name ascend_nnrt_install.info -o -name ascend_tfplugin_install.info \) ! -path '*/latest/*' 2>/dev/null | head -1)" ]; then
        rm -f "$record"
        say INFO " delete file $record successfully."
    fi
    rmdir "$top" 2>/dev/null
fi
exit 0
