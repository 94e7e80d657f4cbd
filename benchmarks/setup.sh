#!/bin/sh
# Installs what the benchmarks can compare with, and matplotlib for the plot, into benchmarks/.peers (git-ignored).
# All of it is optional: what is missing is skipped, with a line that says so. Needs python3 with venv; npm for
# pm2 and for the libraries of the original database module.
#
#   benchmarks/setup.sh [PYTHON]      PYTHON (an absolute path) runs the benchmarks: .venv/bin/python unless given
set -eu
cd "$(dirname "$0")"
python=${1:-../.venv/bin/python}
mkdir -p .peers

# supervisord's package is called "supervisor" too, as ours is: it must not be installed beside it.
for peer in supervisor circus; do
  "$python" -m venv ".peers/$peer"
  ".peers/$peer/bin/python" -m pip install --quiet --disable-pip-version-check "$peer" setuptools
done

if command -v npm >/dev/null; then
  npm install --silent --no-fund --no-audit --prefix .peers/pm2 pm2
  npm install --silent --no-fund --no-audit --prefix .peers/original kysely better-sqlite3 bun kysely-bun-sqlite
else
  echo "npm is missing: no pm2, no original" >&2
fi

"$python" -m pip install --quiet --disable-pip-version-check --upgrade --target .peers/plot matplotlib
