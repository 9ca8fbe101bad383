"""elf.py: records that an independent reader, pyelftools, reads back."""

from __future__ import annotations

import io

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine.elf import (
    ELF32,
    ELF64,
    PN_XNUM,
    PT_LOAD,
    ElfFormat,
    Machine,
    note_size,
    pack_ehdr,
    pack_extended_count,
    pack_note,
    pack_phdr,
    round_up,
)


@pytest.mark.parametrize(("elf", "ehdr", "phdr", "shdr"), [(ELF64, 64, 56, 64), (ELF32, 52, 32, 40)])
def test_records_have_the_sizes_of_the_gabi(elf: ElfFormat, ehdr: int, phdr: int, shdr: int) -> None:
    assert (elf.ehdr.size, elf.phdr.size, elf.shdr.size) == (ehdr, phdr, shdr)
    assert elf.max_address == (1 << (64 if elf is ELF64 else 32)) - 1


@pytest.mark.parametrize("elf", [ELF64, ELF32])
def test_a_program_header_reads_back_field_by_field(elf: ElfFormat) -> None:
    machine = Machine.X86_64 if elf is ELF64 else Machine.I386
    data = pack_ehdr(elf, machine, 1, 0) + pack_phdr(elf, PT_LOAD, 5, 0x1000, 0x400000, 0x2000, 0x3000, 0x1000)
    file = ELFFile(io.BytesIO(data))
    assert file["e_type"] == "ET_CORE"
    assert file["e_machine"] == ("EM_X86_64" if elf is ELF64 else "EM_386")
    assert file["e_ident"]["EI_DATA"] == "ELFDATA2LSB"
    assert (file["e_version"], file["e_phnum"], file["e_shnum"], file["e_shoff"]) == ("EV_CURRENT", 1, 0, 0)
    header = file.get_segment(0).header
    assert header["p_type"] == "PT_LOAD"
    assert (header["p_flags"], header["p_offset"], header["p_vaddr"]) == (5, 0x1000, 0x400000)
    assert (header["p_paddr"], header["p_filesz"], header["p_memsz"], header["p_align"]) == (0, 0x2000, 0x3000, 0x1000)


@pytest.mark.parametrize("headers", [1, PN_XNUM - 1])
def test_below_pn_xnum_the_count_stands_in_the_elf_header(headers: int) -> None:
    fields = ELF64.ehdr.unpack(pack_ehdr(ELF64, Machine.X86_64, headers, 4096))
    e_shoff, e_phnum, e_shentsize, e_shnum = fields[6], fields[10], fields[11], fields[12]
    assert (e_shoff, e_phnum, e_shentsize, e_shnum) == (0, headers, 0, 0)


@pytest.mark.parametrize("headers", [PN_XNUM, PN_XNUM + 1, 70_000])
def test_from_pn_xnum_on_the_count_stands_in_the_section_header(headers: int) -> None:
    fields = ELF64.ehdr.unpack(pack_ehdr(ELF64, Machine.X86_64, headers, 4096))
    assert (fields[6], fields[10], fields[11], fields[12]) == (4096, PN_XNUM, ELF64.shdr.size, 1)
    section = ELF64.shdr.unpack(pack_extended_count(ELF64, headers))
    assert (section[5], section[7]) == (1, headers)  # sh_size, sh_info as fill_extnum_info has them


@pytest.mark.parametrize(("owner", "namesz"), [(b"CORE", 5), (b"LINUX", 6)])
def test_n_namesz_counts_the_nul_and_nothing_more(owner: bytes, namesz: int) -> None:
    note = pack_note(owner, 1, b"abc")
    assert note[:12] == namesz.to_bytes(4, "little") + (3).to_bytes(4, "little") + (1).to_bytes(4, "little")
    assert note[12:20] == owner.ljust(8, b"\0")
    assert note[20:] == b"abc\0"


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=100))
def test_note_size_foretells_pack_note(owner: bytes, desc: bytes) -> None:
    note = pack_note(owner, 7, desc)
    assert len(note) == note_size(owner, len(desc))
    assert len(note) % 4 == 0


@given(st.integers(0, 1 << 60), st.sampled_from([1, 4, 4096, 1 << 21]))
def test_round_up_gives_the_next_multiple(value: int, alignment: int) -> None:
    result = round_up(value, alignment)
    assert result % alignment == 0
    assert 0 <= result - value < alignment
