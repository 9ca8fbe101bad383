"""The C programs of the bench: compiled for each run, and the target that is spoken to."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_SOURCES = Path(__file__).resolve().parent
BEAT_MICROSECONDS = 20
"""How often the target looks at the clock: what it tells of a gap is right to this and the time it takes to wake."""


@dataclass(frozen=True)
class Programs:
    """Paths of the compiled programs."""

    beating: Path
    throttle: Path
    limit: Path
    mapped: Path
    memcpy: Path


def build(folder: Path) -> Programs:
    """Compile all programs into the folder."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise SystemExit("the bench compiles its programs: apt install gcc")
    paths = []
    for name in ("beating", "throttle", "limit", "mapped", "memcpy"):
        path = folder / name
        command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", path, _SOURCES / f"{name}.c"]
        subprocess.run(command, check=True)
        paths.append(path)
    return Programs(*paths)


@dataclass(frozen=True)
class Gap:
    """A time in which the target's heart did not beat, CLOCK_MONOTONIC seconds."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class Beating:
    """A running beating.c. A context manager: the process ends with it."""

    def __init__(
        self,
        program: Path,
        mib: int,
        threads: int = 1,
        pages: str = "small",
        beat: int = BEAT_MICROSECONDS,
        writer: bool = False,
    ) -> None:
        words = [str(program), str(mib), str(threads), pages, str(beat), *(["writer"] if writer else [])]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        assert self.process.stdin
        assert self.process.stdout
        self._orders = self.process.stdin
        self._answers = io.BufferedReader(self.process.stdout)
        words = self._line().split()
        assert words[0] == "ready"
        self.address, self.bytes = int(words[1]), int(words[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Beating:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._answers.close()
        self._orders.close()

    def _line(self) -> str:
        line = self._answers.readline().decode("ascii")
        if not line:
            raise RuntimeError(f"the target ended with {self.process.wait()}")
        return line.rstrip("\n")

    def _order(self, word: str) -> str:
        self._orders.write(f"{word}\n".encode("ascii"))
        return self._line()

    def _pairs(self, word: str) -> list[tuple[int, int]]:
        pairs = []
        line = self._order(word)
        while line != "end":
            first, second = line.split()
            pairs.append((int(first), int(second)))
            line = self._line()
        return pairs

    def touch(self) -> None:
        """Let it write to every page."""
        self._order("touch")

    def fork(self) -> float:
        """Seconds of one fork() call."""
        return int(self._order("fork")) / 1e9

    def reset(self) -> None:
        """Forget gaps and samples."""
        self._order("reset")

    def longest_gap(self, begin: float, end: float) -> float:
        """Seconds of the longest gap that has to do with that time; 0 for none."""
        gaps = (Gap(first / 1e9, second / 1e9) for first, second in self._pairs("gaps"))
        return max((gap.seconds for gap in gaps if gap.end >= begin and gap.begin <= end), default=0.0)

    def samples(self) -> list[tuple[float, int]]:
        """(time, increments) of the writer, one for each beat."""
        return [(time / 1e9, count) for time, count in self._pairs("samples")]

    def huge_bytes(self) -> int:
        """How much of its memory lies in huge pages."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("AnonHugePages:"):
                return int(line.split()[1]) << 10
        return 0
