"""Loading a compiled seccomp filter; small enough for the init of a container."""

import ctypes
import errno
import os
import struct

from cais.linux.syscalls import check, prototype

SET_MODE_FILTER = 1
FLAG_SPEC_ALLOW = 4
# Architectures that number their calls by the generic table have 277.
SYS_SECCOMP = {"x86_64": 317, "i686": 354, "armv7l": 383, "ppc64le": 358, "s390x": 348}.get(
    os.uname().machine, 277
)

_call_seccomp = prototype("syscall", "lius")


def load_filter(bpf: bytes) -> None:
    """Put this thread, and all it becomes, under the filter, an array of struct sock_filter (seccomp(2)).
    Empty: nothing.

    Needs no_new_privs or CAP_SYS_ADMIN in the user namespace. So without no_new_privs it comes before
    capabilities are dropped, with it as late as can be: the filter then need not allow what came before.
    OSError on refusal.
    """
    if not bpf:
        return
    if len(bpf) % 8:
        raise ValueError(f"seccomp filter of {len(bpf)} bytes is not an array of instructions")
    code = ctypes.create_string_buffer(bpf, len(bpf))
    program = struct.pack("@HP", len(bpf) // 8, ctypes.addressof(code))
    try:
        # Without this flag kernels before 5.16 turn on the costly speculation guards for the process, as
        # runc avoids.
        check(_call_seccomp(SYS_SECCOMP, SET_MODE_FILTER, FLAG_SPEC_ALLOW, program), "seccomp filter")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        check(_call_seccomp(SYS_SECCOMP, SET_MODE_FILTER, 0, program), "seccomp filter")
