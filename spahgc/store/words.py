"""Words that people said of slides: which may be stored, and how foreign ones are shown."""

import unicodedata


def is_plain(text: str) -> bool:
    """Whether a terminal shows ``text`` and obeys none of it: no control or format characters."""
    return all(_is_shown(character) for character in text)


def spell_plain(text: str) -> str:
    r"""Spell what a terminal would obey instead of showing it as ``\x1b``, ``\n``, …."""
    return "".join(
        character if _is_shown(character) else character.encode("unicode_escape").decode()
        for character in text
    )


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"
