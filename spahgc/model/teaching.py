"""Everything a model may learn from, built from training slides alone.

Nothing here has ever opened a validation or test slide's expression: the panel, the references
and the graphs come from the training slides; a slide to be judged is handed in at the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch_geometric.data import HeteroData

from spahgc.index import Neighbors, ReferenceIndex
from spahgc.model.feature_index import index_features
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig, build_graph
from spahgc.model.panel_rules import PanelRule
from spahgc.model.panels import GenePanel, choose_panel, choose_wide
from spahgc.model.spots import NearConfig, SlideSpots, read_spots
from spahgc.store.cohort import Cohort
from spahgc.store.gene_names import BY_ID, GeneNames
from spahgc.store.splits import Fold

TARGET_SUM = 1e4
"""Counts per spot after scaling to library size (CP10k)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TeachingSet:
    """The training slides of one fold: their spots, the panel chosen on them, their graphs."""

    cohort: Cohort
    """The store."""

    index: ReferenceIndex
    """Covers the training slides."""

    groups: Mapping[str, str]
    """A slide never borrows from another of its group: of its patient, or itself alone."""

    train: tuple[str, ...]
    """Slides to learn from, which are also the references."""

    panel: GenePanel
    """Genes to predict."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    """What is seen of a spot."""

    wide: GenePanel | None = None
    """Genes to find programmes in, where the model does."""

    gene_names: GeneNames = BY_ID
    """What genes of slides are named by."""

    target_sum: float = TARGET_SUM
    """Counts per spot after scaling to library size."""

    graph_config: GraphConfig = field(default_factory=GraphConfig)
    """How many edges each node receives."""

    near: NearConfig | None = field(default_factory=NearConfig)
    """Which spots are near; None takes the six nearest."""

    borrowed: set[str] = field(default_factory=set)
    """Slides that any slide was let borrow from; filled as it is asked, and kept with the run."""

    @cached_property
    def spots(self) -> dict[str, SlideSpots]:
        """The training slides' spots by slide name."""
        return {name: self.read(name) for name in self.train}

    def read(self, name: str) -> SlideSpots:
        """Read any slide of the store as this set's panel and normalisation want it."""
        return read_spots(
            self.cohort[name],
            features=self.features,
            panel=self.panel,
            target_sum=self.target_sum,
            wide=self.wide,
            gene_names=self.gene_names,
            near=self.near,
        )

    def read_symbols(self) -> list[str]:
        """Name the panel's genes by symbol, or by id where no training slide has a symbol."""
        by_symbol, symbols = replace(self.gene_names, by="symbol"), dict[str, str]()
        for slide in (self.cohort[name] for name in self.train):
            if "symbol" in slide.genes:
                named = zip(self.gene_names.of(slide), by_symbol.of(slide), strict=True)
                symbols = {**{gene: symbol for gene, symbol in named if gene != symbol}, **symbols}
            if symbols.keys() >= set(self.panel.genes):
                break
        return [symbols.get(gene, gene) for gene in self.panel.genes]

    def only(self, names: Sequence[str]) -> "TeachingSet":
        """Give the set that some of the training slides are.

        Where they are all of one group, each slide is one, so that they can borrow at all.
        """
        groups = dict(self.groups)
        if len({groups[name] for name in names}) < 2:
            groups.update({name: name for name in names})
        part = replace(self, train=tuple(names), groups=groups)
        part.__dict__["spots"] = {name: self.spots[name] for name in names}  # read once
        return part

    def graph(self, target: SlideSpots) -> HeteroData:
        """Build the graph of a slide over the references it may borrow from.

        A slide that `groups` does not know, such as a new image, borrows from all of them.
        """
        references = {name: self.spots[name] for name in self.among(target)}
        neighbors = self.search(target, k=self.graph_config.n_refer)
        return build_graph(target, neighbors, references, config=self.graph_config)

    def among(self, target: SlideSpots) -> list[str]:
        """Name the training slides that a slide may borrow from."""
        group = self.groups.get(target.name)
        among = [n for n in self.train if n != target.name and self.groups[n] != group]
        self.borrowed.update(among)
        return among

    @cached_property
    def looks(self) -> ReferenceIndex:
        """The first embedding of the training slides as it was made, whatever a model sees."""
        first = FeatureConfig(embeddings=self.features.embeddings[:1])
        return index_features(self.cohort, self.train, first)

    def read_looks(self, name: str) -> NDArray[np.float32]:
        """Read the (S, D) first embedding of a slide of the store as it was made."""
        return self.cohort[name].read_embedding(self.features.embeddings[0])

    def search(self, target: SlideSpots, *, k: int) -> Neighbors:
        """Find the ``k`` most similar spots on the slides that ``target`` may borrow from."""
        if self.spots.get(target.name) is target and k == self.graph_config.n_refer:
            return self._found[target.name]
        return self.index.search(
            target.embedding_SD, k=k, only_slides=self.among(target), asked_by=target.name
        )

    @cached_property
    def _found(self) -> dict[str, Neighbors]:
        """What each training slide may borrow: searched for together, which halves the work."""
        among = {name: self.among(spots) for name, spots in self.spots.items()}
        return self.index.search_slides(among, k=self.graph_config.n_refer)


def gather_teaching(
    cohort: Cohort,
    index: ReferenceIndex,
    fold: Fold,
    *,
    panel_rule: PanelRule,
    graph_config: GraphConfig,
    features: FeatureConfig,
    near: NearConfig | None = NearConfig(),  # noqa: B008  frozen
    with_programmes: bool = False,
    gene_names: GeneNames = BY_ID,
) -> TeachingSet:
    """Choose the panel on ``fold``'s slides but the tested, and gather what a model may see.

    A validation slide is a training slide that this model does not learn from: it helps to choose
    the genes, so that every model of a fold predicts the same ones.

    Raises
    ------
    MismatchError
        If the training slides share too few genes for ``panel_rule``, or a slide to be tested
        names none of them as they do.
    """
    known = (*fold.train, *fold.validation)
    gene_names.refuse_apart({name: cohort[name] for name in (*known, *fold.test)})
    panel_rule = find_listed(cohort, known, panel_rule, gene_names)
    counts, genes = read_known(cohort, known, gene_names)
    return TeachingSet(
        cohort=cohort,
        index=index,
        groups={name: fold.groups[name] for name in (*fold.train, *fold.validation, *fold.test)},
        train=fold.train,
        panel=choose_panel(counts, genes, rule=panel_rule),
        features=features,
        wide=choose_wide(counts, genes) if with_programmes else None,
        graph_config=graph_config,
        gene_names=gene_names,
        near=near,
    )


def choose_genes(
    cohort: Cohort, names: Sequence[str], *, rule: PanelRule, gene_names: GeneNames = BY_ID
) -> GenePanel:
    """Choose a panel on the counts of some slides; see `spahgc.model.panels.choose_panel`."""
    counts, genes = read_known(cohort, names, gene_names)
    return choose_panel(counts, genes, rule=rule)


def choose_programme_genes(
    cohort: Cohort, names: Sequence[str], gene_names: GeneNames = BY_ID
) -> GenePanel:
    """Choose the genes that programmes are made of on the counts of some slides."""
    return choose_wide(*read_known(cohort, names, gene_names))


def find_listed(
    cohort: Cohort, names: Sequence[str], rule: PanelRule, gene_names: GeneNames
) -> PanelRule:
    """Name the genes of a list, given by id or by symbol, as the slides in ``names`` do."""
    if rule.kind != "file":
        return rule
    return replace(rule, genes=gene_names.find(rule.genes, {name: cohort[name] for name in names}))


def read_known(
    cohort: Cohort, names: Sequence[str], gene_names: GeneNames = BY_ID
) -> tuple[dict[str, csr_matrix], list[str]]:
    """Read the counts of the genes that all slides in ``names`` list, and those genes."""
    genes = cohort.shared_genes(names, gene_names)
    counts = {}
    for name in names:
        counts_SG, listed = gene_names.read(cohort[name])
        column_G = listed.get_indexer(pd.Index(genes)).astype(np.int64)
        counts[name] = counts_SG[:, column_G]
    return counts, genes
