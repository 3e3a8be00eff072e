"""Which files of a folder make up the sections of a legacy Spatial Transcriptomics study."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_letters
from typing import Final, Literal, TypeAlias

from spahgc.errors import SlideFormatError, SpahgcError
from spahgc.ingest.readers.problems import attempt, raise_together
from spahgc.ingest.readers.unpacking import check_folder

Layout: TypeAlias = Literal["her2st", "cscc", "st-net", "flat"]

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".svs", ".ndpi", ".mrxs")

_TABLE: Final = re.compile(r"([^.].*)\.tsv(?:\.gz)?")
_SPOTS: Final = "_selection"
_LABELS: Final = "_labeled_coordinates"

_ACCESSION: Final = r"(?:GSM\d+_)?"
_CSCC_COUNTS: Final = re.compile(rf"{_ACCESSION}([^.].*)_stdata\.tsv(?:\.gz)?")
_CSCC_SPOTS: Final = re.compile(rf"{_ACCESSION}spot_data-selection-(.+)\.tsv(?:\.gz)?")
_CSCC_PATIENT: Final = re.compile(r"P\d+(?![^\W_])")

_ST_NET_SPOTS: Final = re.compile(r"([^.].*)\.spots\.txt(?:\.gz)?")
_ST_NET_TUMOR: Final = "_Coords"


@dataclass(frozen=True, slots=True, kw_only=True)
class StFiles:
    """Which files one section consists of; tables are tab-separated and may be gzipped."""

    name: str
    """Becomes the slide's."""

    counts: Path
    """Spots in rows, genes in columns."""

    spots: Path | None = None
    """Columns ``x y``, with pixels ``pixel_x pixel_y`` and perhaps ``selected``."""

    image: Path | None = None
    """The image that the pixel columns refer to."""

    labels: Path | None = None
    """Columns ``x y label``."""

    patient: str | None = None
    """None means unknown."""

    layout: Layout = "flat"
    """Whose way of naming files it is; decides which distance between spots is known."""

    remarks: tuple[str, ...] = ()
    """What a person should know about files that were not used."""


def find_sections(folder: Path) -> list[StFiles]:
    """Find the sections of a study: her2st, cSCC (GSE144240), ST-Net, or one flat folder.

    cSCC and ST-Net are looked for in the folder and two levels below it.

    Returns
    -------
    list[StFiles]
        Sorted by name. The patient is, in her2st, the letters that a name starts with; in cSCC
        its leading ``P`` and number; in ST-Net what stands before the first underscore; in a
        flat folder it is unknown.

    Raises
    ------
    SlideFormatError
        If there is no section, or several files could be the same part of one.
    """
    check_folder(folder, expected="one that holds a study")
    found = _sections_of(folder)
    if not found:
        raise SlideFormatError(
            f"{folder}: no section found, expected ST-cnts/ID.tsv.gz of a study, ID_stdata.tsv.gz "
            f"beside spot_data-selection-ID.tsv.gz, ID.tsv.gz beside ID.spots.txt, or ID.tsv.gz "
            f"beside ID{_SPOTS}.tsv and ID.jpg"
        )
    problems: list[SpahgcError] = []
    sections = [attempt(find, problems) for find in found]
    _refuse_repeated(folder, [section.name for section in sections if section], problems)
    raise_together(problems)
    return sorted((section for section in sections if section), key=lambda section: section.name)


def _sections_of(folder: Path) -> list[Callable[[], StFiles]]:
    if (folder / "ST-cnts").is_dir():
        return [partial(_her2st, folder, name) for name in _table_names(folder / "ST-cnts")]
    below = [folder, *(path for deep in ("*", "*/*") for path in sorted(folder.glob(deep)))]
    folders = [path for path in below if path.is_dir()]
    for mark, names_in, files_of in (
        (_CSCC_SPOTS, _cscc_names, _cscc),
        (_ST_NET_SPOTS, _st_net_names, _st_net),
    ):
        marked = [path for path in folders if _matches(mark, path)]
        if marked:
            return [partial(files_of, path, name) for path in marked for name in names_in(path)]
    return [partial(_flat, folder, name) for name in _table_names(folder)]


def _refuse_repeated(folder: Path, names: list[str], problems: list[SpahgcError]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        problems.append(
            SlideFormatError(
                f"{folder}: found section {', '.join(repeated)} in several folders below, expected "
                "each once; give one of the folders"
            )
        )


def _table_names(folder: Path) -> list[str]:
    names = _matches(_TABLE, folder)
    return [name for name in names if not name.endswith((_SPOTS, _LABELS))]


def _cscc_names(folder: Path) -> list[str]:
    return _matches(_CSCC_COUNTS, folder)


def _st_net_names(folder: Path) -> list[str]:
    counts = (name for name in _matches(_TABLE, folder) if not name.endswith(_ST_NET_TUMOR))
    return sorted({*counts, *_matches(_ST_NET_SPOTS, folder)})


def _matches(pattern: re.Pattern[str], folder: Path) -> list[str]:
    found = (pattern.fullmatch(path.name) for path in folder.glob("*"))
    return sorted({match[1] for match in found if match})


def _her2st(study: Path, name: str) -> StFiles:
    patient = name[: len(name) - len(name.lstrip(ascii_letters))]
    return StFiles(
        name=name,
        counts=_counts(study / "ST-cnts", name),
        spots=_table(study / "ST-spotfiles", f"{name}{_SPOTS}"),
        image=_only_image((study / "ST-imgs" / patient / name).glob("*")),
        labels=_table(study / "ST-pat" / "lbl", f"{name}{_LABELS}"),
        patient=patient or None,
        layout="her2st",
    )


def _cscc(folder: Path, name: str) -> StFiles:
    def named(pattern: re.Pattern[str]) -> Path | None:
        matches = ((path, pattern.fullmatch(path.name)) for path in sorted(folder.glob("*")))
        return _only([path for path, match in matches if match and match[1] == name])

    is_image = re.compile(rf"{_ACCESSION}{re.escape(name)}")
    patient = _CSCC_PATIENT.match(name)
    return StFiles(
        name=name,
        counts=named(_CSCC_COUNTS) or folder / f"{name}_stdata.tsv",
        spots=named(_CSCC_SPOTS),
        image=_only_image(path for path in folder.glob("*") if is_image.fullmatch(path.stem)),
        patient=patient[0] if patient else None,
        layout="cscc",
        remarks=_zipped_images(folder, is_image),
    )


def _zipped_images(folder: Path, stem: re.Pattern[str]) -> tuple[str, ...]:
    suffixes = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
    is_zipped = re.compile(rf"{stem.pattern}(?:{suffixes})\.gz", re.IGNORECASE)
    return tuple(
        f"{path.name} is gzipped and was not used; run `gunzip --keep {path.name}`"
        for path in sorted(folder.glob("*.gz"))
        if is_zipped.fullmatch(path.name)
    )


def _st_net(folder: Path, name: str) -> StFiles:
    patient, _, section = name.partition("_")
    return StFiles(
        name=name,
        counts=_counts(folder, name),
        spots=_only(
            [p for end in ("", ".gz") if _is_there(p := folder / f"{name}.spots.txt{end}")]
        ),
        image=_image_beside(folder, name),
        labels=_table(folder, f"{name}{_LABELS}"),
        patient=patient if section else None,
        layout="st-net",
    )


def _flat(folder: Path, name: str) -> StFiles:
    return StFiles(
        name=name,
        counts=_counts(folder, name),
        spots=_table(folder, f"{name}{_SPOTS}"),
        image=_image_beside(folder, name),
        labels=_table(folder, f"{name}{_LABELS}"),
    )


def _counts(folder: Path, name: str) -> Path:
    return _table(folder, name) or folder / f"{name}.tsv"


def _table(folder: Path, name: str) -> Path | None:
    return _only([path for end in ("", ".gz") if _is_there(path := folder / f"{name}.tsv{end}")])


def _image_beside(folder: Path, name: str) -> Path | None:
    return _only_image(path for path in folder.glob("*") if path.stem == name)


def _only_image(paths: Iterable[Path]) -> Path | None:
    is_image = (path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    return _only([path for path in is_image if not path.name.startswith(".")])


def _is_there(path: Path) -> bool:
    """Tell even of a folder or a dead link: the reader says what is wrong with it."""
    return path.is_symlink() or path.exists()


def _only(paths: list[Path]) -> Path | None:
    if len(paths) > 1:
        names = ", ".join(sorted(path.name for path in paths))
        raise SlideFormatError(f"{paths[0].parent}: found {names}, expected only one of them")
    return paths[0] if paths else None
