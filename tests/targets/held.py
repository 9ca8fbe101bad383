"""A Python program with three threads in functions of known names."""

import os
import threading

never = threading.Event()
held = threading.Semaphore(0)


def innermost():
    held.release()
    never.wait()


def held_in_alpha():
    innermost()


def held_in_beta():
    innermost()


def main_waits():
    for function in (held_in_alpha, held_in_beta):
        threading.Thread(target=function, daemon=True).start()
        held.acquire()
    os.close(int(os.environ["TARGET_READY"]))
    never.wait()


if __name__ == "__main__":
    main_waits()
