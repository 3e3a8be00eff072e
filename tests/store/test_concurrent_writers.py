"""Promise 1: writers on several machines lose and double nothing."""

import pytest
from click.testing import CliRunner

from spahgc.cli import cli
from spahgc.errors import StoreError
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.locations.opening import open_location
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide
from tests.store.writers import add_at_once

N_PROCESSES = 8
N_SLIDES = 10


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3_place")
    return str(tmp_path / "data.zarr")


def test_eight_processes_of_ten_slides_lose_and_double_none(place):
    create_store(place)
    work = [[(f"P{p}-{n}", 100 * p + n) for n in range(N_SLIDES)] for p in range(N_PROCESSES)]
    outcomes = add_at_once(place, work)
    assert outcomes == [["added"] * N_SLIDES] * N_PROCESSES
    cohort = open_cohort(place)
    assert sorted(cohort.slides) == sorted(name for slides in work for name, _ in slides)
    assert cohort.commit.number == N_PROCESSES * N_SLIDES
    assert len({slide.entry.group for slide in cohort.slides.values()}) == 80
    assert verify_store(place, deep=True) == []
    for slides in work:
        name, seed = slides[-1]
        assert (cohort[name].read_counts() != build_slide(name, seed=seed).counts).nnz == 0


def test_of_two_slides_of_one_name_the_first_wins_and_the_other_is_told(place):
    create_store(place)
    for n in range(5):
        first, second = add_at_once(place, [[(f"A{n}", 1)], [(f"A{n}", 2)]])
        outcomes = sorted([first[0], second[0]], key=len)
        assert outcomes[0] == "added"
        assert outcomes[1].startswith("SlideExistsError: ")
        assert f"'A{n}' with other content" in outcomes[1]
        winner = 1 if first[0] == "added" else 2
        counts = open_cohort(place)[f"A{n}"].read_counts()
        assert (counts != build_slide(seed=winner).counts).nnz == 0
    assert verify_store(place, deep=True) == []


def test_the_very_same_slide_from_two_processes_is_there_once(place):
    create_store(place)
    outcomes = add_at_once(place, [[("A1", 1)]] * 4)
    assert {outcome for (outcome,) in outcomes} <= {"added", "kept"}  # in one second all may add
    assert open_cohort(place).commit.number == 1
    assert verify_store(place, deep=True) == []


def test_a_place_without_put_if_absent_is_refused_and_explained(careless_s3_place):
    with pytest.raises(StoreError, match=r"no put-if-absent.*--single-writer"):
        create_store(careless_s3_place)
    told = CliRunner().invoke(cli, ["store", "init", careless_s3_place])
    assert told.exit_code == 1
    assert "no put-if-absent" in told.stderr


def test_a_single_writer_may_use_a_place_without_put_if_absent(careless_s3_place):
    made = CliRunner().invoke(cli, ["store", "init", careless_s3_place, "--single-writer"])
    assert made.exit_code == 0, made.output
    for n in range(2):
        assert add_slide(open_store(careless_s3_place), build_slide(f"A{n}", seed=n)) == "added"
    embed_slide(careless_s3_place, "A1")
    cohort = open_cohort(careless_s3_place)
    assert (cohort["A1"].read_counts() != build_slide("A1", seed=1).counts).nnz == 0
    assert cohort["A1"].read_embedding("lite0").shape == (5, 4)
    assert verify_store(careless_s3_place, deep=True) == []


def test_a_store_moved_to_a_place_without_put_if_absent_is_refused_for_writing(
    s3_place, seaweed, rclone, monkeypatch
):
    create_store(s3_place)
    location = open_location(s3_place)
    documents = {key: location.read(key) for key in ("zarr.json", "tables/zarr.json")}
    for name, value in rclone.environment.items():
        monkeypatch.setenv(name, value)
    careless = open_location(s3_place)
    for key, content in documents.items():
        careless.put(key, content)
    with pytest.raises(StoreError, match="no put-if-absent"):
        add_slide(open_store(s3_place), build_slide("A1"))
    assert dict(open_cohort(s3_place).slides) == {}
