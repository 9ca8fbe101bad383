"""What the live tests borrow from the machine; it is given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import machine


@pytest.fixture
def shm_folder() -> Iterator[Path]:
    """A folder in /dev/shm."""
    with machine.shm_folder() as folder:
        yield folder


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Four huge pages of 2 MiB, exactly what the target takes: none is left for a copy of one."""
    with machine.huge_pages(4) as granted:
        if not granted:
            pytest.skip("four huge pages cannot be had on this machine now")
        yield
