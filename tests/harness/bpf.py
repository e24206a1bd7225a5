"""A classic BPF interpreter for what libseccomp and Cais emit."""

import struct

X86_64, X86 = 0xC000003E, 0x40000003


def run(program, number, *args, arch=X86_64):
    """What the kernel would do with a call: a classic BPF interpreter of what libseccomp and Cais emit."""
    values = [*args, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number, arch, 0, *values)
    ops = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        code, when, unless, value = ops[position]
        position += 1
        if code == 0x06:
            return value
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            position += value
        else:
            test = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            position += when if test else unless
