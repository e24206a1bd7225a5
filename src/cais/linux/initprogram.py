"""The program that is process 1 of a container with ``--init``: a hundred bytes of machine code, made on the spot.

Process 1 could as well stay the forked keeper, but then every container that may trace its own processes could read the
keeper's memory, with the environments of all other containers in it. A program of its own has nothing to read.
"""

import fcntl
import os
import struct

# ELF64 (elf(5)): the header, one loadable segment (headers and code, read and execute) and a stack without execution.
BASE = 0x400000
HEADERS = 64 + 2 * 56
MACHINES = {"x86_64": 62}

# From linux/memfd.h; 0x10 (MFD_EXEC) is known since 6.3.
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC = 1, 2, 0x10
SEAL_ALL = 0xF
F_ADD_SEALS = 1033


def find_code(pid: int, machine: str) -> bytes | None:
    """The code: with all signals blocked, wait for one; SIGCHLD reaps every dead child and ends as ``pid`` ended; any
    other is sent on to ``pid``. None for a machine it was not written for."""
    return _x86_64(pid) if machine == "x86_64" else None


def _x86_64(pid: int) -> bytes:
    number = struct.pack("<i", pid)
    # On the stack: the signal set at 0, the wait status at 8, a siginfo_t at 16.
    start = b"\x48\x81\xec\x00\x01\x00\x00"  # sub rsp, 256
    start += b"\x48\xc7\x04\x24\xff\xff\xff\xff"  # mov qword [rsp], -1: every signal
    wait = b"\x48\x89\xe7\x48\x8d\x74\x24\x10"  # mov rdi, rsp; lea rsi, [rsp+16]
    wait += b"\x31\xd2\x41\xba\x08\x00\x00\x00"  # xor edx, edx; mov r10d, 8
    wait += b"\xb8\x80\x00\x00\x00\x0f\x05"  # mov eax, 128 (rt_sigtimedwait); syscall
    wait += b"\x85\xc0\x7e" + _back(wait, 3)  # test eax, eax; jle wait
    forward = b"\x89\xc6\xbf" + number  # mov esi, eax; mov edi, pid
    forward += b"\xb8\x3e\x00\x00\x00\x0f\x05"  # mov eax, 62 (kill); syscall
    wait += b"\x83\xf8\x11\x74" + bytes([len(forward) + 2])  # cmp eax, 17 (SIGCHLD); je reap
    loop = wait + forward
    loop += b"\xeb" + _back(loop, 1)  # jmp wait
    reap = b"\xbf\xff\xff\xff\xff\x48\x8d\x74\x24\x08"  # mov edi, -1; lea rsi, [rsp+8]
    reap += b"\xba\x01\x00\x00\x00\x45\x31\xd2"  # mov edx, 1 (WNOHANG); xor r10d, r10d
    reap += b"\xb8\x3d\x00\x00\x00\x0f\x05"  # mov eax, 61 (wait4); syscall
    reap += b"\x85\xc0\x7e" + _back(loop + reap, 3)  # test eax, eax; jle wait
    reap += b"\x3d" + number + b"\x75" + _back(reap, 6)  # cmp eax, pid; jne reap
    end = b"\x8b\x7c\x24\x08\x89\xf8\x83\xe0\x7f"  # mov edi, [rsp+8]; mov eax, edi; and eax, 127
    end += b"\x74\x08\x8d\xb8\x80\x00\x00\x00\xeb\x09"  # jz exited; lea edi, [rax+128]; jmp quit
    end += b"\xc1\xef\x08\x81\xe7\xff\x00\x00\x00"  # exited: shr edi, 8; and edi, 255
    end += b"\xb8\xe7\x00\x00\x00\x0f\x05"  # quit: mov eax, 231 (exit_group); syscall
    return start + loop + reap + end


def _back(code: bytes, more: int) -> bytes:
    """The 8-bit distance from behind a jump back to the start of ``code``; between ``code`` and the distance stand
    ``more`` bytes of the jump and its test."""
    return struct.pack("b", -(len(code) + more + 1))


def make_program(pid: int, machine: str) -> bytes | None:
    """The whole ELF file, None for a machine there is no code for."""
    code = find_code(pid, machine)
    if code is None:
        return None
    size = HEADERS + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        "<HHIQQQIHHHHHH", 2, MACHINES[machine], 1, BASE + HEADERS, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    return ident + header + load + stack + code


def open_program(program: bytes) -> int:
    """A sealed descriptor of the program, for execve by descriptor; closed by that. OSError where memory files may not
    be executed (vm.memfd_noexec)."""
    try:
        fd = os.memfd_create("init", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC)
    except OSError:
        fd = os.memfd_create("init", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    os.write(fd, program)
    fcntl.fcntl(fd, F_ADD_SEALS, SEAL_ALL)
    return fd
