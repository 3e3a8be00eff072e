"""Finished results of an evaluation that is not finished: kept, so that another attempt goes on."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from spahgc.errors import DamagedStoreError
from spahgc.model.judged import Judged
from spahgc.store.durable import sync_tree
from spahgc.store.run_record import RECORD
from spahgc.store.runs import read_run, write_run

_SCORES: Final = "all-scores.parquet"
_SPOTS: Final = "spots.parquet"
_PREDICTED: Final = "predicted.safetensors"
_MEASURED: Final = "measured.safetensors"


def write_judged(judged: Judged, folder: Path) -> None:
    """Write one result, whole or not at all; nothing may be at ``folder``."""
    unfinished = folder.with_name(f".{folder.name}")
    unfinished.mkdir(parents=True, exist_ok=True)
    if judged.run is not None:
        write_run(judged.run, unfinished)
    judged.scores.to_parquet(unfinished / _SCORES, index=False)
    judged.spots.to_parquet(unfinished / _SPOTS, index=False)
    for name, arrays in ((_PREDICTED, judged.predictions), (_MEASURED, judged.measured)):
        save_file(
            {slide: np.ascontiguousarray(a) for slide, a in arrays.items()}, unfinished / name
        )
    sync_tree(unfinished)
    unfinished.rename(folder)


def read_judged(folder: Path) -> Judged | None:
    """Read what `write_judged` wrote; None where it did not get that far.

    Raises
    ------
    DamagedStoreError
        If it is not that any more.
    """
    if not folder.is_dir():
        return None
    try:
        return Judged(
            scores=pd.read_parquet(folder / _SCORES),
            spots=pd.read_parquet(folder / _SPOTS),
            run=read_run(folder) if (folder / RECORD).exists() else None,
            predictions=load_file(folder / _PREDICTED),
            measured=load_file(folder / _MEASURED),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise DamagedStoreError(
            f"{folder} is a damaged result: {error}; remove it to judge that part again"
        ) from error
