"""Numbers for people; humanize does the work."""

from __future__ import annotations

import humanize


def size(count: float) -> str:
    """Return bytes as 3.9 GiB."""
    return humanize.naturalsize(count, binary=True, format="%.1f").replace(" Bytes", " B").replace(" Byte", " B")


def exact_size(count: int) -> str:
    """Return bytes as 3.91 GiB, and below a KiB exactly."""
    return humanize.naturalsize(count, binary=True, format="%.2f").replace(" Bytes", " B").replace(" Byte", " B")


def short_size(count: int) -> str:
    """Return bytes as 3.9G in six characters at most, for columns; a dash for nothing."""
    if count <= 0:
        return "-"
    text = humanize.naturalsize(count, gnu=True, format="%.1f")
    return text if len(text) < 7 else humanize.naturalsize(count, gnu=True, format="%.0f")


def count(number: int) -> str:
    """Return 4,211."""
    return humanize.intcomma(number)


def regions(number: int) -> str:
    """Return 1 region, 4,211 regions."""
    return f"{count(number)} region{'' if number == 1 else 's'}"


def stop(seconds: float) -> str:
    """Return the length of a stop: 58 ms, 1.2 s, 3 min."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "1 ms"
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min"


def step(seconds: float) -> str:
    """Return the length of a part of a stop, so that the parts add up to it: 0.2 ms, 58 ms."""
    if seconds < 0.00005:
        return "<0.1 ms"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else stop(seconds)


def duration(seconds: float) -> str:
    """Return an age in its two largest units: 3d 4h."""
    seconds = int(max(seconds, 0))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    if minutes:
        return f"{minutes}m {seconds % 60:02d}s"
    return f"{seconds}s"


def rate(byte_count: float, seconds: float) -> str:
    """Return bytes a second, a dash while there is nothing to tell."""
    return f"{size(byte_count / seconds)}/s" if seconds > 0 and byte_count > 0 else "-"
