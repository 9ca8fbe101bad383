"""Registers that not every machine has: AMX tiles, AVX-512. The target computes right, and the core holds them."""

from __future__ import annotations

import struct

import pytest

from ..support.cores import NT_X86_XSAVE_LAYOUT, NT_X86_XSTATE, Core, pattern
from ..support.dumps import dump, in_both_modes
from ..support.machines import x86_only
from ..support.targets import spawn_extended

pytestmark = pytest.mark.live
OPMASK, HIGH_16_ZMM, TILE_DATA = 5, 7, 18
"""Numbers of XSAVE state components (Intel SDM vol. 1, 13.1)."""
TILE_BYTES = 1024


def component(core: Core, number: int) -> bytes:
    """An XSAVE state component of the first thread, found as the layout note says."""
    layout = core.note(NT_X86_XSAVE_LAYOUT).data
    places = {kind: (offset, size) for kind, size, offset, _ in struct.iter_unpack("<4I", layout)}
    offset, size = places[number]
    image = core.notes_of(NT_X86_XSTATE)[0].data
    assert int.from_bytes(image[512:520], "little") >> number & 1, "the state is in use"
    assert len(image) >= offset + size
    return image[offset : offset + size]


@x86_only
@in_both_modes("AMX tiles")
def test_amx_tiles_are_in_the_core_and_stay_in_the_target(spawn_target, tmp_path, mode):
    target = spawn_extended(spawn_target, "tiles")
    for _ in range(3):
        core, report, _ = dump(target, tmp_path, "--mode", mode)
        assert report["mode"] == mode
        assert component(core, TILE_DATA)[4 * TILE_BYTES :] == pattern(4 * TILE_BYTES)


@x86_only
@in_both_modes("AVX-512 registers and masks")
def test_avx_512_registers_are_in_the_core_and_stay_in_the_target(spawn_target, tmp_path, mode):
    target = spawn_extended(spawn_target, "vectors")
    registers = pattern(16 * 64 + 7 * 8)
    for _ in range(3):
        core, report, _ = dump(target, tmp_path, "--mode", mode)
        assert report["mode"] == mode
        assert component(core, HIGH_16_ZMM) == registers[: 16 * 64]
        assert component(core, OPMASK)[8:] == registers[16 * 64 :]
