"""Every machine is whole: a half-written one is found here, before it is found in a target."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest

from corepipe_engine import arch as arch_package
from corepipe_engine import splice
from corepipe_engine.arch import ARCHES, Arch, Gadgets, Injection, SystemCall, ThreadState
from corepipe_engine.arch.base import Arch as ArchProtocol
from corepipe_engine.arch.base import Injection as InjectionProtocol
from corepipe_engine.inject import REAP_HELPER

FOLDER = Path(arch_package.__file__).parent
SHARED = {"base", "calls", "cpuid", "x86"}
"""Modules that are no machine themselves."""
GADGETS = Gadgets(0x12340000, 0x12350000)
ADDRESS = 0x7FFF0000


def members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


def gaps(arch: Any) -> list[str]:
    """Return what a machine lacks, in words; nothing for a whole one."""
    found = [f"no {name}" for name in sorted(members(ArchProtocol)) if not hasattr(arch, name)]
    if found:
        return found
    if not arch.hosts:
        found.append("runs on no host")
    if not arch.general_size or arch.general_size % arch.elf.word.size:
        found.append("general_size is not a number of words")
    if not any(regset.required for regset in arch.regsets):
        found.append("no register set is required")
    if len({regset.note_type for regset in arch.regsets}) != len(arch.regsets):
        found.append("a register set is there twice")
    try:
        arch.read_regsets(lambda kind: None)
        found.append("a thread without its required register sets is taken")
    except LookupError:
        pass
    if arch.restart_interrupted(bytes(arch.general_size), None) is not None:
        found.append("restarts a call that was not interrupted")
    if found or arch.injection is None:  # without it there are no snapshots, which is told
        return found
    return injection_gaps(arch, arch.injection)


def injection_gaps(arch: Arch, injection: Injection) -> list[str]:
    found = [f"no injection.{name}" for name in sorted(members(InjectionProtocol)) if not hasattr(injection, name)]
    if found:
        return found
    for call in SystemCall:
        try:
            injection.number(call)
        except KeyError:
            found.append(f"no number for {call.name}")
    if found:
        return found
    if len({injection.number(call) for call in SystemCall}) != len(SystemCall):
        found.append("two system calls have one number")
    for name, patterns in zip(("system call", "sigreturn"), injection.gadget_patterns, strict=True):
        if not patterns:
            found.append(f"no pattern for the {name} gadget")
        if any(len(pattern) % injection.code_alignment for pattern in patterns):
            found.append(f"a pattern of the {name} gadget is no whole number of instructions")
    state = a_thread(arch)
    net = injection.safety_net(state, GADGETS, ADDRESS, REAP_HELPER)
    if net.address != ADDRESS or len(net.image) > injection.net_bytes(state):
        found.append("the net is not where it was asked for, or larger than was said")
    if not all(ADDRESS <= stack < ADDRESS + len(net.image) for stack in (net.home_stack, net.exit_stack)):
        found.append("a stack pointer leads out of the net")
    word = arch.elf.word.size
    if net.exit_stack - net.address < 2 * word * splice._MAX_RANGES:
        found.append("the list of ranges to be sent reaches into the frame of exit")
    if net.image.count(GADGETS.system_call.to_bytes(word, "little")) < 2:
        found.append("the net makes no calls")
    if injection.safety_net(a_thread(arch, blocked=0x5A5A00), GADGETS, ADDRESS, REAP_HELPER).image == net.image:
        found.append("the net forgets the signal mask")
    for index in range(0, 3 * word, word):
        other = dataclasses.replace(state, general=changed(state.general, index))
        if injection.safety_net(other, GADGETS, ADDRESS, REAP_HELPER).image == net.image:
            found.append(f"the net forgets the general register at {index}")
    if injection.way_home(state)[-1][1] != state.general:
        found.append("the way home does not end with the general registers")
    called = injection.registers_for(state.general, GADGETS, SystemCall.EXIT, (0x77,), 0x5000)
    if len(called) != arch.general_size or injection.instruction_pointer(called) != GADGETS.system_call:
        found.append("a call does not begin at the gadget")
    if arch.stack_pointer(called) != 0x5000:
        found.append("a call does not run on the stack that it was given")
    return found


def changed(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def a_thread(arch: Arch, blocked: int = 0) -> ThreadState:
    sizes = {regset.note_type: arch.expected_regset_size(regset) for regset in arch.regsets}
    sets = arch.read_regsets(lambda kind: bytes(sizes[kind]) if sizes[kind] else None)
    general = (bytes(range(1, 256)) * 2)[: arch.general_size]
    return ThreadState(7, 7, general, sets, signals_blocked=blocked)


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_every_machine_is_whole(arch: Arch) -> None:
    assert gaps(arch) == []


def test_every_module_of_a_machine_is_listed() -> None:
    modules = {path.stem for path in FOLDER.glob("*.py")} - SHARED - {"__init__"}
    assert {type(arch).__module__.rpartition(".")[2] for arch in ARCHES} == modules


def test_no_two_machines_claim_the_same_programs_on_one_host() -> None:
    claims = [(host, arch.elf.elf_class, arch.machine) for arch in ARCHES for host in arch.hosts]
    assert len(set(claims)) == len(claims)


def test_the_engine_names_no_machine_outside_of_its_folder() -> None:
    """A new machine touches nothing but its file and the list."""
    names = {path.stem for path in FOLDER.glob("*.py")} - {"base", "__init__"}
    for path in FOLDER.parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                parts = set((node.module or "").split(".")) | {alias.name for alias in node.names}
                assert not parts & names, f"{path.name} imports {sorted(parts & names)}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in {arch.name for arch in ARCHES}, f"{path.name} asks for {node.value}"


# --- half-written machines are found ---------------------------------------------------------------------------------


def without(thing: object, name: str) -> object:
    """A copy of a machine, or of its injection, that lacks one member."""

    class Half:
        def __getattr__(self, wanted: str) -> object:
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(thing, wanted)

    return Half()


def having(thing: object, **members: object) -> object:
    """A copy of a machine, or of its injection, some of whose members are others."""

    class Changed:
        def __getattr__(self, wanted: str) -> object:
            return members[wanted] if wanted in members else getattr(thing, wanted)

    return Changed()


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_a_machine_that_lacks_a_member_is_found(arch: Arch) -> None:
    for name in members(ArchProtocol):
        assert gaps(without(arch, name)), name
    for name in members(InjectionProtocol):
        assert gaps(having(arch, injection=without(arch.injection, name))), name


def net_without_mask(injection: Injection) -> Any:
    def safety_net(thread: ThreadState, *rest: Any) -> Any:
        return injection.safety_net(dataclasses.replace(thread, signals_blocked=0), *rest)

    return safety_net


def number_without(injection: Injection, missing: SystemCall) -> Any:
    def number(call: SystemCall) -> int:
        return {other: injection.number(other) for other in SystemCall if other is not missing}[call]

    return number


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_a_machine_that_does_something_halfway_is_found(arch: Arch) -> None:
    injection = arch.injection
    assert injection is not None
    halves: list[dict[str, Any]] = [
        {"gadget_patterns": ((), injection.gadget_patterns[1])},
        {"safety_net": net_without_mask(injection)},
        {"net_bytes": lambda thread: 100},
        {"way_home": lambda thread: ((1, b""),)},
        {"registers_for": lambda general, *rest: general},
        *({"number": number_without(injection, call)} for call in SystemCall),
    ]
    for half in halves:
        assert gaps(having(arch, injection=having(injection, **half))), half
    for half in ({"hosts": ()}, {"regsets": arch.regsets * 2}, {"read_regsets": lambda get: ()}, {"general_size": 0}):
        assert gaps(having(arch, **half)), half


def test_every_member_says_what_it_is() -> None:
    for protocol, name in itertools.chain(
        ((ArchProtocol, name) for name in members(ArchProtocol)),
        ((InjectionProtocol, name) for name in members(InjectionProtocol)),
    ):
        member = vars(protocol)[name]
        assert inspect.getdoc(member.fget if isinstance(member, property) else member), f"{protocol.__name__}.{name}"
