"""A prediction as the AnnData that scanpy and squidpy work on, with how far to believe it.

Dimension letters in this file:

S spots, G genes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.model.settings import settings_of
from spahgc.model.spots import NearRing
from spahgc.model.trust import judge_slide, judge_spots
from spahgc.schema import SPATIAL, UNS, Thumbnail
from spahgc.store.confidence import GENE_COLUMNS
from spahgc.store.run_record import RunRecord
from spahgc.store.runs import Run
from spahgc.store.splits import caveat_of
from spahgc.store.table import describe_pictures, drawn_width

UNKNOWN_DIAMETER_PX: Final = 100.0
FEWEST_SPOTS: Final = 30
"""Pieces of real slides as large as that, each predicted by itself, correlate above .9 with the
whole slide's prediction of these spots; of 20 some did not (``benchmarks/cropped_slides.py``)."""
OTHER_RING: Final = 1.25
"""How much farther or less far near spots may reach than in training before that is said."""
COARSER: Final = 2.0
"""How much coarser an image may be than the coarsest training image before that is said."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Origin:
    """What is known of a slide beside what a model sees of it."""

    slide: str
    """Its name."""

    obs: pd.DataFrame
    """S rows indexed by barcode or spot id."""

    microns_per_pixel: float | None
    """Of full-resolution pixels, in µm."""

    spot_diameter_um: float | None
    """Width of a spot, in µm; None where it is unknown."""

    thumbnails: Mapping[str, Thumbnail]
    """Pictures of the slide by scanpy's names for them, ``hires`` and ``lowres``."""


def as_anndata(
    predicted_SG: NDArray[np.float32],
    run: Run,
    origin: Origin,
    *,
    centers_S2: NDArray[np.float64],
    nearness_S: NDArray[np.float64],
    ring: NearRing | None,
    references: Sequence[str],
    symbols: Sequence[str],
) -> anndata.AnnData:
    """Put a prediction where scanpy and squidpy look for it.

    Returns
    -------
    anndata.AnnData
        ``X`` (S, G) float32 predicted log1p of counts per library size; ``obs`` as given, with
        the columns of `spahgc.model.trust.judge_spots`; ``var`` the panel by gene id with its
        ``symbol``, the columns of `spahgc.store.confidence.Trust.genes`, and ``test_pcc`` where
        the run was tested; ``obsm["spatial"]`` (S, 2) x, y in full-resolution pixels;
        ``uns["spatial"]`` pictures and scale factors; ``uns["spahgc"]`` provenance, and in
        ``notes`` what to know before believing it.
    """
    record, notes = run.record, []
    var = pd.DataFrame({"symbol": list(symbols)}, index=pd.Index(record.panel, name=None))
    diameter_px = _diameter_px(origin, centers_S2)
    obs = origin.obs.copy()
    if run.trust is not None:
        var[list(GENE_COLUMNS)] = run.trust.genes.reindex(record.panel)[list(GENE_COLUMNS)]
        judged = judge_spots(run.trust, nearness_S).set_index(obs.index)
        obs[list(judged.columns)] = judged
        notes.append(judge_slide(run.trust, judged))
    if run.scores is not None:
        var["test_pcc"] = run.scores.groupby("gene")["pcc"].mean().reindex(record.panel)
    notes += [
        _judge_size(record, len(obs)),
        _judge_scale(run, origin),
        _judge_ring(run, ring),
        caveat_of(record.shared_patients),
    ]
    provenance: dict[str, Any] = {
        "slide": origin.slide,
        "units": record.units,
        "train": list(record.train),
        "references": list(references),
        "panel": f"{record.panel_rule} ({record.panel_digest})",
        "genes_named_by": record.gene_names,
        "embeddings": list(record.fingerprints),
        "encoder_fingerprints": list(record.fingerprints.values()),
        "spot_diameter_px": diameter_px,
        "notes": [note for note in notes if note is not None],
    }
    pictures = describe_pictures(origin.slide, origin.thumbnails, spot_diameter=diameter_px)
    return anndata.AnnData(
        X=predicted_SG,
        obs=obs,
        var=var,
        obsm={SPATIAL: centers_S2},
        uns={UNS: provenance, SPATIAL: pictures},
    )


def _judge_size(record: RunRecord, n_spots: int) -> str | None:
    """Say that a slide has too few spots to standardise its features on."""
    if n_spots >= FEWEST_SPOTS or not record.is_relative:
        return None
    return (
        f"it has {n_spots} spots, fewer than {FEWEST_SPOTS}: each is seen relative to the others, "
        "so these few decide much of what is predicted; predict a larger piece of tissue"
    )


def _judge_scale(run: Run, origin: Origin) -> str | None:
    """Say that an image is too coarse to show what the model learned to see."""
    known = [scale for scale in run.record.microns_per_pixel.values() if scale is not None]
    scale = origin.microns_per_pixel
    if scale is None or not known or scale <= COARSER * max(known):
        return None
    return (
        f"its image has {scale:.3g} µm per pixel, the training images at most {max(known):.3g}: "
        "details that the model learned from are not in it"
    )


def _judge_ring(run: Run, ring: NearRing | None) -> str | None:
    """Say that near spots reach less far, or farther, than on the slides the model learned from."""
    told = [ring.radius_um for ring in settings_of(run).rings.values()]
    known = [radius for radius in told if radius is not None and 0 < radius < np.inf]
    radius = None if ring is None else ring.radius_um
    if ring is None or radius is None or not known:
        return None
    if min(known) / OTHER_RING <= radius <= max(known) * OTHER_RING:
        return None
    learned = "–".join(dict.fromkeys(f"{reach:.0f}" for reach in (min(known), max(known))))
    return (
        f"its near spots ({ring.n_near}) reach {radius:.0f} µm, those of the training slides "
        f"{learned} µm: what the model learned of a spot's surroundings is of another size here"
    )


def _diameter_px(origin: Origin, centers_S2: NDArray[np.float64]) -> float:
    width = drawn_width(origin.spot_diameter_um, origin.microns_per_pixel, centers_S2)
    return width or UNKNOWN_DIAMETER_PX
