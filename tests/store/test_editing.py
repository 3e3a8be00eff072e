import shutil
from datetime import timedelta

import pytest

from spahgc.errors import MismatchError, MissingError
from spahgc.index import ReferenceIndex
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.editing import Differences, compare_commits, remove_slide, set_facts
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from spahgc.store.words import is_plain, spell_plain
from tests.conftest import build_slide, embed_slide


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    place = tmp_path_factory.mktemp("template") / "data.zarr"
    for name in ("A1", "B1"):
        add_slide(create_store(place), build_slide(name))
    embed_slide(place, "A1")
    return place


@pytest.fixture
def place(template, tmp_path):
    return shutil.copytree(template, tmp_path / "data.zarr")


def entry_of(place, name="A1"):
    return open_cohort(place).commit.slides[name]


def test_what_is_said_of_a_slide_is_committed_and_its_files_stay(place):
    before = entry_of(place)
    commit = set_facts(
        open_store(place),
        "A1",
        {"patient": "7", "tissue": "breast", "own_word": "très bien, 乳房", "lite0.licence": "MIT"},
    )
    assert commit.message == "set patient, tissue, own_word, lite0.licence of A1"
    after = entry_of(place)
    assert after.patient == "7"
    assert after.about == {"tissue": "breast", "own_word": "très bien, 乳房"}
    assert after.licences == {"lite0": "MIT"}
    assert (after.group, after.manifest, after.content) == (
        before.group,
        before.manifest,
        before.content,
    )
    slide = open_cohort(place)["A1"]
    assert (slide.patient, slide.record["patient"]) == ("7", "7")
    assert (slide.record["tissue"], slide.record["own_word"]) == ("breast", "très bien, 乳房")
    assert entry_of(place, "B1").about == {}
    assert verify_store(place, deep=True) == []


def test_an_empty_fact_is_forgotten(place):
    store = open_store(place)
    before = entry_of(place)
    set_facts(store, "A1", {"patient": "7", "tissue": "breast", "lite0.licence": "MIT"})
    set_facts(store, "A1", {"patient": "", "tissue": "", "lite0.licence": "", "never_said": ""})
    after = entry_of(place)
    assert after.patient is None
    assert after.about == before.about == {}
    assert after.licences == before.licences == {}
    assert open_cohort(place)["A1"].record["tissue"] is None


def test_what_is_said_already_is_no_commit(place):
    store = open_store(place)
    commit = set_facts(store, "A1", {"tissue": "breast"})
    assert set_facts(store, "A1", {"tissue": "breast"}).number == commit.number
    assert store.head.number == commit.number


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        *((key, "it was measured") for key in ("platform", "findings", "n_bytes", "embeddings")),
        *((key, "no plain word") for key in ("", "Tissue", "my word", "1st", "a" * 65, "é")),
    ],
)
def test_a_key_that_cannot_be_set_is_refused(place, key, reason):
    before = open_cohort(place).commit.number
    with pytest.raises(MismatchError, match=f"cannot be set: {reason}"):
        set_facts(open_store(place), "A1", {"tissue": "breast", key: "x"})
    assert open_cohort(place).commit.number == before


@pytest.mark.parametrize("key", ["uni.licence", "lite0.weights", ".licence"])
def test_of_an_embedding_only_the_licence_can_be_set(place, key):
    with pytest.raises((MissingError, MismatchError), match="licence"):
        set_facts(open_store(place), "A1", {key: "x"})
    assert entry_of(place).licences == {}


@pytest.mark.parametrize("key", ["patient", "tissue", "own", "licence", "lite0.licence"])
@pytest.mark.parametrize("fact", ["\x1b[31mP1\n", "a\nb", "a\x7f", "\x9b2J", "\u202egnp", "\udcff"])
def test_a_word_that_a_terminal_would_obey_is_refused(place, key, fact):
    before = open_cohort(place).commit.number
    with pytest.raises(MismatchError, match="control characters") as error:
        set_facts(open_store(place), "A1", {key: fact})
    assert is_plain(str(error.value))
    assert open_cohort(place).commit.number == before


def test_words_are_spelled_so_that_nothing_in_them_is_obeyed():
    assert spell_plain("\x1b[31mP1\n\udcff") == r"\x1b[31mP1\n\udcff"
    assert spell_plain("Größe 5\u00a0µm [7] 乳房") == "Größe 5\u00a0µm [7] 乳房"


def test_a_slide_that_is_not_there_has_nothing_said_of_it(place):
    with pytest.raises(MissingError, match="has no slide 'Z9'"):
        set_facts(open_store(place), "Z9", {"tissue": "breast"})
    with pytest.raises(MissingError, match="has no slide 'a1'"):
        remove_slide(open_store(place), "a1")


def test_a_removed_slide_is_out_at_once_and_its_space_is_freed_later(place):
    opened = open_cohort(place)["A1"]
    assert remove_slide(open_store(place), "A1").message == "remove A1"
    assert set(open_cohort(place).slides) == {"B1"}
    assert not (place / "tables/A1/zarr.json").exists()
    assert verify_store(place, deep=True) == []
    assert opened.read_counts().shape == (5, 3)
    assert collect_garbage(place) == []
    assert "tables/A1" in collect_garbage(place, older_than=timedelta(seconds=-5))
    assert not (place / "tables/A1").exists()
    with pytest.raises(MissingError):
        remove_slide(open_store(place), "A1")


def test_a_removed_slide_can_be_put_back(place):
    remove_slide(open_store(place), "A1")
    assert add_slide(open_store(place), build_slide("A1")) == "added"
    assert open_cohort(place)["A1"].read_counts().shape == (5, 3)
    assert verify_store(place, deep=True) == []


def compare(one, other):
    return compare_commits(open_cohort(one).commit, open_cohort(other).commit)


def test_a_store_does_not_differ_from_its_copy(place, template):
    found = compare(place, template)
    assert found == Differences(only_first=(), only_second=(), changed={}, indexes=())
    assert found.is_none


def test_all_that_differs_between_two_stores_is_told(place, template):
    store = open_store(place)
    for name in ("D1", "C1"):
        add_slide(store, build_slide(name))
    set_facts(store, "A1", {"lite0.licence": "MIT"})
    add_slide(store, build_slide("B1", seed=9), replace_existing=True)
    embed_slide(place, "B1")
    ReferenceIndex.build(open_cohort(place), embedding="lite0", slides=["A1"])
    found = compare(place, template)
    assert found == Differences(
        only_first=("C1", "D1"),
        only_second=(),
        changed={"A1": ("facts",), "B1": ("content", "embedding lite0")},
        indexes=("lite0",),
    )
    assert not found.is_none
    assert compare(template, place).only_second == ("C1", "D1")


def test_where_a_slide_lies_is_no_difference(place, template):
    store = open_store(place)
    add_slide(store, build_slide("B1", seed=9), replace_existing=True)
    add_slide(store, build_slide("B1"), replace_existing=True)
    assert entry_of(place, "B1").group != entry_of(template, "B1").group
    assert compare(place, template).is_none


def test_the_licence_of_an_embedding_that_one_store_lacks_is_no_other_fact(place, tmp_path):
    other = shutil.copytree(place, tmp_path / "other.zarr")
    embed_slide(place, "B1")
    set_facts(open_store(place), "B1", {"lite0.licence": "MIT"})
    assert compare(place, other).changed == {"B1": ("embedding lite0",)}
