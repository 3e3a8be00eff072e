"""A trained run on disk: settings, gene panel, weights, learning curve, scores, provenance."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from spahgc.errors import DamagedStoreError, FormatVersionError, MissingError
from spahgc.store.confidence import Trust, parse_trust, serialise_trust
from spahgc.store.durable import write_durably
from spahgc.store.shapes import fits

RUN_VERSION: Final = 2
RECORD: Final = "run.json"
WEIGHTS: Final = "weights.safetensors"
CURVE: Final = "curve.csv"
SCORES: Final = "scores.parquet"
TRUST: Final = "trust.json"
FILES: Final = "files"
"""Key in ``run.json`` of the sha256 of every other file of the run."""
DIGEST: Final = "sha256"
"""Key in ``run.json`` of the sha256 of all else in it."""
DEEPEST: Final = 4
"""Folders below one in which runs are looked for: an evaluation keeps its own two below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything about a run but its weights: enough to repeat it and to audit it."""

    store: str
    """Path of the store it was trained from."""

    commit: int
    """Number of the store's commit it read."""

    features: Mapping[str, Any]
    """`spahgc.model.features.FeatureConfig` as a mapping: names of embeddings, what is done."""

    fingerprints: Mapping[str, str]
    """Digest of the encoder fingerprint of each embedding, by its name."""

    encoders: Mapping[str, Mapping[str, Any]]
    """The encoder fingerprints themselves, to embed an image in the same way."""

    train: Mapping[str, str]
    """Training slides, which are also the references, and the content digest of each."""

    validation: tuple[str, ...]
    """Slides that chose the checkpoint."""

    test: tuple[str, ...]
    """Slides read once, after training."""

    groups: Mapping[str, str]
    """What a slide never borrows from: slides of the same group."""

    panel: tuple[str, ...]
    """Genes predicted, in column order."""

    panel_rule: str
    """How the panel was chosen, from training slides only."""

    panel_digest: str
    """Digest of the panel's names in order."""

    wide: tuple[str, ...]
    """Genes that programmes were found in; empty for a model that does not look for any."""

    target_sum: float
    """Counts per spot after scaling to library size, before log1p."""

    network: Mapping[str, Any]
    """`spahgc.model.network.NetworkConfig` as a mapping; empty where no network was trained."""

    graph: Mapping[str, int]
    """`spahgc.model.graph.GraphConfig` as a mapping."""

    training: Mapping[str, Any]
    """`spahgc.model.training.TrainingConfig` as a mapping."""

    best_epoch: int
    """Epoch whose weights were kept, or that held-out slides chose; counted from 1."""

    validation_pcc: float
    """Mean PCC over genes on the validation slides, or on training slides held out in turn."""

    committee: Mapping[str, Any] | None = None
    """`spahgc.model.committee_fitting.CommitteeConfig` as a mapping; None for the paper's model."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of spahgc, Python and the libraries that decide numbers."""

    made_at: str = ""
    """ISO 8601, UTC."""

    split: str = ""
    """Rule or file that divided the slides."""

    shared_patients: tuple[str, ...] = ()
    """Patients on both sides of the test; each makes the scores weaker evidence."""

    references: tuple[str, ...] = ()
    """Slides that the index was asked about, as it was asked: those that were borrowed from."""

    judged: Mapping[str, str] = field(default_factory=dict)
    """Content digest of each validation and test slide."""

    microns_per_pixel: Mapping[str, float | None] = field(default_factory=dict)
    """Of each training slide's full-resolution image, in µm; None where unknown."""

    version: int = RUN_VERSION
    """Version of this record's form."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One trained model, ready to be used or audited."""

    record: RunRecord
    """Settings and provenance."""

    weights: Mapping[str, NDArray[np.float32]]
    """All that was learned, by name."""

    curve: pd.DataFrame
    """One row per epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``validation_pcc``."""

    scores: pd.DataFrame | None = None
    """One row per test slide and gene; None where nothing was tested."""

    trust: Trust | None = None
    """How far to believe a gene and a spot, found on slides the model had not learned from."""


def write_run(run: Run, folder: Path) -> None:
    """Write a run into an existing folder that has none; the record comes last."""
    weights = save({name: np.ascontiguousarray(w) for name, w in run.weights.items()})
    (folder / WEIGHTS).write_bytes(weights)  # safetensors would let nobody else read its file
    run.curve.to_csv(folder / CURVE, index=False)
    if run.scores is not None:
        run.scores.to_parquet(folder / SCORES, index=False)
    if run.trust is not None:
        (folder / TRUST).write_text(serialise_trust(run.trust))
    written = [name for name in (WEIGHTS, CURVE, SCORES, TRUST) if (folder / name).exists()]
    _write_record(run.record, folder, files={n: _digest(folder / n) for n in written})


def read_run(path: Path) -> Run:
    """Read a run and compare its files with the digests in its record.

    Raises
    ------
    MissingError
        If ``path`` is not a run.
    FormatVersionError
        If another version of spahgc wrote it.
    DamagedStoreError
        If part of it is missing, was changed since, or cannot be read.
    """
    record, files = _read_record(path)
    try:
        _check_files(path, files)
        return Run(
            record=record,
            weights=load_file(path / WEIGHTS),
            curve=pd.read_csv(path / CURVE, float_precision="round_trip"),
            scores=pd.read_parquet(path / SCORES) if SCORES in files else None,
            trust=parse_trust((path / TRUST).read_text()) if TRUST in files else None,
        )
    except DamagedStoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedStoreError(f"{path} is a damaged run: {error}") from error


def read_record(path: Path) -> RunRecord:
    """Read a run's record alone; for what may be raised see `read_run`."""
    return _read_record(path)[0]


def find_runs(folder: Path) -> list[Path]:
    """Find every finished run in a folder, itself included, in the order of their names.

    Raises
    ------
    MissingError
        If there is none.
    """
    if (folder / RECORD).is_file():
        return [folder]
    pattern = "*"
    found: set[Path] = set()
    for _ in range(DEEPEST):
        found.update(place.parent for place in folder.glob(f"{pattern}/{RECORD}"))
        pattern += "/*"
    runs = sorted(p for p in found if not _is_hidden(p.relative_to(folder)))
    if not runs:
        problem = "has no run in it" if folder.is_dir() else "is no folder"
        raise MissingError(f"{folder} {problem}; `spahgc train` makes a run")
    return runs


def export_run(path: Path, into: Path) -> list[Path]:
    """Copy what others need to use a run, without where it lay: safetensors, JSON and a curve.

    Parameters
    ----------
    path
        The run.
    into
        An existing empty folder.

    Returns
    -------
    list[Path]
        The files written; `read_run` reads the folder. Scores stay behind, as they name the test
        slides' genes one by one; the record keeps their mean.

    Raises
    ------
    MissingError, FormatVersionError, DamagedStoreError
        See `read_run`.
    """
    run = read_run(path)
    _, files = _read_record(path)
    kept: dict[str, str] = {name: files[name] for name in (WEIGHTS, CURVE, TRUST) if name in files}
    for name in kept:
        shutil.copyfile(path / name, into / name)
    _write_record(replace(run.record, store=Path(run.record.store).name), into, files=kept)
    return sorted(into / name for name in (*kept, RECORD))


def _write_record(record: RunRecord, folder: Path, *, files: Mapping[str, str]) -> None:
    document = {**asdict(record), FILES: dict(files)}
    document[DIGEST] = _digest_of(document)
    write_durably(folder / RECORD, json.dumps(document, indent=1).encode())


def _digest_of(document: Mapping[str, Any]) -> str:
    return sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _read_record(path: Path) -> tuple[RunRecord, dict[str, str]]:
    document = _read_document(path)
    try:
        stated = document.pop(DIGEST, None)
        if stated is not None and stated != _digest_of(document):
            raise DamagedStoreError(
                f"{path} is a damaged run: {RECORD} was changed since it was written; copy the "
                "run again, or train again"
            )
        files = {str(name): str(digest) for name, digest in document.pop(FILES).items()}
        missing = sorted({WEIGHTS, CURVE} - set(files))
        strange = sorted(set(files) - {WEIGHTS, CURVE, SCORES, TRUST})
        if missing or strange:
            raise DamagedStoreError(
                f"{path} is a damaged run: its record lists {', '.join(strange) or 'too little'}"
            )
        for name in ("validation", "test", "panel", "wide", "shared_patients", "references"):
            document[name] = tuple(document[name])
        record = RunRecord(**document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStoreError(f"{path} is a damaged run: {error}") from error
    for name, kind in get_type_hints(RunRecord).items():
        if not fits(getattr(record, name), kind):
            raise DamagedStoreError(
                f"{path} is a damaged run: its {name} is not what {RECORD} holds"
            )
    return record, files


def _read_document(path: Path) -> dict[str, Any]:
    if not (path / RECORD).is_file():
        raise MissingError(f"{path} is not a run: no {RECORD}; `spahgc train` makes one")
    try:
        document: dict[str, Any] = json.loads((path / RECORD).read_bytes())
        version = int(document["version"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DamagedStoreError(f"{path} is a damaged run: {error}") from error
    if version > RUN_VERSION:
        raise FormatVersionError(
            f"{path} was written by a newer spahgc; `pip install --upgrade spahgc`"
        )
    if version < RUN_VERSION:
        raise FormatVersionError(
            f"{path} was written by an older spahgc (form {version}, this one reads "
            f"{RUN_VERSION}); train again with `spahgc train`"
        )
    return document


def _check_files(path: Path, files: Mapping[str, str]) -> None:
    for name, digest in files.items():
        if _digest(path / name) != digest:
            raise DamagedStoreError(
                f"{path} is a damaged run: {name} is not the file that was written with it "
                "(its sha256 differs); copy the run again, or train again"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
