"""Look-alike spots across slides: an index knows which slides may answer, and never the asker."""

from spahgc.store.index.building import remove_slides
from spahgc.store.index.distances import METRICS, Metric
from spahgc.store.index.library import FAISS_VERSION
from spahgc.store.index.neighbors import Neighbors, merge_neighbors
from spahgc.store.index.recall import MeasuredRecall
from spahgc.store.index.records import IndexRecord, read_record, remove_index, stale_slides
from spahgc.store.index.reference import ReferenceIndex
from spahgc.store.index.within import nearest_within

__all__ = [
    "FAISS_VERSION",
    "METRICS",
    "IndexRecord",
    "MeasuredRecall",
    "Metric",
    "Neighbors",
    "ReferenceIndex",
    "merge_neighbors",
    "nearest_within",
    "read_record",
    "remove_index",
    "remove_slides",
    "stale_slides",
]
