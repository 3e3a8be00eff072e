"""Promise 7: a server that fails is asked again, for a while; then the error says which URL."""

import itertools
import os
import re
import time
from datetime import timedelta

import numpy as np
import obstore
import pytest
from obstore.exceptions import NotFoundError
from obstore.store import MemoryStore

from spahgc.errors import DamagedStoreError, SpahgcError, StoreError
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.locations import remote
from spahgc.store.locations.opening import open_location
from spahgc.store.opening import create_store, find_store, open_store
from spahgc.store.packing import pack_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide
from tests.faulty import serve_folder, stand_before
from tests.store.crashes import NOTHING_IS_SPARED

PASSING = ["drop", "short", "stall", "silent", 429, 500, 503]
LASTING = [*PASSING, "cut", "html"]
TABLE = "/tables/A1/.*/c/0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("www")
    place = folder / "data.zarr"
    add_slide(create_store(place), build_slide("A1", n_spots=300, n_genes=30))
    embed_slide(place, "A1", size=16)
    pack_store(open_cohort(place), folder / "data.zip")
    return folder


def wait(monkeypatch, *, seconds):
    """Give a server that long in all, and half of it for one answer."""
    monkeypatch.setattr(remote, "PATIENCE", seconds)
    monkeypatch.setitem(remote._REQUEST, "read_timeout", timedelta(seconds=seconds / 2))
    monkeypatch.setitem(remote._RETRIES, "max_retries", 1)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Wait a tenth of what a user would."""
    wait(monkeypatch, seconds=1.2)


@pytest.fixture(params=[True, False], ids=["etag", "no etag"])
def web(folder, request):
    with serve_folder(folder, has_tag=request.param) as server:
        yield server


@pytest.fixture
def bucket(hurry, s3_place, seaweed, monkeypatch):
    """The real S3, slow on a busy machine, behind a server that fails when it is told to."""
    wait(monkeypatch, seconds=20)
    with stand_before(seaweed.endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def read_slide(place):
    slide = open_cohort(place)["A1"]
    return slide.read_counts(), slide.read_embedding("lite0"), slide.spots


@pytest.mark.parametrize("failure", PASSING)
def test_a_failure_that_passes_is_not_noticed(web, folder, failure):
    expected = read_slide(folder / "data.zarr")
    for where in ("commits/newest", "manifests/", TABLE):
        web.fail(failure, times=1, where=where)
    found = read_slide(f"{web.url}/data.zarr")
    assert (found[0] != expected[0]).nnz == 0
    assert np.array_equal(found[1], expected[1])
    assert found[2].equals(expected[2])


@pytest.mark.parametrize(
    ("failure", "where"),
    [
        *((failure, TABLE) for failure in LASTING),
        *itertools.product([500, "html"], ["data.zarr/zarr.json", "commits/", "manifests/"]),
    ],
)
def test_a_failure_that_lasts_is_an_error_with_the_url(folder, failure, where):
    with serve_folder(folder, has_tag=False) as web:
        web.fail(failure, where=where)
        began = time.monotonic()
        with pytest.raises(StoreError, match=re.escape(web.url)) as told:
            read_slide(f"{web.url}/data.zarr")
        assert time.monotonic() - began < 10
        assert "\n" not in str(told.value)
        assert "does not exist" not in str(told.value)


@pytest.mark.parametrize("failure", LASTING)
def test_a_packed_store_is_never_read_in_part(folder, failure):
    with serve_folder(folder) as web:
        place = f"{web.url}/data.zip"
        expected = read_slide(folder / "data.zarr")
        assert np.array_equal(read_slide(place)[1], expected[1])
        web.fail(failure)
        with pytest.raises(SpahgcError, match=re.escape(web.url)):
            read_slide(place)


def test_a_server_that_is_not_there_is_an_error_with_its_url():
    with pytest.raises(StoreError, match=r"http://127.0.0.1:9/data.zarr.* cannot be reached"):
        open_cohort("http://127.0.0.1:9/data.zarr")


def test_what_a_web_server_lacks_is_no_store(web):
    with pytest.raises(StoreError, match=r"/other\.zarr is not a spahgc store"):
        open_cohort(f"{web.url}/other.zarr")


def test_a_missing_file_is_an_error_at_once(web):
    web.fail(404, where=TABLE)
    began = time.monotonic()
    with pytest.raises(DamagedStoreError, match=r"tables/A1/.* is missing"):
        read_slide(f"{web.url}/data.zarr")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("status", [401, 403])
def test_missing_rights_are_said_at_once(web, status):
    web.fail(status)
    with pytest.raises(StoreError, match="access is denied"):
        open_cohort(f"{web.url}/data.zarr")
    assert len(web.requests) <= 2


@pytest.mark.parametrize("failure", ["drop", 429, 500, 503])
def test_writing_through_failures_that_pass_loses_and_doubles_nothing(bucket, s3_place, failure):
    """The server did what it was asked and its answer got lost: the worst that can be."""
    create_store(s3_place)
    for method, where in (
        ("PUT", "commits/0"),
        ("PUT", "pages/"),
        ("PUT", "manifests/"),
        ("PUT", "tables/A1/X/"),
        ("PUT", "obsm/lite0/c/"),
        ("GET", "commits/"),
        ("PUT", "staging/claims"),
        ("GET", "list-type"),
    ):
        bucket.fail(failure, times=1, method=method, where=where)
    store = open_store(s3_place)
    assert add_slide(store, build_slide("A1")) == "added"
    embed_slide(s3_place, "A1")
    bucket.heal()
    assert [commit.message for commit in store.history()] == [
        "embed A1 with lite0",
        "ingest A1",
    ]
    assert verify_store(s3_place, deep=True) == []


@pytest.mark.parametrize("failure", ["silent", 500])
def test_writing_to_a_server_that_fails_is_an_error_with_the_url(
    bucket, s3_place, failure, monkeypatch
):
    create_store(s3_place)
    add_slide(open_store(s3_place), build_slide("A1"))
    before = open_cohort(s3_place).commit
    wait(monkeypatch, seconds=1.2)
    bucket.fail(failure, method="PUT")
    with pytest.raises(StoreError, match=re.escape(s3_place)):
        add_slide(open_store(s3_place), build_slide("B1"))
    with pytest.raises(StoreError, match=re.escape(s3_place)):
        embed_slide(s3_place, "A1")
    bucket.heal()
    wait(monkeypatch, seconds=20)
    assert open_cohort(s3_place).commit.digest() == before.digest()
    assert verify_store(s3_place, deep=True) == []
    add_slide(open_store(s3_place), build_slide("B1"))
    assert set(open_cohort(s3_place).slides) == {"A1", "B1"}


def test_an_embedding_goes_on_after_the_network_came_back(bucket, s3_place, monkeypatch):
    create_store(s3_place)
    add_slide(open_store(s3_place), build_slide("A1", n_spots=5000))
    slide = open_cohort(s3_place)["A1"]
    draft = EmbeddingDraft(slide, "lite0", fingerprint={"w": 1}, size=2)
    first, second = draft.missing()
    draft.write(first, np.ones((first.stop - first.start, 2), np.float32))
    bucket.fail(500, method="PUT", is_done=False)
    wait(monkeypatch, seconds=1.2)
    with pytest.raises(StoreError, match="cannot be reached"):
        draft.write(second, np.ones((second.stop - second.start, 2), np.float32))
    bucket.heal()
    wait(monkeypatch, seconds=20)
    again = EmbeddingDraft(slide, "lite0", fingerprint={"w": 1}, size=2)
    assert list(again.missing()) == [second]
    again.write(second, np.ones((second.stop - second.start, 2), np.float32))
    again.commit()
    assert (open_cohort(s3_place)["A1"].read_embedding("lite0") == 1).all()


def test_a_second_writer_waits_for_a_first_ones_file_that_cannot_be_seen_yet(monkeypatch):
    place = remote.RemoteLocation("s3://lab/x", MemoryStore(), is_writable=True)
    assert place.put_if_absent("commits/1", b"first")
    get, unseen = obstore.get, iter([True, True, False])

    def late(objects, key):
        if next(unseen):
            raise NotFoundError(f"{key} is not there yet")
        return get(objects, key)

    monkeypatch.setattr(obstore, "get", late)
    assert not place.put_if_absent("commits/1", b"second")
    assert next(unseen, None) is None


def test_an_empty_page_for_a_listing_makes_nobody_believe_in_an_empty_store(bucket, s3_place):
    """Some proxies answer every address with a page of their own and status 200."""
    create_store(s3_place)
    add_slide(open_store(s3_place), build_slide("A1"))
    bucket.fail("html", where="list-type")
    assert find_store(s3_place) is not None
    assert set(open_cohort(s3_place).slides) == {"A1"}
    create_store(s3_place)
    assert collect_garbage(s3_place, older_than=NOTHING_IS_SPARED) == []
    bucket.heal()
    assert set(open_cohort(s3_place).slides) == {"A1"}
    assert verify_store(s3_place, deep=True) == []


def test_a_copy_that_broke_off_goes_on_with_what_is_missing(folder, tmp_path):
    with serve_folder(folder) as web:
        source = f"{web.url}/data.zarr"
        web.fail(500, where="obsm/lite0/c/")
        with pytest.raises(StoreError, match=re.escape(web.url)):
            copy_store(open_source(source), tmp_path / "copy.zarr")
        assert dict(open_cohort(tmp_path / "copy.zarr").slides) == {}
        web.heal()
        web.requests.clear()
        copy_store(open_source(source), tmp_path / "copy.zarr")
        again = [request.path for request in web.requests if "/tables/A1/" in request.path]
        assert len(again) < 5
        assert verify_store(tmp_path / "copy.zarr", deep=True) == []


@pytest.mark.parametrize("failure", ["cut", "html"])
def test_a_copy_never_takes_part_of_a_file_for_the_whole(folder, tmp_path, failure):
    with serve_folder(folder) as web:
        web.fail(failure, where="tables/A1/X/data")
        with pytest.raises(DamagedStoreError, match="tables/A1/X/data"):
            copy_store(open_source(f"{web.url}/data.zarr"), tmp_path / "copy.zarr")
    assert dict(open_cohort(tmp_path / "copy.zarr").slides) == {}


def test_a_bucket_is_not_read_unsigned_where_no_credentials_are_found(
    monkeypatch, bucket, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        if name != "AWS_ENDPOINT_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match=r"no credentials are found.*AWS_ACCESS_KEY_ID"):
        open_cohort("s3://lab/none.zarr")
    assert bucket.requests == []


@pytest.fixture
def in_parts(monkeypatch):
    """Put in parts what is larger than 1 MiB."""
    monkeypatch.setattr(remote, "LARGEST_PUT", 2**20)
    monkeypatch.setattr(remote, "PART", 5 * 2**20)


def test_a_large_file_is_put_in_parts_and_never_over_another(bucket, s3_place, in_parts):
    place = open_location(s3_place)
    content = np.random.default_rng(0).bytes(12 * 2**20)
    assert place.put_if_absent("large", content)
    assert len([r for r in bucket.requests if "partNumber=" in r.path]) == 3
    bucket.requests.clear()
    assert place.put_if_absent("large", content)
    assert not place.put_if_absent("large", content[:-1] + b"x")
    assert not place.put_if_absent("large", content + b"x")
    assert {request.method for request in bucket.requests} == {"GET", "HEAD"}
    assert place.read("large") == content
    place.put("large", content[::-1])
    assert place.read("large") == content[::-1]


@pytest.mark.parametrize("failure", ["drop", 500])
def test_a_part_that_fails_is_put_again(bucket, s3_place, in_parts, failure):
    place = open_location(s3_place)
    content = np.random.default_rng(0).bytes(12 * 2**20)
    for where in ("uploads", "partNumber=", "uploadId="):
        bucket.fail(failure, times=1, where=where)
    assert place.put_if_absent("large", content)
    assert place.read("large") == content


def test_a_slide_with_large_files_is_copied_to_a_bucket_and_comes_back_whole(
    s3_place, in_parts, tmp_path, monkeypatch
):
    monkeypatch.setattr(remote, "PATIENCE", 20)
    add_slide(create_store(tmp_path / "data.zarr"), build_slide("A1", n_spots=4000, n_genes=700))
    embed_slide(tmp_path / "data.zarr", "A1", size=700)
    source = open_cohort(tmp_path / "data.zarr")
    assert max(record.size for record in source["A1"].manifest.files.values()) > 2 * remote.PART
    copy_store(source, s3_place)
    assert verify_store(s3_place, deep=True) == []
    assert open_cohort(s3_place).commit.digest() == source.commit.digest()
    assert copy_store(source, s3_place).n_bytes == 0
