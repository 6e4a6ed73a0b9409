#!/usr/bin/env python3
"""A copy of the installed onnxruntime that uses AVX2 on a CPU with AVX-512, for a fair look at octet's AVX2 kernels.

    python avx2_onnxruntime.py FOLDER      then PYTHONPATH=FOLDER

ONNX Runtime has no setting for this: MLAS asks CPUID and XGETBV itself, once, and CPUID cannot be made to answer
otherwise without CPUID faulting (arch_prctl(ARCH_SET_CPUID) fails with ENODEV on the CPUs measured). So the copy's one
XGETBV instruction in MLAS_PLATFORM is replaced by `push 7; pop rax`, which is as long and says that the operating
system saves the x87, SSE and AVX states but not AVX-512's. Everything before that check stays as it is: AVX2 and FMA3.
The function has a stack frame of its own, so the push overwrites nothing.
"""

import argparse
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

# xgetbv; mov eax, eax; shl rdx, 32; or rdx, rax; not rax
SITE = bytes.fromhex("0f01d0 89c0 48c1e220 4809c2 48f7d0")
# push 7; pop rax
ANSWER = bytes.fromhex("6a07 58")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    package = Path(find_spec("onnxruntime").origin).parent
    copy = folder / "onnxruntime"
    if copy.exists():
        return
    (library,) = (package / "capi").glob("onnxruntime_pybind11_state*.so")
    code = library.read_bytes()
    if code.count(SITE) != 1:
        sys.exit(f"{library.name}: the check of MLAS is there {code.count(SITE)} times instead of once; not patched")
    unfinished = folder / "onnxruntime.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(package, unfinished)
    (unfinished / "capi" / library.name).write_bytes(code.replace(SITE, ANSWER + SITE[len(ANSWER) :]))
    unfinished.rename(copy)


if __name__ == "__main__":
    main()
