#!/usr/bin/env bash
# The documentation as a site: README, docs/*.md, and a page for each module, plugin and role.
# usage: build.sh FOLDER; the environment with antsibull-docs and sphinx is on PATH
set -euo pipefail

checkout=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
source=$folder/source
rm -rf "$source" "$folder/html"
mkdir -p "$source/docs" "$source/collection"
# antsibull-docs wants a folder that only its owner writes to.
chmod go-w "$source/collection"
printf 'use_html_blobs = false\nbreadcrumbs = true\nindexes = false\n' >"$source/antsibull.cfg"

antsibull-docs --config-file "$source/antsibull.cfg" collection --use-current --squash-hierarchy --cleanup everything --fail-on-error \
  --dest-dir "$source/collection" npuops.ktransformers >"$folder/antsibull-docs.log" 2>&1 || { cat "$folder/antsibull-docs.log" >&2; exit 1; }

cp "$checkout"/docs/*.md "$source/docs"
cp "$checkout/CHANGELOG.rst" "$source"
# The front pages name files by their full address; in the site they are pages of it.
for page in README.md README.zh-CN.md; do
  sed -E 's#https://github.com/npuops/ktransformers/blob/main/(docs/[^ )]+\.md|README\.zh-CN\.md|CHANGELOG\.rst)#\1#g' "$checkout/$page" >"$source/$page"
done
cat >"$source/index.md" <<'INDEX'
# npuops.ktransformers

```{toctree}
:maxdepth: 1

Overview <README>
中文 <README.zh-CN>
docs/air-gap
docs/operations
docs/troubleshooting
docs/tested-matrix
docs/architecture
docs/merge
docs/tutorial-map
docs/releasing
Modules, plugins and roles <collection/index>
Changelog <CHANGELOG>
```
INDEX
sphinx-build -q -W --keep-going -b html -c "$checkout/tests/docs" "$source" "$folder/html"
echo "The site is $folder/html/index.html"
