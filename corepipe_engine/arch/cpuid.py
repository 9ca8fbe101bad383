"""The CPUID and XGETBV instructions from Python: a few bytes of machine code in a page of our own.

Source: Intel SDM vol. 2, CPUID and XGETBV; System V ABI for the calling convention.
"""

from __future__ import annotations

import ctypes
import mmap

# void f(uint32_t leaf /*edi*/, uint32_t subleaf /*esi*/, uint32_t out[4] /*rdx*/)
_PROLOGUE = bytes.fromhex(
    "53"  # push rbx
    "4989d0"  # mov r8, rdx
    "89f8"  # mov eax, edi
    "89f1"  # mov ecx, esi
)
_EPILOGUE = bytes.fromhex(
    "418900"  # mov [r8], eax
    "41895804"  # mov [r8+4], ebx
    "41894808"  # mov [r8+8], ecx
    "4189500c"  # mov [r8+12], edx
    "5b"  # pop rbx
    "c3"  # ret
)
_CPUID = bytes.fromhex("0fa2")
_XGETBV = bytes.fromhex("0f01d0")


def _run(instruction: bytes, arguments: tuple[tuple[int, int], ...]) -> list[tuple[int, int, int, int]]:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    try:
        page.write(_PROLOGUE + instruction + _EPILOGUE)
        anchor = ctypes.c_char.from_buffer(page)
        try:
            prototype = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
            function = prototype(ctypes.addressof(anchor))
            results = []
            for leaf, subleaf in arguments:
                out = (ctypes.c_uint32 * 4)()
                function(leaf, subleaf, ctypes.addressof(out))
                results.append((out[0], out[1], out[2], out[3]))
        finally:
            del anchor
        return results
    finally:
        page.close()


def cpuid(*leaves: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Return (eax, ebx, ecx, edx) for each (leaf, subleaf). OSError where executable memory is forbidden (SELinux)."""
    return _run(_CPUID, leaves)


def xcr0() -> int:
    """Return XCR0, the XSAVE features that the kernel enabled; 0 where the processor has no XSAVE. OSError as cpuid."""
    osxsave = cpuid((1, 0))[0][2] >> 27 & 1
    if not osxsave:
        return 0
    low, _, _, high = _run(_XGETBV, ((0, 0),))[0]
    return high << 32 | low
