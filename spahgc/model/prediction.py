"""Predict a slide's expression with a trained run and the slides it borrows from.

Dimension letters in this file:

S spots, G genes
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from spahgc.errors import MismatchError, StoreError
from spahgc.model.expression import GenePanel
from spahgc.model.graph import GraphConfig, tensors_of
from spahgc.model.network import NetworkConfig, SpaHGC
from spahgc.model.spots import N_NEAR, SlideSpots, nearest_others
from spahgc.model.teaching import TeachingSet
from spahgc.schema import Slide
from spahgc.store.cohort import Cohort
from spahgc.store.index import open_index
from spahgc.store.runs import Run


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A run, opened beside the store that holds its references."""

    run: Run
    """What was trained."""

    teaching: TeachingSet
    """The training slides: what a slide may borrow from."""

    network: SpaHGC
    """In eval mode."""

    def predict(self, spots: SlideSpots) -> NDArray[np.float32]:
        """Predict the (S, G) normalised expression of a slide, genes in panel order.

        Its own expression, where it has any, is not read.

        Raises
        ------
        MismatchError
            If it is a training slide.
        """
        if spots.name in self.teaching.train:
            raise MismatchError(
                f"slide {spots.name} taught this run, so predicting it would judge nothing; "
                f"it was tested on {', '.join(self.run.record.test) or 'no slide'}"
            )
        return predict_spots(self.network, self.teaching, spots)


def open_predictor(run: Run, cohort: Cohort) -> Predictor:
    """Open a run beside a store and check that the references are those it was trained with.

    Raises
    ------
    MissingError
        If a reference slide or the index is not in the store.
    MismatchError
        If a reference slide has changed, or was embedded in another way, since.
    """
    record = run.record
    for name, content in record.train.items():
        if cohort[name].entry.content != content:
            raise MismatchError(
                f"slide {name} in {cohort.where} is not the one this run was trained with; "
                "train again with `spahgc train`"
            )
    if cohort.fingerprint(record.embedding, record.train) != record.fingerprint:
        raise MismatchError(
            f"the embeddings {record.embedding!r} in {cohort.where} were made in another way than "
            "those this run was trained with; train again with `spahgc train`"
        )
    teaching = TeachingSet(
        cohort=cohort,
        index=open_index(cohort, embedding=record.embedding),
        groups=record.groups,
        train=tuple(record.train),
        panel=GenePanel(genes=record.panel, rule=record.panel_rule),
        target_sum=record.target_sum,
        graph_config=GraphConfig(**record.graph),
    )
    network = load_network(NetworkConfig(**record.network), run.weights)
    return Predictor(run=run, teaching=teaching, network=network)


def load_network(config: NetworkConfig, weights: Mapping[str, NDArray[np.float32]]) -> SpaHGC:
    """Build a network with the given weights, in eval mode."""
    network = SpaHGC(config)
    # a copy: arrays read from a file may be read-only, which torch cannot be
    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    return network.eval()


@torch.inference_mode()
def predict_spots(network: SpaHGC, teaching: TeachingSet, spots: SlideSpots) -> NDArray[np.float32]:
    """Predict the (S, G) normalised expression of one slide, nothing masked."""
    graph = tensors_of(teaching.graph(spots))
    predicted_SG: NDArray[np.float32] = network(graph).expression_TG.numpy()
    return predicted_SG


def predict_stored(predictor: Predictor, name: str) -> anndata.AnnData:
    """Predict a slide of the store; see `as_anndata` for what comes back."""
    stored = predictor.teaching.cohort[name]
    record = predictor.run.record
    if stored.entry.encoders.get(record.embedding, record.fingerprint) != record.fingerprint:
        raise MismatchError(
            f"slide {name} was embedded in another way than this run's slides; embed it again"
        )
    spots = predictor.teaching.read(name)
    predicted_SG = predictor.predict(spots)
    return as_anndata(predicted_SG, predictor.run, obs=stored.spots, centers_S2=stored.centers)


def predict_new(
    predictor: Predictor, slide: Slide, embedding_SD: NDArray[np.float32]
) -> anndata.AnnData:
    """Predict a slide that is in no store, from its (S, D) embeddings alone."""
    spots = SlideSpots(
        name=f"{slide.name} (new image)",  # never taken for a slide of the store
        spot_names=tuple(map(str, slide.spots.index)),
        embedding_SD=np.array(embedding_SD, dtype=np.float32),  # torch shares it, so our own
        centers_S2=slide.centers,
        near_SQ=nearest_others(slide.centers, N_NEAR),
    )
    predicted_SG = predictor.predict(spots)
    return as_anndata(predicted_SG, predictor.run, obs=slide.spots, centers_S2=slide.centers)


def as_anndata(
    predicted_SG: NDArray[np.float32],
    run: Run,
    *,
    obs: pd.DataFrame,
    centers_S2: NDArray[np.float64],
) -> anndata.AnnData:
    """Put a prediction where scanpy and squidpy look for it.

    Returns
    -------
    anndata.AnnData
        ``X`` (S, G) float32 predicted log1p of counts per library size, ``obs`` as given,
        ``var`` the panel with the PCC each gene had on the run's test slides where there were
        any, ``obsm["spatial"]`` x, y in full-resolution pixels, ``uns["spahgc"]`` provenance.
    """
    record = run.record
    var = pd.DataFrame(index=pd.Index(record.panel, name=None))
    if run.scores is not None:
        var["test_pcc"] = run.scores.groupby("gene")["pcc"].mean().reindex(record.panel)
    provenance: dict[str, Any] = {
        "units": f"log1p of counts per {record.target_sum:g}, predicted",
        "train": list(record.train),
        "panel": f"{record.panel_rule} ({record.panel_digest})",
        "embedding": record.embedding,
        "encoder_fingerprint": record.fingerprint,
    }
    return anndata.AnnData(
        X=predicted_SG,
        obs=obs.copy(),
        var=var,
        obsm={"spatial": centers_S2},
        uns={"spahgc": provenance},
    )


def write_prediction(table: anndata.AnnData, path: Path) -> None:
    """Write a prediction as h5ad, whole or not at all.

    Raises
    ------
    StoreError
        If ``path`` cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        table.write_h5ad(unfinished, compression="gzip")
        unfinished.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if unfinished.exists():
            unfinished.unlink()
