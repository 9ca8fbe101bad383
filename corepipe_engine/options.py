"""What the person asked for, checked: the options that `corepipe` and `corepipe-tui` share."""

from __future__ import annotations

import argparse
import enum
import os
from dataclasses import dataclass, field

from .errors import UsageError
from .policy import Policy, Preset, parse_selectors


class ModeChoice(str, enum.Enum):
    """--mode."""

    AUTO = "auto"
    SNAPSHOT = "snapshot"
    BUFFER = "buffer"
    DIRECT = "direct"

    def __str__(self) -> str:
        return self.value


class Holes(str, enum.Enum):
    """--holes: never-touched memory is left out (skip) or sent as zeros (zero)."""

    SKIP = "skip"
    ZERO = "zero"

    def __str__(self) -> str:
        return self.value


class Shared(str, enum.Enum):
    """--shared: shared memory is copied inside the stop (frozen), read afterwards (live), or by size (auto)."""

    AUTO = "auto"
    FROZEN = "frozen"
    LIVE = "live"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """What and how to dump. max_stop is seconds, None for no bound."""

    mode: ModeChoice = ModeChoice.AUTO
    max_stop: float | None = None
    policy: Policy = field(default_factory=Policy)
    holes: Holes = Holes.SKIP
    shared: Shared = Shared.AUTO


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose errors are CorepipeErrors."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise UsageError with the message."""
        raise UsageError(message, f"{self.prog} --help")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, which asks shutil how wide the terminal is, and that loads three compressors: for every option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(1).columns or 80
    except (OSError, ValueError):
        return 80


class _RuleAction(argparse.Action):
    """Collects --include and --exclude in the order given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        rules = list(getattr(namespace, "rules", None) or ())
        rules += ((self.const, selector) for selector in parse_selectors(str(values)))
        namespace.rules = rules


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"--max-stop {text!r} is not a number of seconds above 0", "--max-stop 0.5")
    return value


def _filter_bits(text: str) -> int:
    try:
        value = int(text, 16)
    except ValueError:
        value = -1
    if not 0 <= value <= 0x1FF:
        raise UsageError(
            f"--filter {text!r} is not a coredump_filter",
            "give hexadecimal bits from 0 to 1ff, see core(5); default 33",
        )
    return value


def add_dump_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what to dump and how; options_from() reads them back."""
    what = parser.add_argument_group("what goes in")
    what.add_argument(
        "--preset",
        choices=[preset.value for preset in Preset],
        default=Preset.KERNEL.value,
        help="kernel: as the kernel would (default); full: also file mappings, the core then needs no binaries; "
        "java: what jhsdb needs; stacks: enough for every backtrace",
    )
    what.add_argument("--filter", metavar="HEX", type=_filter_bits, help="coredump_filter instead of the target's own")
    for name, include in (("--include", True), ("--exclude", False)):
        what.add_argument(
            name,
            metavar="WHAT",
            action=_RuleAction,
            const=include,
            dest="rules",
            default=[],
            help=f"{name[2:]} an address range START-END (hex), a kind (heap, anon, file, shmem, ...) or a path glob; "
            "may be repeated, the last that matches wins; kinds and ranges may stand in a list with commas",
        )
    what.add_argument(
        "--holes",
        choices=[holes.value for holes in Holes],
        default=Holes.SKIP.value,
        help="never-touched memory: leave it out (skip, default) or send it as zeros",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--mode",
        choices=[mode.value for mode in ModeChoice],
        default=ModeChoice.AUTO.value,
        help="snapshot: freeze for one fork; buffer: freeze while memory is copied to RAM; direct: freeze while it is "
        "streamed; auto: the first of them that is possible (default)",
    )
    how.add_argument(
        "--max-stop", metavar="SECONDS", type=_seconds, help="let the target go after that time at the latest"
    )
    how.add_argument(
        "--shared",
        choices=[shared.value for shared in Shared],
        default=Shared.AUTO.value,
        help="shared memory in a snapshot: copied inside the stop (frozen), read afterwards (live), or by size (auto)",
    )


def options_from(namespace: argparse.Namespace) -> DumpOptions:
    """Return the options that add_dump_options collected."""
    return DumpOptions(
        mode=ModeChoice(namespace.mode),
        max_stop=namespace.max_stop,
        policy=Policy(Preset(namespace.preset), namespace.filter, tuple(namespace.rules)),
        holes=Holes(namespace.holes),
        shared=Shared(namespace.shared),
    )


def to_arguments(options: DumpOptions) -> list[str]:
    """Return the command line that gives these options again; defaults are left out."""
    arguments: list[str] = []
    if options.mode is not ModeChoice.AUTO:
        arguments += ["--mode", options.mode.value]
    if options.max_stop is not None:
        arguments += ["--max-stop", repr(options.max_stop)]
    if options.policy.preset is not Preset.KERNEL:
        arguments += ["--preset", options.policy.preset.value]
    if options.policy.filter_bits is not None:
        arguments += ["--filter", f"{options.policy.filter_bits:x}"]
    if options.holes is not Holes.SKIP:
        arguments += ["--holes", options.holes.value]
    if options.shared is not Shared.AUTO:
        arguments += ["--shared", options.shared.value]
    for include, selector in options.policy.rules:
        arguments += ["--include" if include else "--exclude", selector.text]
    return arguments
