#!/usr/bin/env bash
# octet against its peers on this machine, on the same token ids; see docs/benchmarks.md.
# `run.sh --help` tells the rest.
# PREPARE_WITH, when set, is a command put before each step that compiles or exports (e.g. a lock).
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
here=$root/benches/peers
work=$root/target/peers
export PYTHONDONTWRITEBYTECODE=1 CARGO_TERM_QUIET=true
python3 "$here/options.py" "$@"
for argument; do
    case $argument in -h | --help) exit ;; esac
done
mkdir -p "$work/models"
prepare() { ${PREPARE_WITH:-} "$@"; }

python=$work/venv/bin/python
if ! cmp --silent "$here/requirements.txt" "$work/venv/requirements.txt"; then
    [[ -x $python ]] || python3 -m venv "$work/venv"
    prepare "$python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$work/venv/requirements.txt"
fi

tests/fetch-assets.sh >"$work/assets.log" 2>&1 || { cat "$work/assets.log" >&2; exit 1; }
source target/test-assets/env
: "${OCTET_TEST_F32:?the float weights could not be fetched: see target/peers/assets.log}"
sdist=$work/vadersentiment-3.3.1.tar.gz
if [[ ! -f $sdist ]]; then
    pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest "$work/sdist" vadersentiment==3.3.1
    mv "$work"/sdist/*.tar.gz "$sdist"
fi
[[ -f $work/sentences/train.jsonl ]] || python3 models/recipes/sentences.py "$sdist" "$work/sentences" >&2

prepare cargo build --release --locked
prepare cargo build --release --locked --manifest-path "$here/rten/Cargo.toml" --target-dir "$work/rten"

prepare "$python" "$here/avx2_onnxruntime.py" "$work/onnxruntime-avx_vnni"
prepare "$python" "$here/avx2_onnxruntime.py" --without-vnni "$work/onnxruntime-avx2"
prepare "$python" "$here/bert_base.py" "$OCTET_TEST_F32" "$work/bert-base"
for model in minilm bert-base; do
    float=$work/bert-base
    [[ $model == bert-base ]] || float=$OCTET_TEST_F32
    prepare "$python" "$here/export.py" --model "$float" --out "$work/models/$model" \
        --calibration "$work/sentences/train.jsonl" >>"$work/export.log" 2>&1 ||
        { tail -n 20 "$work/export.log" >&2; exit 1; }
done
[[ -d $work/bert-base-int8 ]] || prepare target/release/octet quantize "$work/bert-base" "$work/bert-base-int8" >>"$work/export.log"

"$python" "$here/compare.py" --root "$root" --float "$OCTET_TEST_F32" --command "benches/peers/run.sh $*" "$@"
