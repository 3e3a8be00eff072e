"""Predict a slide's expression with a trained run and the slides it borrows from.

Dimension letters in this file:

S spots, D embedding size, G genes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import anndata
import numpy as np
from numpy.typing import NDArray

from spahgc.errors import MismatchError
from spahgc.model.committee import Arrays, load_committee
from spahgc.model.feature_index import open_feature_index
from spahgc.model.features import read_features, side_by_side
from spahgc.model.fitted import Model
from spahgc.model.panels import GenePanel
from spahgc.model.paper import load_paper
from spahgc.model.prediction_table import Origin, as_anndata
from spahgc.model.references import check_references, gather_references
from spahgc.model.settings import Settings, settings_of
from spahgc.model.spots import SlideSpots, find_near, near_of
from spahgc.model.teaching import TeachingSet
from spahgc.model.trust import nearness_of
from spahgc.schema import Slide
from spahgc.store.cohort import Cohort, are_twins
from spahgc.store.entries import SlideEntry
from spahgc.store.run_record import gene_names_of
from spahgc.store.runs import Run
from spahgc.store.slide import array_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A run, opened beside the store that holds its references."""

    run: Run
    """What was trained."""

    teaching: TeachingSet
    """The slides that may be borrowed from: the training slides, or others in their place."""

    model: Model
    """Ready to predict."""

    borrows_elsewhere: bool = False
    """Whether others stand in the training slides' place."""

    def predict(self, spots: SlideSpots) -> NDArray[np.float32]:
        """Predict the (S, G) normalised expression of a slide, genes in panel order.

        Its own expression, where it has any, is not read.
        """
        return self.model.predict(spots)

    def without_twins(self, entry: SlideEntry, name: str) -> "Predictor":
        """Borrow from no slide that has the image or the counts of the slide called ``name``."""
        teaching = self.teaching
        twins = [
            other for other in teaching.train if are_twins(entry, teaching.cohort[other].entry)
        ]
        hidden = dict.fromkeys([*twins, name], f"{name} and its twins")
        groups = {**teaching.groups, **hidden} if twins else teaching.groups
        teaching = replace(teaching, groups=groups)
        return replace(self, teaching=teaching, model=self.model.borrowing(teaching))


def open_predictor(run: Run, cohort: Cohort, *, references: Sequence[Cohort] = ()) -> Predictor:
    """Open a run beside a store and check that the references are those it was trained with.

    Parameters
    ----------
    run
        What was trained, here or elsewhere.
    cohort
        The store with the training slides.
    references
        Stores whose slides are borrowed from in place of the training slides: then ``cohort``
        need not have these.

    Raises
    ------
    MissingError
        If a reference slide or the index is not in the store.
    MismatchError
        If a reference slide has changed, or was embedded in another way, since; if no slide of
        ``references`` can be borrowed from; or if the weights do not fit the network.
    DamagedStoreError
        If the run's record holds settings that none can have.
    """
    record, settings = run.record, settings_of(run)
    panel = GenePanel(genes=record.panel, rule=record.panel_rule)
    features = settings.features
    if references:
        cohort, index, train = gather_references(references, record, features)
        groups: Mapping[str, str] = {name: name for name in train}
    else:
        check_references(cohort, record)
        index, train = open_feature_index(cohort, record.train, features), tuple(record.train)
        groups = record.groups
    teaching = TeachingSet(
        cohort=cohort,
        index=index,
        groups=groups,
        train=train,
        panel=panel,
        features=features,
        wide=GenePanel(genes=record.wide, rule="seen") if record.wide else None,
        gene_names=gene_names_of(record),
        target_sum=record.target_sum,
        graph_config=settings.graph,
        near=settings.near,
    )
    model = load_model(settings, teaching, run.weights)
    return Predictor(run=run, teaching=teaching, model=model, borrows_elsewhere=bool(references))


def load_model(settings: Settings, teaching: TeachingSet, arrays: Arrays) -> Model:
    """Build a run's model again, to borrow from ``teaching``.

    Raises
    ------
    MismatchError
        If the arrays are of another model than the record describes.
    """
    if settings.committee is not None:
        return load_committee(teaching, network=settings.network, arrays=arrays)
    return load_paper(teaching, network=settings.network, arrays=arrays)


def check_slide(predictor: Predictor, cohort: Cohort, name: str) -> None:
    """Refuse a slide of a store that this run cannot predict, or should not.

    Raises
    ------
    MissingError
        If there is no such slide, or it has no embedding of the run's kind.
    MismatchError
        If it was embedded in another way, or taught the run.
    """
    slide, record = cohort[name], predictor.run.record
    made = slide.entry.encoders
    for embedding, digest in record.fingerprints.items():
        slide.open_embedding(embedding)
        if made[embedding] != digest:
            raise MismatchError(
                f"slide {name} was embedded in another way than this run's slides; embed it again"
            )
    if record.train.get(name) == slide.entry.content:
        raise MismatchError(
            f"slide {name} taught this run, so predicting it would judge nothing; "
            f"it was tested on {', '.join(record.test) or 'no slide'}"
        )


def predict_stored(predictor: Predictor, cohort: Cohort, name: str) -> anndata.AnnData:
    """Predict a slide of a store; see `spahgc.model.prediction_table.as_anndata` for the result.

    Slides made of the same image or counts are not borrowed from. For what is refused see
    `check_slide`.
    """
    check_slide(predictor, cohort, name)
    slide, features = cohort[name], predictor.teaching.features
    near_SQ, ring = near_of(slide, predictor.teaching.near)
    spots = SlideSpots(
        # among other references, a namesake is another slide
        name=f"{name} (to predict)" if predictor.borrows_elsewhere else name,
        spot_names=tuple(map(str, slide.spots.index)),
        embedding_SD=read_features(slide, features),
        centers_S2=slide.centers,
        near_SQ=near_SQ,
        ring=ring,
        microns_per_pixel=slide.entry.microns_per_pixel,
    )
    origin = Origin(
        slide=name,
        obs=slide.spots,
        microns_per_pixel=slide.entry.microns_per_pixel,
        spot_diameter_um=slide.record["spot_diameter_um"],
        thumbnails=slide.read_thumbnails(),
    )
    blind = predictor.without_twins(slide.entry, spots.name)
    looks_SD = slide.read_embedding(features.embeddings[0])
    return _predict(blind, spots, origin, looks_SD=looks_SD)


def predict_new(
    predictor: Predictor, slide: Slide, embeddings: Sequence[NDArray[np.float32]]
) -> anndata.AnnData:
    """Predict a slide that is in no store, from its (S, D) embeddings alone, one per field."""
    near_SQ, ring = find_near(
        array_of(slide.spots),
        slide.centers,
        lattice=slide.lattice,
        microns_per_pixel=slide.microns_per_pixel,
        config=predictor.teaching.near,
    )
    spots = SlideSpots(
        name=f"{slide.name} (new image)",  # never taken for a slide of the store
        spot_names=tuple(map(str, slide.spots.index)),
        embedding_SD=side_by_side(
            embeddings,
            predictor.teaching.features,
            sizes=[field_SF.shape[1] for field_SF in embeddings],
        ),
        centers_S2=slide.centers,
        near_SQ=near_SQ,
        ring=ring,
        microns_per_pixel=slide.microns_per_pixel,
    )
    origin = Origin(
        slide=slide.name,
        obs=slide.spots,
        microns_per_pixel=slide.microns_per_pixel,
        spot_diameter_um=slide.spot_diameter_um,
        thumbnails=slide.thumbnails,
    )
    return _predict(predictor, spots, origin, looks_SD=embeddings[0])


def _predict(
    predictor: Predictor, spots: SlideSpots, origin: Origin, *, looks_SD: NDArray[np.float32]
) -> anndata.AnnData:
    if len(spots.embedding_SD) != len(spots.spot_names):
        raise MismatchError(
            f"slide {spots.name} has {len(spots.embedding_SD)} embeddings for "
            f"{len(spots.spot_names)} spots; embed it again"
        )
    predicted_SG = predictor.predict(spots)
    return as_anndata(
        predicted_SG,
        predictor.run,
        origin,
        centers_S2=spots.centers_S2,
        ring=spots.ring,
        nearness_S=nearness_of(predictor.teaching, spots, np.asarray(looks_SD, np.float32)),
        references=predictor.teaching.among(spots),
        symbols=predictor.teaching.read_symbols(),
    )
