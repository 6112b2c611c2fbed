"""How a client tag travels in an order's comment, and what survives of it.

Brokers cut, extend and replace comments, so a tag is only ever read back from the comment the broker shows.
"""

import re

_TAG = re.compile(r"mc[0-9a-z]{6,14}(?=[ \[]|\Z)")
_CHILD = re.compile(r"to #(\d+)\Z")
_PARENT = re.compile(r"(?:split )?from #(\d+)\Z")


def comment_with_tag(tag: str, comment: str, length_max: int) -> str:
    """Return the comment to send: the tag first, then as much of the comment as fits."""
    if not tag:
        return comment[:length_max]
    return f"{tag} {comment}"[:length_max] if comment else tag[:length_max]


def tag_in(comment: str) -> str:
    """Return the tag a comment still starts with, or nothing; servers append "[sl]" without a space."""
    found = _TAG.match(comment)
    return found[0] if found else ""


def parent_in(comment: str) -> int | None:
    """Return the ticket an MT4 order was split from, where the comment still says so."""
    found = _PARENT.match(comment)
    return int(found[1]) if found else None


def child_in(comment: str) -> int | None:
    """Return the ticket the rest of a partly closed MT4 order lives on under, where the comment still says so."""
    found = _CHILD.match(comment)
    return int(found[1]) if found else None
