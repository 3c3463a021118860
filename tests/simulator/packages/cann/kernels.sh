#!/bin/bash
# install.sh of the SIMULATED CANN kernels package (its marks on disk: facts 4.4).
payload=$(cd "$(dirname "$0")" && pwd)
. "$payload/sim.conf"
. "$payload/common.sh"
PKG_NAME=Ascend-cann-kernels-$PKG_CHIP PKG_LOG_NAME=kernels_$PKG_CHIP PKG_SHORT=kernels_$PKG_CHIP
. "$payload/cann_common.sh"

parse_arguments "$@"
log_init
accept_eula
choose_path
if [ "$action" = uninstall ]; then
    [ -f "$version_dir/opp_kernel/script/uninstall.sh" ] || fail "ERR_NO:0x0080;ERR_DES:Runfile is not installed in $version_dir, uninstall failed"
    bash "$version_dir/opp_kernel/script/uninstall.sh"
    exit $?
fi
check_arch
say INFO "install start"
say INFO "The installation path is $install_path."
if [ ! -f "$version_dir/$PKG_ARCH-linux/ascend_toolkit_install.info" ]; then
    # ASSUMPTION: the sentence is the vendor's deployer's; that the package itself refuses is likely (facts 2.5).
    operation_log Install SUGGESTION failed
    fail "Please install toolkit, nnae or nnrt version $PKG_VERSION in $install_path first."
fi
if [ "$action" = upgrade ] && [ ! -f "$version_dir/opp_kernel/version.info" ]; then
    fail "ERR_NO:0x0080;ERR_DES:Runfile is not installed in $version_dir, upgrade failed"
fi
# ASSUMPTION: as for the toolkit, --install over the same version refuses.
if [ "$action" = install ] && [ -f "$version_dir/opp_kernel/version.info" ] && \
        [ -f "$version_dir/opp/built-in/op_impl/ai_core/tbe/kernel/config/ascend$PKG_CHIP/binary_info_config.json" ]; then
    fail "${PKG_NAME}_${PKG_VERSION}_linux-$PKG_ARCH is already installed in $install_path, use --upgrade or uninstall it first."
fi
check_space 10
sim_kill_at kernels start
if sim_fault kernels.fail; then operation_log Install SUGGESTION failed; fail "CANN-opp_kernel install failed" "$(sim_fault_value kernels.fail | grep . || echo 1)"; fi
install_part opp_kernel "$payload/parts/opp_kernel"
sim_kill_at kernels opp_kernel
register_kernels
if [ "$(latest_version)" = "$PKG_VERSION" ]; then ln -sfn "../$PKG_VERSION/opp_kernel" "$top/latest/opp_kernel"; fi
write_version_cfg
if [ "$for_all" = y ]; then chmod -R o+rX "$version_dir/opp_kernel" "$version_dir/opp"; fi
operation_log Install SUGGESTION success
say INFO "${PKG_NAME}_${PKG_VERSION}_linux-$PKG_ARCH install success. The installation path is $top."
summary "Kernels:  ${PKG_NAME}_${PKG_VERSION}_linux-$PKG_ARCH install success, installed in $install_path."
