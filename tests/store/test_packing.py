import shutil
import zipfile

import pytest

from spahgc.errors import DamagedStoreError, MismatchError, StoreError
from spahgc.index import ReferenceIndex
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.editing import remove_slide
from spahgc.store.opening import create_store, open_store
from spahgc.store.packing import pack_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store that was changed a few times, so that it holds more than its newest commit."""
    place = tmp_path_factory.mktemp("template") / "data.zarr"
    store = create_store(place)
    for name in ("A1", "B1", "C1"):
        add_slide(store, build_slide(name))
    add_slide(store, build_slide("A1", seed=3), replace_existing=True)
    remove_slide(store, "C1")
    for name in ("A1", "B1"):
        embed_slide(place, name)
    ReferenceIndex.build(open_cohort(place), embedding="lite0")
    return place


@pytest.fixture
def place(template, tmp_path):
    return shutil.copytree(template, tmp_path / "data.zarr")


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "sent" / "data.zip"


@pytest.fixture(autouse=True)
def nothing_is_left_half_written(archive):
    archive.parent.mkdir()
    yield
    assert {path.name for path in archive.parent.iterdir()} <= {archive.name}


def digest_of(place):
    return open_cohort(place).commit.digest()


def test_a_packed_store_is_the_store_in_one_file(place, archive):
    told = []
    size = pack_store(open_cohort(place), archive, advance=told.append)
    assert size == archive.stat().st_size > sum(told) > 0
    assert digest_of(archive) == digest_of(place)
    assert open_store(archive).head.number == open_store(place).head.number
    assert verify_store(archive, deep=True) == []
    packed, stored = open_cohort(archive)["A1"], open_cohort(place)["A1"]
    assert (packed.read_counts() != stored.read_counts()).nnz == 0
    assert (packed.read_embedding("lite0") == stored.read_embedding("lite0")).all()
    index = ReferenceIndex.open(open_cohort(archive), embedding="lite0")
    assert index.search_slide("A1", k=1, exclude_slides=["A1"])


def test_what_was_replaced_or_removed_is_not_packed(place, archive):
    pack_store(open_cohort(place), archive)
    with zipfile.ZipFile(archive) as file:
        groups = {name.split("/")[1] for name in file.namelist() if name.startswith("tables/")}
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
    assert groups == {"zarr.json", "A1.v2", "B1"}


def test_the_same_store_makes_the_same_archive(place, archive, tmp_path):
    pack_store(open_cohort(place), archive)
    pack_store(open_cohort(place), tmp_path / "again.zip")
    assert archive.read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_a_packed_store_packs_again_and_unpacks_to_the_same(place, archive, tmp_path):
    pack_store(open_cohort(place), archive)
    pack_store(open_cohort(archive), tmp_path / "again.zip")
    digest = f"sha256:{digest_of(place)}"
    report = copy_store(open_source(tmp_path / "again.zip", digest=digest), tmp_path / "mine.zarr")
    assert report.outcomes == {"A1": "copied", "B1": "copied"}
    assert report.indexes == ("lite0",)
    assert digest_of(tmp_path / "mine.zarr") == digest_of(place)
    assert verify_store(tmp_path / "mine.zarr", deep=True) == []
    with pytest.raises(MismatchError, match="nothing was copied"):
        open_source(archive, digest="sha256:" + "0" * 64)


def test_an_empty_store_is_packed_too(archive, tmp_path):
    create_store(tmp_path / "empty.zarr")
    pack_store(open_cohort(tmp_path / "empty.zarr"), archive)
    assert dict(open_cohort(archive).slides) == {}
    assert verify_store(archive, deep=True) == []


def test_an_existing_file_is_never_overwritten(place, archive):
    archive.write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"data\.zip is there already"):
        pack_store(open_cohort(place), archive)
    assert archive.read_bytes() == b"mine"


def test_an_archive_of_another_ending_or_below_a_file_is_refused(place, archive):
    with pytest.raises(StoreError, match=r"let it end in \.zip"):
        pack_store(open_cohort(place), archive.with_suffix(".tar"))
    with pytest.raises(StoreError, match=r"data\.zip cannot be written"):
        pack_store(open_cohort(place), place / "zarr.json" / "data.zip")


def test_the_folder_of_an_archive_is_made(place, tmp_path):
    made = tmp_path / "to" / "send" / "data.zip"
    pack_store(open_cohort(place), made)
    assert digest_of(made) == digest_of(place)


@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "damaged"])
@pytest.mark.parametrize("key", ["tables/B1/X/data/c/0", "manifests", "indexes/lite0", "pages"])
def test_damage_is_found_and_not_packed(place, archive, key, is_missing):
    cohort = open_cohort(place)
    doomed = [place / key] if (place / key).is_file() else [*(place / key).iterdir()]
    for path in doomed:
        path.unlink() if is_missing else path.write_bytes(b"{}")
    with pytest.raises(DamagedStoreError, match="is missing" if is_missing else "is damaged"):
        pack_store(cohort, archive)
    assert not archive.exists()


def test_a_commit_that_is_missing_is_damage(place, archive):
    (place / "commits/00000002.json").unlink()
    with pytest.raises(DamagedStoreError, match=r"data\.zarr: commits/00000002\.json is missing"):
        pack_store(open_cohort(place), archive)
    assert not archive.exists()


def test_a_store_without_its_hint_of_the_newest_commit_is_packed_with_one(place, archive):
    digest = digest_of(place)
    (place / "commits/newest.json").unlink()
    pack_store(open_cohort(place), archive)
    assert digest_of(archive) == digest
    assert verify_store(archive, deep=True) == []


def test_what_is_committed_while_a_store_is_packed_is_not_in_the_archive(place, archive):
    cohort = open_cohort(place)
    add_slide(open_store(place), build_slide("D1"))
    pack_store(cohort, archive)
    assert set(open_cohort(archive).slides) == {"A1", "B1"}
    assert verify_store(archive, deep=True) == []


def test_an_archive_whose_files_have_no_date_is_verified_like_any(place, archive):
    """Some programs write month 0 of 1980, which is no date."""
    pack_store(open_cohort(place), archive)
    content = bytearray(archive.read_bytes())
    for signature, date in ((b"PK\x03\x04", 10), (b"PK\x01\x02", 12)):
        start = content.find(signature)
        while start >= 0:
            content[start + date : start + date + 4] = bytes(4)
            start = content.find(signature, start + 1)
    archive.write_bytes(content)
    with zipfile.ZipFile(archive) as packed:
        assert {entry.date_time for entry in packed.infolist()} == {(1980, 0, 0, 0, 0, 0)}
    assert verify_store(archive, deep=True) == []
    assert digest_of(archive) == digest_of(place)
