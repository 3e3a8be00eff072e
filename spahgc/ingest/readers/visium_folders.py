"""What lies in a Visium folder: listed, and matched by name."""

import re
from collections.abc import Iterable
from pathlib import Path

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.unpacking import check_folder
from spahgc.schema import Finding


def existing_roots(folder: Path) -> list[Path]:
    """Return the folder and, where there is one, ``outs`` in it.

    Raises
    ------
    SlideFormatError
        If there is no such folder.
    """
    check_folder(folder, expected="a Space Ranger folder")
    return [root for root in (folder, folder / "outs") if root.is_dir()]


def slide_name(folder: Path) -> str:
    """Return the name of a slide's folder, or of the one that its ``outs`` lies in."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "outs" else folder.name


def listing(folder: Path) -> list[Path]:
    """Return what lies in a folder, but for hidden files.

    Raises
    ------
    SlideFormatError
        If the folder cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise SlideFormatError(f"{folder} cannot be listed: {error.strerror}") from error


def first_file(places: Iterable[Path], pattern: str) -> Path | None:
    """Return the file of that name in the first folder that has one.

    Raises
    ------
    SlideFormatError
        If a folder has several.
    """
    return next((path for place in places if (path := _only(_matches(place, pattern)))), None)


def unusable_files(places: Iterable[Path], patterns: Iterable[str]) -> str:
    """Say what has the name of a file and is none; "" where all is well."""
    named = re.compile("|".join(patterns))
    found = [path for place in places for path in listing(place) if named.fullmatch(path.name)]
    return ", ".join(
        f"{path.name}, which is {'a folder' if path.is_dir() else 'a link that leads nowhere'}"
        for path in found
        if not path.is_file()
    )


def tell_file(
    findings: list[Finding],
    part: str,
    path: Path | None,
    *,
    root: Path,
    others: Iterable[Path] = (),
) -> None:
    """Add which file was taken for a part, which ones were not, or that there is none."""
    if path is None:
        findings.append(Finding(kind="warning", text=f"no {part} found"))
        return
    text = f"{part}: {shown_path(path, root)}"
    if left := ", ".join(shown_path(other, root) for other in others):
        text += f" (left aside: {left})"
    findings.append(Finding(kind="file", text=text))


def _matches(folder: Path, pattern: str) -> list[Path]:
    """Return the files of that name; where one lies there plain and gzipped, the plain one."""
    named = re.compile(pattern)
    found = [path for path in listing(folder) if path.is_file() and named.fullmatch(path.name)]
    return [path for path in found if not (path.suffix == ".gz" and path.with_suffix("") in found)]


def _only(found: list[Path]) -> Path | None:
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SlideFormatError(
            f"{found[0].parent}: found {names}, expected the files of one slide; put each slide "
            "into a folder of its own"
        )
    return found[0] if found else None


def shown_path(path: Path, root: Path) -> str:
    """Spell a path from a folder on, where it lies in it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
