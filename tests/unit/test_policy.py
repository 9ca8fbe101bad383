"""policy.py: the kernel's rules bit by bit, presets, and --include/--exclude; every decision has its reason."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine.errors import ExitCode, UsageError
from corepipe_engine.policy import (
    ALL_BITS,
    DEFAULT_FILTER,
    SMALL_ANONYMOUS,
    Decision,
    Extent,
    FilterBit,
    Policy,
    Preset,
    decide_as_kernel,
    is_hotspot,
    parse_selector,
)
from corepipe_engine.regions import Region, RegionKind, split_at

from .model import BASE, PAGE, region


def elf(_: Region) -> bool:
    return True


def no_elf(_: Region) -> bool:
    return False


def mapping(**fields: object) -> Region:
    return region(BASE, 16 * PAGE, **fields)


def file_mapping(path: bytes, **fields: object) -> Region:
    return mapping(**{"inode": 1, "kind": RegionKind.FILE, "path": path, **fields})


ANON = mapping(anonymous=PAGE)
SWAPPED = mapping(swap=PAGE)
UNTOUCHED = mapping()
SHARED_ANON = mapping(perms="rw-s", path=b"/dev/zero (deleted)", inode=1, kind=RegionKind.SHMEM)
SHARED_DELETED = mapping(perms="rw-s", path=b"/tmp/x (deleted)", inode=1, kind=RegionKind.SHARED_FILE)
NAMED_SHMEM = mapping(perms="rw-s", path=b"/dev/shm/x", inode=1, kind=RegionKind.SHMEM)
ANON_SHMEM = mapping(perms="rw-s", path=b"[anon_shmem:x]", inode=1, kind=RegionKind.SHMEM)
FILE = mapping(perms="r-xp", path=b"/bin/a", inode=1, kind=RegionKind.FILE, offset=PAGE)
FILE_START = mapping(perms="r--p", path=b"/bin/a", inode=1, kind=RegionKind.FILE)
FILE_WRITTEN = mapping(path=b"/bin/a", inode=1, kind=RegionKind.FILE, anonymous=PAGE)
SHARED_FILE = mapping(perms="rw-s", path=b"/var/db", inode=1, kind=RegionKind.SHARED_FILE)
HUGE_PRIVATE = mapping(path=b"/anon_hugepage (deleted)", inode=1, kind=RegionKind.HUGETLB, flags=frozenset({"ht"}))
HUGE_SHARED = mapping(
    perms="rw-s", path=b"/dev/hugepages/x", inode=1, kind=RegionKind.HUGETLB, flags=frozenset({"ht", "sh"})
)


@pytest.mark.parametrize(
    ("mapped", "bit"),
    [
        (ANON, FilterBit.ANON_PRIVATE),
        (SWAPPED, FilterBit.ANON_PRIVATE),
        (SHARED_ANON, FilterBit.ANON_SHARED),
        (SHARED_DELETED, FilterBit.ANON_SHARED),
        (ANON_SHMEM, FilterBit.ANON_SHARED),
        (NAMED_SHMEM, FilterBit.MAPPED_SHARED),
        (SHARED_FILE, FilterBit.MAPPED_SHARED),
        (FILE, FilterBit.MAPPED_PRIVATE),
        (HUGE_PRIVATE, FilterBit.HUGETLB_PRIVATE),
        (HUGE_SHARED, FilterBit.HUGETLB_SHARED),
    ],
)
def test_each_bit_of_the_filter_decides_its_mappings_and_no_others(mapped: Region, bit: FilterBit) -> None:
    alone, others = decide_as_kernel(mapped, bit, no_elf), decide_as_kernel(mapped, ALL_BITS & ~bit, no_elf)
    assert alone.extent is Extent.ALL
    assert others.extent is Extent.NONE
    assert f"filter bit {bit.bit_length() - 1}" in alone.reason
    assert f"filter bit {bit.bit_length() - 1} is off" in others.reason


def test_written_pages_of_a_private_file_need_bit_0_or_bit_2() -> None:
    for bit in (FilterBit.ANON_PRIVATE, FilterBit.MAPPED_PRIVATE):
        assert decide_as_kernel(FILE_WRITTEN, bit, no_elf).extent is Extent.ALL
    assert decide_as_kernel(FILE_WRITTEN, FilterBit.ELF_HEADERS, no_elf).extent is Extent.NONE


def test_one_page_of_each_mapped_elf_file_by_bit_4() -> None:
    assert decide_as_kernel(FILE_START, FilterBit.ELF_HEADERS, elf).extent is Extent.FIRST_PAGE
    assert decide_as_kernel(FILE_START, FilterBit.ELF_HEADERS, no_elf).extent is Extent.NONE
    assert decide_as_kernel(FILE_START, 0, elf).extent is Extent.NONE
    assert decide_as_kernel(FILE, FilterBit.ELF_HEADERS, elf).extent is Extent.NONE  # not the file's beginning
    unreadable = mapping(perms="---p", path=b"/bin/a", inode=1, kind=RegionKind.FILE)
    assert decide_as_kernel(unreadable, FilterBit.ELF_HEADERS, elf).extent is Extent.NONE
    assert decide_as_kernel(FILE_START, FilterBit.ELF_HEADERS | FilterBit.MAPPED_PRIVATE, elf).extent is Extent.ALL


@pytest.mark.parametrize(
    ("flags", "path", "reason"),
    [
        ("rd wr dd", b"", "MADV_DONTDUMP"),
        ("rd wr sh dd io pf", b"anon_inode:[perf_event]", "device memory"),
        ("rd wr wf dd dp", b"", "droppable memory (MAP_DROPPABLE)"),
        ("rd wr sh lo dd", b"/secretmem (deleted)", "secret memory (memfd_secret)"),
        ("rd wr sh dd", b"/secretmem", "MADV_DONTDUMP"),
    ],
)
def test_what_must_not_be_dumped_is_told_apart_by_who_said_so(flags: str, path: bytes, reason: str) -> None:
    decision = decide_as_kernel(mapping(flags=frozenset(flags.split()), path=path, anonymous=PAGE), ALL_BITS, elf)
    assert decision == Decision(Extent.NONE, reason)


def test_memory_that_nobody_touched_is_left_out_by_any_filter() -> None:
    for bits in (0, DEFAULT_FILTER, ALL_BITS):
        decision = decide_as_kernel(UNTOUCHED, bits, elf)
        assert (decision.extent, decision.reason) == (Extent.NONE, "never touched")


@pytest.mark.parametrize("bits", [0, DEFAULT_FILTER, ALL_BITS])
def test_what_the_filter_has_no_say_in(bits: int) -> None:
    vdso = mapping(perms="r-xp", path=b"[vdso]", kind=RegionKind.VDSO)
    vvar = mapping(perms="r--p", path=b"[vvar]", kind=RegionKind.VVAR, flags=frozenset({"io", "pf"}))
    device = mapping(perms="rw-s", path=b"/dev/fb0", inode=1, kind=RegionKind.DEVICE, flags=frozenset({"io", "sh"}))
    assert decide_as_kernel(vdso, bits, elf).extent is Extent.ALL
    assert decide_as_kernel(vvar, bits, elf).extent is Extent.NONE
    assert decide_as_kernel(device, bits, elf).extent is Extent.NONE
    vsyscall = {"path": b"[vsyscall]", "kind": RegionKind.VSYSCALL}
    assert decide_as_kernel(mapping(perms="r-xp", **vsyscall), bits, elf).extent is Extent.ALL
    assert decide_as_kernel(mapping(perms="--xp", **vsyscall), bits, elf).extent is Extent.NONE


@pytest.mark.parametrize(
    "mapped", [ANON, SHARED_ANON, FILE_WRITTEN, SHARED_FILE, HUGE_PRIVATE, HUGE_SHARED, NAMED_SHMEM]
)
@pytest.mark.parametrize("preset", list(Preset))
def test_madv_dontdump_is_honoured_by_every_preset(mapped: Region, preset: Preset) -> None:
    hidden = Region(
        **{
            **{name: getattr(mapped, name) for name in Region.__slots__},
            "flags": mapped.flags | {"dd"} | ({"sh"} if mapped.shared else set()),
        }
    )
    decision = Policy(preset).decide(hidden, ALL_BITS, elf, [BASE + 8])
    assert (decision.extent, decision.reason) == (Extent.NONE, "MADV_DONTDUMP")


def test_the_default_filter_is_the_kernels() -> None:
    assert DEFAULT_FILTER == 0x33
    included = [
        r
        for r in (ANON, SHARED_ANON, FILE, FILE_START, SHARED_FILE, HUGE_PRIVATE, HUGE_SHARED)
        if decide_as_kernel(r, 0x33, elf).included
    ]
    assert included == [ANON, SHARED_ANON, FILE_START, HUGE_PRIVATE]


def test_the_targets_own_filter_counts_unless_one_is_given() -> None:
    assert Policy().decide(ANON, 0, elf).extent is Extent.NONE
    assert Policy().decide(ANON, 1, elf).extent is Extent.ALL
    assert Policy(filter_bits=1).decide(ANON, 0, elf).extent is Extent.ALL
    assert Policy(filter_bits=0).decide(ANON, 1, elf).extent is Extent.NONE


# --- presets -------------------------------------------------------------------------------------------------------


def test_full_takes_every_mapping_that_can_be_read() -> None:
    for mapped in (ANON, SHARED_ANON, NAMED_SHMEM, FILE, FILE_START, SHARED_FILE, HUGE_PRIVATE, HUGE_SHARED):
        decision = Policy(Preset.FULL).decide(mapped, 0, no_elf)
        assert (decision.extent, decision.reason) == (Extent.ALL, "preset full")


def test_java_takes_the_cds_archive_and_heaps_of_any_kind() -> None:
    policy = Policy(Preset.JAVA)
    archive = mapping(perms="r--p", path=b"/usr/lib/jvm/lib/server/classes.jsa", inode=1, kind=RegionKind.FILE)
    for mapped in (archive, ANON, SHARED_ANON, HUGE_PRIVATE, HUGE_SHARED):
        assert policy.decide(mapped, 0, no_elf).extent is Extent.ALL
    assert policy.decide(FILE_START, 0, elf).extent is Extent.FIRST_PAGE
    assert policy.decide(FILE, 0, elf).extent is Extent.NONE


@pytest.mark.parametrize("preset", [Preset.KERNEL, Preset.JAVA])
def test_a_jvms_own_filter_does_not_send_what_an_unchanged_file_on_disk_holds(preset: Preset) -> None:
    policy, bits = Policy(preset), 0x3F
    modules = file_mapping(b"/jdk/lib/modules", perms="r--s", flags=frozenset({"rd", "mr"}))
    code, header = (
        file_mapping(b"/jdk/libjvm.so", perms="r-xp", offset=4096),
        file_mapping(b"/jdk/libjvm.so", perms="r--p"),
    )
    for mapped, extent in ((modules, Extent.NONE), (code, Extent.NONE), (header, Extent.FIRST_PAGE)):
        is_elf = mapped is not modules
        decision = policy.decide(mapped, bits, lambda _, is_elf=is_elf: is_elf, hotspot=True)
        assert decision.extent is extent
        assert extent is Extent.FIRST_PAGE or "set by HotSpot" in decision.reason
        for asked in (policy.decide(mapped, bits, elf), Policy(preset, bits).decide(mapped, 0, elf, hotspot=True)):
            assert asked.extent is Extent.ALL, "another process, and a filter that a person gave"
        assert Policy(Preset.FULL).decide(mapped, bits, elf, hotspot=True).extent is Extent.ALL


@pytest.mark.parametrize(
    "fields",
    [
        {"path": b"/app/lib.so (deleted)"},
        {"path": b"/jdk/classes.jsa"},
        {"perms": "rw-p"},
        {"anonymous": 4096},
        {"swap": 4096},
    ],
)
def test_a_jvms_own_filter_sends_what_no_file_on_disk_holds(fields: dict[str, object]) -> None:
    mapped = mapping(**{"inode": 1, "kind": RegionKind.FILE, "path": b"/app/lib.so", "perms": "r--p", **fields})
    assert Policy().decide(mapped, 0x3F, elf, hotspot=True).extent is Extent.ALL


def test_a_process_with_libjvm_is_a_jvm() -> None:
    assert is_hotspot([file_mapping(b"/bin/java"), file_mapping(b"/jdk/lib/server/libjvm.so")])
    assert not is_hotspot([file_mapping(b"/bin/java"), file_mapping(b"/tmp/notlibjvm.so")])


def test_stacks_takes_what_a_backtrace_needs_and_no_heap() -> None:
    policy = Policy(Preset.STACKS)
    big = {"anonymous": PAGE}
    heap = region(BASE, 2 * SMALL_ANONYMOUS, kind=RegionKind.HEAP, path=b"[heap]", **big)
    assert policy.decide(heap, ALL_BITS, elf, []).extent is Extent.NONE
    assert policy.decide(heap, ALL_BITS, elf, [heap.start]).extent is Extent.ALL
    assert policy.decide(heap, ALL_BITS, elf, [heap.end - 8]).extent is Extent.ALL
    assert policy.decide(heap, ALL_BITS, elf, [heap.start - 8, heap.end]).extent is Extent.NONE
    small = region(BASE, SMALL_ANONYMOUS, **big)
    stack = region(BASE, 4 * SMALL_ANONYMOUS, kind=RegionKind.STACK, path=b"[stack]", **big)
    for mapped in (small, stack, FILE_WRITTEN):
        assert policy.decide(mapped, 0, elf, []).extent is Extent.ALL
    assert policy.decide(FILE_START, 0, elf, []).extent is Extent.FIRST_PAGE
    assert policy.decide(SHARED_ANON, ALL_BITS, elf, []).extent is Extent.NONE


# --- include, exclude ----------------------------------------------------------------------------------------------


def rules(*texts: str) -> tuple[tuple[bool, object], ...]:
    return tuple((text[0] == "+", parse_selector(text[1:])) for text in texts)


@pytest.mark.parametrize(
    ("given_rules", "extent"),
    [
        (("+anon",), Extent.ALL),
        (("-anon",), Extent.NONE),
        (("-anon", "+anon"), Extent.ALL),
        (("+anon", "-anon"), Extent.NONE),
        (("-*", "+anon", "+heap"), Extent.ALL),
        (("+anon", "-7f0000000000-7f0000100000"), Extent.NONE),
        (("+file",), Extent.ALL),
    ],
)
def test_the_last_rule_that_matches_wins(given_rules: tuple[str, ...], extent: Extent) -> None:
    policy = Policy(rules=rules(*given_rules))  # type: ignore[arg-type]
    assert policy.decide(ANON, DEFAULT_FILTER, elf).extent is extent


def test_a_rule_names_itself_as_the_reason() -> None:
    policy = Policy(rules=rules("-*/a"))  # type: ignore[arg-type]
    assert policy.decide(FILE_WRITTEN, DEFAULT_FILTER, elf).reason == "--exclude */a"
    policy = Policy(rules=rules("+anon"))  # type: ignore[arg-type]
    assert policy.decide(UNTOUCHED, 0, elf).reason == "--include anon"


@pytest.mark.parametrize("kind", [RegionKind.DEVICE, RegionKind.VVAR, RegionKind.VSYSCALL])
def test_what_cannot_be_read_cannot_be_included(kind: RegionKind) -> None:
    mapped = mapping(perms="--xp", kind=kind, flags=frozenset({"io"}))
    assert Policy(rules=rules(f"+{kind}")).decide(mapped, ALL_BITS, elf).extent is Extent.NONE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/bin/a", b"/bin/a", True),
        ("/bin/*", b"/bin/a", True),
        ("*.so", b"/lib/x.so", True),
        ("*.so", b"/lib/x.so (deleted)", False),
        ("*", b"", True),
        ("[heap]", b"[heap]", True),
        ("[anon:*]", b"[anon:scudo]", True),
        ("/tmp/[ab]", b"/tmp/a", True),
        ("/tmp/[!ab]", b"/tmp/a", False),
        ("/tmp/?", b"/tmp/\xff", True),
        ("/tmp/*", b"/tmp/a\nb", True),
        ("/tmp/\udcff", b"/tmp/\xff", True),
        ("/tmp/\u00e9", b"/tmp/\xc3\xa9", True),
        ("/tmp/a.b", b"/tmp/axb", False),
    ],
)
def test_a_glob_matches_the_bytes_of_a_path(glob: str, path: bytes, matches: bool) -> None:
    assert parse_selector(glob).matches(mapping(path=path, kind=RegionKind.FILE)) is matches


@pytest.mark.parametrize(
    "text", ["7f0000001000-7f0000003000", "0x7f0000001000-0x7F0000003000", "7f0000001001-7f0000002001"]
)
def test_an_address_range_means_whole_pages(text: str) -> None:
    selector = parse_selector(text)
    assert (selector.start, selector.end) == (BASE + PAGE, BASE + 3 * PAGE)
    policy = Policy(rules=((False, selector),))
    decided = [policy.decide(piece, DEFAULT_FILTER, elf).extent for piece in split_at([ANON], policy.boundaries())]
    assert decided == [Extent.ALL, Extent.NONE, Extent.ALL]


@given(st.integers(0, 1 << 48), st.integers(1, 1 << 30))
def test_no_range_cuts_inside_a_page_or_misses_a_byte(start: int, size: int) -> None:
    selector = parse_selector(f"{start:x}-{start + size:x}")
    assert selector.start % mmap.PAGESIZE == selector.end % mmap.PAGESIZE == 0
    assert selector.start <= start < start + size <= selector.end


def test_excluding_a_part_leaves_the_rest_in_the_core() -> None:
    """One touched page in a large mapping: the share of either piece is less than a page."""
    policy = Policy(rules=rules(f"-{BASE:x}-{BASE + PAGE:x}"))  # type: ignore[arg-type]
    _, rest = split_at([ANON], policy.boundaries())
    assert policy.decide(rest, DEFAULT_FILTER, elf).extent is Extent.ALL


@pytest.mark.parametrize("kind", list(RegionKind))
def test_every_kind_can_be_named(kind: RegionKind) -> None:
    assert parse_selector(kind.value).kind is kind
    assert parse_selector(str(kind)).matches(mapping(kind=kind))


@pytest.mark.parametrize(
    "text", ["", "heaps", "1234", "x-y", "2000-1000", "1000-1000", "1000-2000-3000", "-", "100 - 200"]
)
def test_what_names_no_region_is_a_usage_error_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_selector(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hint


@given(st.text(max_size=30))
def test_any_text_is_a_selector_or_a_usage_error(text: str) -> None:
    try:
        selector = parse_selector(text)
    except UsageError:
        return
    selector.matches(FILE)


kinds = st.sampled_from(list(RegionKind))
flag_sets = st.frozensets(st.sampled_from(["rd", "wr", "sh", "dd", "io", "pf", "ht"]))


@given(kinds, flag_sets, st.integers(0, ALL_BITS), st.booleans(), st.sampled_from(list(Preset)), st.integers(0, 2))
def test_every_region_has_a_decision_and_a_reason(
    kind: RegionKind, flags: frozenset[str], bits: int, is_elf: bool, preset: Preset, pages: int
) -> None:
    mapped = mapping(kind=kind, flags=flags, anonymous=pages * PAGE)
    decision = Policy(preset).decide(mapped, bits, elf if is_elf else no_elf, [])
    assert decision.reason
    assert decision.included == (decision.extent > 0)
