"""A store of format 1, as it was written once, is read for ever; see make_format_1.py."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest

from spahgc.errors import FormatVersionError
from spahgc.index import ReferenceIndex
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.editing import compare_commits
from spahgc.store.opening import open_store
from spahgc.store.packing import pack_store
from spahgc.store.staging import add_slide
from spahgc.store.summary import summarise
from tests.conftest import build_slide, embed_slide

WRITTEN = Path(__file__).parent.parent / "data" / "format-1.zarr"
DIGEST = "dcb6e4f6eb20a8c92079422611c518203087b295f6ddd6bba09cdf05d57adf9c"


@pytest.fixture(params=["folder", "zip"])
def place(request, tmp_path):
    if request.param == "folder":
        return WRITTEN
    pack_store(open_cohort(WRITTEN), tmp_path / "format-1.zip")
    return tmp_path / "format-1.zip"


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(WRITTEN, tmp_path / "data.zarr")


def test_it_is_intact(place):
    assert verify_store(place, deep=True) == []
    assert summarise(open_store(place)).digest == f"sha256:{DIGEST}"


def test_the_measured_slide_is_as_it_was(place):
    slide = open_cohort(place)["A1"]
    assert slide.read_counts().toarray().tolist() == [
        [0, 1, 2],
        [3, 0, 70_000],
        [0, 0, 0],
        [5, 6, 7],
    ]
    assert slide.centers.tolist() == [[10.5, 20.0], [30.0, 20.0], [20.0, 40.25], [40.0, 40.0]]
    assert slide.read_embedding("lite0").tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]
    assert list(slide.spots.index) == ["AAAC-1", "AAAG-1", "AAAT-1", "AACA-1"]
    assert slide.spots.to_dict("list") == {
        "array_row": [0, 0, 1, 1],
        "array_col": [0, 2, 1, 3],
        "in_tissue": [True, True, False, True],
        "tissue_fraction": [1.0, 0.5, 0.0, 0.25],
        "label": ["tumour", "stroma", "stroma", "tumour"],
    }
    assert list(slide.genes.index) == ["ENSG00000141510", "ENSG00000111640", "ENSG00000075624"]
    assert list(slide.genes["symbol"]) == ["TP53", "GAPDH", "ACTB"]
    picture = slide.read_thumbnail("hires")
    assert picture.scale == 0.1
    assert picture.pixels.tolist() == np.arange(60).reshape(4, 5, 3).tolist()
    assert slide.read_thumbnail("lowres") is None


def test_what_is_known_of_the_measured_slide_is_as_it_was(place):
    slide = open_cohort(place)["A1"]
    known = {
        "slide": "A1",
        "platform": "visium",
        "patient": "7",
        "section": "1",
        "tissue": "breast",
        "licence": "CC0-1.0",
        "microns_per_pixel": 0.5,
        "microns_per_pixel_sources": {"pitch": 0.5},
        "spot_diameter_um": 55.0,
        "pitch_um": 100.0,
        "image": None,
        "findings": [],
    }
    assert known.items() <= slide.record.items()
    assert slide.entry.licences == {"lite0": "for trying only"}
    record = slide.embedding_record("lite0")
    assert record["fingerprint"] == {"architecture": "none", "weights": "0" * 64}


def test_the_slide_of_an_image_alone_is_as_it_was(place):
    slide = open_cohort(place)["B1"]
    assert slide.read_counts().shape == (2, 0)
    assert not slide.has_expression
    assert slide.patient is None
    assert slide.record["microns_per_pixel"] is None
    assert np.array_equal(
        slide.read_embedding("lite0"), np.array([[0.6, 0.8], [-0.8, 0.6]], np.float32)
    )


def test_its_index_answers_as_it_did(place):
    index = ReferenceIndex.open(open_cohort(place), embedding="lite0")
    asked = np.array([[1, 0.1]], np.float32)
    found = index.search(asked, k=2, only_slides=["A1", "B1"], asked_by=None)
    names = [found.slides[slide] for slide in found.slide_SK[0]]
    assert list(zip(names, found.spot_SK[0].tolist(), strict=True)) == [("A1", 0), ("B1", 0)]


def test_its_history_is_as_it_was(copy):
    assert [commit.message for commit in open_store(copy).history()] == [
        "set licence of A1",
        "index lite0",
        "embed B1 with lite0",
        "ingest B1",
        "embed A1 with lite0",
        "ingest A1",
    ]


def test_anndata_reads_it():
    table = anndata.read_zarr(WRITTEN / "tables" / "A1")
    assert table.X.toarray()[1, 2] == 70_000
    assert table.obsm["lite0"].shape == (4, 2)


SPELLED = {"lite0": "<embedding>", "A1": "<slide>", "hires": "{hires,lowres}", "label": "<label>"}


def test_the_page_on_the_format_names_every_array_of_it():
    page = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text(encoding="utf-8")
    group = json.loads((WRITTEN / "tables" / "A1" / "zarr.json").read_bytes())
    members = group["consolidated_metadata"]["metadata"]
    arrays = [key for key, member in members.items() if member["node_type"] == "array"]
    assert len(arrays) > 15
    for key in arrays:
        parts = [SPELLED.get(part, part) for part in key.split("/")]
        spelled = "/".join(parts).replace("_hires_", "_{hires,lowres}_")
        assert f"`{spelled}`" in page, key


def test_todays_writer_goes_on_with_it(copy):
    store = open_store(copy)
    assert add_slide(store, build_slide("C1")) == "added"
    embed_slide(copy, "C1")
    assert list(open_cohort(copy).slides) == ["A1", "B1", "C1"]
    assert verify_store(copy, deep=True) == []


def test_a_copy_by_todays_program_holds_the_same(tmp_path):
    copy_store(open_source(WRITTEN, digest=f"sha256:{DIGEST}"), tmp_path / "copy.zarr")
    differences = compare_commits(open_store(WRITTEN).head, open_store(tmp_path / "copy.zarr").head)
    assert differences.is_none


def test_a_newer_format_is_refused_with_the_command_that_helps(copy):
    document = json.loads((copy / "zarr.json").read_bytes())
    document["attributes"]["spahgc"]["format"] = 2
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(FormatVersionError, match=r"has format 2.*pip install --upgrade spahgc"):
        open_store(copy)
