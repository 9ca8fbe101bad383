"""The engine as a child process: started with a pipe for its events, ended by a signal, never waited for in the UI.

No byte of the target's memory enters this process, and a crash of either side leaves the target running: when the
reader of the events is gone, the engine lets the target go; when the engine is gone, the kernel does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import corepipe_engine
from corepipe_engine.errors import ExitCode
from corepipe_engine.events import Event, Failed, Finished, from_json
from corepipe_engine.options import DumpOptions, to_arguments

_BOOT = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # ignored in a shell's background
    "sys.path.insert(0, sys.argv.pop(1)); from corepipe_engine.__main__ import run; run()"
)
_STDERR_TAIL = 8192


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """What to dump, how, and into which (expanded) pipe command."""

    pid: int
    pipe: str
    options: DumpOptions
    strict: bool = False
    pipe_as_root: bool = False
    report: str = ""

    def arguments(self) -> list[str]:
        """Return the engine's options beyond pid and pipe."""
        arguments = to_arguments(self.options)
        arguments += ["--strict"] if self.strict else []
        arguments += ["--pipe-as-root"] if self.pipe_as_root else []
        return arguments + (["--report", self.report] if self.report else [])


@dataclass(frozen=True, slots=True)
class Ended:
    """The engine has ended. killed_by: the signal's name if one ended it; stderr: the last it printed.

    forced: it did not end when asked to, and EngineRun.kill() ended it.
    """

    exit_code: int
    killed_by: str = ""
    stderr: str = ""
    forced: bool = False


@dataclass(slots=True)
class Outcome:
    """How a dump ended, as far as the engine could tell."""

    exit_code: int = 1
    report: dict[str, object] = field(default_factory=dict)
    error: str = ""
    hint: str = ""

    def take(self, item: Event | Ended) -> None:
        """Book an event of the engine, or its end."""
        if isinstance(item, Failed):
            self.error, self.hint = item.message, item.hint
        elif isinstance(item, Finished):
            self.exit_code, self.report = item.exit_code, item.report
        elif isinstance(item, Ended):
            if item.forced and item.killed_by:
                self.error = "aborted by force: the engine was killed, the kernel let the target go, it runs"
                self.hint, self.exit_code = "", int(ExitCode.INTERRUPTED)
            elif item.killed_by:
                self.error = f"the engine was killed by {item.killed_by}; the kernel let the target go, it runs"
                self.hint, self.exit_code = "sudo dmesg | tail   # was it the out-of-memory killer?", 1
            elif not self.report:
                last = item.stderr.strip().splitlines()
                self.error = self.error or (last[-1] if last else "the engine ended without a word")
                self.exit_code = item.exit_code or 1


class EngineRun:
    """One run of the engine. on_item is called in a thread of its own, with every event and at last with Ended."""

    def __init__(self, request: DumpRequest, on_item: Callable[[Event | Ended], None]) -> None:
        self.request = request
        self._on_item = on_item
        read_end, write_end = os.pipe()
        folder = os.path.dirname(os.path.dirname(os.path.abspath(corepipe_engine.__file__)))
        # -I: neither the folder we stand in nor the environment may put another module in the engine's place
        command = [sys.executable, "-I", "-c", _BOOT, folder, str(request.pid), "--pipe", request.pipe]
        command += ["--events-fd", str(write_end), "--quiet", *request.arguments()]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(write_end,),
                start_new_session=True,
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self.pid = self._process.pid
        self._stderr = b""
        self._forced = False
        self._stderr_thread = threading.Thread(target=self._read_stderr, daemon=True)
        self._thread = threading.Thread(target=self._read_events, args=(read_end,), daemon=True)
        self._stderr_thread.start()
        self._thread.start()

    def abort(self) -> None:
        """Ask the engine to end: it lets the target go first. Returns at once; Ended follows."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End an engine that does not end when asked to, its pipe command with it: that must not take the broken stream
        for a whole core. The kernel lets the target go. Returns at once; Ended follows.
        """
        if self._process.poll() is None:
            self._forced = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Wait until Ended has been delivered."""
        self._thread.join()

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        fd = self._process.stderr.fileno()
        while data := os.read(fd, 65536):
            self._stderr = (self._stderr + data)[-_STDERR_TAIL:]

    def _read_events(self, fd: int) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := os.read(fd, 1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    try:
                        event = from_json(line)
                    except ValueError:
                        continue
                    self._on_item(event)
        os.close(fd)
        code = self._process.wait()
        self._stderr_thread.join(1.0)
        killed_by = signal.Signals(-code).name if code < 0 else ""
        stderr = self._stderr.decode("utf-8", "replace")
        self._on_item(Ended(code if code >= 0 else 128 - code, killed_by, stderr, self._forced))
