"""A trained run on disk: settings, gene panel, weights, learning curve, scores, provenance."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from spahgc.errors import DamagedStoreError, MissingError
from spahgc.store.confidence import Trust, parse_trust, serialise_trust
from spahgc.store.handing_on import name_of_file
from spahgc.store.run_record import (
    OLD_NAMES,
    RECORD,
    RunRecord,
    damaged,
    read_listing,
    write_record,
)

WEIGHTS: Final = "weights.safetensors"
CURVE: Final = "curve.csv"
SCORES: Final = "scores.parquet"
TRUST: Final = "trust.json"
CURVE_COLUMNS: Final = ("epoch", "train_loss", "validation_loss", "validation_pcc")
"""Of a learning curve, which has no row where no network was trained."""
SCORE_COLUMNS: Final = ("pcc", "rmse", "mae")
"""What every run's scores have among others, beside ``slide`` and ``gene``."""
DEEPEST: Final = 4
"""Folders below one in which runs are looked for: an evaluation keeps its own two below."""


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

    folder: Path | None = None
    """Where it was read from; None where it was just made."""


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
    write_record(run.record, folder, files={n: _digest(folder / n) for n in written})


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
    record, files = read_listing(path)
    try:
        _check_files(path, files)
        run = Run(
            record=record,
            weights=load_file(path / WEIGHTS),
            curve=pd.read_csv(path / CURVE, float_precision="round_trip"),
            scores=_read_scores(path / SCORES, record) if SCORES in files else None,
            trust=parse_trust((path / TRUST).read_text()) if TRUST in files else None,
            folder=path,
        )
        _check_contents(run)
    except DamagedStoreError:
        raise
    except KeyError as error:
        raise damaged(path, f"a file of it has no {error}") from error
    except (OSError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    except SafetensorError as error:
        raise damaged(path, f"{WEIGHTS}: {error}") from error
    return run


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


def export_run(path: Path, into: Path, *, keep_paths: bool = False) -> list[Path]:
    """Copy what others need to use a run: safetensors, JSON and a curve.

    Parameters
    ----------
    path
        The run.
    into
        An existing empty folder.
    keep_paths
        Tell where the store and the file of the split lay; else only their names.

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
    _, files = read_listing(path)
    kept: dict[str, str] = {name: files[name] for name in (WEIGHTS, CURVE, TRUST) if name in files}
    for name in kept:
        shutil.copyfile(path / name, into / name)
    record = run.record
    if not keep_paths:
        split = name_of_file(record.split)
        record = replace(record, store=name_of_file(record.store), split=split)
    write_record(record, into, files=kept)
    return sorted(into / name for name in (*kept, RECORD))


def _check_files(path: Path, files: Mapping[str, str]) -> None:
    missing = sorted({WEIGHTS, CURVE} - set(files))
    strange = sorted(set(files) - {WEIGHTS, CURVE, SCORES, TRUST})
    if missing or strange:
        raise damaged(path, f"its record lists {', '.join(strange) or 'too little'}")
    for name, digest in files.items():
        if _digest(path / name) != digest:
            problem = f"{name} is not the file that was written with it (its sha256 differs)"
            raise damaged(path, problem)


def _read_scores(path: Path, record: RunRecord) -> pd.DataFrame:
    scores = pd.read_parquet(path)
    if "method" in scores:  # older ones call every model the same
        scores["method"] = scores["method"].replace(dict.fromkeys(OLD_NAMES, record.method))
    return scores


def _check_contents(run: Run) -> None:
    """Raise ValueError where a file holds something else than `write_run` puts there."""
    for name, values in run.weights.items():
        if values.dtype != np.float32:
            raise ValueError(f"{WEIGHTS}: {name} is of {values.dtype}, expected float32")
    _check_table(CURVE, run.curve, CURVE_COLUMNS, keys=["epoch"])
    if run.scores is not None:
        _check_table(SCORES, run.scores, SCORE_COLUMNS, keys=["slide", "gene"])
    if run.trust is not None:
        own, panel = run.trust.genes.index, run.record.panel
        if sorted(map(str, own)) != sorted(panel):
            raise ValueError(f"{TRUST}: its {len(own)} genes are not the {len(panel)} of the panel")


def _check_table(
    file: str, table: pd.DataFrame, numbers: Sequence[str], *, keys: Sequence[str]
) -> None:
    lacking = [name for name in (*keys, *numbers) if name not in table]
    if lacking:
        raise ValueError(f"{file}: no column {', '.join(lacking)}")
    words = [name for name in numbers if len(table) and not is_numeric_dtype(table[name])]
    if words:
        raise ValueError(f"{file}: column {words[0]} holds something else than numbers")
    if table.duplicated(list(keys)).any():
        raise ValueError(f"{file}: two rows of one {' and '.join(keys)}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
