#!/usr/bin/env bash
# Builds the wheel, installs it alone into a folder outside the checkout, compares its files with the checkout's, and
# runs a few tests against it there. What the files do is tested from the checkout.
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
diff <(cd "$checkout" && find keras_laurel -type f -not -name "*.pyc" | sort) \
    <(cd "$elsewhere/site" && find keras_laurel -type f -not -name "*.pyc" | sort)
"$python" -m pytest --quiet -p no:cacheprovider tests/test_datasets.py tests/test_import.py tests/test_joins.py
