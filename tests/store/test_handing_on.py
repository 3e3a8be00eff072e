"""What is handed on tells nobody where files lay or who wrote them, unless that is asked for."""

import getpass
import json
import shutil
import socket
import zipfile
from dataclasses import replace

import numcodecs
import numpy as np
import pytest
from PIL import Image

from spahgc.errors import MismatchError, MissingError
from spahgc.schema import Finding, SlideImageFile
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, merge_stores, open_source
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.editing import compare_commits, set_facts
from spahgc.store.export import export_slide
from spahgc.store.handing_on import name_of_file, without_folders
from spahgc.store.opening import create_store, open_store
from spahgc.store.packing import pack_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

FOLDER = "Doe, Jane (1950)"
"""Name of a folder, as a clinic may give it."""


def secret_slide(folder, name="A1"):
    """Build a slide that quotes the path of its image wherever a slide can."""
    path = folder / FOLDER / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((9, 8, 3), len(name), np.uint8)).save(path)
    slide = build_slide(name)
    findings = [
        Finding(kind="file", text=f"image: {path} (as stated)"),
        Finding(kind="warning", text=f"{path} is odd (left aside: {path.parent}/b.png, c.png)"),
        Finding(kind="check", text="0 / 1 of 5 patches of 77 / 154 µm leave the image"),
    ]
    reader = f"openslide, through the tiled copy {path.parent}/.cache/copy.tif"
    return replace(
        slide,
        image=SlideImageFile(path=path, size=(8, 9), reader=reader),
        findings=tuple(findings),
        microns_per_pixel_sources={str(path): 0.5},
        tissue="DCIS/IDC",
    )


def embed(place, name, embedding, notes):
    draft = EmbeddingDraft(
        open_cohort(place)[name], embedding, fingerprint={"w": "random"}, size=3, notes=notes
    )
    for rows in draft.missing():
        draft.write(rows, np.ones((rows.stop - rows.start, 3), np.float32))
    draft.commit()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    place = tmp_path_factory.mktemp("template") / "data.zarr"
    add_slide(create_store(place), secret_slide(place.parent))
    weights = {"source": f"file {place.parent / FOLDER}/weights.pt", "licence": "CC-BY/NC"}
    embed(place, "A1", "plugin", weights)
    embed(place, "A1", "uni", {"source": "https://huggingface.co/MahmoodLab/UNI at main"})
    add_slide(create_store(place), build_slide("B1"))
    return place


@pytest.fixture
def source(template, tmp_path):
    return shutil.copytree(template, tmp_path / "source.zarr")


def digest_of(place):
    return open_cohort(place).commit.digest()


def contents(place):
    """Give the bytes of every file in a folder or an archive, unpacked where they are packed."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place) as file:
            found = {name: file.read(name) for name in file.namelist()}
    else:
        found = {str(p): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    packed = [raw for key, raw in found.items() if key.endswith("uns/spahgc/c")]
    assert packed
    return [*found.values(), *(bytes(numcodecs.Blosc().decode(raw[:-4])) for raw in packed)]


def tells(place):
    """List what a store tells that it should not."""
    secrets = [FOLDER, "Jane", f"{getpass.getuser()}@", f"@{socket.gethostname()}"]
    everything = contents(place)
    return [secret for secret in secrets if any(secret.encode() in raw for raw in everything)]


def test_the_store_itself_tells_all(source):
    assert len(tells(source)) == 4


@pytest.mark.parametrize("how", ["copy", "pack", "merge", "unpack"])
def test_no_path_user_or_host_is_handed_on(source, tmp_path, how):
    target = tmp_path / "handed.zarr"
    if how == "copy":
        copy_store(open_source(source), target)
    elif how == "merge":
        merge_stores([open_source(source)], target)
    elif how == "pack":
        target = tmp_path / "handed.zip"
        pack_store(open_source(source), target)
    else:
        pack_store(open_source(source), tmp_path / "whole.zip", keep_paths=True)
        assert len(tells(tmp_path / "whole.zip")) == 4
        copy_store(open_source(tmp_path / "whole.zip"), target)
    assert tells(target) == []
    assert verify_store(target, deep=True) == []
    assert compare_commits(open_cohort(source).commit, open_cohort(target).commit).is_none
    handed, ours = open_cohort(target)["A1"], open_cohort(source)["A1"]
    assert handed.entry.image == handed.record["image"]["path"] == "A1.png"
    assert handed.record["image"]["sha256"] == ours.record["image"]["sha256"]
    assert handed.record["image"]["reader"] == "openslide"
    assert [finding["text"] for finding in handed.record["findings"]] == [
        "image: A1.png (as stated)",
        "b.png, c.png)",
        "0 / 1 of 5 patches of 77 / 154 µm leave the image",
    ]
    assert handed.record["microns_per_pixel_sources"] == {"A1.png": 0.5}
    assert handed.record["tissue"] == "DCIS/IDC"
    assert handed.embedding_record("plugin")["notes"] == {
        "source": "weights.pt",
        "licence": "CC-BY/NC",
    }
    assert handed.embedding_record("uni") == ours.embedding_record("uni")
    assert (handed.read_embedding("plugin") == ours.read_embedding("plugin")).all()
    assert (handed.read_counts() != ours.read_counts()).nnz == 0


@pytest.mark.parametrize("is_bucket", [False, True], ids=["folder", "s3"])
def test_a_second_copy_brings_nothing(source, tmp_path, is_bucket, request):
    place = request.getfixturevalue("s3_place") if is_bucket else tmp_path / "copy.zarr"
    copy_store(open_source(source), place)
    commit = open_store(place).head.number
    again = copy_store(open_source(source), place)
    assert (again.n_bytes, again.outcomes) == (0, {"A1": "kept", "B1": "kept"})
    assert open_store(place).head.number == commit
    assert verify_store(place, deep=True) == []


def test_copies_of_one_store_and_copies_of_copies_have_one_digest(source, tmp_path):
    """One that grew embedding by embedding too, or went through an archive."""
    places = [tmp_path / f"{n}.zarr" for n in range(4)]
    copy_store(open_source(source), places[0])
    copy_store(open_source(places[0]), places[1])
    copy_store(open_source(source), places[2], encoders=["uni"])
    grown = copy_store(open_source(source), places[2])
    assert grown.outcomes["A1"] == "grown"
    archive = tmp_path / "packed.zip"
    pack_store(open_source(source), archive)
    copy_store(open_source(archive, digest=digest_of(places[0])), places[3])
    assert len({digest_of(place) for place in [*places, archive]}) == 1
    assert digest_of(source) != digest_of(places[0])
    with pytest.raises(MismatchError, match="nothing was copied"):
        open_source(archive, digest=digest_of(source))


def test_what_a_copy_reports_is_what_it_brought(source, tmp_path):
    told = []
    report = copy_store(open_source(source), tmp_path / "copy.zarr", advance=told.append)
    entries = open_cohort(tmp_path / "copy.zarr").commit.slides
    assert report.n_bytes == sum(told) == sum(entry.n_bytes for entry in entries.values())


def test_paths_users_and_hosts_are_kept_where_that_is_asked_for(source, tmp_path):
    copy_store(open_source(source), tmp_path / "copy.zarr", keep_paths=True)
    pack_store(open_source(source), tmp_path / "packed.zip", keep_paths=True)
    assert digest_of(tmp_path / "copy.zarr") == digest_of(tmp_path / "packed.zip")
    assert digest_of(tmp_path / "copy.zarr") == digest_of(source)
    assert len(tells(tmp_path / "packed.zip")) == 4
    user = f"{getpass.getuser()}@{socket.gethostname()}"
    assert open_store(tmp_path / "copy.zarr").head.made_by == user


def test_the_history_of_a_packed_store_stays_readable(source, tmp_path):
    pack_store(open_source(source), tmp_path / "packed.zip")
    before, after = (
        list(open_store(source).history()),
        list(open_store(tmp_path / "packed.zip").history()),
    )
    assert [commit.message for commit in after] == [commit.message for commit in before]
    assert {commit.made_by for commit in after} == {""}


@pytest.mark.parametrize("to", ["h5ad", "spatialdata"])
def test_an_exported_slide_tells_no_path(source, tmp_path, to):
    slide = open_cohort(source)["A1"]
    for keep_paths, expected in ((False, "A1.png"), (True, slide.entry.image)):
        place = export_slide(
            slide, tmp_path / f"{keep_paths}", to=to, overwrite=True, keep_paths=keep_paths
        )
        record = read_exported(place, to)
        assert record["image"]["path"] == expected
        assert (FOLDER in json.dumps(record)) is keep_paths


def read_exported(place, to):
    import anndata

    table = anndata.read_h5ad(place) if to == "h5ad" else anndata.read_zarr(place / "tables/table")
    return json.loads(table.uns["spahgc"])


def test_where_the_image_of_a_copy_lies_can_be_told(source, tmp_path):
    copy = tmp_path / "copy.zarr"
    copy_store(open_source(source), copy)
    assert open_cohort(copy)["A1"].image_path is None
    image = open_cohort(source)["A1"].image_path
    with pytest.raises(MissingError, match=r"image=nowhere\.png: no such file"):
        set_facts(open_store(copy), "A1", {"image": "nowhere.png"})
    other = tmp_path / "other.png"
    Image.new("RGB", (8, 9)).save(other)
    with pytest.raises(MismatchError, match=r"other\.png is not the image that slide A1 was"):
        set_facts(open_store(copy), "A1", {"image": str(other)})
    with pytest.raises(MissingError, match="slide B1 was ingested without an image"):
        set_facts(open_store(copy), "B1", {"image": str(image)})
    mine = shutil.copyfile(image, tmp_path / "mine.png")
    set_facts(open_store(copy), "A1", {"image": str(mine)})
    told = open_cohort(copy)["A1"]
    assert told.image_path == mine
    assert told.record["image"]["path"] == str(mine)
    assert verify_store(copy, deep=True) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("counts: C2.tsv.gz", "counts: C2.tsv.gz"),
        ("image: /data/Jane Doe/C2.jpg", "image: C2.jpg"),
        ("image: C:\\data\\Jane Doe\\C2.jpg (as stated)", "image: C2.jpg (as stated)"),
        ("image: ../Doe, Jane/C2.jpg", "image: C2.jpg"),
        ("~/Jane/C2.jpg and /data/Jane Doe/C3.jpg differ", "C3.jpg differ"),
        ("the folder /data/Jane Doe/ is odd", " is odd"),
        ("0 / 1 of 5 patches of 77 / 154 µm", "0 / 1 of 5 patches of 77 / 154 µm"),
        ("counts: layers/counts of raw/X", "counts: layers/counts of raw/X"),
        ("https://huggingface.co/owner/name at 1a2b", "https://huggingface.co/owner/name at 1a2b"),
    ],
)
def test_of_a_path_in_a_sentence_the_files_name_is_left(text, expected):
    assert without_folders(text) == expected
    assert without_folders(expected) == expected


def test_the_name_of_a_file_is_the_same_on_every_system():
    assert {name_of_file(p) for p in ("/a/b c/x.tif", "C:\\b c\\x.tif", "x.tif", "a/x.tif/")} == {
        "x.tif"
    }
