"""Which file of a Visium folder is taken for what."""

import gzip
import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spahgc.errors import SlideFormatError
from spahgc.schema import Finding

_PREFIX: Final = r"(?:.*[_.-])?"  # downloads put the sample's name in front
_MATRIX: Final = _PREFIX + r"matrix\.mtx(?:\.gz)?"
_FILTERED: Final = _PREFIX + r"filtered_(?:feature_bc_matrix|gene_bc_matrices)"
_RAW: Final = _PREFIX + r"raw_(?:feature_bc_matrix|gene_bc_matrices)"
_H5: Final = r"(?:_h5)?\.h5"
_FILTERED_COUNTS: Final = (("", _FILTERED + _H5), (_FILTERED, _MATRIX))
_OTHER_COUNTS: Final = (("", _MATRIX), ("", _RAW + _H5), (_RAW, _MATRIX))
"""Folder and file, best first; "" is the slide's own folder."""

_PROBES: Final = _PREFIX + r"raw_probe_bc_matrix\.h5"
_POSITIONS: Final = (
    _PREFIX + r"tissue_positions\.csv(?:\.gz)?",
    _PREFIX + r"tissue_positions_list\.csv(?:\.gz)?",
)
_SCALE_FACTORS: Final = _PREFIX + r"scalefactors_json\.json(?:\.gz)?"
_SMALL_IMAGE: Final = _PREFIX + r"tissue_{}_image\.png(?:\.gz)?"
_SUFFIX: Final = r"\.(?:tiff?|btf|svs|ndpi|mrxs|scn|bif|jpe?g|png)"
_FULL_IMAGES: Final = (r"(?:.+_)?(?:tissue_)?image", r".*full_?res.*")
_NOT_THE_SLIDE: Final = re.compile(
    r"(?:.*_)?cytassist_image\..*|"
    r"(?:.*_)?(?:hires|lowres|cytassist|aligned_tissue|detected_tissue|aligned|registration)"
    r"_image\..*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumFiles:
    """The files of one slide."""

    name: str
    """Of the folder, or of the one that its ``outs`` lies in."""

    counts: Path
    """An HDF5 file, or ``matrix.mtx`` of a matrix folder."""

    is_filtered: bool
    """Whether the counts are, by their name, those under tissue only."""

    positions: Path
    """Where the array's spots lie."""

    scale_factors: Path | None
    """How the small images relate to the full-resolution one."""

    small_images: dict[str, Path]
    """``hires`` and ``lowres``, where there are."""

    image: Path | None
    """The full-resolution image."""

    findings: tuple[Finding, ...]
    """Which file was taken for what, and what is missing."""


def find_visium_files(folder: Path, *, image: Path | None = None) -> VisiumFiles:
    """Find the files of one slide: in ``outs``, its parent, or one flat folder.

    Parameters
    ----------
    image
        The full-resolution image; None looks for one of an obvious name beside the counts.

    Raises
    ------
    SlideFormatError
        If a needed file is missing, several could be meant, or it is a Visium HD folder.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise SlideFormatError(f"{folder} {found}, expected a Space Ranger folder")
    roots = [root for root in (folder, folder / "outs") if root.is_dir()]
    _refuse_hd(roots)
    findings: list[Finding] = []
    spatial = [place for root in roots for place in (*_spatial_folders(root), root)]
    counts, is_filtered = _find_counts(folder, roots, findings)
    positions = _find_positions(spatial, folder, findings)
    if counts is None or positions is None:
        raise SlideFormatError(f"{folder}: found {_missing(roots, counts, positions)}")
    scale_factors = _first(spatial, _SCALE_FACTORS)
    small_images = {
        name: path
        for name in ("hires", "lowres")
        if (path := _first(spatial, _SMALL_IMAGE.format(name))) is not None
    }
    _tell(findings, "scale factors", scale_factors, root=folder)
    for name in ("hires", "lowres"):
        _tell(findings, f"{name} image", small_images.get(name), root=folder)
    return VisiumFiles(
        name=_slide_name(folder),
        counts=counts,
        is_filtered=is_filtered,
        positions=positions,
        scale_factors=scale_factors,
        small_images=small_images,
        image=_choose_image(folder, roots, image, findings),
        findings=tuple(findings),
    )


def read_bytes(path: Path) -> bytes:
    """Read a file, unzipped where it is gzipped, whatever its name.

    Raises
    ------
    SlideFormatError
        If the file cannot be read or breaks off.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise SlideFormatError(
            f"{path}: found a file that cannot be read ({reason}), expected a whole one; copy it "
            "again from where it came"
        ) from error


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise SlideFormatError(f"{folder} cannot be listed: {error.strerror}") from error


def _spatial_folders(root: Path) -> list[Path]:
    pattern = re.compile(_PREFIX + "spatial")
    return [path for path in _listing(root) if path.is_dir() and pattern.fullmatch(path.name)]


def _refuse_hd(roots: list[Path]) -> None:
    for root in roots:
        for place in (root, *_spatial_folders(root)):
            for path in _listing(place):
                if path.name == "binned_outputs" or path.name.endswith("tissue_positions.parquet"):
                    raise SlideFormatError(
                        f"{root} is a Visium HD folder (it holds {path.name}); HD is not read yet, "
                        "expected Visium with tissue_positions.csv"
                    )


def _matches(folder: Path, pattern: str) -> list[Path]:
    """Return the files of that name; where one lies there plain and gzipped, the plain one."""
    named = re.compile(pattern)
    found = [path for path in _listing(folder) if path.is_file() and named.fullmatch(path.name)]
    return [path for path in found if not (path.suffix == ".gz" and path.with_suffix("") in found)]


def _only(found: list[Path]) -> Path | None:
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SlideFormatError(
            f"{found[0].parent}: found {names}, expected the files of one slide; put each slide "
            "into a folder of its own"
        )
    return found[0] if found else None


def _first(places: Iterable[Path], pattern: str) -> Path | None:
    return next((path for place in places if (path := _only(_matches(place, pattern)))), None)


def _find_counts(
    folder: Path, roots: list[Path], findings: list[Finding]
) -> tuple[Path | None, bool]:
    """Return the best counts, and whether they are filtered ones."""
    filtered, others = (
        [
            path
            for subfolder, pattern in patterns
            for root in roots
            if (path := _first(_matrix_folders(root, subfolder), pattern)) is not None
        ]
        for patterns in (_FILTERED_COUNTS, _OTHER_COUNTS)
    )
    found = filtered + others
    if not found:
        return None, False
    _tell(findings, "counts", found[0], root=folder, others=found[1:])
    return found[0], bool(filtered)


def _matrix_folders(root: Path, pattern: str) -> list[Path]:
    if not pattern:
        return [root]
    named = [path for path in _listing(root) if path.is_dir() and re.fullmatch(pattern, path.name)]
    genomes = [path for place in named for path in _listing(place) if path.is_dir()]
    return named + genomes  # the oldest layout has one folder per genome


def _find_positions(places: list[Path], folder: Path, findings: list[Finding]) -> Path | None:
    found = [
        path
        for place in places
        for pattern in _POSITIONS
        if (path := _only(_matches(place, pattern))) is not None
    ]
    if not found:
        return None
    _tell(findings, "positions", found[0], root=folder, others=found[1:])
    return found[0]


def _missing(roots: list[Path], counts: Path | None, positions: Path | None) -> str:
    problems = []
    if counts is None:
        probes = _first(roots, _PROBES)
        problems.append(
            f"{'no counts' if probes is None else f'only counts of probes ({probes.name})'}, "
            "expected filtered_feature_bc_matrix.h5, or a matrix folder with matrix.mtx, "
            "features.tsv and barcodes.tsv"
        )
    if positions is None:
        problems.append("no spot positions, expected spatial/tissue_positions.csv (or …_list.csv)")
    return "; and ".join(problems)


def _choose_image(
    folder: Path, roots: list[Path], given: Path | None, findings: list[Finding]
) -> Path | None:
    if given is not None:
        if re.fullmatch(r"(?:.*_)?cytassist_image\..*", given.name, re.IGNORECASE):
            raise SlideFormatError(
                f"{given} is the CytAssist instrument's picture, expected the H&E image that "
                "Space Ranger was given"
            )
        findings.append(Finding(kind="file", text=f"full-resolution image: {given} (as stated)"))
        return given
    found = _likely_images(folder, roots)
    if len(found) == 1:
        _tell(findings, "full-resolution image", found[0], root=folder)
        return found[0]
    names = ", ".join(path.name for path in found)
    why = f"{names} could all be it" if found else "none lies here"
    text = f"no full-resolution image ({why}): the slide cannot be embedded without --image"
    findings.append(Finding(kind="warning", text=text))
    return None


def _likely_images(folder: Path, roots: list[Path]) -> list[Path]:
    """Return files of an obvious name; beyond the slide's own folder only those named after it."""
    home = folder.resolve()
    if home.name == "outs":
        home, roots = home.parent, [*roots, home.parent]
    own = f"(?:{'|'.join([*_FULL_IMAGES, re.escape(home.name)])}){_SUFFIX}"
    beside = re.escape(home.name) + _SUFFIX
    places = [(root, own) for root in roots]
    if os.access(home.parent, os.R_OK):  # nobody asked for that folder
        places.append((home.parent, beside))
    found = [
        path
        for place, pattern in places
        for path in _listing(place)
        if re.fullmatch(pattern, path.name, re.IGNORECASE) and path.is_file()
    ]
    distinct = {path.resolve(): path for path in found if not _NOT_THE_SLIDE.fullmatch(path.name)}
    return list(distinct.values())


def _tell(
    findings: list[Finding],
    part: str,
    path: Path | None,
    *,
    root: Path,
    others: Iterable[Path] = (),
) -> None:
    if path is None:
        findings.append(Finding(kind="warning", text=f"no {part} found"))
        return
    text = f"{part}: {_shown(path, root)}"
    if left := ", ".join(_shown(other, root) for other in others):
        text += f" (left aside: {left})"
    findings.append(Finding(kind="file", text=text))


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _slide_name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name == "outs" else folder.name
