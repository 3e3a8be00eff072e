"""Which file of a Visium folder is taken for what."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.visium_folders import (
    existing_roots,
    first_file,
    listing,
    shown_path,
    slide_name,
    tell_file,
    unusable_files,
)
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
    _PREFIX + r"tissue_positions\.parquet",
    _PREFIX + r"tissue_positions\.csv(?:\.gz)?",
    _PREFIX + r"tissue_positions_list\.csv(?:\.gz)?",
)
_SCALE_FACTORS: Final = _PREFIX + r"scalefactors_json\.json(?:\.gz)?"
_SMALL_IMAGE: Final = _PREFIX + r"tissue_{}_image\.png(?:\.gz)?"
_SUFFIX: Final = r"\.(?:tiff?|btf|svs|ndpi|mrxs|scn|bif|jpe?g|png)"
_FULL_IMAGES: Final = (r"(?:.+_)?(?:tissue_)?image", r".*full_?res.*")
_NOT_THE_SLIDE: Final = re.compile(
    r"(?:.*[_.-])?(?:cytassist_image|(?:tissue_)?(?:hires|lowres)(?:_image)?|aligned_fiducials"
    r"|(?:aligned|detected)_tissue(?:_image)?|aligned_image|registration_image)\..*",
    re.IGNORECASE,
)


class LikelyImage(NamedTuple):
    """An image that lies where the full-resolution one may lie."""

    path: Path
    """An existing file."""

    is_named: bool
    """Whether its name says that it is the one."""

    shown: str
    """Its path as a person may know it."""


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
    """The full-resolution image, where it was stated."""

    likely_images: tuple[LikelyImage, ...]
    """Images that may be it, where none was stated."""

    findings: tuple[Finding, ...]
    """Which file was taken for what, and what is missing."""


def find_visium_files(
    folder: Path,
    *,
    home: Path | None = None,
    image: Path | None = None,
    find_image: bool = True,
    probes: bool = False,
) -> VisiumFiles:
    """Find the files of one slide: in ``outs``, its parent, or one flat folder.

    Parameters
    ----------
    home
        Folder of the whole slide, where ``folder`` holds only one bin size of it; gives the
        slide its name, and is where the full-resolution image is looked for.
    image
        The full-resolution image.
    find_image
        Whether to list images that may be it where none is given.
    probes
        Take counts of probes, where there are.

    Raises
    ------
    SlideFormatError
        If a needed file is missing, or several could be meant.
    """
    home = home or folder
    roots = existing_roots(folder)
    findings: list[Finding] = []
    spatial = [place for root in roots for place in (*_spatial_folders(root), root)]
    counts, is_filtered = _find_counts(home, roots, findings, probes=probes)
    positions = _find_positions(spatial, home, findings)
    if counts is None or positions is None:
        raise SlideFormatError(f"{folder}: found {_missing(roots, spatial, counts, positions)}")
    scale_factors = first_file(spatial, _SCALE_FACTORS)
    small_images = {
        name: path
        for name in ("hires", "lowres")
        if (path := first_file(spatial, _SMALL_IMAGE.format(name))) is not None
    }
    tell_file(findings, "scale factors", scale_factors, root=home)
    for name in ("hires", "lowres"):
        tell_file(findings, f"{name} image", small_images.get(name), root=home)
    likely = _likely_images(home, existing_roots(home)) if image is None and find_image else []
    _tell_image(image, findings, find_image=find_image)
    return VisiumFiles(
        name=slide_name(home),
        counts=counts,
        is_filtered=is_filtered,
        positions=positions,
        scale_factors=scale_factors,
        small_images=small_images,
        image=image,
        likely_images=tuple(likely),
        findings=tuple(findings),
    )


def _spatial_folders(root: Path) -> list[Path]:
    pattern = re.compile(_PREFIX + "spatial")
    return [path for path in listing(root) if path.is_dir() and pattern.fullmatch(path.name)]


def _find_counts(
    home: Path, roots: list[Path], findings: list[Finding], *, probes: bool
) -> tuple[Path | None, bool]:
    """Return the best counts, and whether they are filtered ones."""
    if probes and (path := first_file(roots, _PROBES)) is not None:
        tell_file(findings, "counts of probes", path, root=home)
        return path, False
    filtered, others = (
        [
            path
            for subfolder, pattern in patterns
            for root in roots
            if (path := first_file(_matrix_folders(root, subfolder), pattern)) is not None
        ]
        for patterns in (_FILTERED_COUNTS, _OTHER_COUNTS)
    )
    found = filtered + others
    if not found:
        return None, False
    tell_file(findings, "counts", found[0], root=home, others=found[1:])
    return found[0], bool(filtered)


def _matrix_folders(root: Path, pattern: str) -> list[Path]:
    if not pattern:
        return [root]
    named = [path for path in listing(root) if path.is_dir() and re.fullmatch(pattern, path.name)]
    genomes = [path for place in named for path in listing(place) if path.is_dir()]
    return named + genomes  # the oldest layout has one folder per genome


def _find_positions(places: list[Path], home: Path, findings: list[Finding]) -> Path | None:
    found = [
        path
        for place in places
        for pattern in _POSITIONS
        if (path := first_file([place], pattern)) is not None
    ]
    if not found:
        return None
    tell_file(findings, "positions", found[0], root=home, others=found[1:])
    return found[0]


def _missing(
    roots: list[Path], spatial: list[Path], counts: Path | None, positions: Path | None
) -> str:
    problems = []
    if counts is None:
        probes = first_file(roots, _PROBES)
        found = unusable_files(roots, (_FILTERED + _H5, _RAW + _H5, _MATRIX))
        if probes is not None:
            found = f"only counts of probes ({probes.name}; --sum-probes adds them up by gene)"
        problems.append(
            f"{found or 'no counts'}, expected filtered_feature_bc_matrix.h5, or a matrix folder "
            "with matrix.mtx, features.tsv and barcodes.tsv"
        )
    if positions is None:
        found = unusable_files(spatial, _POSITIONS) or "no spot positions"
        problems.append(
            f"{found}, expected spatial/tissue_positions.csv (or …_list.csv, or .parquet)"
        )
    return "; and ".join(problems)


def _tell_image(given: Path | None, findings: list[Finding], *, find_image: bool) -> None:
    if given is not None:
        if re.fullmatch(r"(?:.*_)?cytassist_image\..*", given.name, re.IGNORECASE):
            raise SlideFormatError(
                f"{given} is the CytAssist instrument's picture, expected the H&E image that "
                "Space Ranger was given"
            )
        findings.append(Finding(kind="file", text=f"full-resolution image: {given} (as stated)"))
    elif not find_image:
        text = "no full-resolution image, as asked for: the slide cannot be embedded"
        findings.append(Finding(kind="warning", text=text))


def _likely_images(folder: Path, roots: list[Path]) -> list[LikelyImage]:
    """List images beside the counts; beyond the slide's own folder only those named after it."""
    home = folder.resolve()
    if home.name == "outs":
        home, roots = home.parent, [*roots, home.parent]
    named = re.compile(
        f"(?:{'|'.join([*_FULL_IMAGES, re.escape(home.name)])}){_SUFFIX}", re.IGNORECASE
    )
    places = [(place, ".*") for root in roots for place in (root, *_spatial_folders(root))]
    if os.access(home.parent, os.R_OK):  # nobody asked for that folder
        places.append((home.parent, _named_after(home)))
    found = {
        path.resolve(): path
        for place, pattern in places
        for path in listing(place)
        if re.fullmatch(pattern + _SUFFIX, path.name, re.IGNORECASE)
        and path.is_file()
        and not _NOT_THE_SLIDE.fullmatch(path.name)
    }
    return [
        LikelyImage(path, bool(named.fullmatch(path.name)), shown_path(path, folder))
        for path in found.values()
    ]


def _named_after(home: Path) -> str:
    """Match the name of a slide's folder and what follows it, but not another folder's name."""
    others = [
        re.escape(path.name)
        for path in listing(home.parent)
        if path.name.startswith(home.name) and path.name != home.name and path.is_dir()
    ]
    not_others = f"(?!(?:{'|'.join(others)})(?![A-Za-z0-9]))" if others else ""
    return not_others + re.escape(home.name) + "(?:[^A-Za-z0-9].*)?"
