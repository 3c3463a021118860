#!/bin/bash
# install.sh of the SIMULATED CANN toolkit package.
payload=$(cd "$(dirname "$0")" && pwd)
. "$payload/sim.conf"
. "$payload/common.sh"
PKG_NAME=Ascend-cann-toolkit PKG_LOG_NAME=Toolkit PKG_SHORT=toolkit
. "$payload/cann_common.sh"

PARTS="runtime compiler hccl opp toolkit aoe mindstudio-toolkit test-ops pyACL ncs"
arch_dir=$PKG_ARCH-linux

# The record is written last, after every part.
complete() { [ -f "$version_dir/$arch_dir/ascend_toolkit_install.info" ] && [ -f "$version_dir/tools/ncs/version.info" ]; }

run_uninstall() {
    local script=$version_dir/$arch_dir/script/uninstall.sh
    [ -f "$script" ] || fail "ERR_NO:0x0080;ERR_DES:Runfile is not installed in $version_dir, uninstall failed"
    bash "$script"
    exit $?
}

link_latest() {
    local part
    # latest is a real folder of links; what points at another version goes.
    [ "$(latest_version)" = "$PKG_VERSION" ] || rm -rf "$top/latest"
    mkdir -p "$top/latest"
    (cd "$payload/latest" && tar -cf - .) | tar -xpf - --no-same-owner -C "$top/latest" || fail "create latest softlink failed!"
    if [ -d "$version_dir/opp_kernel" ]; then ln -sfn "../$PKG_VERSION/opp_kernel" "$top/latest/opp_kernel"; fi
    echo "install_for_all=$for_all" > "$top/latest/var/manager.info"
    ln -sfn "./$PKG_VERSION" "$top/$(echo "$PKG_VERSION" | cut -d. -f1,2)"
}

parse_arguments "$@"
log_init
accept_eula
choose_path
[ "$action" = uninstall ] && run_uninstall
check_arch
if [ "$action" = pre-check ]; then say INFO "pre-check passed"; exit 0; fi
check_space 20
say INFO "install start"
say INFO "The installation path is $install_path."
# ASSUMPTION: an upgrade to another version leaves the older one beside it, as an installation does.
if [ "$action" = upgrade ] && [ -z "$(version_dirs)" ]; then
    fail "ERR_NO:0x0080;ERR_DES:Runfile is not installed in $install_path, upgrade failed"
fi
# ASSUMPTION: --install over the same, complete version refuses (facts 9: what it really does is unknown).
if [ "$action" = install ] && complete; then
    say ERROR "${PKG_NAME}_${PKG_VERSION}_linux-$PKG_ARCH is already installed in $install_path, use --upgrade or uninstall it first."
    exit 1
fi
[ "$for_all" = y ] && for_all_flag=" --install-for-all"

step=0
for part in $PARTS; do
    step=$((step + 1))
    install_part "$part" "$payload/parts/$part"
    sim_kill_at toolkit "$part"
    if [ $step -eq 4 ] && sim_fault toolkit.fail; then
        operation_log Install SUGGESTION failed
        fail "CANN-$part-@COMPONENT_VERSION@-linux.$PKG_ARCH.run install failed, the details are in $log_file" "$(sim_fault_value toolkit.fail | grep . || echo 1)"
    fi
    if [ $step -eq 4 ] && sim_fault toolkit.lie; then
        # As the vendor's pipes through tee do: a part failed, the last line and the exit code say success.
        say ERROR "CANN-$part-@COMPONENT_VERSION@-linux.$PKG_ARCH.run install failed"
        say INFO "${PKG_NAME}_${PKG_VERSION}_linux-$PKG_ARCH install success, installed in $install_path."
        exit 0
    fi
done

install_part combo "$payload/parts/combo"
cat > "$version_dir/$arch_dir/install.conf" <<CONF
Install_Mode=$action
Quiet_Mode=$([ "$quiet" = y ] && echo yes || echo no)
Install_For_All=$([ "$for_all" = y ] && echo yes || echo no)
Chip_Type=no
Install_UserName=$(sim_user)
Install_UserGroup=$(sim_group)
Install_Path=$install_path
Whitelist=no
Blacklist=no
CONF
register_kernels
link_latest
rm -f "$top/set_env.sh"
cp "$payload/set_env.sh" "$top/set_env.sh" && sed -i "s|%TOP%|$top|g" "$top/set_env.sh"
write_version_cfg
write_record
if [ "$for_all" = y ]; then chmod -R o+rX "$version_dir" "$top/latest" "$top/set_env.sh"; fi
operation_log Install SUGGESTION success
say INFO "${PKG_NAME}_${PKG_VERSION}_linux-$PKG_ARCH install success. The installation path is $install_path."
summary "Toolkit:  ${PKG_NAME}_${PKG_VERSION}_linux-$PKG_ARCH install success, installed in $install_path."
