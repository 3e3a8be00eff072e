from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import anndata
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from spahgc.errors import (
    CommitConflictError,
    DamagedStoreError,
    MismatchError,
    MissingError,
    SlideExistsError,
    SlideFormatError,
    StoreError,
)
from spahgc.store import drafts, staging
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft, RowRange
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

NOW = timedelta(seconds=-5)  # nothing is spared


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "data.zarr")


def embed(store, name="A1", size=4, *, commit=True, fingerprint=None):
    slide = open_cohort(store.path)[name]
    draft = EmbeddingDraft(slide, "lite0", fingerprint=fingerprint or {"w": 1}, size=size)
    generator = np.random.default_rng(0)
    vectors = generator.random((slide.n_spots, size), dtype=np.float32)
    for rows in draft.missing():
        draft.write(rows, vectors[rows.start : rows.stop])
    if commit:
        draft.commit()
    return vectors


def folder_of(store, slide):
    return store.path / slide.entry.group


def test_a_slide_is_read_back_as_it_was_added(store):
    slide = build_slide(n_spots=7, n_genes=4)
    assert add_slide(store, slide) == "added"
    stored = open_cohort(store.path)["A1"]
    assert (stored.read_counts() != slide.counts).nnz == 0
    assert stored.spots.equals(slide.spots)
    assert stored.genes.equals(slide.genes)
    assert np.array_equal(stored.centers, slide.centers)
    assert stored.record["patient"] == "A"
    assert np.array_equal(stored.read_thumbnail().pixels, slide.thumbnails["hires"].pixels)


def test_anndata_opens_a_slide_where_it_lies(store):
    slide = build_slide()
    add_slide(store, slide)
    vectors = embed(store)
    table = anndata.read_zarr(str(store.path / "tables/A1"))
    assert (slide.counts != table.X).nnz == 0
    assert np.array_equal(table.obsm["spatial"], slide.centers)
    assert np.array_equal(table.obsm["lite0"], vectors)
    assert table.uns["spatial"]["A1"]["scalefactors"]["spot_diameter_fullres"] == 200


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_counts_survive_exactly(tmp_path_factory, data):
    n_spots, n_genes = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 5))
    values = data.draw(
        st.lists(
            st.sampled_from([0, 0, 1, 255, 65_535, 65_536, 2**32 - 1]),
            min_size=n_spots * n_genes,
            max_size=n_spots * n_genes,
        )
    )
    counts = csr_matrix(np.array(values, dtype=np.uint32).reshape(n_spots, n_genes))
    slide = replace(build_slide(n_spots=n_spots, n_genes=n_genes), counts=counts)
    store = create_store(tmp_path_factory.mktemp("store") / "data.zarr")
    add_slide(store, slide)
    assert (open_cohort(store.path)["A1"].read_counts() != counts).nnz == 0


def test_the_same_slide_again_is_kept(store):
    assert add_slide(store, build_slide()) == "added"
    assert add_slide(store, build_slide()) == "kept"
    assert store.head.number == 1


def test_another_slide_of_the_name_is_refused(store):
    add_slide(store, build_slide(seed=0))
    for name in ("A1", "a1"):
        with pytest.raises(SlideExistsError, match="--replace"):
            add_slide(store, build_slide(name, seed=1))
    assert (open_cohort(store.path)["A1"].read_counts() != build_slide(seed=0).counts).nnz == 0


def test_replacing_leaves_open_views_on_the_old_version(store):
    add_slide(store, build_slide(seed=0))
    before = open_cohort(store.path)["A1"]
    assert add_slide(store, build_slide(seed=1), replace_existing=True) == "replaced"
    after = open_cohort(store.path)["A1"]
    assert (before.read_counts() != build_slide(seed=0).counts).nnz == 0
    assert (after.read_counts() != build_slide(seed=1).counts).nnz == 0
    assert not (folder_of(store, before) / "zarr.json").exists()
    assert collect_garbage(store.path) == []
    collect_garbage(store.path, older_than=NOW)
    assert not folder_of(store, before).exists()
    assert verify_store(store.path, deep=True) == []


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".hidden", "CON", "nul.txt", "x" * 129, "ä", "a."]
)
def test_a_name_no_file_system_would_carry_is_refused(store, name):
    with pytest.raises(SlideFormatError, match="cannot name a slide"):
        add_slide(store, replace(build_slide(), name=name))
    assert store.head.slides == {}


def test_one_of_two_writers_of_a_name_wins(store):
    slides = [build_slide(seed=seed) for seed in range(4)]

    def attempt(slide):
        try:
            return add_slide(store, slide)
        except SlideExistsError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(attempt, slides))
    assert sorted(outcomes) == ["added", "refused", "refused", "refused"]
    assert verify_store(store.path, deep=True) == []
    assert [item.name for item in (store.path / "tables").glob("*/")] == ["A1"]


def test_two_writers_of_the_very_same_slide_both_end_well(store):
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: add_slide(store, build_slide()), range(4)))
    assert sorted(outcomes) == ["added", "kept", "kept", "kept"]
    assert [item.name for item in (store.path / "tables").glob("*/")] == ["A1"]
    assert verify_store(store.path, deep=True) == []


def test_a_group_that_was_never_committed_gives_way(store, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(staging.shutil, "rmtree", lambda *_, **__: None)  # nothing is tidied up
    monkeypatch.setattr(type(store), "commit", die)
    with pytest.raises(KeyboardInterrupt):
        add_slide(store, build_slide(seed=0))
    monkeypatch.undo()
    assert (store.path / "tables/A1").exists()
    assert store.head.slides == {}
    assert add_slide(store, build_slide(seed=1)) == "added"
    assert store.head.slides["A1"].group == "tables/A1"
    assert verify_store(store.path, deep=True) == []


def test_an_embedding_is_out_of_sight_until_it_is_whole(store, monkeypatch):
    monkeypatch.setattr(drafts, "SHARD_ROWS", 256)
    add_slide(store, build_slide(n_spots=600))
    slide = open_cohort(store.path)["A1"]
    draft = EmbeddingDraft(slide, "lite0", fingerprint={"w": 1}, size=4)
    shards = list(draft.missing())
    assert shards == [RowRange(0, 256), RowRange(256, 512), RowRange(512, 600)]
    draft.write(shards[0], np.ones((256, 4), np.float32))
    with pytest.raises(DamagedStoreError, match="not whole"):
        draft.commit()
    assert "lite0" not in anndata.read_zarr(str(folder_of(store, slide))).obsm
    again = EmbeddingDraft(slide, "lite0", fingerprint={"w": 1}, size=4)
    assert list(again.missing()) == shards[1:]


def test_a_shard_cut_short_is_written_again(store):
    add_slide(store, build_slide())
    embed(store, commit=False)
    (shard,) = (store.path / "staging").rglob("c/0/0")
    shard.write_bytes(shard.read_bytes()[:-9])
    draft = EmbeddingDraft(open_cohort(store.path)["A1"], "lite0", fingerprint={"w": 1}, size=4)
    assert list(draft.missing()) == [RowRange(0, 5)]


def test_an_embedding_moved_but_not_committed_is_adopted(store, monkeypatch):
    add_slide(store, build_slide())

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(store), "commit", die)
    with pytest.raises(KeyboardInterrupt):
        embed(store)
    monkeypatch.undo()
    vectors = embed(store)
    assert np.array_equal(open_cohort(store.path)["A1"].read_embedding("lite0"), vectors)
    assert verify_store(store.path, deep=True) == []


def test_values_that_are_no_numbers_are_refused(store):
    add_slide(store, build_slide())
    draft = EmbeddingDraft(open_cohort(store.path)["A1"], "lite0", fingerprint={"w": 1}, size=4)
    with pytest.raises(MismatchError, match="not numbers"):
        draft.write(RowRange(0, 5), np.full((5, 4), np.nan, np.float32))


def test_another_fingerprint_under_the_same_name_is_refused(store):
    add_slide(store, build_slide())
    embed(store)
    with pytest.raises(MismatchError, match="made in another way"):
        embed(store, fingerprint={"w": 2})


def test_embedding_a_slide_that_was_replaced_meanwhile_is_a_conflict(store):
    add_slide(store, build_slide(seed=0))
    draft = EmbeddingDraft(open_cohort(store.path)["A1"], "lite0", fingerprint={"w": 1}, size=4)
    draft.write(RowRange(0, 5), np.ones((5, 4), np.float32))
    add_slide(store, build_slide(seed=1), replace_existing=True)
    with pytest.raises(CommitConflictError, match="replaced"):
        draft.commit()


def test_missing_embedding_names_the_command_that_makes_it(store):
    add_slide(store, build_slide())
    slide = open_cohort(store.path)["A1"]
    with pytest.raises(MissingError, match="no full-resolution image"):
        slide.read_embedding("lite0")


def test_a_missing_chunk_is_never_read_as_zeros(store):
    add_slide(store, build_slide())
    slide = open_cohort(store.path)["A1"]
    (folder_of(store, slide) / "X/data/c/0").unlink()
    with pytest.raises(DamagedStoreError, match="is missing"):
        slide.read_counts()


@pytest.mark.parametrize(
    "key", ["X/data/c/0", "obsm/lite0/c/0/0", "obsm/spatial/c/0/0", "obs/_index/c/0"]
)
def test_a_flipped_bit_is_never_read_as_a_number(store, key):
    add_slide(store, build_slide())
    embed(store)
    slide = open_cohort(store.path)["A1"]
    content = bytearray((folder_of(store, slide) / key).read_bytes())
    content[len(content) // 3] ^= 4
    (folder_of(store, slide) / key).write_bytes(bytes(content))
    assert [problem.owner for problem in verify_store(store.path, deep=True)] == ["slide A1"]
    with pytest.raises(DamagedStoreError, match="verify --deep"):
        _ = (slide.read_counts(), slide.read_embedding("lite0"), slide.centers, slide.spots)


def test_verify_names_what_is_gone_or_cut_short(store):
    add_slide(store, build_slide())
    slide = open_cohort(store.path)["A1"]
    (folder_of(store, slide) / "X/data/c/0").unlink()
    indices = folder_of(store, slide) / "X/indices/c/0"
    indices.write_bytes(indices.read_bytes()[:-1])
    texts = [problem.text for problem in verify_store(store.path)]
    assert [text.split()[0] for text in texts] == ["X/data/c/0", "X/indices/c/0"]


def test_a_read_only_store_is_an_error_and_stays_as_it_was(store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(staging, "write_table", refuse)
    with pytest.raises(StoreError, match="cannot be written: Permission denied"):
        add_slide(store, build_slide())
    assert store.head.slides == {}


def test_gc_spares_what_is_young_and_named(store):
    add_slide(store, build_slide())
    embed(store)
    leftover = store.path / "staging/A1~left"
    leftover.mkdir()
    (leftover / "zarr.json").write_text("{}")
    assert collect_garbage(store.path) == []
    removed = collect_garbage(store.path, older_than=NOW)
    assert [place for place in removed if not place.startswith(("pages/", "manifests/"))] == [
        "staging/A1~left"
    ]
    assert not leftover.exists()
    assert verify_store(store.path, deep=True) == []


def test_gc_mends_a_group_document_that_a_killed_writer_left_old(store):
    add_slide(store, build_slide())
    document = (store.path / "tables/A1/zarr.json").read_bytes()
    embed(store)
    (store.path / "tables/A1/zarr.json").write_bytes(document)
    assert "out of date" in verify_store(store.path)[0].text
    assert collect_garbage(store.path) == ["tables/A1/zarr.json"]
    assert verify_store(store.path) == []


@pytest.mark.parametrize("what", ["patient", "section", "tissue"])
def test_words_that_a_terminal_would_obey_are_refused(tmp_path, what):
    slide = replace(build_slide("A1"), **{what: "\x1b[31mP1"})
    store = create_store(tmp_path / "data.zarr")
    with pytest.raises(SlideFormatError, match=rf"slide A1: {what} .* cannot be shown"):
        add_slide(store, slide)
    assert list(store.head.slides) == []
    add_slide(store, replace(slide, **{what: "Zoë Nuñez 7"}))
