"""What is typed into a filter line."""

from __future__ import annotations


def parse_filter(text: str) -> list[tuple[bool, str]]:
    """Return the words of a filter line in lower case, True with those that leave out: java !root -> [(False, "java"),
    (True, "root")].
    """
    words = []
    for word in text.lower().split():
        inverted = word.startswith("!")
        bare = word[1:] if inverted else word
        if bare:
            words.append((inverted, bare))
    return words
