"""Promise 5: a store that somebody made to harm its readers is refused, and harms nobody."""

import io
import json
import os
import pickle
import struct
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from spahgc.cli import cli
from spahgc.errors import SpahgcError
from spahgc.index import ReferenceIndex
from spahgc.store import layout
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store, open_store
from spahgc.store.packing import pack_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide

SECRET = b"what no store may ever see"


class Trap:
    """Something that runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """What lies beside the store: a secret that must not be read, and nothing may be added."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    monkeypatch.chdir(folder)
    yield folder
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert (folder / "secret").read_bytes() == SECRET


@pytest.fixture
def place(tmp_path, outside):
    place = tmp_path / "data.zarr"
    add_slide(create_store(place), build_slide("A1", n_spots=40))
    embed_slide(place, "A1")
    ReferenceIndex.build(open_cohort(place), embedding="lite0")
    return place


def use(place, tmp_path):
    """Do all that anybody does with a store, and give what came of it."""
    commands = {
        "ls": ["ls"],
        "info": ["info"],
        "show": ["show", "A1"],
        "verify": ["verify", "--deep"],
        "pack": ["pack", str(place), str(tmp_path / "packed.zip")],
        "copy": ["copy", str(place), str(tmp_path / "copy.zarr")],
        "merge": ["merge", str(place), "--into", str(tmp_path / "merged.zarr")],
        "h5ad": ["export", "--all", "--to", "h5ad", str(tmp_path / "export")],
        "spatialdata": ["export", "--all", "--to", "spatialdata", str(tmp_path / "export")],
        "remove": ["remove", "Z9"],
        "gc": ["gc", "--older-than-hours", "0"],
    }
    told = {}
    for name, arguments in commands.items():
        own = [] if str(place) in arguments else ["--store", str(place)]
        told[name] = CliRunner().invoke(cli, ["store", *arguments, *own])
        error = told[name].exception
        assert error is None or isinstance(error, SystemExit), (name, repr(error))
        assert SECRET.decode() not in told[name].output
    return told


def read_everything(place):
    cohort = open_cohort(place)
    for slide in cohort.slides.values():
        slide.read_counts()
        slide.read_embedding("lite0")
        _ = slide.spots, slide.genes, slide.centers, slide.record
        slide.read_thumbnail()
    index = ReferenceIndex.open(cohort, embedding="lite0")
    index.search(np.ones((1, 4), np.float32), k=1, only_slides=["A1"], asked_by=None)


def check_refused(place, tmp_path):
    told = use(place, tmp_path)
    assert told["verify"].exit_code == 1, told["verify"].output
    with pytest.raises(SpahgcError) as error:
        read_everything(place)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def forge_entry(place, **changes):
    """Commit an entry of slide A1 as no writer of ours would."""
    store = open_store(place)
    entry = {**asdict(store.head.slides["A1"]), **changes}
    forge_page(store, {"A1": entry})


def forge_page(store, slides, page=None):
    head = store.head
    (name,) = head.catalogue.pages if page is None else (page,)
    digest = store.put_document(layout.page_key, {"slides": slides})
    record = replace(next(iter(head.catalogue.pages.values())), sha256=digest)
    forge_commit(store, {name: record})


def forge_commit(store, pages, **changes):
    head = replace(store.head, number=store.head.number + 1, **changes)
    store.location.put(layout.commit_key(head.number), head.serialise(pages))


def forge_manifest(place, change):
    """Commit a manifest as no writer of ours would, digests and all."""
    store = open_store(place)
    document = store.read_document(layout.manifest_key, store.head.slides["A1"].manifest)
    change(document)
    digest = store.put_document(layout.manifest_key, document)
    forge_entry(place, manifest=digest)


ENTRIES = {
    "a group above the store": {"group": "tables/../../outside"},
    "a group elsewhere": {"group": "/etc"},
    "a group that is none of a slide": {"group": "commits/A1"},
    "a group on another drive": {"group": "tables/C:\\temp"},
    "a manifest elsewhere": {"manifest": "../../outside/secret"},
    "a manifest of another kind": {"manifest": 7},
    "an embedding above the store": {"encoders": {"../../x": "0" * 64}},
    "no embeddings": {"encoders": None},
    "a list of embeddings": {"encoders": ["lite0"]},
    "spots without end": {"n_spots": float("inf")},
    "spots that are no number": {"n_spots": float("nan")},
    "fewer than no spots": {"n_spots": -1},
    "more spots than there are": {"n_spots": 10**12},
    "spots in words": {"n_spots": "forty"},
    "a patient that is no word": {"patient": {"a": 1}},
    "a platform that is no word": {"platform": ["st"]},
    "a scale that is no number": {"microns_per_pixel": "wide"},
    "facts that are no words": {"about": {"tissue": {"deep": 1}}},
    "notes that are no words": {"licences": {"lite0": [1]}},
    "a field nobody knows": {"surprise": 1},
}


@pytest.mark.parametrize("changes", ENTRIES.values(), ids=list(ENTRIES))
def test_an_entry_that_no_writer_makes_is_refused(place, tmp_path, changes):
    forge_entry(place, **changes)
    check_refused(place, tmp_path)


def test_a_slide_of_a_foreign_name_is_refused(place, tmp_path):
    store = open_store(place)
    entry = asdict(store.head.slides["A1"])
    for name in ("../A1", "a/b", "", "con", "x" * 200):
        from spahgc.store.entries import page_of

        forge_page(store, {name: entry}, page=page_of(name))
        with pytest.raises(SpahgcError):
            open_cohort(place).slides  # noqa: B018
    use(place, tmp_path)


def set_array(key, **changes):
    def change(document):
        document["documents"][key] |= changes

    return change


def set_codecs(codecs):
    return set_array("X/data", codecs=codecs)


def rename_file(old, new):
    def change(document):
        document["files"][new] = document["files"].pop(old)

    return change


def set_attributes(key, **attributes):
    def change(document):
        document["documents"][key]["attributes"] = attributes

    return change


PICKLE = [{"name": "numcodecs.pickle", "configuration": {"id": "pickle"}}]
MANIFESTS = {
    "pickled objects": set_array("obs/_index", codecs=PICKLE),
    "objects": set_array("obs/_index", data_type="object"),
    "an unknown codec": set_codecs([{"name": "bytes"}, {"name": "surprise"}]),
    "a codec without a name": set_codecs([{}]),
    "codecs that are no list": set_codecs(7),
    "codecs within codecs within codecs": set_codecs([{"name": "sharding_indexed"}]),
    "a file above the store": rename_file("X/data/c/0", "../../../outside/secret"),
    "a file from the root": rename_file("X/data/c/0", "/etc/passwd"),
    "a file of a backslash": rename_file("X/data/c/0", "X\\data"),
    "a size of no number": lambda d: d["files"]["X/data/c/0"].update(size="big"),
    "a size without end": lambda d: d["files"]["X/data/c/0"].update(size=float("inf")),
    "no sizes": lambda d: d.update(files=None),
    "files that are a list": lambda d: d.update(files=[1]),
    "documents that are a list": lambda d: d.update(documents=[1]),
    "a document of nothing": lambda d: d["documents"].update({"X/data": None}),
    "an absurd shape": set_array("X/data", shape=[2**62]),
    "an absurd shape of one chunk": set_array(
        "X/data",
        shape=[2**60],
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [2**60]}},
    ),
    "a shape below nothing": set_array("X/data", shape=[-1]),
    "a shape in words": set_array("X/data", shape=["many"]),
    "a shape without end": set_array("X/data", shape=[float("inf")]),
    "chunks of nothing": set_array(
        "X/data", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0]}}
    ),
    "centers of other spots": set_array("obsm/spatial", shape=[3, 2]),
    "an element of a kind nobody knows": set_attributes("X", **{"encoding-type": "surprise"}),
    "an element of another kind": set_attributes("X", **{"encoding-type": "dataframe"}),
    "counts of a shape of words": set_attributes(
        "X", **{"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": ["a", "b"]}
    ),
    "counts of an absurd shape": set_attributes(
        "X", **{"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [2**62] * 2}
    ),
    "a table without columns": set_attributes(
        "obs", **{"encoding-type": "dataframe", "encoding-version": "0.2.0"}
    ),
    "a table with a column elsewhere": set_attributes(
        "obs",
        **{
            "encoding-type": "dataframe",
            "encoding-version": "0.2.0",
            "_index": "../../../outside/secret",
            "column-order": ["../../X/data"],
        },
    ),
    "an embedding without a record": set_attributes("obsm/lite0"),
    "an embedding with a record of nothing": set_attributes("obsm/lite0", spahgc=None),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=list(MANIFESTS))
def test_a_manifest_that_no_writer_makes_is_refused(place, tmp_path, change):
    forge_manifest(place, change)
    use(place, tmp_path)
    with pytest.raises(SpahgcError) as error:
        read_everything(place)
    assert "\n" not in str(error.value)
    assert SECRET.decode() not in str(error.value)


def put(place, key, content):
    target = Path(place) / key
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


DOCUMENTS = {
    "a web page": b"<!DOCTYPE html><html><body>Please log in</body></html>",
    "nothing": b"",
    "no object": b"[]",
    "a number": b"7",
    "null": b"null",
    "lists within lists": b"[" * 100_000,
    "objects within objects": b'{"attributes":' * 100_000,
    "a number without end": b'{"number": 1e999, "attributes": {"spahgc": {"format": 1e999}}}',
    "a number of many digits": b'{"number": ' + b"9" * 10_000 + b"}",
    "no text": bytes(range(256)),
    "a pickle": pickle.dumps(Trap()),
}


@pytest.mark.parametrize("content", DOCUMENTS.values(), ids=list(DOCUMENTS))
@pytest.mark.parametrize("what", ["zarr.json", "newest", "commit", "page", "manifest"])
def test_a_document_that_is_none_is_refused(place, tmp_path, what, content):
    store = open_store(place)
    head = store.head
    (page,) = head.catalogue.pages.values()
    key = {
        "zarr.json": "zarr.json",
        "newest": layout.NEWEST,
        "commit": layout.commit_key(head.number),
        "page": layout.page_key(page.sha256),
        "manifest": layout.manifest_key(head.slides["A1"].manifest),
    }[what]
    put(place, key, content)
    check_refused(place, tmp_path)


@pytest.mark.parametrize("content", DOCUMENTS.values(), ids=list(DOCUMENTS))
def test_a_document_of_the_right_digest_that_is_none_is_refused(place, tmp_path, content):
    store = open_store(place)
    digest = store.put_blob(layout.manifest_key, content)
    forge_entry(place, manifest=digest)
    check_refused(place, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"made_at": "yesterday"},
        {"made_at": None},
        {"indexes": {"../../x": "0" * 64}},
        {"indexes": {"lite0": "../../../outside/secret"}},
        {"message": {"a": 1}},
    ],
    ids=str,
)
def test_a_commit_that_no_writer_makes_is_refused(place, tmp_path, changes):
    store = open_store(place)
    forge_commit(store, store.head.catalogue.pages, **changes)
    check_refused(place, tmp_path)


def test_an_index_of_pickles_is_refused(place, tmp_path):
    store = open_store(place)
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    part = store.put_blob(lambda digest: f"indexes/lite0/{digest}.npy", buffer.getvalue())
    record = store.read_document(
        lambda digest: layout.index_key("lite0", digest), store.head.indexes["lite0"]
    )
    record |= {"kind": "ivf", "arrays": {"centroids": part}, "settings": {"n_lists": 1}}
    digest = store.put_document(lambda digest: layout.index_key("lite0", digest), record)
    forge_commit(store, store.head.catalogue.pages, indexes={"lite0": digest})
    use(place, tmp_path)
    with pytest.raises(SpahgcError):
        read_everything(place)


LINKS = {
    "a file": "tables/A1/X/data/c/0",
    "a folder": "tables/A1/X",
    "a slide": "tables/A1",
    "all slides": "tables",
    "the root document": "zarr.json",
    "the commits": "commits",
    "a manifest": None,
}


@pytest.mark.parametrize("key", LINKS.values(), ids=list(LINKS))
def test_a_link_out_of_the_store_is_not_followed(place, tmp_path, outside, key):
    if key is None:
        key = layout.manifest_key(open_store(place).head.slides["A1"].manifest)
    moved = tmp_path / "elsewhere"
    (place / key).rename(moved)
    (place / key).symlink_to(moved)
    before = sorted((p, p.stat().st_size) for p in tmp_path.glob("elsewhere/**/*"))
    check_refused(place, tmp_path)
    assert sorted((p, p.stat().st_size) for p in tmp_path.glob("elsewhere/**/*")) == before
    assert moved.exists()


def test_nothing_is_written_through_a_link(place, tmp_path, outside):
    (place / "staging").rename(tmp_path / "old")
    (place / "staging").symlink_to(outside)
    with pytest.raises(SpahgcError):
        add_slide(open_store(place), build_slide("B1"))


def test_gc_removes_nothing_through_a_link(place, outside):
    (place / "staging" / "old").symlink_to(outside)
    (place / "tables" / "Z1").symlink_to(outside)
    CliRunner().invoke(cli, ["store", "gc", str(place), "--older-than-hours", "0"])


@pytest.fixture
def packed(place, tmp_path):
    pack_store(open_cohort(place), tmp_path / "data.zip")
    return tmp_path / "data.zip"


def repack(packed, change):
    """Write the archive again, each entry as ``change`` wants it."""
    with zipfile.ZipFile(packed) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(packed, "w") as archive:
        change(archive, entries)


def add_all(archive, entries):
    for entry, content in entries:
        archive.writestr(entry, content)


def slip(archive, entries):
    add_all(archive, entries)
    archive.writestr("../../outside/new", b"slipped")


def slip_from_the_root(archive, entries):
    add_all(archive, entries)
    archive.writestr("/tmp/new", b"slipped")  # noqa: S108  a name only


def link(archive, entries):
    add_all(archive, entries)
    entry = zipfile.ZipInfo("tables/A1/link")
    entry.external_attr = 0o120777 << 16
    archive.writestr(entry, b"../../../outside/secret")


def bomb(archive, entries):
    add_all(archive, entries)
    archive.writestr("tables/A1/bomb", bytes(50_000_000), zipfile.ZIP_DEFLATED)


def twice(archive, entries):
    with pytest.warns(UserWarning, match="Duplicate name"):
        add_all(archive, [*entries, entries[0]])


ARCHIVES = {
    "a name above the store": slip,
    "a name from the root": slip_from_the_root,
    "a bomb": bomb,
    "a name twice": twice,
}


@pytest.mark.parametrize("change", ARCHIVES.values(), ids=list(ARCHIVES))
def test_an_archive_that_no_packer_makes_is_refused(packed, tmp_path, change):
    repack(packed, change)
    check_refused(packed, tmp_path)


def test_a_link_in_an_archive_is_never_made(packed, tmp_path):
    repack(packed, link)
    use(packed, tmp_path)
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("size", [2**31, 2**32 - 2])
def test_an_archive_that_claims_more_than_it_holds_is_refused(packed, tmp_path, size):
    content = bytearray(packed.read_bytes())
    start = content.find(b"PK\x01\x02")
    content[start + 20 : start + 28] = struct.pack("<II", size, size)
    packed.write_bytes(content)
    check_refused(packed, tmp_path)


def test_an_archive_whose_entries_share_their_bytes_is_refused(packed, tmp_path):
    """Entries over each other unpack to more than there is: a bomb without compression."""
    content = bytearray(packed.read_bytes())
    starts = [n for n in range(len(content)) if content[n : n + 4] == b"PK\x01\x02"]
    largest = max(starts, key=lambda n: struct.unpack_from("<I", content, n + 24))
    shared = content[largest + 16 : largest + 28], content[largest + 42 : largest + 46]
    for start in starts:
        content[start + 16 : start + 28], content[start + 42 : start + 46] = shared
    packed.write_bytes(content)
    check_refused(packed, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_an_archive_cut_short_is_refused(packed, tmp_path, share):
    content = packed.read_bytes()
    packed.write_bytes(content[: int(share * len(content))])
    check_refused(packed, tmp_path)


def test_an_archive_of_something_else_is_refused(outside, tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no store")
    check_refused(path, tmp_path)


def test_a_store_of_a_newer_format_is_refused(place, tmp_path):
    document = json.loads((place / "zarr.json").read_bytes())
    document["attributes"]["spahgc"]["format"] = 2
    put(place, "zarr.json", json.dumps(document).encode())
    told = use(place, tmp_path)
    assert "has format 2, this spahgc reads up to 1; upgrade" in told["ls"].stderr
