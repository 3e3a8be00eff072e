"""A small store whose embeddings say something about expression, and a run trained on it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from spahgc.index import ReferenceIndex
from spahgc.model.features import FeatureConfig
from spahgc.model.fitted import Fitted
from spahgc.model.network import NetworkShape
from spahgc.model.panel_rules import PanelRule
from spahgc.model.presets import DEFAULT
from spahgc.model.runs import FinishedRun, RunConfig, train_fold
from spahgc.model.training import TrainingConfig
from spahgc.schema import Slide
from spahgc.store.cohort import Cohort, open_cohort
from spahgc.store.commits import Store
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.editing import remove_slide
from spahgc.store.opening import create_store
from spahgc.store.splits import make_fold
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

EMBEDDING = "tiny"
FINGERPRINT = {"encoder": EMBEDDING, "patch_um": 112.0}
N_GENES = 12
PATIENTS = {"A1": "A", "A2": "A", "B1": "B", "B2": "B"}
SPOTS = {"A1": 30, "A2": 25, "B1": 28, "B2": 33}
SMALL = NetworkShape(hidden_size=16, n_layers=2, n_heads=2)
RUN_CONFIG = RunConfig(
    features=FeatureConfig(embeddings=(EMBEDDING,)),
    panel_rule=PanelRule.parse("heg:6"),
    network=SMALL,
    training=TrainingConfig(max_epochs=3, learning_rate=0.003, seed=1),
)
DEFAULT_CONFIG = replace(
    DEFAULT,
    features=replace(DEFAULT.features, embeddings=(EMBEDDING,)),
    panel_rule=PanelRule.parse("heg:6"),
)
"""The default preset as it ships, on the one embedding there is."""


def draw_tissue(name: str, *, seed: int = 0) -> tuple[Slide, np.ndarray]:
    """Draw a slide and its (S, 8) float32 embeddings; two hidden maps shape both."""
    kinds = np.random.default_rng(99)  # the same for every slide: genes and looks have one meaning
    genes_2G, looks_28 = kinds.normal(0, 0.8, (2, N_GENES)), kinds.normal(0, 1, (2, 8))
    own = np.random.default_rng([seed, *name.encode()])
    n_spots = SPOTS.get(name, 30)
    plain = build_slide(name, n_spots=n_spots, n_genes=N_GENES)
    place_S2 = (plain.centers - plain.centers.mean(axis=0)) / plain.centers.std(axis=0)
    hidden_S2 = np.tanh(place_S2 @ own.normal(0, 1, (2, 2)) + own.normal(0, 0.3, 2))
    counts_SG = own.poisson(np.exp(1.5 + hidden_S2 @ genes_2G))
    embedding_SD = hidden_S2 @ looks_28 + own.normal(0, 0.2, (n_spots, 8)) + 0.3
    slide = replace(
        plain, counts=csr_matrix(counts_SG.astype(np.uint32)), patient=PATIENTS.get(name, name)
    )
    return slide, embedding_SD.astype(np.float32)


def draw_noise(name: str, *, seed: int, size: int = 64) -> tuple[Slide, np.ndarray]:
    """Draw a slide, and embeddings that say nothing of it."""
    slide, _ = draw_tissue(name, seed=seed)
    noise = np.random.default_rng([seed, size, *name.encode()])
    return slide, noise.normal(size=(len(slide.spots), size)).astype(np.float32)


def embed(
    store: Store, name: str, embedding_SD: np.ndarray, *, fingerprint: dict[str, object] | None
) -> None:
    """Commit an embedding without an image."""
    draft = EmbeddingDraft(
        open_cohort(store.path)[name],
        EMBEDDING,
        fingerprint=fingerprint or FINGERPRINT,
        size=embedding_SD.shape[1],
    )
    for rows in draft.missing():
        draft.write(rows, embedding_SD[rows.start : rows.stop])
    draft.commit()


def put_slide(
    store: Store,
    slide: Slide,
    embedding_SD: np.ndarray,
    *,
    fingerprint: dict[str, object] | None = None,
) -> None:
    """Put an embedded slide into a store, in the place of its namesake if there is one."""
    add_slide(store, slide, replace_existing=True)
    embed(store, slide.name, embedding_SD, fingerprint=fingerprint)


def without_gene(slide: Slide, gene: str) -> Slide:
    """Drop a gene from what the slide's files list."""
    keep_G = slide.genes.index != gene
    return replace(slide, counts=slide.counts[:, keep_G], genes=slide.genes[keep_G])


def with_counts(slide: Slide, *, seed: int) -> Slide:
    """Give a slide the counts of some other tissue."""
    other_SG = np.random.default_rng(seed).poisson(40, slide.counts.shape)
    other_SG[:, ::2] //= 10
    return replace(slide, counts=csr_matrix(other_SG.astype(np.uint32)))


def grow_store(
    path: Path, *, index: bool = True, fingerprint: dict[str, object] | None = None
) -> Cohort:
    """Make a store of four embedded slides of two patients."""
    store = create_store(path)
    for name in SPOTS:
        put_slide(store, *draw_tissue(name), fingerprint=fingerprint)
    if index:
        ReferenceIndex.build(open_cohort(path), embedding=EMBEDDING)
    return open_cohort(path)


def copy_store(grown: Cohort, path: Path, *changed: Slide, with_looks: bool = False) -> Cohort:
    """Copy a store, put ``changed`` slides in their namesakes' places, and index it again.

    They look as before, or where ``with_looks`` like no other.
    """
    shutil.copytree(grown.store.path, path)
    for slide in changed:
        if with_looks:  # embedded alike, the old embedding would be kept
            remove_slide(open_cohort(path).store, slide.name)
        _, embedding_SD = (
            draw_noise(slide.name, seed=5, size=8) if with_looks else draw_tissue(slide.name)
        )
        put_slide(open_cohort(path).store, slide, embedding_SD)
    if changed:
        ReferenceIndex.build(open_cohort(path), embedding=EMBEDDING)
    return open_cohort(path)


def fold_of(cohort: Cohort, *, test: str = "B2", **how):
    return make_fold(cohort.patients(cohort.slides), test=[test], **how)


@pytest.fixture(scope="session")
def grown(tmp_path_factory) -> Cohort:
    """Four indexed slides; only read by tests."""
    return grow_store(tmp_path_factory.mktemp("grown") / "data.zarr")


@pytest.fixture(scope="session")
def finished(grown) -> FinishedRun:
    """A model tested on B2, its epoch chosen by A1 and its teachers A2 and B1."""
    return train_fold(grown, fold_of(grown), config=RUN_CONFIG)


@pytest.fixture(scope="session")
def finished_default(grown) -> FinishedRun:
    """The default preset tested on B2: the three others teach, each held out in turn."""
    return train_fold(grown, fold_of(grown), config=DEFAULT_CONFIG)


@pytest.fixture(scope="session", params=["finished", "finished_default"], ids=["paper", "default"])
def finished_either(request) -> FinishedRun:
    """A model of the paper's shape, then one of the default preset."""
    return request.getfixturevalue(request.param)


def weights_of(run) -> pd.Series:
    """Flatten a run's weights, by name and place, to be compared whole."""
    return pd.concat(
        {
            name: pd.Series(w.ravel())
            for name, w in (run.arrays if isinstance(run, Fitted) else run.weights).items()
        }
    )


N_COUNTED = 120
"""Of the slides of `draw_counts`."""


def draw_counts():
    """Two slides whose genes differ in level and in spread; the last 20 genes are hardly seen."""
    generator = np.random.default_rng(0)
    level_G = generator.uniform(0.5, 20.0, size=N_COUNTED)
    shape_G = generator.uniform(0.5, 5.0, size=N_COUNTED)
    level_G[-20:] = 0.01

    def slide(n_spots):
        rate_SG = generator.gamma(shape_G, level_G / shape_G, size=(n_spots, N_COUNTED))
        return csr_matrix(generator.poisson(rate_SG).astype(np.uint16))

    return {"A": slide(60), "B": slide(80)}
