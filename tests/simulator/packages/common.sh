# What every simulated installer shares: where its node is, who it is there, how it fails on demand. Sourced, after sim.conf.
# A fault is a file $SIM_STATE/faults/<package>.<fault>, laid and removed by a test; its content is the fault's argument.

SIM_LINE="[npuops simulator] simulated: nothing of the vendor runs here"

if [ -n "$SIM_ROOT" ]; then
    case "${HOME:-}/" in "$SIM_ROOT"/*) ;; *) HOME=$SIM_HOME ;; esac
    export HOME
fi

sim_fault() { [ -e "$SIM_STATE/faults/$1" ]; }
sim_fault_value() { cat "$SIM_STATE/faults/$1" 2>/dev/null; }

sim_user() { if [ "$SIM_PRIVILEGED" = y ]; then echo root; else id -un; fi; }
sim_group() { if [ "$SIM_PRIVILEGED" = y ]; then echo root; else id -gn; fi; }
sim_kernel() { cat "$SIM_PROC/sys/kernel/osrelease" 2>/dev/null || uname -r; }
sim_boot_id() { cat "$SIM_PROC/sys/kernel/random/boot_id" 2>/dev/null || cat /proc/sys/kernel/random/boot_id; }

# The addresses of the node's NPUs, one a line, as in sysfs.
sim_npus() {
    local folder
    for folder in "$SIM_SYSFS"/bus/pci/devices/*; do
        [ "$(cat "$folder/vendor" 2>/dev/null)" = 0x19e5 ] || continue
        case "$(cat "$folder/class" 2>/dev/null)" in 0x1200*) echo "${folder##*/} $(cat "$folder/device")" ;; esac
    done
}

# A simulated installer never leaves its node.
sim_stay_inside() {
    [ -z "$SIM_ROOT" ] && return 0
    case "$1/" in "$SIM_ROOT"/*) return 0 ;; esac
    echo "[npuops simulator] refused: $1 lies outside the simulated node $SIM_ROOT" >&2
    exit 1
}

# Ends the installer as a power cut would, when the fault <package>.kill names this step.
sim_kill_at() {
    [ "$(sim_fault_value "$1.kill")" = "$2" ] || return 0
    echo "[npuops simulator] fault $1.kill: the installer is killed at $2"
    kill -9 $$
}

# Free megabytes where $1 is or will be; the fault <package>.free-mb sets them.
sim_free_mb() {
    local path=$1
    if sim_fault "$2.free-mb"; then sim_fault_value "$2.free-mb"; return; fi
    while [ ! -d "$path" ]; do path=$(dirname "$path"); done
    df -BM -P "$path" | awk 'NR==2 {sub("M", "", $4); print $4}'
}
