"""A trained run on disk: settings, gene panel, weights, learning curve, scores, provenance."""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from spahgc.errors import DamagedStoreError, FormatVersionError, MissingError, StoreError
from spahgc.store.durable import sync_tree, write_durably

RUN_VERSION: Final = 1
RECORD: Final = "run.json"
WEIGHTS: Final = "weights.safetensors"
CURVE: Final = "curve.csv"
SCORES: Final = "scores.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything about a run but its weights: enough to repeat it and to audit it."""

    store: str
    """Path of the store it was trained from."""

    commit: int
    """Number of the store's commit it read."""

    embedding: str
    """Name of the embedding it reads."""

    fingerprint: str
    """Digest of the encoder fingerprint of that embedding."""

    encoder: Mapping[str, Any]
    """The encoder fingerprint itself, to embed an image in the same way."""

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

    target_sum: float
    """Counts per spot after scaling to library size, before log1p."""

    network: Mapping[str, Any]
    """`spahgc.model.network.NetworkConfig` as a mapping."""

    graph: Mapping[str, int]
    """`spahgc.model.graph.GraphConfig` as a mapping."""

    training: Mapping[str, Any]
    """`spahgc.model.training.TrainingConfig` as a mapping."""

    best_epoch: int
    """Epoch whose weights were kept, counted from 1."""

    validation_pcc: float
    """Mean PCC over genes on the validation slides at that epoch."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of spahgc, Python and the libraries that decide numbers."""

    made_at: str = ""
    """ISO 8601, UTC."""

    version: int = RUN_VERSION
    """Version of this record's form."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One trained model, ready to be used or audited."""

    record: RunRecord
    """Settings and provenance."""

    weights: Mapping[str, NDArray[np.float32]]
    """The network's parameters by name."""

    curve: pd.DataFrame
    """One row per epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``validation_pcc``."""

    scores: pd.DataFrame | None = None
    """One row per test slide and gene; None where nothing was tested."""


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder that takes the place of ``path`` when the block ends well.

    Raises
    ------
    StoreError
        If something is at ``path`` already, or it cannot be written.
    """
    if path.exists():
        raise StoreError(f"{path} exists; name another place with `--out`")
    unfinished = path.absolute().with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _cannot_be_made(path):
        unfinished.mkdir(parents=True)
    try:
        yield unfinished
        with _cannot_be_made(path):
            sync_tree(unfinished)
            unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def _cannot_be_made(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error.strerror}") from error


def write_run(run: Run, folder: Path) -> None:
    """Write a run into an existing empty folder; see `fresh_folder`."""
    save_file({name: np.ascontiguousarray(w) for name, w in run.weights.items()}, folder / WEIGHTS)
    run.curve.to_csv(folder / CURVE, index=False)
    if run.scores is not None:
        run.scores.to_parquet(folder / SCORES, index=False)
    write_durably(folder / RECORD, json.dumps(asdict(run.record), indent=1).encode())


def read_run(path: Path) -> Run:
    """Read a run.

    Raises
    ------
    MissingError
        If ``path`` is not a run.
    FormatVersionError
        If a newer spahgc wrote it.
    DamagedStoreError
        If part of it is missing or cannot be read.
    """
    if not (path / RECORD).is_file():
        raise MissingError(f"{path} is not a run: no {RECORD}; `spahgc train` makes one")
    try:
        document = json.loads((path / RECORD).read_bytes())
        version = int(document["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedStoreError(f"{path} is a damaged run: {error}") from error
    if version > RUN_VERSION:
        raise FormatVersionError(
            f"{path} was written by a newer spahgc; `pip install --upgrade spahgc`"
        )
    try:
        for name in ("validation", "test", "panel"):
            document[name] = tuple(document[name])
        scores = path / SCORES
        return Run(
            record=RunRecord(**document),
            weights=load_file(path / WEIGHTS),
            curve=pd.read_csv(path / CURVE, float_precision="round_trip"),
            scores=pd.read_parquet(scores) if scores.exists() else None,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedStoreError(f"{path} is a damaged run: {error}") from error
