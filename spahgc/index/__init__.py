"""Similar spots across slides, found by faiss; a search always says which slides may answer."""

from spahgc.index.building import remove_slides
from spahgc.index.faiss_library import FAISS_VERSION
from spahgc.index.neighbors import Neighbors, merge_neighbors
from spahgc.index.recall import MeasuredRecall
from spahgc.index.records import IndexRecord, read_record, remove_index, stale_slides
from spahgc.index.reference import ReferenceIndex
from spahgc.index.self_knn import nearest_within
from spahgc.index.vectors import METRICS, Metric

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
