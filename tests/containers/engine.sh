#!/usr/bin/env bash
# Make sure that a container engine and the image of a test node are at hand. Prints nothing but what it does.
# usage: engine.sh FOLDER [ARCH [KIND]]
#   FOLDER  gets engine (the one word podman or docker), containers.conf (name it in CONTAINERS_CONF) and logs
#   ARCH    x86_64 or aarch64 (default: this machine's); another machine's runs under qemu, which this script registers
#   KIND    node (default): a system with systemd; python: only unpacked, no package is configured: a Python and the usual commands
# NPUOPS_ENGINE=podman or docker says which engine it is to be; else it is podman, unless only docker is there and answers.
# The image is localhost/npuops-test-KIND for this machine's architecture, localhost/npuops-test-KIND-ARCH for another. A node's is built upon
# Debian's own image where a registry has it, everything else is made from Debian's packages.
# exit 0: ready; 77: this machine can't run such containers, the last line says why.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd) arch=${2:-$(uname -m)} kind=${3:-node}
image=localhost/npuops-test-$kind
[ "$arch" = "$(uname -m)" ] || image+=-$arch
declare -A debian=([x86_64]=amd64 [aarch64]=arm64)

skip() { echo "no $arch containers here: $*"; exit 77; }

[ -n "${debian[$arch]:-}" ] || skip "no test image is made for this architecture"
[ "$(id -u)" -eq 0 ] || skip "not root (systemd as PID 1 in a container and a Debian root file system need it)"
declare -A package=([ssh]=openssh-client [tc]=iproute2 [pgrep]=procps)

# need TOOL…: install what is not there.
need() {
  local tool missing=()
  for tool in "$@"; do
    command -v "$tool" >/dev/null || missing+=("${package[$tool]:-${tool/#qemu-*-static/qemu-user-static}}")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null || skip "${missing[*]} missing, and this system has no apt-get to install them"
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$folder/apt.log" 2>&1 ||
    skip "installing ${missing[*]} failed, see $folder/apt.log"
}
need ssh tc pgrep  # for nodes that are reached over a network, and for a run that is killed
[ "$arch" = "$(uname -m)" ] || need "qemu-$arch-static" arch-test

# The kernel starts another architecture's programs with qemu. Flag F: it has opened qemu already, so that containers need not have it.
emulate() {
  local binfmt=/proc/sys/fs/binfmt_misc rule=/usr/lib/binfmt.d/qemu-$arch.conf
  [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt 2>"$folder/binfmt.log" ||
    skip "binfmt_misc can't be mounted ($(tail -1 "$folder/binfmt.log"))"
  [ -e "$binfmt/qemu-$arch" ] || cat "$rule" 2>>"$folder/binfmt.log" >$binfmt/register ||
    skip "the kernel refuses $rule"
  grep -q '^flags:.*F' "$binfmt/qemu-$arch" || skip "$binfmt/qemu-$arch was registered without the flag F: containers would not find qemu"
  arch-test "${debian[$arch]}" >/dev/null 2>&1 || skip "the kernel does not run $arch programs with $(sed -n 's/^interpreter //p' "$binfmt/qemu-$arch")"
}
[ "$arch" = "$(uname -m)" ] || emulate

# Raised limits are refused in nested sandboxes, and crun fails on some cgroup set-ups: runc with plain limits works everywhere.
cat >"$folder/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
export CONTAINERS_CONF="$folder/containers.conf" BUILDAH_ISOLATION=chroot  # podman reads them

engine=${NPUOPS_ENGINE:-podman}
if [ -z "${NPUOPS_ENGINE:-}" ] && ! command -v podman >/dev/null && docker info >/dev/null 2>&1; then
  engine=docker
fi
case $engine in
  podman) need podman runc ;;
  docker) command -v docker >/dev/null || skip "NPUOPS_ENGINE=docker, and docker is not installed" ;;
  *) echo "NPUOPS_ENGINE=$engine: it has to be podman or docker" >&2; exit 2 ;;
esac
"$engine" info >"$folder/info.log" 2>&1 || skip "$engine does not answer ($(tail -1 "$folder/info.log"))"
echo "$engine" >"$folder/engine"

# What is only unpacked wants some of what the packages' own scripts would have done; byte code is cheaper to make here than under qemu.
unpacked=(--variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr
  '--extract-hook=for name in passwd group; do cp "$1/usr/share/base-passwd/$name.master" "$1/etc/$name"; done'
  '--extract-hook=cp "$1/usr/share/base-files/nsswitch.conf" "$1/etc/"; ln -sf mawk "$1/usr/bin/awk"'
  '--extract-hook=cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"'
  '--extract-hook=python3.11 -m compileall -q --invalidation-mode unchecked-hash -s "$1" -p / "$1/usr/lib/python3.11" "$1/usr/lib/python3" || true')
how=(--variant=minbase)
list=$here/packages.txt
if [ "$kind" = python ]; then
  how=("${unpacked[@]}")
  list=$here/packages-python.txt
fi
wanted=$( (cat "$list"; echo bookworm "${how[@]}") | sha256sum | cut -c1-16)

# build CONTEXT: by what both engines have, with no more rights than the containers get. `docker import` knows no other architecture everywhere.
build() {
  "$engine" build --quiet --platform="linux/${debian[$arch]}" --network=host --tag="$image:$wanted" "$1" >"$folder/build-$kind-$arch.log" 2>&1
}

# upon BASE: the packages installed upon Debian's own image.
upon() {
  printf 'FROM %s\nRUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends %s\n' "$1" "${packages//,/ }" | build -
}

from_packages() {
  local context=$folder/root-$kind-$arch
  need mmdebstrap
  mkdir -p "$context"
  printf 'FROM scratch\nADD root.tar /\n' >"$context/Dockerfile"
  { mmdebstrap --arch="${debian[$arch]}" "${how[@]}" --include="$packages" bookworm "$context/root.tar" 2>"$folder/mmdebstrap-$kind-$arch.log" &&
    build "$context"; } || skip "building the root file system failed, see $folder/mmdebstrap-$kind-$arch.log and build-$kind-$arch.log"
  rm -rf "$context"
}

if ! "$engine" image inspect "$image:$wanted" >/dev/null 2>&1; then
  echo "building the image of a test node ($image:$wanted)$([ "$arch" = "$(uname -m)" ] || [ "$kind" = python ] || echo ", some minutes under qemu")"
  packages=$(grep -v '^#' "$list" | paste -sd,)
  base=debian:bookworm-slim
  if [ "$kind" != node ] || ! timeout 300 "$engine" pull --quiet --platform="linux/${debian[$arch]}" "$base" >"$folder/pull.log" 2>&1 || ! upon "$base"; then
    from_packages
  fi
fi
"$engine" tag "$image:$wanted" "$image:latest"
