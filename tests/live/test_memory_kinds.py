"""Every kind of memory: its bytes are in the core, or what is missing is told before and after.

One target has them all, and is dumped once in each mode; each kind is looked at on its own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ..support import machine, proc
from ..support.cores import Core, assert_well_formed, pattern
from ..support.engine import run_corepipe
from ..support.targets import Target, start_target

pytestmark = pytest.mark.live
PAGE = 4096
MODES = ("direct", "buffer", "snapshot")
EVERYTHING = "ff"
"""--filter: what the kernel's default leaves out shows its bytes too."""
WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Dump:
    """A dump of the target that has all kinds."""

    target: Target
    core: Core
    report: dict[str, Any]

    def omitted(self, reason: str) -> int:
        """Bytes that the report says were left out for that reason."""
        return self.report["omitted"].get(reason, (0, 0))[1]

    def unreadable(self, start: int, size: int) -> int:
        """Bytes of a range that the report names as unreadable."""
        ranges = self.report["unreadable"]
        return sum(max(0, min(start + size, at + length) - max(start, at)) for at, length in ranges)


@dataclass(frozen=True)
class Area:
    """Where a kind is, and the words it was filled with."""

    start: int
    size: int
    first_word: int

    @functools.cached_property
    def content(self) -> bytes:
        return pattern(self.size, self.first_word)

    @property
    def first_word_inverted(self) -> bytes:
        return (int.from_bytes(self.content[:8], "little") ^ WORD).to_bytes(8, "little") + self.content[8:]


Check = Callable[[Dump, Area], None]


def whole(dump: Dump, area: Area) -> None:
    """Every byte is in the core."""
    assert dump.core.read(area.start, area.size) == area.content
    assert not dump.unreadable(area.start, area.size)


def first_word_written(dump: Dump, area: Area) -> None:
    """Every byte is in the core, the word that was written after the file was made included."""
    assert dump.core.read(area.start, area.size) == area.first_word_inverted
    assert not dump.unreadable(area.start, area.size)


def ends_and_a_hole(dump: Dump, area: Area) -> None:
    """First and last page are in the core, what lies between is left out and counted as a hole."""
    last = area.start + area.size - PAGE
    assert dump.core.read(area.start, PAGE) == area.content[:PAGE]
    assert dump.core.read(last, PAGE) == area.content[-PAGE:]
    assert not dump.core.holds(area.start + PAGE)
    assert not dump.core.holds(last - PAGE)
    assert dump.report["holes_bytes"] >= area.size - 2 * PAGE
    assert not dump.unreadable(area.start, area.size)


def ends_and_zeros(dump: Dump, area: Area) -> None:
    """As the process would read it: zeros between the first and the last page."""
    wanted = area.content[:PAGE] + bytes(area.size - 2 * PAGE) + area.content[-PAGE:]
    assert dump.core.read(area.start, area.size) == wanted
    assert not dump.unreadable(area.start, area.size)


def first_page_of_a_truncated_file(dump: Dump, area: Area) -> None:
    """What lies behind the end of the file, SIGBUS for the target too, is zeros and named in the report."""
    lost = area.size - PAGE
    assert dump.core.read(area.start, area.size) == area.first_word_inverted[:PAGE] + bytes(lost)
    assert [area.start + PAGE, lost] in dump.report["unreadable"]
    assert dump.report["unreadable_bytes"] >= lost


def all_but_the_guard_page(dump: Dump, area: Area) -> None:
    """A guard page holds nothing, and is not tried."""
    at = 16 * PAGE
    wanted = area.content[:at] + bytes(PAGE) + area.content[at + PAGE :]
    assert dump.core.read(area.start, area.size) == wanted
    assert not dump.unreadable(area.start, area.size)


def whole_or_given_back(dump: Dump, area: Area) -> None:
    """MADV_FREE: each page is as it was, or the kernel has taken it, and it reads as zeros in the process too."""
    seen = dump.core.read(area.start, area.size)
    now = proc.read_memory(dump.target.pid, area.start, area.size)
    for at in range(0, area.size, PAGE):
        page = seen[at : at + PAGE]
        assert page == area.content[at : at + PAGE] or page == now[at : at + PAGE] == bytes(PAGE)


def left_out(reason: str) -> Check:
    """No byte is in the core, the header tells of the range, the report of the reason."""

    def check(dump: Dump, area: Area) -> None:
        for address in (area.start, area.start + area.size - PAGE):
            assert not dump.core.holds(address)
            assert dump.core.segment_at(address).memory_bytes > 0
        assert dump.omitted(reason) >= area.size

    return check


@dataclass(frozen=True)
class Kind:
    """name: in targets/kinds.c; row: in the README; reason: in the plan of a dump of everything.

    by_default: the reason in the plan that the kernel's default filter makes, where it is another.
    vm_flag: of smaps, by which a kernel tells that the memory is of that kind. told: what the README adds to `yes`.
    """

    name: str
    row: str
    reason: str
    check: Check = whole
    by_default: str = ""
    vm_flag: str = ""
    told: str = ""


LEFT_OUT = "left out, and told"


def _missing(name: str, row: str, reason: str) -> Kind:
    return Kind(name, row, reason, left_out(reason), told=LEFT_OUT)


def _truncated(name: str, row: str, reason: str, by_default: str = "") -> Kind:
    return Kind(name, row, reason, first_page_of_a_truncated_file, by_default, told="what is lost is named")


def _with_hole(name: str, row: str, reason: str) -> Kind:
    return Kind(name, row, reason, ends_and_a_hole, told="the rest is a hole")


ANON = "private anonymous memory (filter bit 0)"
SHARED = "shared anonymous memory (filter bit 1)"
WRITTEN = "written pages of a private file mapping (filter bit 0)"
FILE = "private file mapping (filter bit 2)"
NO_FILE = "private file mapping: filter bit 2 is off"
SHARED_FILE = "shared file mapping (filter bit 3)"
NO_SHARED_FILE = "shared file mapping: filter bit 3 is off"
DELETED = "shared mapping of a deleted file (filter bit 1)"

KINDS = (
    Kind("private", "anonymous private", ANON),
    Kind("large", "larger than 8 MiB", ANON),
    Kind("heap", "heap (brk)", ANON),
    Kind("named", "anonymous with a name (PR_SET_VMA)", ANON),
    _missing("never_touched", "never touched", "never touched"),
    _missing("only_read", "read, never written", "never touched"),
    _with_hole("partly_touched", "partly touched", ANON),
    _with_hole("dontneed", "given back with MADV_DONTNEED", ANON),
    Kind("free", "given back with MADV_FREE", ANON, whole_or_given_back),
    Kind("protnone", "PROT_NONE with data", ANON),
    _missing("protnone_untouched", "PROT_NONE without data", "never touched"),
    Kind("execute_only", "execute-only", ANON),
    Kind("guard_installed", "guard pages, MADV_GUARD_INSTALL", ANON, all_but_the_guard_page),
    Kind("guard_protected", "guard pages, mprotect", ANON),
    _missing("dontdump", "MADV_DONTDUMP", "MADV_DONTDUMP"),
    Kind("dontfork", "MADV_DONTFORK", ANON),
    Kind("wipeonfork", "MADV_WIPEONFORK", ANON),
    _missing("droppable", "MAP_DROPPABLE", "droppable memory (MAP_DROPPABLE)"),
    Kind("zero_device", "/dev/zero, private", WRITTEN, ends_and_zeros),
    Kind("shared", "MAP_SHARED anonymous", SHARED),
    _with_hole("shared_partly", "MAP_SHARED anonymous, partly touched", SHARED),
    Kind("memfd", "memfd, shared", SHARED),
    Kind("memfd_private", "memfd, private", WRITTEN, first_word_written),
    Kind("system_v", "System V shared memory", SHARED),
    Kind("shm_file", "file in /dev/shm, shared", SHARED_FILE, whole, NO_SHARED_FILE),
    Kind("file_clean", "private file mapping, clean", FILE, whole, NO_FILE),
    Kind("file_written", "private file mapping, written to", WRITTEN, first_word_written),
    Kind("file_deleted", "private mapping of a deleted file", WRITTEN, first_word_written),
    _truncated("file_truncated", "private mapping of a truncated file", WRITTEN),
    Kind("shared_file", "shared file mapping", SHARED_FILE, first_word_written, NO_SHARED_FILE),
    Kind("shared_file_deleted", "shared mapping of a deleted file", DELETED, first_word_written),
    _truncated("shared_file_truncated", "shared mapping of a truncated file", SHARED_FILE, NO_SHARED_FILE),
    Kind("shared_file_readonly", "shared file mapping, read-only", FILE, whole, NO_FILE),
    Kind("readonly_deleted", "shared mapping of a deleted file, read-only", FILE, whole, NO_FILE),
    Kind("packets", "ring of a packet socket", SHARED_FILE, whole, NO_SHARED_FILE),
    Kind("io_uring", "queue of an io_uring", SHARED_FILE, whole, NO_SHARED_FILE),
    Kind("perf", "device memory (VM_IO)", "device memory", left_out("device memory"), vm_flag="io", told=LEFT_OUT),
    _missing("secret", "memfd_secret", "secret memory (memfd_secret)"),
)
KERNELS_OWN = (
    ("[vdso]", "vDSO", "vDSO, always dumped"),
    ("[vvar]", "vvar", "vvar: only the process itself can read it"),
    ("[vsyscall]", "vsyscall page", "vsyscall page: execute-only, cannot be read"),
)


@pytest.fixture(scope="module")
def kinds(build_target, tmp_path_factory) -> Iterator[Target]:
    """A target with an area of every kind that this kernel has."""
    folder = tmp_path_factory.mktemp("kinds")
    command = [build_target("kinds"), folder, *(kind.name for kind in KINDS)]
    with (
        machine.shm_folder() as shm_folder,
        start_target(command, folder, environment={"SHM_FOLDER": str(shm_folder)}) as target,
    ):
        yield target


@pytest.fixture(scope="module")
def dumped(kinds, tmp_path_factory) -> Callable[[str], Dump]:
    """dumped(mode): the dump of everything in that mode, made when it is first asked for."""

    @functools.cache
    def dump(mode: str) -> Dump:
        folder = tmp_path_factory.mktemp(mode)
        before = kinds.fingerprint()
        arguments = ("--mode", mode, "--filter", EVERYTHING, "--report", folder / "report")
        outcome = run_corepipe(kinds.pid, *arguments, output=folder / "core")
        core = Core(folder / "core")
        assert_well_formed(core)
        assert kinds.process.poll() is None
        assert kinds.fingerprint() == before
        return Dump(kinds, core, outcome.report(folder / "report"))

    return dump


@pytest.fixture(scope="module")
def planned(kinds, tmp_path_factory) -> Callable[..., list[dict[str, Any]]]:
    """planned(arguments): the regions of a plan."""

    @functools.cache
    def plan(*arguments: str) -> list[dict[str, Any]]:
        path = tmp_path_factory.mktemp("plan") / "plan"
        run_corepipe(kinds.pid, "--plan", "--json", *arguments, output=path)
        return json.loads(path.read_text())["regions"]

    return plan


def area_of(target: Target, kind: Kind) -> Area:
    """Skips where this kernel has no such memory."""
    if kind.name not in target.facts:
        pytest.skip(f"this kernel has no memory of the kind {kind.name}")
    if kind.vm_flag and kind.vm_flag not in proc.smaps_field(target.pid, target.number(kind.name), "VmFlags").split():
        pytest.skip(f"on this kernel {kind.name} has not the flag {kind.vm_flag}")
    index = next(index for index, one in enumerate(KINDS) if one.name == kind.name)
    return Area(target.number(kind.name), target.number(f"{kind.name}_bytes"), index << 32)


def region_at(regions: list[dict[str, Any]], address: int) -> dict[str, Any]:
    (region,) = [region for region in regions if region["start"] <= address < region["end"]]
    return region


def in_each_mode(row: str, *values: Any) -> list[Any]:
    """Parameters (values, mode) of a test that tells of a row in the README."""
    return [
        pytest.param(
            *values,
            mode,
            id=f"{row.split(':')[0].replace(' ', '-')}-{mode}",
            marks=[] if mode == "buffer" else [pytest.mark.tells("memory", row, mode)],
        )
        for mode in MODES
    ]


@pytest.mark.parametrize(("kind", "mode"), [case for kind in KINDS for case in in_each_mode(kind.row, kind)])
def test_memory_is_carried_byte_for_byte_or_told_to_be_missing(kinds, planned, dumped, tell, kind, mode):
    area = area_of(kinds, kind)
    assert region_at(planned("--filter", EVERYTHING), area.start)["reason"] == kind.reason
    by_default = region_at(planned(), area.start)
    assert by_default["reason"] == (kind.by_default or kind.reason)
    kind.check(dumped(mode), area)
    tell(kind.told)


@pytest.mark.parametrize(
    ("path", "reason", "mode"), [case for row in KERNELS_OWN for case in in_each_mode(row[1], row[0], row[2])]
)
def test_memory_that_the_kernel_makes_for_every_process(kinds, planned, dumped, tell, path, reason, mode):
    dump = dumped(mode)
    for start, end, permissions, name in proc.maps(kinds.pid):
        if name != path:
            continue
        if path == "[vsyscall]" and permissions.startswith("r"):
            pytest.skip("this kernel lets everybody read the vsyscall page")
        region = next(region for region in planned() if region["start"] == start)
        assert region["reason"] == reason
        if region["included"]:
            assert dump.core.read(start, end - start) == proc.read_memory(kinds.pid, start, end - start)
        else:
            left_out(reason)(dump, Area(start, end - start, 0))
            tell(LEFT_OUT)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_missing_that_the_report_does_not_count(dumped, mode):
    dump = dumped(mode)
    left = sum(segment.memory_bytes for segment in dump.core.segments) - dump.core.data_bytes
    assert sum(size for _, size in dump.report["omitted"].values()) + dump.report["holes_bytes"] == left
    assert dump.report["unreadable_bytes"] == sum(length for _, length in dump.report["unreadable"])
    assert dump.report["unreadable_bytes"] == 6 * PAGE, "the truncated files, and nothing else"
    assert dump.report["bytes_written"] == dump.report["bytes_planned"] == dump.core.size
    assert dump.report["shared_live"] == []


@pytest.mark.parametrize("mode", ["direct", "snapshot"])
def test_secret_memory_that_is_asked_for_is_told_to_be_unreadable(kinds, tmp_path, mode):
    """memfd_secret takes its pages out of the kernel's own view: nothing can read them, and the dump goes on."""
    area = area_of(kinds, next(kind for kind in KINDS if kind.name == "secret"))
    before = kinds.fingerprint()
    wanted = f"{area.start:x}-{area.start + area.size:x}"
    outcome = run_corepipe(
        kinds.pid, "--mode", mode, "--include", wanted, "--report", tmp_path / "report", output=tmp_path / "core"
    )
    assert [area.start, area.size] in outcome.report(tmp_path / "report")["unreadable"]
    assert "could not be read and are zeros in the core" in outcome.stderr
    core = Core(tmp_path / "core")
    assert_well_formed(core)
    assert core.read(area.start, area.size) == bytes(area.size)
    assert kinds.process.poll() is None
    assert kinds.fingerprint() == before
