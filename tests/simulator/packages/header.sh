#!/bin/bash
# A self-extracting package of the npuops SIMULATOR: it looks and behaves like the vendor's, and contains nothing of it.
# The shell that a .run file begins with, after makeself's behaviour (facts: ascend-vendor.md 2.1). Payload: a .tar.gz at the end.
label="@LABEL@"
run_name="@RUN_NAME@"
sha256="@SHA256@"
payload_bytes=@PAYLOAD_BYTES@
header_lines=@HEADER_LINES@
vendor_check="@VENDOR_CHECK@"     # y: --check and --version also run the vendor's script (driver, firmware)
tmp_root="@TMP_ROOT@"             # where a simulated node unpacks; empty: TMPDIR or /tmp
makeself_log="@MAKESELF_LOG@"

noexec=n
extract_to=""
script_args=()

payload() { tail -n "+$((header_lines + 1))" "$0"; }

usage() {
    cat <<HELP
This is a SIMULATED package of npuops, version @VERSION@.
Makeself version 2.5.0
 1) Getting help or info about $0 :
  $0 --help   Print this message
  $0 --info   Print embedded info : title, default target directory, embedded script ...
  $0 --list   Print the list of files in the archive
  $0 --check  Checks integrity and version dependency of the archive

 2) Running $0 :
  $0 [options] [additional arguments to embedded script]
  with following options (in that order)
  --quiet             Quiet install mode, skip human-computer interactions
  --nox11             Do not spawn an xterm
  --noexec            Do not run embedded script, only with --extract
  --extract=<path>    Extract directly to a target directory

 3) Options of the embedded script:
@HELP@
HELP
}

verify() {
    local seen
    printf 'Verifying archive integrity...  100%%   '
    seen=$(payload | sha256sum | cut -d' ' -f1)
    if [ "$seen" != "$sha256" ]; then
        printf '\nError in SHA256 checksums: %s is different from %s\n' "$seen" "$sha256" >&2
        exit 2
    fi
    echo 'SHA256 checksums are OK. All good.'
}

unpack_into() {
    printf 'Uncompressing %s  100%%  \n' "$label"
    payload | tar -xzpf - -C "$1" 2>/dev/null || { echo "Extraction failed." >&2; exit 1; }
}

for argument in "$@"; do
    case "$argument" in
        --help|-h) usage; exit 0 ;;
        --info)
            printf 'Identification: %s\nTarget directory: makeself (temporary)\nUncompressed size: %s KB\nCompression: gzip\n' "$label" "@UNPACKED_KB@"
            printf 'Script run after extraction:\n    ./install.sh\nOrigin: simulated, nothing of the vendor is inside\n'
            exit 0 ;;
        --list) printf 'Target directory: makeself\n'; payload | tar -tzvf -; exit $? ;;
        --noexec) noexec=y ;;
        --extract=*) extract_to=${argument#--extract=} ;;
        --nox11) ;;
        *) script_args+=("$argument") ;;
    esac
done

case " ${script_args[*]} " in
    *" --check "*)
        if [ "$vendor_check" != y ]; then
            verify
            echo "[npuops simulator] $run_name: archive checked, simulated package"
            exit 0
        fi
        # The driver's and the firmware's check verifies twice, then asks the vendor's script (facts 2.1).
        if mkdir -p "$(dirname "$makeself_log")" 2>/dev/null; then : >> "$makeself_log"; fi
        echo "Makeself logfile: $makeself_log"
        verify ;;
esac
verify

if [ -n "$extract_to" ]; then
    mkdir -p "$extract_to" || exit 1
    target=$(cd "$extract_to" && pwd)
else
    [ "$noexec" = y ] && { echo "Option --noexec must be used with --extract=<path>." >&2; exit 1; }
    tmp_root=${tmp_root:-${TMPDIR:-/tmp}}
    mkdir -p "$tmp_root" || exit 1
    target=$(mktemp -d "$tmp_root/selfgz.XXXXXX") || { echo "Cannot create target directory below $tmp_root" >&2; exit 1; }
    trap 'chmod -R u+w "$target" 2>/dev/null; rm -rf "$target"' EXIT
fi
need_kb=@UNPACKED_KB@
have_kb=$(df -kP "$target" | awk 'NR==2 {print $4}')
if [ "${have_kb:-0}" -lt "$need_kb" ]; then
    echo "Not enough space left in $target ($have_kb KB) to decompress $0 ($need_kb KB)" >&2
    exit 1
fi
unpack_into "$target"
[ "$noexec" = y ] && exit 0

echo "[npuops simulator] $run_name is a simulated package: nothing of the vendor is inside."
origin=$(cd "$(dirname "$0")" && pwd)
# The vendor's header passes its own name and folder before the user's options.
(cd "$target" && bash ./install.sh "--$run_name" "--$origin" "${script_args[@]}")
exit $?
