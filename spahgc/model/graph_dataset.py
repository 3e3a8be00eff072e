"""Graphs of a store's slides as a dataset of PyTorch Geometric, for models of one's own."""

from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch_geometric.data import Dataset, HeteroData

from spahgc.errors import MissingError
from spahgc.model.feature_index import open_feature_index
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig
from spahgc.model.panel_rules import PanelRule
from spahgc.model.teaching import TeachingSet, gather_teaching
from spahgc.store.cohort import Cohort, open_cohort
from spahgc.store.embedding_names import PREFERRED
from spahgc.store.splits import UNKNOWN, Fold


def graphs(
    store: str | Path | Cohort,
    *,
    slides: Collection[str] | None = None,
    references: Collection[str] | None = None,
    embedding: str | None = None,
    genes: str = "hvg:50",
    exclude: Literal["slide", "patient"] = "slide",
    n_refer: int = 7,
    n_close: int = 3,
    transform: Callable[[HeteroData], HeteroData] | None = None,
) -> "SlideGraphs":
    """Give the graphs of slides, one each, built from the store and its index.

    Parameters
    ----------
    store
        A folder, ``s3://…``, ``https://…``, a ``.zip``, or a store that is open.
    slides
        Of which graphs are wanted; by default all references.
    references
        Slides whose expression is known to others: spots are retrieved from them, and the genes
        are chosen on them alone. By default those of ``slides`` that have expression, so name
        training slides here where ``slides`` has test slides too.
    embedding
        Name of the embedding; by default the only one, or that of 154 µm by ``lite0``.
    genes
        ``hvg:N``, ``heg:N`` or ``all``, chosen on ``references``; or a file.
    exclude
        A slide never retrieves from itself; with ``patient`` not from its own patient either, and
        slides of unknown patients not from each other.
    n_refer, n_close
        References of each target, and of each reference.
    transform
        Applied to each graph when it is asked for.

    Returns
    -------
    SlideGraphs
        A `torch_geometric.data.Dataset`; for what a graph holds see
        `spahgc.model.graph.build_graph`.

    Raises
    ------
    MissingError
        If there is no such slide or embedding, or no slide with expression to retrieve from.
    MismatchError
        If slides were embedded in different ways, or share too few genes.
    """
    cohort = store if isinstance(store, Cohort) else open_cohort(store)
    named = tuple(dict.fromkeys(slides if slides is not None else references or ()))
    if not named:
        named = tuple(name for name, slide in cohort.slides.items() if slide.has_expression)
    if references is None:
        references = [name for name in named if cohort[name].has_expression]
    if not references:
        raise MissingError(
            f"no slide of {cohort.where} has expression to retrieve; name some as references"
        )
    return SlideGraphs(
        cohort,
        slides=named,
        references=tuple(dict.fromkeys(references)),
        embedding=embedding or _choose_embedding(cohort, (*named, *references)),
        genes=genes,
        exclude=exclude,
        config=GraphConfig(n_refer=n_refer, n_close=n_close),
        transform=transform,
    )


class SlideGraphs(Dataset):
    """One graph a slide, built when it is asked for; see `graphs`.

    It can be sent to a loader's workers: they open the store at the same commit themselves.
    """

    def __init__(
        self,
        cohort: Cohort,
        *,
        slides: tuple[str, ...],
        references: tuple[str, ...],
        embedding: str,
        genes: str,
        exclude: Literal["slide", "patient"],
        config: GraphConfig,
        transform: Callable[[HeteroData], HeteroData] | None,
    ) -> None:
        """Take what `graphs` decides; nothing of the slides is read yet but their genes."""
        super().__init__(root=None, transform=transform)
        self.slides = slides
        self.references = references
        self.embedding = embedding
        self._cohort: Cohort | None = cohort
        self._place = (str(cohort.where), cohort.commit.number)
        self._settings = (genes, exclude, config)
        self.genes = self._training_set.panel.genes

    def len(self) -> int:
        """Count the slides."""
        return len(self.slides)

    def get(self, idx: int) -> HeteroData:
        """Build the graph of one slide, before any transform."""
        name = self.slides[idx]
        known = self._training_set
        target = known.spots[name] if name in known.train else known.read(name)
        return known.graph(target)

    def __getstate__(self) -> dict[str, Any]:
        left_out = {"_training_set", "_cohort"}
        return {k: v for k, v in self.__dict__.items() if k not in left_out} | {"_cohort": None}

    @cached_property
    def _training_set(self) -> TeachingSet:
        genes, exclude, config = self._settings
        cohort = self._cohort or open_cohort(self._place[0], commit=self._place[1])
        names = sorted({*self.slides, *self.references})
        features = FeatureConfig(embeddings=(self.embedding,))
        patients = cohort.patients(names)
        fold = Fold(
            name="graphs",
            train=self.references,
            validation=(),
            test=tuple(name for name in self.slides if name not in self.references),
            groups={
                name: (patients[name] or UNKNOWN) if exclude == "patient" else name
                for name in names
            },
        )
        return gather_teaching(
            cohort,
            open_feature_index(cohort, names, features),
            fold,
            panel_rule=PanelRule.parse(genes),
            graph_config=config,
            features=features,
        )


def _choose_embedding(cohort: Cohort, names: Collection[str]) -> str:
    """Name the embedding that is meant where none is named."""
    shared = set.intersection(*({*cohort[name].entry.encoders} for name in names))
    found = next((name for name in PREFERRED if name in shared), None)
    if found is None and len(shared) != 1:
        told = ", ".join(sorted(shared)) or "none"
        raise MissingError(
            f"embeddings that all of these slides have: {told}; say with embedding= which is meant"
        )
    return found or next(iter(shared))
