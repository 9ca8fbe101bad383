"""`corepipe`, the way in: what can be answered without the engine is answered without loading it."""

from __future__ import annotations

import os
import sys

from . import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run `corepipe` and return its exit status."""
    if (sys.argv[1:] if arguments is None else arguments) == ["--version"] and sys.stdout is not None:
        sys.stdout.write(f"corepipe {__version__}\n")
        return 0
    from . import command

    return command.main(arguments)


def run() -> None:
    """Entry point that never waits for a thread stuck in a dead pipe: the target runs by now."""
    code = main()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None where the descriptor was closed when Python started
            try:
                stream.flush()
            except OSError:
                pass
    os._exit(code)


if __name__ == "__main__":
    run()
