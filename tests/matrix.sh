#!/usr/bin/env bash
# What runs on nodes under each Python of a node, and a deployment under the oldest and the newest ansible-core, one line for each.
# usage: matrix.sh FOLDER [cell…]; the environments stay in FOLDER for the next run
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$checkout"
unset ANSIBLE_CONFIG ANSIBLE_HOME
export PYTHONDONTWRITEBYTECODE=1
failed=0
cells=("$@")
[ ${#cells[@]} -gt 0 ] || cells=(node-3.8 node-3.11 node-3.13 core-2.17.0 core-2.21.5 target-3.8)

# python VERSION: where that Python is, by its name on PATH or by pyenv; fails when there is none.
python() {
  local found
  for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
    # pyenv's own python3.8 is a script that fails where that version isn't chosen.
    if "$found" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      "$found" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  echo "No Python $1: neither python$1 on PATH nor a $1.x of pyenv" >&2
  return 1
}

# environment NAME PYTHON arguments of pip…: made once for the same arguments.
environment() {
  local place=$folder/$1 interpreter=$2 wanted
  shift 2
  wanted="$interpreter $* $(sha256sum requirements-matrix.txt requirements-test.txt requirements-rehearsal.txt requirements.txt | sha256sum)"
  [ "$(cat "$place/.made" 2>/dev/null)" != "$wanted" ] || return 0
  rm -rf "$place"
  "$interpreter" -m venv "$place" && "$place/bin/python" -m pip install --quiet --disable-pip-version-check "$@" && echo "$wanted" >"$place/.made"
}

# rehearsal NAME BIN arguments…: a simulated node, deployed and then found finished.
rehearsal() {
  local root=$folder/rehearsal-$1 bin=$2 run
  shift 2
  rm -rf "$root"
  "$bin/python" tests/simulator/build.py --root "$root" >/dev/null || return
  for run in first second; do
    ANSIBLE_CONFIG=$checkout/ansible.cfg ANSIBLE_HOME=$root/ansible-home ANSIBLE_NOCOLOR=1 \
      "$bin/ansible-playbook" site.yml -i inventories/rehearsal -e "rehearsal_root=$root" "$@" >"$root/$run.log" 2>&1 || { tail -n 40 "$root/$run.log"; return 1; }
    cat "$root/$run.log"
  done
  grep -Eq '^simulated-800i-a2 +: ok=.* changed=0 .*failed=0' "$root/second.log" || { echo "The second run changed something"; return 1; }
  rm -rf "$root"
}

run() {
  local version=${1#*-} interpreter bin=$folder/$1/bin
  case $1 in
  node-*)
    interpreter=$(python "$version") || return
    environment "$1" "$interpreter" -r requirements-matrix.txt || return
    # Not of Python 3.8: a gguf that knows the newest types, a numpy that asks for a libstdc++.
    local without=()
    [ "$version" != 3.8 ] || without=(--deselect tests/unit/plugins/module_utils/weights/test_weights_gguf.py::test_type_table_is_the_library_s
      --deselect tests/unit/plugins/module_utils/test_python_env.py::test_glibcxx_that_an_extension_needs)
    # py-rattler and conda-pack are the controller's tools.
    "$bin/python" -m pytest tests/unit/plugins/module_utils tests/unit/plugins/modules -q -n 2 -o "cache_dir=$folder/$1/pytest" \
      --ignore tests/unit/plugins/modules/test_conda_packed_env.py "${without[@]}"
    ;;
  core-*)
    # 2.17 runs on Python 3.10 to 3.12, 2.21 on 3.12 and later.
    interpreter=$(python "$([[ $version == 2.17.* ]] && echo 3.11 || echo 3.13)") || return
    # What a rehearsal needs and what its tests need, with this ansible-core in place of ours.
    local pins
    mapfile -t pins < <(grep -hE '==' requirements.txt requirements-rehearsal.txt | grep -v '^ansible-core')
    mapfile -t -O "${#pins[@]}" pins < <(grep -E '^(pytest|pytest-xdist|hypothesis)==' requirements-test.txt)
    environment "$1" "$interpreter" "ansible-core==$version" "${pins[@]}" || return
    "$bin/python" -m pytest tests/unit/plugins/plugin_utils tests/unit/plugins/test -q -n 2 -o "cache_dir=$folder/$1/pytest" || return
    rehearsal "$1" "$bin"
    ;;
  target-*)
    interpreter=$(python "$version") || return
    rehearsal "$1" "$checkout/.venv/bin" -e "ansible_python_interpreter=$interpreter"
    ;;
  *)
    echo "No cell $1" >&2
    return 1
    ;;
  esac
}

for cell in "${cells[@]}"; do
  log=$folder/$cell.log
  started=$SECONDS
  # Called as a condition, so each step of a cell says itself when it fails.
  if run "$cell" >"$log" 2>&1; then
    result=ok
  else
    result=FAILED
    failed=$((failed + 1))
  fi
  printf '%-12s %-7s %4d s  %s\n' "$cell" "$result" $((SECONDS - started)) "$(grep -E '^[0-9]+ passed|[0-9]+ failed|^simulated-800i-a2 +:|^No ' "$log" | tail -n 1 | cut -c1-110)"
  [ "$result" = ok ] || tail -n 15 "$log"
done
echo "Environments and logs of the matrix are kept in $folder; make clean removes them"
echo "$((${#cells[@]} - failed)) passed, $failed failed"
[ "$failed" -eq 0 ]
