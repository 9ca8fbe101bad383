"""Words with a look, as Content: never as markup."""

from __future__ import annotations

from textual.content import Content

MUTED = "$foreground 55%"
"""Style of labels and of what matters less."""


def title(*parts: str) -> Content:
    """Return a screen's first line; parts are clean, what matters most comes first: the end may be cut."""
    words = " · ".join(part for part in parts if part)
    return Content.assemble((" corepipe ", "bold $text on $primary"), f"  {words}")


def refused(message: str, hint: str) -> list[Content]:
    """Return the lines that say what cannot be, and what to type next; both clean."""
    lines = [Content.assemble(("✗ ", "bold $text-error"), (message, "$text-error"))]
    return [*lines, Content.assemble(("  try: ", MUTED), (hint, "bold"))] if hint else lines
