"""ELF constants and record packers for core files. No I/O.

Sources: System V ABI (gabi), chapters 4 and 5; elf(5); include/uapi/linux/elf.h.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

ET_CORE: Final = 4
EV_CURRENT: Final = 1
ELFDATA2LSB: Final = 1
ELFOSABI_NONE: Final = 0
PT_LOAD: Final = 1
PT_NOTE: Final = 4
PN_XNUM: Final = 0xFFFF
SHT_NULL: Final = 0
ELF_MAGIC: Final = b"\x7fELF"
NOTE_ALIGN: Final = 4


class ElfClass(enum.IntEnum):
    """EI_CLASS."""

    ELF32 = 1
    ELF64 = 2


class Machine(enum.IntEnum):
    """e_machine."""

    I386 = 3
    X86_64 = 62
    AARCH64 = 183


class SegmentFlag(enum.IntFlag):
    """p_flags."""

    X = 1
    W = 2
    R = 4


class NoteType(enum.IntEnum):
    """n_type of the notes of a core; owner "CORE" below 0x200 and for the letters, else "LINUX"."""

    PRSTATUS = 1
    FPREGSET = 2
    PRPSINFO = 3
    AUXV = 6
    SIGINFO = 0x53494749
    FILE = 0x46494C45
    PRXFPREG = 0x46E62B7F
    I386_TLS = 0x200
    X86_XSTATE = 0x202
    X86_XSAVE_LAYOUT = 0x205


class AuxvType(enum.IntEnum):
    """a_type of the auxiliary vector entries that corepipe looks at (include/uapi/linux/auxvec.h)."""

    NULL = 0
    PHDR = 3
    PHENT = 4
    PHNUM = 5
    PAGESZ = 6
    BASE = 7
    ENTRY = 9
    EXECFN = 31
    SYSINFO_EHDR = 33


@dataclass(frozen=True, slots=True)
class ElfFormat:
    """Record layouts of one ELF class, little endian."""

    elf_class: ElfClass
    ehdr: struct.Struct
    phdr: struct.Struct
    shdr: struct.Struct
    word: struct.Struct

    @property
    def max_address(self) -> int:
        """Largest address the class can express."""
        return (1 << (self.word.size * 8)) - 1


ELF64: Final = ElfFormat(
    ElfClass.ELF64,
    ehdr=struct.Struct("<16sHHIQQQIHHHHHH"),
    phdr=struct.Struct("<IIQQQQQQ"),
    shdr=struct.Struct("<IIQQQQIIQQ"),
    word=struct.Struct("<Q"),
)
ELF32: Final = ElfFormat(
    ElfClass.ELF32,
    ehdr=struct.Struct("<16sHHIIIIIHHHHHH"),
    phdr=struct.Struct("<IIIIIIII"),
    shdr=struct.Struct("<IIIIIIIIII"),
    word=struct.Struct("<I"),
)
_NHDR: Final = struct.Struct("<III")


@dataclass(frozen=True, slots=True)
class TagFormat:
    """How a core holds the tags of memory whose mapping has that VmFlag: in segments of their own.

    memory_per_byte: bytes of memory whose tags take one byte in the core.
    """

    vm_flag: str
    segment_type: int
    memory_per_byte: int


def round_up(value: int, alignment: int) -> int:
    """Return the smallest multiple of alignment that is not below value."""
    return (value + alignment - 1) // alignment * alignment


def pack_ehdr(fmt: ElfFormat, machine: int, program_headers: int, section_header_offset: int, flags: int = 0) -> bytes:
    """Return the ELF header of a core with that many program headers right behind it.

    From PN_XNUM headers on, the count stands in sh_info of the section header at section_header_offset (bytes from
    the start of the file); below, section_header_offset is not used. Source: gabi 5.1, fs/binfmt_elf.c
    fill_extnum_info.
    """
    extended = program_headers >= PN_XNUM
    ident = ELF_MAGIC + bytes([fmt.elf_class, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE])
    return fmt.ehdr.pack(
        ident,
        ET_CORE,
        machine,
        EV_CURRENT,
        0,
        fmt.ehdr.size,
        section_header_offset if extended else 0,
        flags,
        fmt.ehdr.size,
        fmt.phdr.size,
        min(program_headers, PN_XNUM),
        fmt.shdr.size if extended else 0,
        1 if extended else 0,
        0,
    )


def pack_phdr(
    fmt: ElfFormat, p_type: int, flags: int, offset: int, vaddr: int, filesz: int, memsz: int, align: int
) -> bytes:
    """Return one program header; sizes, offset and align in bytes."""
    if fmt.elf_class is ElfClass.ELF64:
        return fmt.phdr.pack(p_type, flags, offset, vaddr, 0, filesz, memsz, align)
    return fmt.phdr.pack(p_type, offset, vaddr, 0, filesz, memsz, flags, align)


def pack_extended_count(fmt: ElfFormat, program_headers: int) -> bytes:
    """Return the one section header that carries the true number of program headers (PN_XNUM)."""
    return fmt.shdr.pack(0, SHT_NULL, 0, 0, 0, 1, 0, program_headers, 0, 0)


def pack_note(name: bytes, note_type: int, desc: bytes) -> bytes:
    """Return one note record. n_namesz counts the NUL and nothing more: elfutils compares it."""
    namesz = len(name) + 1
    return b"".join(
        (
            _NHDR.pack(namesz, len(desc), note_type),
            name,
            bytes(round_up(namesz, NOTE_ALIGN) - len(name)),
            desc,
            bytes(round_up(len(desc), NOTE_ALIGN) - len(desc)),
        )
    )


def note_size(name: bytes, desc_bytes: int) -> int:
    """Return the bytes that pack_note gives for a descriptor of that size."""
    return _NHDR.size + round_up(len(name) + 1, NOTE_ALIGN) + round_up(desc_bytes, NOTE_ALIGN)
