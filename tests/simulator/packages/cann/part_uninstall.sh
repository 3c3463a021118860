#!/bin/bash
# Uninstalls one inner package of the SIMULATED CANN: what its filelist.csv names, then the folders left empty.
part=@PART@ version=@VERSION@ state=@STATE@
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
version_dir=@UP@
version_dir=$(cd "$here/$version_dir" && pwd)
top=$(dirname "$version_dir")
say() { echo "[$part] [$(date +'%Y-%m-%d %H:%M:%S')] [$1]: $2"; }
if [ -e "$state/faults/$part.uninstall-fail" ]; then
    say ERROR "ERR_NO:0x0090;ERR_DES:uninstall $part failed (a fault of the npuops simulator)"
    exit 1
fi
list=$(mktemp "$version_dir/.uninstall.XXXXXX") && cp "$here/filelist.csv" "$list"
chmod -R u+w "$version_dir" 2>/dev/null
while IFS=, read -r _ path; do
    rm -f "$version_dir/$path"
done < "$list"
while IFS=, read -r _ path; do
    folder=$(dirname "$path")
    while [ "$folder" != . ]; do rmdir "$version_dir/$folder" 2>/dev/null || break; folder=$(dirname "$folder"); done
done < "$list"
rm -f "$list"
rm -rf "$here"
rmdir "$(dirname "$here")" 2>/dev/null
if [ -d "$top/latest" ]; then
    find "$top/latest" -xtype l -lname "*$version/*" -delete
    [ -f "$top/latest/version.cfg" ] && sed -i "/^${part}_/{s/,\?\[[^]]*:$version\]//;/=$/d}" "$top/latest/version.cfg"
fi
if [ "$part" = opp_kernel ] && [ -f "$version_dir/cann_uninstall.sh" ]; then sed -i '/"opp_kernel\/script"/d' "$version_dir/cann_uninstall.sh"; fi
say INFO "$part package uninstalled successfully! Uninstallation takes effect immediately. (npuops simulator)"
