#!/usr/bin/env python3
"""A copy of the installed onnxruntime that uses AVX2 on a CPU with AVX-512, for a fair look at octet's AVX2 kernels.

    python avx2_onnxruntime.py FOLDER [--without-vnni]      then PYTHONPATH=FOLDER

ONNX Runtime has no setting for this: MLAS asks CPUID and XGETBV itself, once, and CPUID cannot be made to answer
otherwise without CPUID faulting (arch_prctl(ARCH_SET_CPUID) fails with ENODEV on the CPUs measured). So the copy's one
XGETBV instruction in MLAS_PLATFORM is replaced by `push 7; pop rax`, which is as long and says that the operating
system saves the x87, SSE and AVX states but not AVX-512's. Everything before that check stays as it is: AVX2 and FMA3.
The function has a stack frame of its own, so the push overwrites nothing. After it the function also asks for
AVX-VNNI (CPUID leaf 7, subleaf 1, bit 4 of eax); --without-vnni lets that test look at no bit.
"""

import argparse
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

# What the states saved by the operating system are: (as it is, as it becomes).
STATES = (
    # xgetbv; mov eax, eax; shl rdx, 32; or rdx, rax; not rax
    bytes.fromhex("0f01d0 89c0 48c1e220 4809c2 48f7d0"),
    # push 7; pop rax; the same
    bytes.fromhex("6a07 58 89c0 48c1e220 4809c2 48f7d0"),
)
# Whether there is AVX-VNNI.
VNNI = (
    # mov eax, 7; mov ecx, 1; cpuid; test al, 16; je
    bytes.fromhex("b807000000 b901000000 0fa2 a810 74"),
    # the same; test al, 0; je
    bytes.fromhex("b807000000 b901000000 0fa2 a800 74"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without-vnni", action="store_true")
    args = parser.parse_args()
    folder, changes = args.folder, (STATES, VNNI) if args.without_vnni else (STATES,)
    package = Path(find_spec("onnxruntime").origin).parent
    copy = folder / "onnxruntime"
    if copy.exists():
        return
    (library,) = (package / "capi").glob("onnxruntime_pybind11_state*.so")
    code = library.read_bytes()
    for check, answer in changes:
        if code.count(check) != 1:
            sys.exit(f"{library.name}: a check of MLAS is there {code.count(check)} times instead of once; not patched")
        code = code.replace(check, answer)
    unfinished = folder / "onnxruntime.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(package, unfinished)
    (unfinished / "capi" / library.name).write_bytes(code)
    unfinished.rename(copy)


if __name__ == "__main__":
    main()
