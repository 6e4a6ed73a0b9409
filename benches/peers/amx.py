"""Processes without AMX on a CPU that has it, for a look at the same engines on AVX-512 VNNI.

A program must ask Linux for the tile registers before it uses them (arch_prctl(ARCH_REQ_XCOMP_PERM), see
https://docs.kernel.org/arch/x86/xstate.html), and every engine here falls back to AVX-512 when that is refused. So a
seccomp filter that refuses it takes AMX, and nothing else, from all of them in the same way.
"""

import ctypes
import struct

ARCH_PRCTL = 158
ARCH_REQ_XCOMP_PERM = 0x1023
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
EPERM = 1

# (operation, jump if true, jump if false, value) of classic BPF over struct seccomp_data: nr at 0, args[0] at 16.
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000
FILTER = (
    (LOAD, 0, 0, 0),
    (JUMP_IF_EQUAL, 0, 3, ARCH_PRCTL),
    (LOAD, 0, 0, 16),
    (JUMP_IF_EQUAL, 0, 1, ARCH_REQ_XCOMP_PERM),
    (RETURN, 0, 0, FAIL | EPERM),
    (RETURN, 0, 0, ALLOW),
)


def refuse() -> None:
    """From here on this process and its children are refused AMX."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in FILTER)
    memory = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(FILTER), ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not let this process refuse itself AMX")
