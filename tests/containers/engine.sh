#!/usr/bin/env bash
# Make sure that a container engine and the image of a test node are at hand. Prints nothing but what it does.
# usage: engine.sh FOLDER     FOLDER gets containers.conf (name it in CONTAINERS_CONF) and a stamp of the image.
# exit 0: ready; 77: this machine can't run containers, the last line says why.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=$1
image=localhost/npuops-test-node
mkdir -p "$folder"

skip() { echo "no containers here: $*"; exit 77; }

[ "$(id -u)" -eq 0 ] || skip "not root (systemd as PID 1 in a container and a Debian root file system need it)"
missing=()
for tool in podman runc mmdebstrap; do command -v "$tool" >/dev/null || missing+=("$tool"); done
if [ "${#missing[@]}" -gt 0 ]; then
  command -v apt-get >/dev/null || skip "${missing[*]} missing, and this system has no apt-get to install them"
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$folder/apt.log" 2>&1 ||
    skip "installing ${missing[*]} failed, see $folder/apt.log"
fi

# Raised limits are refused in nested sandboxes, and crun fails on some cgroup set-ups: runc with plain limits works everywhere.
cat >"$folder/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
export CONTAINERS_CONF="$folder/containers.conf"

wanted=$(sha256sum "$here/engine.sh" "$here/packages.txt" | sha256sum | cut -c1-16)
if ! podman image exists "$image:$wanted"; then
  echo "building the image of a test node ($image:$wanted)"
  packages=$(grep -v '^#' "$here/packages.txt" | paste -sd,)
  mmdebstrap --variant=minbase --include="$packages" bookworm - 2>"$folder/mmdebstrap.log" |
    podman import --quiet - "$image:$wanted" >/dev/null || skip "building the root file system failed, see $folder/mmdebstrap.log"
fi
podman tag "$image:$wanted" "$image:latest"
