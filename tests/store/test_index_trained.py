import shutil
from collections import Counter

import numpy as np
import pytest

from spahgc.errors import DamagedStoreError, MismatchError
from spahgc.store import layout
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.index import ReferenceIndex, remove_slides, training
from spahgc.store.index import trained as trained_kinds
from spahgc.store.index.arrays import read_array, write_array
from spahgc.store.index.distances import prepare
from spahgc.store.index.graphs import encode_graph, restore_graph
from spahgc.store.index.recall import RecallTest
from spahgc.store.index.shares import Asked
from spahgc.store.index.trained import TrainedIndex, encode_piece, train_shared
from spahgc.store.opening import create_store
from spahgc.store.slide import StoredSlide
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

SIZES = {"A1": 300, "A2": 1, "B1": 250, "C1": 180, "D1": 90}
KINDS = ("ivf", "ivfpq", "hnsw")


def draw_vectors(name, n_spots, *, seed=0):
    """Draw spots of a few kinds of tissue, as embeddings are."""
    kinds = np.random.default_rng(7).normal(size=(12, 16))
    own = np.random.default_rng([seed, *name.encode()])
    spots_SD = kinds[own.integers(0, 12, n_spots)] + 0.4 * own.normal(size=(n_spots, 16))
    return spots_SD.astype(np.float32)


def put(store, name, *, seed=0):
    add_slide(store, build_slide(name, n_spots=SIZES[name], seed=seed), replace_existing=True)
    vectors = draw_vectors(name, SIZES[name], seed=seed)
    draft = EmbeddingDraft(open_cohort(store.path)[name], "tiny", fingerprint={"w": 1}, size=16)
    for rows in draft.missing():
        draft.write(rows, vectors[rows.start : rows.stop])
    draft.commit()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    store = create_store(tmp_path_factory.mktemp("template") / "data.zarr")
    for name in ("A1", "A2", "B1", "C1"):
        put(store, name)
    return store.path


@pytest.fixture
def store(template, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "FEWEST_SPOTS", 500)
    shutil.copytree(template, tmp_path / "data.zarr")
    return open_cohort(tmp_path / "data.zarr").store


def build(store, kind, **how):
    return ReferenceIndex.build(open_cohort(store.path), embedding="tiny", kind=kind, **how)


def train(kind, vectors, read=None, *, metric="l2", effort=512):
    sample_SD = np.concatenate(list(vectors.values()))
    shared = train_shared(kind, sample_SD, n_spots=len(sample_SD), metric=metric)
    pieces = {n: encode_piece(kind, v, shared, metric=metric) for n, v in vectors.items()}
    read = read or vectors.__getitem__
    return TrainedIndex(kind, shared, pieces, read=read, metric=metric, effort=effort)


def search_one(trained, query_SD, names, *, k):
    [found] = trained.search_together([Asked(query_SD, names)], k=k)
    return found.as_neighbors(names)


def assert_same(ours, theirs):
    assert ours.slides == theirs.slides
    for table in ("slide_SK", "spot_SK", "distance_SK"):
        assert np.array_equal(getattr(ours, table), getattr(theirs, table), equal_nan=True)


class CountingRead:
    """Read slides at hand, and count how often each was."""

    def __init__(self, vectors):
        self.vectors = vectors
        self.counts = Counter()

    def __call__(self, name):
        self.counts[name] += 1
        return self.vectors[name]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_looking_everywhere_finds_what_exact_search_finds(kind, metric):
    raw = {name: draw_vectors(name, n) for name, n in SIZES.items()}
    vectors = {n: prepare(v, metric=metric, owner=n) for n, v in raw.items()}
    trained = train(kind, vectors, metric=metric)
    exact = ReferenceIndex.of_vectors(raw, metric=metric)
    for names in [("A1", "A2", "B1"), ("A2",), ("A1", "C1", "D1"), tuple(SIZES)]:
        true = exact.search(raw["B1"], k=6, only_slides=names)
        found = search_one(trained, vectors["B1"], names, k=6)
        assert np.array_equal(found.exists_SK, true.exists_SK)
        same = (found.slide_SK == true.slide_SK) & (found.spot_SK == true.spot_SK)
        assert same.mean() > 0.97  # half precision swaps a few
        exact_to = {"rtol": 0, "atol": 2e-3} if kind == "ivf" else {"rtol": 1e-12}
        np.testing.assert_allclose(found.distance_SK[same], true.distance_SK[same], **exact_to)


@pytest.mark.parametrize("proposed_at_once", [1, 4_000, 2**22])
@pytest.mark.parametrize("kind", KINDS)
def test_several_askers_are_told_what_each_is_told_alone(kind, proposed_at_once, monkeypatch):
    monkeypatch.setattr(trained_kinds, "PROPOSED_AT_ONCE", proposed_at_once)
    vectors = {name: draw_vectors(name, n) for name, n in SIZES.items()}
    trained = train(kind, vectors, effort=16)
    asked = [Asked(vectors[name][:20], tuple(sorted({*SIZES} - {name}))) for name in SIZES]
    asked += [Asked(vectors["A1"][:0], ("B1",)), Asked(vectors["A1"][:3], ())]
    together = trained.search_together(iter(asked), k=6)
    for one, found in zip(asked, together, strict=True):
        assert_same(found.as_neighbors(one.names), search_one(trained, *one, k=6))


@pytest.mark.parametrize("kind", KINDS)
def test_slides_that_ask_together_find_what_each_finds_alone(store, kind):
    index = build(store, kind, min_recall=0.5)
    found = index.search_slides({"A1": ["B1", "C1"], "C1": ["A1", "A2", "C1"]}, k=5)
    assert_same(found["A1"], index.search_slide("A1", k=5, only_slides=["B1", "C1"]))
    assert_same(found["C1"], index.search_slide("C1", k=5, only_slides=["A1", "A2"]))


def test_slides_are_read_once_for_all_who_ask_and_kept_while_there_is_room(monkeypatch):
    vectors = {name: draw_vectors(name, n) for name, n in SIZES.items()}
    asked = [Asked(vectors[name][:50], tuple(sorted({*SIZES} - {name}))) for name in SIZES]
    monkeypatch.setattr(trained_kinds, "KEPT_NUMBERS", vectors["A1"].size + vectors["A2"].size)
    read = CountingRead(vectors)
    trained = train("ivfpq", vectors, read)
    first = list(trained.search_together(asked, k=6))
    assert read.counts == dict.fromkeys(SIZES, 1)
    second = list(trained.search_together(asked, k=6))
    assert read.counts == {"A1": 1, "A2": 1, "B1": 2, "C1": 2, "D1": 2}
    for one, before, after in zip(asked, first, second, strict=True):
        assert_same(before.as_neighbors(one.names), after.as_neighbors(one.names))


@pytest.mark.parametrize("kind", KINDS)
def test_building_reads_a_slide_once_for_each_effort_tried(store, kind, monkeypatch):
    monkeypatch.setattr(trained_kinds, "KEPT_NUMBERS", 0)
    counts, read_embedding = Counter(), StoredSlide.read_embedding

    def counting_read(slide, name):
        counts[slide.name] += 1
        return read_embedding(slide, name)

    monkeypatch.setattr(StoredSlide, "read_embedding", counting_read)
    tried = []
    recall = RecallTest.recall

    def counting_recall(test, search):
        tried.append(recall(test, search))
        return tried[-1]

    monkeypatch.setattr(RecallTest, "recall", counting_recall)
    with pytest.raises(MismatchError, match="--min-recall"):
        build(store, kind, min_recall=1.01)
    assert len(tried) > 2
    others = 5  # learn, sort, fill the lists or graphs, draw queries, search exactly
    assert max(counts.values()) <= others + len(tried)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_index_is_opened_as_it_was_built_and_leaves_slides_out(store, kind):
    built = build(store, kind, min_recall=0.8)
    opened = ReferenceIndex.open(open_cohort(store.path), embedding="tiny")
    assert opened.record == built.record
    assert opened.record.recall["recall"] >= 0.8
    first, second = (i.search_slide("B1", k=5, exclude_slides=["A2"]) for i in (built, opened))
    assert first.slides == ("A1", "C1")
    assert_same(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_slide_touches_its_own_piece_alone(store, kind):
    before = build(store, kind, min_recall=0.5).record
    put(store, "D1")
    after = build(store, kind, min_recall=0.5).record
    assert after.arrays == before.arrays
    assert {n: p for n, p in after.pieces.items() if n != "D1"} == before.pieces
    put(store, "B1", seed=9)
    changed = build(store, kind, min_recall=0.5).record
    same = {n for n in changed.pieces if changed.pieces[n] == after.pieces[n]}
    assert same == {"A1", "A2", "C1", "D1"}


def test_a_slide_taken_out_is_never_found_again(store):
    build(store, "ivf", min_recall=0.5)
    remove_slides(open_cohort(store.path), "tiny", ["A1"])
    opened = ReferenceIndex.open(open_cohort(store.path), embedding="tiny")
    assert opened.search_slide("B1", k=5, exclude_slides=()).slides == ("A2", "C1")


def test_too_little_recall_is_refused_with_what_to_change(store):
    with pytest.raises(MismatchError, match=r"finds \d\.\d+ .*--min-recall.*use `--kind ivf`"):
        build(store, "ivfpq", min_recall=1.01)
    assert store.head.indexes == {}


def test_recall_is_measured_again_on_an_open_index(store):
    built = build(store, "ivf", min_recall=0.5)
    measured = built.measure_recall(n_queries=400)
    assert measured.recall == pytest.approx(built.record.recall["recall"], abs=1e-4)
    assert measured.n_queries == built.record.recall["n_queries"]
    exact = ReferenceIndex.build(
        open_cohort(store.path), embedding="tiny", name="exact", kind="flat"
    )
    assert exact.measure_recall(n_queries=50).recall == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_of_another_encoder_is_refused_by_trained_kinds_too(store, kind):
    index = build(store, kind, min_recall=0.5)
    with pytest.raises(MismatchError, match=r"vectors of 5 numbers, .* of 16; embed both"):
        index.search(np.ones((3, 5), np.float32), k=2, exclude_slides=())


def test_too_few_spots_are_refused(store, monkeypatch):
    monkeypatch.setattr(training, "FEWEST_SPOTS", 10_000)
    with pytest.raises(MismatchError, match="too few for `--kind ivf`"):
        build(store, "ivf")


def test_no_approximate_kind_knows_l1(store):
    with pytest.raises(MismatchError, match="cannot be had for l1"):
        build(store, "hnsw", metric="l1")


@pytest.mark.parametrize("spoil", ["levels", "far link", "high link", "short"])
def test_a_graph_that_leads_out_of_its_slide_is_refused(spoil):
    vectors_SD = draw_vectors("A1", 300)
    arrays = encode_graph(vectors_SD, metric="l2")
    low = int(np.argmin(arrays["levels"]))
    if spoil == "levels":
        arrays["levels"][3] = 99
    elif spoil == "far link":
        arrays["links"][5] = 300
    elif spoil == "high link":
        top = int(np.argmax(arrays["levels"]))
        start = int(np.sum(32 + 32 * arrays["levels"][:top]))
        arrays["links"][start + 64] = low
    else:
        arrays["links"] = arrays["links"][:-1]
    with pytest.raises(DamagedStoreError, match="do not fit its spots"):
        restore_graph(arrays, vectors_SD, metric="l2")


@pytest.mark.parametrize(
    "wanted", [{"shape": (4, 3), "dtype": "<f4"}, {"shape": (3, 4), "dtype": "<i4"}], ids=str
)
def test_an_array_of_another_form_is_refused_before_it_is_read(store, wanted):
    digest = write_array(store, "tiny", np.ones((3, 4), np.float32))
    assert read_array(store, "tiny", digest, shape=(None, 4), dtype="<f4").sum() == 12
    with pytest.raises(DamagedStoreError, match="expected"):
        read_array(store, "tiny", digest, **wanted)


@pytest.mark.parametrize("content", [b"no array", b"\x80\x04pickle"], ids=str)
def test_bytes_that_are_no_array_are_refused(store, content):
    digest = store.put_blob(lambda d: layout.index_part_key("tiny", d), content)
    with pytest.raises(DamagedStoreError, match="cannot be read"):
        read_array(store, "tiny", digest, shape=(None,), dtype="<f4")


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}},
        {"settings": {"effort": "many"}},
        {"pieces": {}},
        {"arrays": {}},
        {"pieces": {"A1": 3}},
        {"kind": "ivfpq"},
    ],
    ids=str,
)
def test_a_record_that_does_not_fit_its_kind_is_refused(store, change):
    record = build(store, "ivf", min_recall=0.5).record
    with pytest.raises(DamagedStoreError, match="does not fit its kind"):
        open_as(store, training.replace(record, **change))


def test_centroids_of_another_size_are_refused(store):
    record = build(store, "ivf", min_recall=0.5).record
    strange = write_array(store, "tiny", np.ones((len(record.slides) * 9, 5), np.float32))
    with pytest.raises(DamagedStoreError, match=r"numbers for embeddings of 16"):
        open_as(store, training.replace(record, arrays={"centroids": strange}))


def open_as(store, record):
    cohort = open_cohort(store.path)
    return training.open_trained(
        cohort, "tiny", record, lambda name: cohort[name].read_embedding("tiny")
    )


def test_lists_beyond_those_there_are_are_refused(store):
    record = build(store, "ivf", min_recall=0.5).record
    strange = write_array(store, "tiny", np.full(SIZES["A1"], 10**6, np.int32))
    pieces = {**record.pieces, "A1": {"lists": strange}}
    with pytest.raises(DamagedStoreError, match="names lists beyond its"):
        open_as(store, training.replace(record, pieces=pieces))
