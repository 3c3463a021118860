# Shared by the simulated toolkit and kernels packages (facts: ascend-vendor.md 2.5, 4.4). Sourced after ../common.sh.
# Needs: PKG_NAME (Ascend-cann-toolkit), PKG_LOG_NAME (Toolkit), PKG_SHORT (toolkit), PKG_VERSION, PKG_ARCH.

COMPONENTS="runtime compiler hccl opp toolkit aoe ncs opp_kernel"

if [ "$SIM_PRIVILEGED" = y ]; then
    log_dir=$SIM_ROOT/var/log/ascend_seclog
    cann_record=$SIM_ROOT/etc/Ascend/ascend_cann_install.info
    default_path=$SIM_ROOT/usr/local/Ascend
    umask 0022
else
    log_dir=$HOME/var/log/ascend_seclog
    cann_record=$HOME/Ascend/ascend_cann_install.info
    default_path=$HOME/Ascend
    umask 0002
fi
log_file=$log_dir/ascend_${PKG_SHORT}_install.log

log_init() {
    mkdir -p "$log_dir" && chmod 750 "$log_dir"
    if [ -f "$log_file" ] && [ "$(stat -c %s "$log_file")" -gt 52428800 ]; then
        mv -f "$log_file" "${log_file%.log}_bak.log"
    fi
    touch "$log_file" && chmod 640 "$log_file"
    say INFO "LogFile:$log_file"
    say INFO "$SIM_LINE"
}

say() {
    local line
    printf -v line '[%s] [%(%Y%m%d-%H:%M:%S)T] [%s] %s' "$PKG_LOG_NAME" -1 "$1" "$2"
    echo "$line"
    echo "$line" >> "$log_file"
}
fail() { say ERROR "$1"; exit "${2:-1}"; }

parse_arguments() {
    action="" quiet=n input_path="" for_all=n upgrade=n
    shift 2   # --<run name> --<folder>, put there by the header
    [ $# -eq 0 ] && { echo "[$PKG_LOG_NAME] ERR_NO:0x0004;ERR_DES: Unrecognized parameters. Try './xxx.run --help' for more information."; exit 1; }
    command_line="$*"
    local argument
    for argument in "$@"; do
        case "$argument" in
            --install|--full|--run|--devel) action=install ;;
            --upgrade) action=upgrade ;;
            --uninstall) action=uninstall ;;
            --version) action=version ;;
            --pre-check) action=pre-check ;;
            --quiet) quiet=y ;;
            --install-for-all) for_all=y ;;
            --install-path=*) input_path=${argument#--install-path=} ;;
            --whitelist=*|--type=*|--feature=*|--chip=*) ;;
            # ASSUMPTION: the outer package refuses what it does not know (its inner ones print a message and return 0).
            *) echo "[$PKG_LOG_NAME] ERR_NO:0x0004;ERR_DES: Unrecognized parameters: $argument. Try './xxx.run --help' for more information."; exit 1 ;;
        esac
    done
    if [ -z "$action" ]; then
        echo "[$PKG_LOG_NAME] ERR_NO:0x0004;ERR_DES: '--quiet' is not supported to used by this way, please use with '--install', '--upgrade', '--uninstall'."
        exit 1
    fi
    [ "$SIM_PRIVILEGED" = y ] && for_all=y   # root installs for all whatever is passed
    if [ "$action" = version ]; then
        echo "${PKG_NAME}_${PKG_VERSION} ($SIM_LINE)"
        exit 0
    fi
}

accept_eula() {
    [ "$quiet" = y ] && return 0
    local answer
    while true; do
        echo "Do you accept the EULA to install CANN?[Y/N]"
        # ASSUMPTION: the end of input is a no. The vendor's prompt may hang instead, which a test can do without.
        read -r answer || fail "the EULA was not accepted: no input"
        case "$answer" in
            [Yy]) return 0 ;;
            [Nn]) fail "the EULA was not accepted" ;;
        esac
    done
}

# ascend-toolkit's folder: a record of an earlier CANN wins over --install-path (facts 4.4).
choose_path() {
    local recorded
    recorded=$(sed -n 's/^Install_Path=//p' "$cann_record" 2>/dev/null)
    install_path=${recorded:-${input_path:-$default_path}}
    if [ -n "$recorded" ] && [ -n "$input_path" ] && [ "$recorded" != "$input_path" ]; then
        say WARNING "$cann_record says $recorded, --install-path=$input_path is ignored."
    fi
    case "$install_path" in /*) ;; *) fail "parameter error $install_path, must be an absolute path." ;; esac
    install_path=${install_path%/}
    sim_stay_inside "$install_path"
    top=$install_path/ascend-toolkit
    version_dir=$top/$PKG_VERSION
}

check_arch() {
    [ "$(uname -m)" = "$PKG_ARCH" ] && return 0
    fail "ERR_NO:0x0001;ERR_DES:the architecture of the run package is inconsistent with that of the current environment: package $PKG_ARCH, environment $(uname -m)."
}

check_space() {
    local free
    free=$(sim_free_mb "$install_path" "$PKG_SHORT")
    # ASSUMPTION: wording. The space asked for is the simulated package's own.
    [ "${free:-0}" -ge "$1" ] || fail "the free space of $install_path is ${free}M, at least $1M is needed."
}

# Copies one inner package, its placeholders filled in. $1: inner package; $2: folder of its files
install_part() {
    local part=$1 source=$2 file run="CANN-$1-@COMPONENT_VERSION@-linux.$PKG_ARCH.run" path
    say INFO "install package $run start"
    if [ ! -d "$install_path/driver" ] && [ "$part" = runtime ]; then
        say WARNING "driver and firmware is not exists, please install first."
    fi
    mkdir -p "$version_dir"
    (cd "$source" && tar -cf - .) | tar -xpf - --no-same-owner -C "$version_dir" 2>/dev/null || fail "$run install failed: cannot write below $version_dir"
    while read -r file; do
        path=$version_dir/$file
        sed -i -e "s|%TOP%|$top|g" -e "s|%VERSION_DIR%|$version_dir|g" -e "s|%USER%|$(sim_user)|g" -e "s|%GROUP%|$(sim_group)|g" "$path"
    done < "$payload/placeholders/$part"
    say INFO "$run --full --quiet --nox11${for_all_flag:-} install success"
}

version_dirs() { local folder; for folder in "$top"/[0-9]*; do [ -d "$folder" ] && [ ! -L "$folder" ] && echo "${folder##*/}"; done; }

component_info() { case "$1" in aoe|ncs) echo "$top/$2/tools/$1/version.info" ;; *) echo "$top/$2/$1/version.info" ;; esac; }

# latest/version.cfg from what is on disk. ASSUMPTION: several versions stand side by side, separated by commas.
write_version_cfg() {
    local kind component folder number list
    [ -d "$top/latest" ] || return 0
    {
        echo "# version: 1.0"
        for kind in running upgrade installed; do
            for component in $COMPONENTS; do
                list=""
                for folder in $(if [ $kind = installed ]; then version_dirs; else latest_version; fi); do
                    number=$(sed -n 's/^Version=//p' "$(component_info "$component" "$folder")" 2>/dev/null)
                    [ -n "$number" ] && list=${list:+$list,}[$number:$folder]
                done
                [ -n "$list" ] && echo "${component}_${kind}_version=$list"
            done
        done
    } > "$top/latest/version.cfg"
}

latest_version() { local target; target=$(readlink "$top/latest/runtime") && target=${target%/runtime} && echo "${target##*/}"; }

# The toolkit's uninstaller takes the kernels along, once they are there.
register_kernels() {
    local uninstaller=$version_dir/cann_uninstall.sh
    [ -d "$version_dir/opp_kernel/script" ] && [ -f "$uninstaller" ] || return 0
    grep -q '"opp_kernel/script"' "$uninstaller" && return 0
    chmod u+w "$uninstaller"
    sed -i 's|^uninstall_package "combo_script"|uninstall_package "opp_kernel/script"\n&|' "$uninstaller"
}

write_record() {
    mkdir -p "$(dirname "$cann_record")"
    echo "Install_Path=$install_path" > "$cann_record"
    chmod 644 "$cann_record"
}

operation_log() {
    echo "$1 $2 $(sim_user) $(date +'%Y-%m-%d %H:%M:%S') 127.0.0.1 ${PKG_NAME}_${PKG_VERSION} $3 cmdlist=$command_line." >> "$log_dir/operation.log"
    chmod 640 "$log_dir/operation.log"
}

summary() {
    printf '===========\n= Summary =\n===========\n'
    if [ -f "$install_path/driver/version.info" ]; then echo "Driver:   Installed in $install_path/driver."; else echo "Driver:   Not installed."; fi
    echo "$1"
    echo "Please make sure that the environment variables have been configured."
    echo "-  To take effect for all user, you can exec the command below: source $top/set_env.sh"
    echo "$SIM_LINE"
}
