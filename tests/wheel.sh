#!/usr/bin/env bash
# Builds the wheel, installs it alone into a folder outside the checkout, and runs tests against it there: a file that
# the wheel lacks shows only so.
set -euo pipefail
python=$(realpath -s "${1:-python}")
checkout=$(cd "$(dirname "$0")/.." && pwd)
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT

"$python" -m build --quiet --wheel --outdir "$elsewhere/dist" "$checkout"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$elsewhere/site" "$elsewhere"/dist/*.whl
cp -r "$checkout/tests" "$checkout/conftest.py" "$checkout/pyproject.toml" "$elsewhere/"
cd "$elsewhere"
export PYTHONPATH="$elsewhere/site" KERAS_BACKEND="${KERAS_BACKEND:-jax}"
"$python" -c "import keras_laurel; assert keras_laurel.__file__.startswith('$elsewhere'), keras_laurel.__file__"
"$python" -m pytest --quiet -p no:cacheprovider \
    tests/layers/test_laurel.py tests/test_datasets.py tests/test_history.py tests/test_import.py tests/test_joins.py
