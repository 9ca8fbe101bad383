"""Memory tags: their segments stand behind the memory's, and hold what the tracer reads."""

from __future__ import annotations

import errno
import io
import threading
from array import array

import pytest
from elftools.elf.elffile import ELFFile

from corepipe_engine import tags
from corepipe_engine.arch.aarch64 import AArch64
from corepipe_engine.elf import ELF64, PN_XNUM, Machine
from corepipe_engine.errors import NoSuchProcessError
from corepipe_engine.plan import MIN_HOLE, DumpPlan, make_plan
from corepipe_engine.policy import Decision
from corepipe_engine.preconditions import snapshot_refusal
from corepipe_engine.procfs import parse_status
from corepipe_engine.regions import Region
from corepipe_engine.stream import CoreStream, raise_error
from corepipe_engine.tags import PIECE_BYTES, KeptTags, TracedTags, pieces, tags_of

from .model import ALL, BASE, FIRST, NONE, PAGE, ModelMemory, content, region
from .streaming import PATIENCE_SECONDS, Reader, run

ARCH = AArch64()
TAGGED = frozenset({"rd", "wr", "mt"})
MIB = 1 << 20
PT_AARCH64_MEMTAG_MTE = 0x70000002


def plan_of(decided: list[tuple[Region, Decision, bool]], runs: tuple[int, ...] = (), notes: int = 0) -> DumpPlan:
    regions, decisions, sparse = zip(*decided, strict=True)
    return make_plan(
        regions,
        decisions,
        sparse,
        array("Q", runs),
        notes,
        elf=ELF64,
        machine=Machine.AARCH64,
        page_size=PAGE,
        tags=ARCH.tags,
    )


def tag_of(address: int) -> int:
    """The tag of a granule: no two neighbours have the same."""
    return (address // 16 * 7 + address // PAGE) % 16


def packed(address: int, length: int) -> bytes:
    """Tags as a core holds them: two to a byte, the lower address in the lower half."""
    return bytes(tag_of(at) | tag_of(at + 16) << 4 for at in range(address, address + length, 32))


@pytest.fixture
def peeked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The kernel gives tags, no more than a page's worth at once; none in the page at BASE + PAGE."""
    asked: list[tuple[int, int, int]] = []

    def peek(tid: int, address: int, count: int) -> bytes:
        asked.append((tid, address, count))
        if address // PAGE * PAGE == BASE + PAGE:
            raise OSError(errno.EOPNOTSUPP, "no tags")
        end = min(address + 16 * count, address // PAGE * PAGE + PAGE)
        return bytes(tag_of(at) for at in range(address, end, 16))

    monkeypatch.setattr(tags.ptrace, "peek_tags", peek)
    return asked


def test_tags_have_segments_behind_the_memory_and_the_size_is_exact() -> None:
    decided = [
        (region(BASE, 4 * PAGE, flags=TAGGED), ALL, False),
        (region(BASE + 4 * PAGE, 4 * PAGE, flags=frozenset({"rd"})), ALL, False),
        (region(BASE + 8 * PAGE, 4 * PAGE, flags=TAGGED), FIRST, False),
        (region(BASE + 12 * PAGE, 4 * PAGE, flags=TAGGED), NONE, False),
    ]
    plan = plan_of(decided, notes=100)
    assert plan.headers == 1 + 4 + 2
    header = plan.header(bytes(100))
    file = ELFFile(io.BytesIO(bytes(header) + bytes(plan.total_bytes - len(header))))
    found = [one for one in file.iter_segments() if one["p_type"] in ("PT_AARCH64_MEMTAG_MTE", PT_AARCH64_MEMTAG_MTE)]
    assert [(one["p_vaddr"], one["p_memsz"], one["p_filesz"]) for one in found] == [
        (BASE, 4 * PAGE, 4 * PAGE // 32),
        (BASE + 8 * PAGE, PAGE, PAGE // 32),
    ]
    last_load = max(
        (one for one in file.iter_segments() if one["p_type"] == "PT_LOAD"), key=lambda one: one["p_offset"]
    )
    assert found[0]["p_offset"] == last_load["p_offset"] + last_load["p_filesz"]
    assert found[1]["p_offset"] == found[0]["p_offset"] + found[0]["p_filesz"]
    assert {one["p_flags"] for one in found} == {one["p_align"] for one in found} == {0}
    assert plan.total_bytes == found[1]["p_offset"] + found[1]["p_filesz"]
    assert [(one.tag_bytes, one.tag_segments) for one in plan.regions] == [(512, 1), (0, 0), (128, 1), (0, 0)]


def test_memory_that_was_never_touched_has_no_tags_in_the_core() -> None:
    size = 4 * MIN_HOLE
    plan = plan_of(
        [(region(BASE, size, flags=TAGGED), ALL, True)], (BASE, BASE + PAGE, BASE + size - PAGE, BASE + size)
    )
    assert list(plan.tagged) == [BASE, PAGE, BASE + size - PAGE, PAGE]


def test_a_machine_without_tags_has_no_segments_of_them() -> None:
    regions = [region(BASE, PAGE, flags=TAGGED)]
    plan = make_plan(regions, [ALL], [False], array("Q"), 0, elf=ELF64, machine=Machine.X86_64, page_size=PAGE)
    assert (plan.headers, plan.tag_bytes, list(plan.tagged)) == (2, 0, [])
    assert tags_of(plan, 1, ARCH) is None


def test_headers_of_tags_count_when_a_core_is_kept_readable() -> None:
    """jhsdb reads no more than 65,534 program headers: holes are joined the earlier for those of the tags."""
    step = 2 * MIN_HOLE
    runs = tuple(edge for number in range(20_000) for edge in (BASE + number * step, BASE + number * step + PAGE))
    plan = plan_of([(region(BASE, 20_000 * step, flags=TAGGED), ALL, True)], runs)
    assert plan.headers < PN_XNUM
    assert len(plan.tagged) // 2 == 20_000


def test_traced_tags_are_packed_and_pages_without_any_have_zeros(peeked: list[tuple[int, int, int]]) -> None:
    found = TracedTags(7, ARCH).read(BASE, 4 * PAGE)
    page = PAGE // 32
    assert found[:page] == packed(BASE, PAGE)
    assert found[page : 2 * page] == bytes(page)
    assert found[2 * page :] == packed(BASE + 2 * PAGE, 2 * PAGE)
    assert {tid for tid, _, _ in peeked} == {7}


def test_a_process_that_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(tid: int, address: int, count: int) -> bytes:
        raise ProcessLookupError

    monkeypatch.setattr(tags.ptrace, "peek_tags", gone)
    with pytest.raises(NoSuchProcessError):
        TracedTags(7, ARCH).read(BASE, PAGE)


def test_tags_are_asked_for_in_pieces() -> None:
    tagged = array("Q", (BASE, 2 * PIECE_BYTES + PAGE, BASE + 8 * PIECE_BYTES, PAGE))
    assert list(pieces(tagged)) == [
        (BASE, PIECE_BYTES),
        (BASE + PIECE_BYTES, PIECE_BYTES),
        (BASE + 2 * PIECE_BYTES, PAGE),
        (BASE + 8 * PIECE_BYTES, PAGE),
    ]


@pytest.mark.parametrize("kept", [False, True])
def test_the_stream_ends_with_the_tags_which_the_tracing_thread_reads(
    peeked: list[tuple[int, int, int]], kept: bool
) -> None:
    far = BASE + 64 * PAGE
    plan = plan_of(
        [
            (region(BASE + 8 * PAGE, 8 * PAGE, flags=TAGGED), ALL, False),
            (region(far, PIECE_BYTES + 3 * PAGE, flags=TAGGED), ALL, False),
        ]
    )
    source = TracedTags(7, ARCH)
    threads = set()

    class Watched:
        def read(self, address: int, length: int) -> bytes:
            threads.add(threading.get_ident())
            return (KeptTags(plan, source) if kept else source).read(address, length)

    reader = Reader()
    stream = CoreStream(plan, plan.header(b""), ModelMemory(), reader.write_fd, tags=Watched())
    stream.start()
    run(stream)
    raise_error(stream)
    assert stream.close(PATIENCE_SECONDS)
    data = reader.content()
    assert threads == {threading.get_ident()}
    assert len(data) == plan.total_bytes == stream.written
    expected = packed(BASE + 8 * PAGE, 8 * PAGE) + packed(far, PIECE_BYTES + 3 * PAGE)
    assert data[-len(expected) :] == expected
    assert data[-len(expected) - PAGE : -len(expected)] == content(far + PIECE_BYTES + 2 * PAGE, PAGE)


def test_what_ends_a_stop_is_asked_between_the_pieces_that_are_read_inside_it(
    peeked: list[tuple[int, int, int]],
) -> None:
    plan = plan_of([(region(BASE, 3 * PIECE_BYTES, flags=TAGGED), ALL, False)])
    asked: list[int] = []

    def check() -> None:
        asked.append(len(peeked))
        if len(asked) == 3:
            raise NoSuchProcessError("killed")

    with pytest.raises(NoSuchProcessError):
        KeptTags(plan, TracedTags(7, ARCH), check)
    assert asked == sorted(set(asked))
    assert asked[0] == 0


def test_a_kernel_that_gives_no_tags_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags.ptrace, "peek_tags", lambda tid, address, count: b"")
    assert TracedTags(7, ARCH).read(BASE, 2 * PAGE) == bytes(2 * PAGE // 32)


class Anybody:
    """A process that nothing else speaks against."""

    def readlink(self, name: str) -> bytes:
        return b"pid:[1]"

    def read(self, name: str) -> bytes:
        raise NoSuchProcessError("not asked for more")


@pytest.mark.parametrize(
    ("flags", "perms", "refused"),
    [
        (TAGGED, "rw-p", False),
        (TAGGED | {"dc"}, "rw-p", True),
        (TAGGED | {"sh"}, "rw-s", True),
        (frozenset({"rd", "sh"}), "rw-s", False),
    ],
)
def test_tagged_memory_that_a_fork_does_not_carry_takes_another_mode(
    flags: frozenset[str], perms: str, refused: bool
) -> None:
    """Its tags must be read in the stop, from the target itself."""
    status = parse_status(b"Name:\tx\nState:\tS\n")
    reason = snapshot_refusal(Anybody(), status, ARCH, [region(BASE, PAGE, perms=perms, flags=flags)])  # type: ignore[arg-type]
    assert ("tagged memory" in reason) is refused
