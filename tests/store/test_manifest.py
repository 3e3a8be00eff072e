import json

import numpy as np
import pytest
import zarr

from spahgc.errors import DamagedStoreError
from spahgc.store.committed import open_group
from spahgc.store.locations.folder import FolderLocation
from spahgc.store.manifest import Manifest


@pytest.fixture
def folder(tmp_path):
    """A group with an array of three chunks, and a group in it."""
    folder = tmp_path / "A1"
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(folder, mode="w-", zarr_format=3)
        array = group.create_array("X", shape=(6,), dtype="i4", chunks=(2,))
        array[:] = np.arange(6)
        group.create_group("obsm").attrs["a"] = 1
    return folder


@pytest.fixture
def place(folder):
    return FolderLocation(folder.parent)


@pytest.fixture
def manifest(place):
    return Manifest.of_group(place, "A1", attributes={"kind": "slide"})


@pytest.fixture
def array_folder(tmp_path):
    folder = tmp_path / "new"
    zarr.create_array(folder, shape=(2,), dtype="f4", zarr_format=3)[:] = [1, 2]
    return folder


def test_a_manifest_lists_every_file_but_the_groups_own_document(place, folder, manifest):
    assert set(manifest.files) == {
        "X/zarr.json",
        "X/c/0",
        "X/c/1",
        "X/c/2",
        "obsm/zarr.json",
    }
    assert set(manifest.documents) == {"X", "obsm"}
    assert manifest.files["X/c/1"].size == (folder / "X/c/1").stat().st_size


def test_a_manifest_survives_being_spelled_as_json(manifest):
    assert Manifest.parse(json.loads(json.dumps(manifest.serialise()))) == manifest


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"attributes": {}, "documents": {}},
        {"attributes": {}, "documents": {}, "files": {"a": {"size": 1}}},
        {"attributes": {}, "documents": {}, "files": []},
    ],
    ids=["empty", "no files", "no digest", "a list"],
)
def test_a_document_that_is_no_manifest_is_damage(document):
    with pytest.raises(DamagedStoreError, match="a manifest cannot be read"):
        Manifest.parse(document)


def test_a_group_is_opened_without_its_own_document(place, folder, manifest):
    (folder / "zarr.json").unlink()
    group = open_group(place, "A1", manifest)
    assert group.attrs["kind"] == "slide"
    assert group["obsm"].attrs["a"] == 1
    assert np.array_equal(group["X"][:], np.arange(6))


def test_a_group_opened_by_its_manifest_is_read_only(place, folder, manifest):
    with pytest.raises(ValueError, match="read-only"):
        open_group(place, "A1", manifest)["X"][:] = 0


def test_files_nobody_committed_are_out_of_sight(place, folder, manifest):
    zarr.open_group(folder).create_array("Y", shape=(2,), dtype="i4")[:] = 1
    assert "Y" not in open_group(place, "A1", manifest)
    (folder / "X/c/2").rename(folder / "X/c/3")
    with pytest.raises(DamagedStoreError, match="X/c/2 is missing"):
        open_group(place, "A1", manifest)["X"][:]


def test_a_missing_chunk_is_an_error_and_never_zeros(place, folder, manifest):
    (folder / "X/c/1").unlink()
    array = open_group(place, "A1", manifest)["X"]
    assert np.array_equal(array[:2], [0, 1])
    with pytest.raises(DamagedStoreError, match=r"X/c/1 is missing; .*verify --deep"):
        array[:]


def test_a_chunk_of_another_size_is_an_error(place, folder, manifest):
    path = folder / "X/c/0"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DamagedStoreError, match=f"has {size + 1} bytes instead of at most {size}"):
        open_group(place, "A1", manifest)["X"][:]


def test_a_link_in_the_place_of_a_chunk_is_never_followed(tmp_path, place, folder, manifest):
    path = folder / "X/c/0"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedStoreError, match="X/c/0 is refused: a link"):
        open_group(place, "A1", manifest)["X"][:]
    assert "X/c/0 is missing" in list(manifest.problems(place, "A1", deep=False))


def test_an_array_is_added_under_its_key(place, folder, manifest, array_folder):
    grown = manifest.with_member("obsm/lite0", Manifest.of_array(place, "new"))
    array_folder.rename(folder / "obsm/lite0")
    assert set(grown.documents) == {"X", "obsm", "obsm/lite0"}
    assert set(grown.files) - set(manifest.files) == {"obsm/lite0/zarr.json", "obsm/lite0/c/0"}
    assert np.array_equal(open_group(place, "A1", grown)["obsm/lite0"][:], [1, 2])
    assert "obsm/lite0" not in open_group(place, "A1", manifest)
    (folder / "zarr.json").write_bytes(grown.spell_group())
    assert list(grown.problems(place, "A1", deep=True)) == []


def test_the_group_document_lets_plain_zarr_open_all_members_at_once(place, folder, manifest):
    (folder / "zarr.json").write_bytes(manifest.spell_group())
    group = zarr.open_consolidated(folder, zarr_format=3)
    assert group.attrs["kind"] == "slide"
    assert np.array_equal(group["X"][:], np.arange(6))
    assert set(group.metadata.consolidated_metadata.metadata) == {"X", "obsm"}


def test_an_intact_group_has_no_problem(place, folder, manifest):
    (folder / "zarr.json").write_bytes(manifest.spell_group())
    assert list(manifest.problems(place, "A1", deep=True)) == []


def test_problems_name_each_file_and_what_is_wrong(place, folder, manifest):
    (folder / "zarr.json").write_bytes(manifest.spell_group())
    (folder / "X/c/0").unlink()
    size = (folder / "X/c/1").stat().st_size
    (folder / "X/c/1").write_bytes(b"")
    last = folder / "X/c/2"
    last.write_bytes(bytes(byte ^ 1 for byte in last.read_bytes()))
    shallow = ["X/c/0 is missing", f"X/c/1 has 0 bytes instead of {size}"]
    assert list(manifest.problems(place, "A1", deep=False)) == shallow
    assert list(manifest.problems(place, "A1", deep=True)) == [
        *shallow,
        "X/c/2 is damaged: its digest is another one",
    ]


def test_a_group_document_of_an_older_version_is_as_good(place, folder, manifest):
    text = json.dumps(manifest.group_document(), indent=1, sort_keys=True)
    (folder / "zarr.json").write_text(text)
    assert list(manifest.problems(place, "A1", deep=True)) == []


@pytest.mark.parametrize("text", [None, "{", "{}"], ids=["gone", "cut short", "empty"])
def test_a_group_document_that_says_something_else_is_a_problem(place, folder, manifest, text):
    (folder / "zarr.json").write_bytes(manifest.spell_group())
    assert manifest.is_derived(place, "A1")
    if text is None:
        (folder / "zarr.json").unlink()
    else:
        (folder / "zarr.json").write_text(text)
    assert not manifest.is_derived(place, "A1")
    (problem,) = manifest.problems(place, "A1", deep=False)
    assert "zarr.json is out of date; `spahgc store gc`" in problem
