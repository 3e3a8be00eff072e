import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from spahgc.cli import cli
from spahgc.schema import SlideImageFile
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

PATIENTS = {"A1": "A", "A2": "A", "B1": None, "C1": "C"}


def put(store, folder, name, *, seed=0):
    """Put a slide of nine spots into a store, with an image but for C1."""
    generator = np.random.default_rng([seed, *name.encode()])
    pixels = generator.integers(0, 255, (500, 500, 3), dtype=np.uint8)
    slide = replace(build_slide(name, n_spots=9, seed=seed), patient=PATIENTS[name])
    if name != "C1":
        path = folder / f"{name}-{seed}.png"
        Image.fromarray(pixels).save(path)
        image = SlideImageFile(path=path, size=(500, 500), reader="Pillow")
        slide = replace(slide, image=image)
    add_slide(store, slide, replace_existing=True)
    vectors = generator.normal(size=(9, 16)).astype(np.float32)
    draft = EmbeddingDraft(
        open_cohort(store.path)[name], "lite0", fingerprint={"patch_um": 50.0}, size=16
    )
    for rows in draft.missing():
        draft.write(rows, vectors)
    draft.commit()


def fill(folder):
    store = create_store(folder / "data.zarr")
    for name in PATIENTS:
        put(store, folder, name)
    assert spahgc("index", "build", "--store", str(store.path)).exit_code == 0
    return store


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("template")).path.parent


@pytest.fixture
def lab(template, tmp_path, monkeypatch):
    """A copy of the store; its images lie where they were."""
    shutil.copytree(template / "data.zarr", tmp_path / "data.zarr")
    monkeypatch.chdir(tmp_path)
    return open_cohort(tmp_path / "data.zarr").store


def spahgc(*arguments):
    return CliRunner().invoke(cli, list(arguments), prog_name="spahgc")


def test_search_prints_a_table_and_draws_the_patches(lab, tmp_path):
    result = spahgc("index", "search", "--slide", "A1", "--spot", "1x2", "-k", "4")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("│") == 4 * 6
    assert "cosine distance" in result.stdout
    with Image.open(tmp_path / "neighbours-A1-1x2.png") as picture:
        assert picture.size[0] > 500
    assert "no patches of C1: it was ingested without an image" in (
        spahgc("index", "search", "--slide", "A1", "--spot", "0x0", "--only-slide", "C1").stderr
    )


def test_search_leaves_out_whom_it_is_told_to(lab):
    def slides(*rules):
        result = spahgc(
            "index", "search", "--slide", "A1", "--spot", "0x0", "-k", "99", "--json", *rules
        )
        assert result.exit_code == 0, result.output
        return {found["slide"] for found in json.loads(result.stdout)}

    assert slides() == {"A2", "B1", "C1"}
    assert slides("--other-patients") == {"B1", "C1"}
    assert slides("--exclude-patient", "C") == {"A2", "B1"}
    assert slides("--exclude-slide", "A2", "--exclude-slide", "C1") == {"B1"}
    assert slides("--only-slide", "C1", "--only-slide", "A1") == {"C1"}


def test_a_missing_image_is_told_and_the_table_printed_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    for image in tmp_path.glob("*.png"):
        image.unlink()
    result = spahgc("index", "search", "--slide", "A1", "--spot", "0x0", "--out", "out.png")
    assert result.exit_code == 0
    assert "its image is no longer at" in result.stderr
    assert "cosine distance" in result.stdout
    assert not (tmp_path / "out.png").exists()


def test_an_image_that_is_not_known_after_a_copy_is_told_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    assert spahgc("store", "copy", "data.zarr", "copy.zarr").exit_code == 0
    asked = ("--slide", "A1", "--spot", "0x0", "--out", "out.png")
    result = spahgc("index", "search", "--store", "copy.zarr", *asked)
    assert result.exit_code == 0, result.output
    assert "no patches of A1: where its image A1-0.png lies is not known here" in result.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--slide", "A1", "--spot", "9x9"], "has no spot '9x9'; it has 9, as 0x0"),
        (["search", "--slide", "Z1", "--spot", "0x0"], "has no slide 'Z1'"),
        (["search", "--name", "none", "--slide", "A1", "--spot", "0x0"], "no index 'none'"),
        (
            ["search", "--slide", "A1", "--spot", "0x0", "--only-slide", "A1"],
            "no slide is left to answer for A1",
        ),
        (
            ["search", "--slide", "A1", "--spot", "0x0", "--exclude-patient", "a"],
            "no patient a to exclude",
        ),
        (["build", "--kind", "ivf"], "too few for `--kind ivf`"),
        (["build", "--metric", "l1", "--kind", "ivf"], "cannot be had for l1"),
        (["build", "--name", "../up"], "cannot name"),
        (["remove", "--name", "none"], "no index 'none'"),
        (["remove", "--slide", "Z1"], "has no slide Z1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_wishes_are_one_clear_line(lab, arguments, message):
    result = spahgc("index", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]


def test_info_says_what_is_stale_and_building_mends_it(lab, tmp_path):
    assert "36 spots of 4 slides (A1, A2, B1, C1), flat, cosine" in spahgc("index", "info").stdout
    put(lab, tmp_path, "B1", seed=5)
    assert "stale: slide B1 changed since" in spahgc("index", "info").stdout
    stale = json.loads(spahgc("index", "info", "--json").stdout)["lite0"]["stale"]
    assert list(stale) == ["B1"]
    assert spahgc("index", "build").exit_code == 0
    assert "stale" not in spahgc("index", "info").stdout


def test_indexes_come_and_go_by_name(lab):
    built = spahgc("index", "build", "--name", "plain", "--metric", "l1", "--slide", "A1", "--json")
    assert json.loads(built.stdout)["plain"]["metric"] == "l1"
    assert list(json.loads(spahgc("index", "info", "--json").stdout)) == ["lite0", "plain"]
    found = spahgc("index", "search", "--name", "plain", "--slide", "C1", "--spot", "0x0")
    assert "l1 distance" in found.stdout
    assert "recall@10 1.0000" in spahgc("index", "recall").stdout
    assert "(A2, B1, C1)" in spahgc("index", "remove", "--slide", "A1").stdout
    assert spahgc("index", "remove", "--name", "plain").exit_code == 0
    assert list(json.loads(spahgc("index", "info", "--json").stdout)) == ["lite0"]


def test_of_several_embeddings_each_has_its_index_and_one_name_is_refused(lab):
    draft = EmbeddingDraft(
        open_cohort(lab.path)["A1"], "wide", fingerprint={"patch_um": 90.0}, size=16
    )
    for rows in draft.missing():
        draft.write(rows, np.ones((9, 16), np.float32))
    draft.commit()
    built = json.loads(spahgc("index", "build", "--json").stdout)
    assert {name: list(record["slides"]) for name, record in built.items()} == {
        "lite0": list(PATIENTS),
        "wide": ["A1"],
    }
    assert "index wide: 9 spots of 1 slide (A1)" in spahgc("index", "info").stdout
    refused = spahgc("index", "build", "--name", "mine")
    assert refused.exit_code == 1
    assert "has embeddings lite0, wide; say with `--encoder`" in refused.stderr


def test_a_picture_of_neighbours_is_png_where_no_format_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    asked = ("index", "search", "--slide", "A1", "--spot", "0x0")
    assert "is no format of pictures" in spahgc(*asked, "--out", "a.b").stderr
    assert "'' names no file" in spahgc(*asked, "--out", "").stderr
    found = spahgc(*asked, "--out", "look")
    assert "drawn in look.png" in found.stdout
    assert (tmp_path / "look.png").is_file()
