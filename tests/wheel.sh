#!/usr/bin/env bash
# Builds the wheel and installs it beside jax and optax alone: its only top-level name must be
# optax_strat, and every public name must import without flax, models or train.
#   tests/wheel.sh PYTHON     PYTHON has hatchling
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m hatchling build -t wheel -d "$work" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
wheel=("$work"/*.whl)

"$python" - "${wheel[0]}" <<'PY'
import sys
import zipfile

names = {name.split("/")[0] for name in zipfile.ZipFile(sys.argv[1]).namelist()}
packages = {name for name in names if not name.endswith(".dist-info")}
assert packages == {"optax_strat"}, f"the wheel holds {sorted(packages)}"
PY

# The library's own dependencies at the locked versions, nothing else.
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install --quiet --only-binary :all: \
  "${wheel[0]}" -c <(sed -nE 's/^([a-z0-9_.-]+==[^ \\]+)( ;[^\\]*)?.*/\1\2/p' locks/cpu.txt)
cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib.util

import optax_strat

for name in ("flax", "models", "train"):
    assert importlib.util.find_spec(name) is None, f"{name} came along"
missing = [name for name in optax_strat.__all__ if not hasattr(optax_strat, name)]
assert not missing, missing
print(f"wheel: optax_strat {optax_strat.__version__}, {len(optax_strat.__all__)} public names")
PY
