#!/usr/bin/env bash
# ansible-test sanity on the collection as it is built and installed: ansible-test refuses the checkout's folder link.
# usage: sanity.sh FOLDER [arguments of ansible-test sanity]
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
rm -rf "$folder/collections"
mkdir -p "$folder/dist" "$folder/collections"
cd "$checkout"
ansible-galaxy collection build --force --output-path "$folder/dist" >/dev/null
# Away from the checkout's ansible.cfg: its collections_path says that the collection is installed already.
cd "$folder"
env -u ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH="$folder/collections" \
  ansible-galaxy collection install --offline --force -p "$folder/collections" "$folder"/dist/npuops-ktransformers-*.tar.gz >/dev/null
cd "$folder/collections/ansible_collections/npuops/ktransformers"
printf 'tests/output/\n' >.gitignore
git init -q .
git add -A

# A home of its own: the virtual environments below it are kept between runs, and no other run gets in their way.
export PIP_CACHE_DIR="${PIP_CACHE_DIR:-$HOME/.cache/pip}" HOME="$folder/home"
unset ANSIBLE_HOME
# pip comes into them by a script from the internet; Python's own copy of pip does as well.
source=$(python -c 'import ansible_test._internal as a; print(a.__path__[0])')
pip_version=$(sed -n "s/.*'3\.11': *'\([0-9.]*\)'.*/\1/p" "$source/python_requirements.py" | head -n 1)
bootstrap="$HOME/.ansible/test/cache/get_pip_$(tr . _ <<<"${pip_version:-24.2}").py"
if [ ! -e "$bootstrap" ]; then
  mkdir -p "$(dirname "$bootstrap")"
  printf 'import ensurepip\nensurepip.bootstrap()\n' >"$bootstrap"
fi
exec ansible-test sanity "$@"
