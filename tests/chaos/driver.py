"""Runs the engine again and again, each time in a process forked from this one, which has imported it already.

A line of standard input holds the arguments of a run (JSON). Its pid is printed at once, its wait status at its end.
What it prints itself goes to standard error. The run is in a session of its own, as one started by a shell in a group.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import sys

import corepipe_engine
from corepipe_engine.__main__ import main

ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def run(arguments: list[str]) -> None:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        status = main(arguments)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(status)


def loop() -> None:
    for module in pkgutil.walk_packages(corepipe_engine.__path__, "corepipe_engine."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("hashlib")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # until a run begins: Python's own way out of fork takes none
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            run(json.loads(line))
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


loop()
