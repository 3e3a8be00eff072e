"""URLs that hold a password: seen before anything prints, stores or opens them."""

import re
from typing import Final

_HOLDS_PASSWORD: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[^\s/@]*|[^\s@]*:[^\s@]*)@")
"""Of ``https://user:password@host``, also where the password has a ``/``, ``?`` or ``#``."""


def scheme_with_password(text: str) -> str | None:
    """Give the scheme of a URL in ``text`` that holds a user or a password; None without one."""
    found = _HOLDS_PASSWORD.search(text)
    return None if found is None else found[1]


def how_to_give(scheme: str) -> str:
    """Refuse such a URL, in a line that repeats no part of it, and say what is right instead."""
    instead = {
        "s3": "name s3://bucket/name, and give keys by AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or a profile by AWS_PROFILE",
        "http": "write the user and the password into ~/.netrc (as `machine HOST login USER "
        "password PASSWORD`), and leave them out of the URL; an @ in a path is %40",
    }
    instead["https"] = instead["http"]
    other = "leave them out of the URL"
    return (
        f"a {scheme}:// URL with a user or password in it is refused, since it would be shown and "
        f"stored; {instead.get(scheme, other)}"
    )
