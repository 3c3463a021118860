#!/bin/bash
# install.sh of the SIMULATED NNAL (ATB) package, after the behaviour in facts: ascend-vendor.md 2.6.
sourcedir=$(cd "$(dirname "$0")" && pwd)
. "$sourcedir/sim.conf"
. "$sourcedir/common.sh"

log_dir=$HOME/var/log/cann_atb_log
[ "$SIM_PRIVILEGED" = y ] && log_dir=$SIM_ROOT/var/log/cann_atb_log
log_file=$log_dir/cann_atb_install.log
current_user=$(sim_user)
uninstall=n install=n upgrade=n quiet=n path="" abi_wheel=n version=n
[ "$SIM_PRIVILEGED" = y ] && for_all=y || for_all=n

say() { mkdir -p "$log_dir"; [ -f "$log_file" ] && chmod 640 "$log_file"; echo "[cann-atb] [$(date +%Y%m%d-%H:%M:%S)] [$1] $2" | tee -a "$log_file"; }
leave() {
    local code=$?
    [ $code -ne 0 ] && say ERROR "Command execution failed, [ERROR] ret code:$code"
    exit $code
}

log_init() {
    mkdir -p "$log_dir" && chmod 750 "$log_dir"
    if [ -f "$log_file" ] && [ "$(stat -c %s "$log_file")" -gt 52428800 ]; then mv -f "$log_file" "$log_dir/ascend_atb_install_bak.log"; fi
    touch "$log_file" && chmod 640 "$log_file"
    say INFO "Install log save in $log_file"
    say INFO "$SIM_LINE"
}

check_owner() {
    if [ -z "$ASCEND_TOOLKIT_HOME" ] && [ -z "$ASCEND_NNAE_HOME" ]; then
        say ERROR "Check owner failed, please check env ASCEND_TOOLKIT_HOME or ASCEND_NNAE_HOME is set."; exit 1
    fi
    if [ -z "$ASCEND_HOME_PATH" ]; then say ERROR "Check owner failed, please check env ASCEND_HOME_PATH is set."; exit 1; fi
    if [ ! -d "$ASCEND_HOME_PATH" ]; then say ERROR "Check owner failed, can not find cann in $ASCEND_HOME_PATH."; exit 1; fi
    if [ -z "$SIM_ROOT" ] && [ "$(stat -c %U "$ASCEND_HOME_PATH")" != "$current_user" ]; then
        say ERROR "Check owner failed, current owner is not same with CANN."; exit 1
    fi
    say INFO "Check owner success!"
}

check_parents() {
    local folder=$1
    [ "$SIM_PRIVILEGED" = y ] && [ -z "$SIM_ROOT" ] || return 0
    while [ "$folder" != / ]; do
        if [ -d "$folder" ] && [ "$(stat -c %U "$folder")" != root ]; then
            say ERROR "Install failed, install path or its parents path owner [$(stat -c %U "$folder")] is inconsistent with current user [$current_user]."
            exit 1
        fi
        folder=$(dirname "$folder")
    done
}

remove_version() {
    [ -d "$1" ] || return 0
    say INFO "Ascend-cann-atb $(basename "$1") uninstall start!"
    rm -f "$(dirname "$1")/latest" "$(dirname "$1")/set_env.sh"
    chmod -R u+w "$1" && rm -rf "$1"
    say INFO "Ascend-cann-atb $(basename "$1") uninstall success!"
}

install_files() {
    local target=$default_path/$PKG_VERSION
    if [ "$(uname -m)" != "$PKG_ARCH" ]; then
        say ERROR "Install failed, pkg arch $PKG_ARCH is not consistent with the current enviroment architecture $(uname -m)."; exit 1
    fi
    if [ -d "$target" ]; then say INFO "The installation directory exists, uninstall first.."; fi
    remove_version "$target"
    check_parents "$target"
    mkdir -p "$target" || { say ERROR "Install failed, [ERROR] create $target failed"; exit 1; }
    sim_kill_at nnal start
    (cd "$sourcedir/tree" && tar -cf - .) | tar -xpf - --no-same-owner -C "$target" || exit 1
    sim_kill_at nnal copied
    if sim_fault nnal.fail; then say ERROR "copy failed (a fault of the npuops simulator)"; exit 1; fi
    cp "$sourcedir/set_env.sh" "$default_path/set_env.sh"
    ln -sfn "$PKG_VERSION" "$default_path/latest"
    if [ "$for_all" = y ]; then chmod -R o+rX "$default_path"; fi
}

case "$1" in --*.run) shift 2 ;; esac   # the header's two arguments; the script lies in the installed tree, too
for argument in "$@"; do
    case "$argument" in
        --quiet) quiet=y ;;
        --install|--full|--run|--devel) install=y ;;
        --upgrade) upgrade=y ;;
        --uninstall) uninstall=y ;;
        --install-for-all) for_all=y ;;
        --install-path=*) path=${argument#--install-path=} ;;
        --torch_atb) abi_wheel=y ;;
        --version) version=y ;;
        --*) ;;   # anything else is silently ignored, as by the vendor
        *) break ;;
    esac
done
if [ "$version" = y ]; then echo "Ascend-cann-nnal_$PKG_VERSION ($SIM_LINE)"; exit 0; fi
# The outer package hands its inner one <path>/nnal, to which the inner one adds /atb.
if [ "$SIM_PRIVILEGED" = y ]; then base=$SIM_ROOT/usr/local/Ascend; record=$SIM_ROOT/etc/Ascend/ascend_cann_install.info
else base=$HOME/Ascend; record=$HOME/Ascend/ascend_cann_install.info; fi
recorded=$(sed -n 's/^Install_Path=//p' "$record" 2>/dev/null)
base=${recorded:-${path:-$base}}
default_path=${base%/}/nnal/atb
sim_stay_inside "$default_path"

trap leave EXIT
if [ "$uninstall" = y ]; then
    if [ ! -d "$default_path" ]; then say ERROR "Uninstall failed, can not find the path of Ascend-cann-atb."; exit 1; fi
    say INFO "Ascend-cann-atb uninstall start!"
    remove_version "$default_path/$PKG_VERSION"
    rmdir "$default_path" "$(dirname "$default_path")" 2>/dev/null
    exit 0
fi
if [ "$upgrade" = y ]; then
    check_owner
    if [ ! -d "$default_path" ]; then say ERROR "Upgrade failed, can not find the path of Ascend-cann-atb."; exit 1; fi
    if [ ! -d "$default_path/latest" ] || [ ! -f "$default_path/set_env.sh" ]; then say ERROR "Can not find file set_env.sh or latest!"; exit 1; fi
    remove_version "$(readlink -f "$default_path/latest")"
    install_files
    say INFO "Ascend-cann-atb upgrade success!"
elif [ "$install" = y ] || [ -n "$path" ]; then
    log_init
    if [ "$quiet" = n ]; then
        echo "Do you accept the EULA to install CANN?[Y/N]"
        read -r answer || exit 1
        case "$answer" in [Yy]) ;; *) say ERROR "the EULA was not accepted"; exit 1 ;; esac
    fi
    check_owner
    install_files
    [ "$abi_wheel" = y ] && say INFO "torch_atb is not simulated"
    say INFO "Ascend-cann-atb install success!"
fi
[ -f "$log_file" ] && chmod 440 "$log_file"
exit 0
