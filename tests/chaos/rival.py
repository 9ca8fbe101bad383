"""Another tracer: takes one thread of a process after the other for a moment, until its standard input is closed.

python rival.py PID SEED
"""

from __future__ import annotations

import os
import random
import select
import sys
import time

from corepipe_engine import ptrace


def main() -> None:
    pid, moments = int(sys.argv[1]), random.Random(sys.argv[2])
    while not select.select([0], [], [], moments.uniform(0, 0.05))[0]:
        child = os.fork()
        if not child:  # whoever ends lets go
            try:
                ptrace.seize(int(moments.choice(os.listdir(f"/proc/{pid}/task"))), ptrace.Option(0))
                time.sleep(moments.uniform(0, 0.01))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        moments.random()


main()
