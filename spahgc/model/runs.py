"""Train on a store and keep the run: which slides taught, which chose, which judged."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.errors import ProtocolError
from spahgc.index import FAISS_VERSION
from spahgc.model.committee_fitting import CommitteeConfig, fit_committee
from spahgc.model.feature_index import open_feature_index
from spahgc.model.features import FeatureConfig
from spahgc.model.fitted import Fitted
from spahgc.model.graph import GraphConfig
from spahgc.model.network import NetworkShape
from spahgc.model.panel_rules import PanelRule
from spahgc.model.panels import GenePanel, check_ranked, check_wide, is_seen
from spahgc.model.paper import fit_paper
from spahgc.model.progress import Advance
from spahgc.model.scoring import score_listed
from spahgc.model.spots import NearConfig, NearRing, SlideSpots, expression_of
from spahgc.model.teaching import TeachingSet, find_listed, gather_teaching
from spahgc.model.training import TrainingConfig
from spahgc.model.trust import find_trust
from spahgc.store.cohort import Cohort
from spahgc.store.gene_names import BY_ID, GeneNames
from spahgc.store.run_record import KERNEL_RIDGE, PAPER, STACKED, RunRecord
from spahgc.store.runs import Run
from spahgc.store.splits import Fold


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All that a run is asked for beside its slides; `spahgc.model.presets` has two of them."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    """What is seen of a spot."""

    panel_rule: PanelRule = field(default_factory=lambda: PanelRule.parse("hvg:50"))
    """How the genes are chosen, on training and validation slides only."""

    gene_names: GeneNames = BY_ID
    """What genes of slides are named by, so that slides of ids and of symbols can meet."""

    graph: GraphConfig = field(default_factory=GraphConfig)
    """Edges."""

    near: NearConfig | None = field(default_factory=NearConfig)
    """Which spots of a slide are near each other; None takes the six nearest."""

    network: NetworkShape = field(default_factory=NetworkShape)
    """Shape of the network, or of each on the committee."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimiser, masks, stopping, seed."""

    committee: CommitteeConfig | None = None
    """Who else predicts; None is the paper's network alone."""

    @property
    def method(self) -> str:
        """What it is called beside the baselines: see `RunRecord.method`."""
        if self.committee is None:
            return PAPER
        return STACKED if self.committee.n_networks else KERNEL_RIDGE

    @property
    def n_epochs(self) -> int:
        """How many epochs a run tells of, in all."""
        n_trainings = 1 if self.committee is None else self.committee.n_trainings
        return n_trainings * self.training.max_epochs

    @property
    def n_teachers(self) -> int:
        """Slides it needs beside the tested ones.

        A ridge learns from one while the other is held out; a network needs two that borrow from
        each other while a third chooses when it stops.
        """
        return 3 if self.has_networks else 2

    @property
    def has_networks(self) -> bool:
        """Whether any graph network is trained."""
        return self.committee is None or self.committee.n_networks > 0

    def divide(self, fold: Fold) -> Fold:
        """Let the validation slides teach too where the model holds out training slides itself."""
        if self.committee is None:
            return fold
        return replace(fold, train=tuple(sorted((*fold.train, *fold.validation))), validation=())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishedRun:
    """A run with what it predicted for its test slides."""

    run: Run
    """For `spahgc.store.runs.write_run`."""

    teaching: TeachingSet
    """What the model learned from."""

    predictions: Mapping[str, NDArray[np.float32]]
    """(S, G) of each test slide."""

    tested: Mapping[str, SlideSpots]
    """The test slides, read after training."""

    @property
    def measured(self) -> dict[str, NDArray[np.float32]]:
        """(S, G) normalised expression of each test slide."""
        return {name: expression_of(spots) for name, spots in self.tested.items()}


def train_fold(
    cohort: Cohort, fold: Fold, *, config: RunConfig, advance: Advance | None = None
) -> FinishedRun:
    """Train on a fold's training slides, then read its test slides once and score them.

    Raises
    ------
    MissingError
        If an embedding or the index is missing.
    MismatchError
        If slides do not fit together: other encoders, no shared genes, a stale index.
    ProtocolError
        If a slide to be judged has the same image or counts as one that teaches.
    """
    fold = config.divide(fold)
    teaching = gather_fold(cohort, fold, config=config)
    fitted = fit_model(teaching, validation=fold.validation, config=config, advance=advance)
    tested = {name: teaching.read(name) for name in fold.test}
    predictions = {name: fitted.model.predict(spots) for name, spots in tested.items()}
    scores = [
        score_slide(spots, predictions[name], teaching, method=config.method, fold=fold.name)
        for name, spots in tested.items()
    ]
    run = Run(
        record=_record(teaching, fitted, fold, config=config),
        weights=fitted.arrays,
        curve=fitted.curve,
        scores=pd.concat(scores, ignore_index=True) if scores else None,
        trust=find_trust(teaching, held_out=fitted.held_out),
    )
    return FinishedRun(run=run, teaching=teaching, predictions=predictions, tested=tested)


def check_folds(cohort: Cohort, folds: Sequence[Fold], *, configs: Sequence[RunConfig]) -> None:
    """Refuse before anything is trained what `train_fold` would refuse at one fold or another.

    Raises
    ------
    MissingError, MismatchError, ProtocolError
        See `train_fold`.
    """
    seen_of: dict[tuple[str, GeneNames], frozenset[str]] = {}
    for config in configs:
        named = config.gene_names
        for fold in map(config.divide, folds):
            _refuse_twins(cohort, fold)
            known = (*fold.train, *fold.validation)
            for embedding in config.features.embeddings:
                cohort.fingerprint(embedding, (*known, *fold.test))
            named.refuse_apart({name: cohort[name] for name in (*known, *fold.test)})
            genes = cohort.shared_genes(known, named)
            rule = find_listed(cohort, known, config.panel_rule, named)
            GenePanel(genes=rule.genes, rule=str(rule)).columns(genes)
            for name in known:
                if (name, named) not in seen_of:
                    counts, listed = named.read(cohort[name])
                    seen_of[name, named] = frozenset(listed[is_seen(counts)])
            n_seen = len(frozenset.intersection(*(seen_of[name, named] for name in known)))
            check_ranked(rule, n_seen=n_seen, n_genes=len(genes), n_slides=len(known))
            if config.committee is not None:
                check_wide(n_seen, n_slides=len(known))


def gather_fold(cohort: Cohort, fold: Fold, *, config: RunConfig) -> TeachingSet:
    """Gather what a model of this fold may learn from; see `train_fold` for what is refused."""
    _refuse_twins(cohort, fold)
    slides = (*fold.train, *fold.validation, *fold.test)
    return gather_teaching(
        cohort,
        open_feature_index(cohort, slides, config.features),
        fold,
        panel_rule=config.panel_rule,
        graph_config=config.graph,
        features=config.features,
        near=config.near,
        with_programmes=config.committee is not None,
        gene_names=config.gene_names,
    )


def fit_model(
    teaching: TeachingSet,
    *,
    validation: Sequence[str],
    config: RunConfig,
    advance: Advance | None = None,
) -> Fitted:
    """Train what ``config`` describes on the training slides; see `fit_paper`, `fit_committee`."""
    if config.committee is None:
        return fit_paper(
            teaching,
            validation=validation,
            shape=config.network,
            config=config.training,
            advance=advance,
        )
    return fit_committee(
        teaching,
        config=config.committee,
        shape=config.network,
        training=config.training,
        advance=advance,
    )


def _refuse_twins(cohort: Cohort, fold: Fold) -> None:
    twins = cohort.twins(fold.test, (*fold.train, *fold.validation))
    twins += cohort.twins(fold.validation, fold.train)
    for judged, teacher in twins:
        raise ProtocolError(
            f"slides {judged} and {teacher} have the same image or counts, so a score on {judged} "
            f"would be a memory test; use `--leave-out {teacher}`"
        )


def _record(
    teaching: TeachingSet,
    fitted: Fitted,
    fold: Fold,
    *,
    config: RunConfig,
) -> RunRecord:
    cohort = teaching.cohort
    first = cohort[fold.train[0]]
    return RunRecord(
        store=cohort.store.location.address,
        commit=cohort.commit.number,
        features=_plain(config.features),
        fingerprints={n: first.entry.encoders[n] for n in config.features.embeddings},
        encoders={n: first.embedding_record(n)["fingerprint"] for n in config.features.embeddings},
        train={name: cohort[name].entry.content for name in fold.train},
        validation=fold.validation,
        test=fold.test,
        groups=teaching.groups,
        panel=teaching.panel.genes,
        panel_rule=teaching.panel.rule,
        panel_digest=teaching.panel.digest,
        wide=() if teaching.wide is None else teaching.wide.genes,
        target_sum=teaching.target_sum,
        network=fitted.network,
        graph=_plain(config.graph),
        near={} if config.near is None else _plain(config.near),
        rings={name: _plain(spots.ring) for name, spots in teaching.spots.items() if spots.ring},
        training=_plain(config.training),
        committee=None if config.committee is None else _plain(config.committee),
        best_epoch=fitted.best_epoch,
        validation_pcc=fitted.validation_pcc,
        versions=library_versions(),
        split=fold.rule,
        shared_patients=fold.shared_patients,
        references=tuple(sorted(teaching.borrowed)),
        judged={n: cohort[n].entry.content for n in (*fold.validation, *fold.test)},
        microns_per_pixel={n: cohort[n].entry.microns_per_pixel for n in fold.train},
        gene_names=config.gene_names.by,
        gene_symbols=dict(config.gene_names.symbols),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _plain(
    settings: FeatureConfig
    | GraphConfig
    | NearConfig
    | NearRing
    | TrainingConfig
    | CommitteeConfig,
) -> dict[str, Any]:
    """Spell settings as they will be read back: JSON has no tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return plain


def score_slide(
    spots: SlideSpots,
    predicted_SG: NDArray[np.float32],
    teaching: TeachingSet,
    *,
    method: str,
    fold: str,
) -> pd.DataFrame:
    """Score one prediction of one slide, gene by gene.

    Returns
    -------
    pd.DataFrame
        One row per gene of the panel: ``fold``, ``slide``, ``method``, ``gene`` and the columns
        of `spahgc.metrics.score_genes`; all NaN for a gene the slide's files do not list.
    """
    genes = teaching.panel.genes
    scores = score_listed(expression_of(spots), predicted_SG, genes=genes)
    table = scores.reindex(pd.Index(genes, name="gene")).reset_index()
    table.insert(0, "method", method)
    table.insert(0, "slide", spots.name)
    table.insert(0, "fold", fold)
    return table


def library_versions() -> dict[str, str]:
    """Give the versions of Python and of the libraries that decide numbers, by name."""
    names = ("spahgc", "torch", "torch-geometric", "numpy", "scipy", "scikit-learn", "scanpy")
    return {
        "python": platform.python_version(),
        "faiss": FAISS_VERSION,  # of whichever wheel is installed
        **{name: version(name) for name in names},
    }
