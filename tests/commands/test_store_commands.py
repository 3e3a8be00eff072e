"""Every `spahgc store` command once as a user would type it, and its report for machines."""

import json
import shutil
from dataclasses import replace

import anndata
import pytest
from click.testing import CliRunner
from PIL import Image

from spahgc.cli import cli
from spahgc.schema import SlideImageFile
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from spahgc.store.words import is_plain
from tests.conftest import build_slide, embed_slide


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    place = tmp_path_factory.mktemp("template") / "data.zarr"
    for name in ("A1", "B1"):
        add_slide(create_store(place), build_slide(name))
    embed_slide(place, "A1")
    return place


@pytest.fixture
def lab(template, tmp_path, monkeypatch):
    """A folder to type in, with a store of the name that is looked for by default."""
    shutil.copytree(template, tmp_path / "data.zarr")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPAHGC_STORE", raising=False)
    return tmp_path


def spahgc_store(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, ["store", *arguments], prog_name="spahgc")
    assert result.exit_code == exit_code, result.output
    return result


def report(*arguments, exit_code=0):
    return json.loads(spahgc_store(*arguments, "--json", exit_code=exit_code).stdout)


def digest_of(place="data.zarr"):
    return f"sha256:{open_cohort(place).commit.digest()}"


def test_init_makes_an_empty_store_once(lab):
    made = {"store": str(lab / "new.zarr"), "commit": 0}
    assert report("init", "new.zarr") == report("init", "--store", "new.zarr") == made
    assert spahgc_store("init", "new.zarr").stdout == "new.zarr: an empty store\n"
    assert spahgc_store("init").stdout == "data.zarr: there already\n"
    spahgc_store("init", "mine.zarr", "--single-writer")
    assert open_store("mine.zarr").is_single_writer
    assert dict(open_cohort("new.zarr").slides) == {}


def test_info_sums_up(lab):
    told = report("info")
    assert told["digest"] == digest_of()
    assert (told["n_slides"], told["n_patients"], told["n_spots"]) == (2, 2, 10)
    assert (told["platforms"], told["embeddings"]) == ({"st": 2}, {"lite0": 1})
    assert told["n_bytes"] == sum(
        e.n_bytes for e in open_cohort("data.zarr").commit.slides.values()
    )
    shown = spahgc_store("info", "data.zarr").stdout
    assert digest_of() in shown
    assert "2 of 2 known patients" in shown


def test_ls_lists_every_slide(lab):
    told = report("ls")
    assert list(told) == ["A1", "B1"]
    assert (told["A1"]["patient"], told["A1"]["n_spots"]) == ("A", 5)
    assert list(told["A1"]["encoders"]) == ["lite0"]
    shown = spahgc_store("ls", "data.zarr").stdout
    assert shown.count("│ st ") == 2


def test_show_tells_all_of_one_slide(lab):
    told = report("show", "A1")
    assert told == json.loads(spahgc_store("show", "A1").stdout)
    assert (told["slide"], told["patient"], told["group"]) == ("A1", "A", "tables/A1")
    assert told["embeddings"]["lite0"]["fingerprint"] == {"weights": "random"}
    assert told["embeddings"]["lite0"]["licence"] is None


def test_verify_finds_damage_and_where_it_is(lab):
    assert report("verify") == report("verify", "--deep") == []
    assert "every committed file is intact" in spahgc_store("verify", "--deep").stdout
    part = lab / "data.zarr/tables/B1/X/data/c/0"
    part.write_bytes(bytes(len(part.read_bytes())))
    assert report("verify") == []
    (problem,) = report("verify", "--deep", exit_code=1)
    assert problem["owner"] == "slide B1"
    assert "X/data/c/0" in problem["text"]
    shown = spahgc_store("verify", "--deep", exit_code=1)
    assert shown.stdout.startswith("slide B1: ")
    assert shown.stderr.splitlines()[-1] == "Error: data.zarr: 1 problem(s)"


def test_copy_pushes_and_says_what_binds_it(lab):
    spahgc_store("set", "A1", "lite0.licence=no redistribution")
    result = spahgc_store("copy", "data.zarr", "copy.zarr", "--digest", digest_of(), "--json")
    told = json.loads(result.stdout)
    brought = told["sources"]["data.zarr"]
    assert told["target"] == "copy.zarr"
    assert brought["outcomes"] == {"A1": "copied", "B1": "copied"}
    assert brought["licences"] == {"lite0": "no redistribution"}
    assert result.stderr == "note: the embeddings lite0 are bound: no redistribution\n"
    assert digest_of("copy.zarr") == digest_of()
    again = spahgc_store("copy", "data.zarr", "copy.zarr")
    assert again.stdout == "A1: kept\nB1: kept\ncopy.zarr: 0.0 MB brought\n"
    spahgc_store("copy", "data.zarr", "part.zarr", "--slides", "B1,A1", "--encoders", "lite0")
    assert digest_of("part.zarr") == digest_of()


def test_a_packed_store_is_sent_and_unpacked(lab):
    told = report("pack", "data.zarr", "data.zip")
    assert told == {
        "archive": "data.zip",
        "n_bytes": (lab / "data.zip").stat().st_size,
        "digest": digest_of(),
    }
    assert list(report("ls", "data.zip")) == ["A1", "B1"]
    unpacked = report("unpack", "data.zip", "--digest", told["digest"])
    assert unpacked["target"] == "data"
    assert unpacked["sources"]["data.zip"]["outcomes"] == {"A1": "copied", "B1": "copied"}
    assert digest_of("data") == told["digest"]
    spahgc_store("unpack", "data.zip", "mine.zarr")
    assert digest_of("mine.zarr") == told["digest"]


def test_what_is_handed_on_without_paths_is_said_in_one_line(lab, tmp_path):
    path = tmp_path / "slide.png"
    Image.new("RGB", (8, 9)).save(path)
    image = SlideImageFile(path=path, size=(8, 9), reader="pillow")
    add_slide(create_store("i.zarr"), replace(build_slide("I1"), image=image))
    cut, kept = "note: paths are cut to file names", "note: paths, users and hosts are handed on"
    lines = {
        ("copy", "i.zarr", "cut.zarr"): cut,
        ("copy", "i.zarr", "kept.zarr", "--keep-paths"): kept,
        ("merge", "i.zarr", "--into", "merged.zarr"): cut,
        ("pack", "i.zarr", "i.zip"): cut,
        ("unpack", "i.zip", "unpacked.zarr"): cut,
        ("export", "I1", "exported", "--to", "h5ad", "--store", "i.zarr"): cut,
    }
    for command, line in lines.items():
        (note,) = spahgc_store(*command).stderr.splitlines()
        assert note.startswith(line)
    assert spahgc_store("copy", "i.zarr", "cut.zarr").stderr == ""
    assert report("diff", "i.zarr", "cut.zarr")["changed"] == {}
    packed = report("pack", "i.zarr", "again.zip")["digest"]
    assert packed == digest_of("cut.zarr") == digest_of("unpacked.zarr") != digest_of("i.zarr")
    spahgc_store("unpack", "again.zip", "third.zarr", "--digest", packed)
    assert report("show", "I1", "--store", "kept.zarr")["image"]["path"] == str(path)
    assert report("show", "I1", "--store", "third.zarr")["image"]["path"] == "slide.png"
    spahgc_store("set", "I1", f"image={path}", "--store", "third.zarr")
    assert report("show", "I1", "--store", "third.zarr")["image"]["path"] == str(path)


def test_stores_are_merged(lab):
    for place, name in (("b.zarr", "B1"), ("c.zarr", "C1")):
        add_slide(create_store(place), build_slide(name))
    told = report("merge", "data.zarr", "b.zarr", "c.zarr", "--into", "all.zarr")
    assert {source: made["outcomes"] for source, made in told["sources"].items()} == {
        "data.zarr": {"A1": "copied", "B1": "copied"},
        "b.zarr": {"B1": "kept"},
        "c.zarr": {"C1": "copied"},
    }
    assert list(report("ls", "all.zarr")) == ["A1", "B1", "C1"]


def test_diff_tells_apart_by_its_exit_code(lab):
    spahgc_store("copy", "data.zarr", "copy.zarr")
    nothing = {"only_first": [], "only_second": [], "changed": {}, "indexes": []}
    assert report("diff", "data.zarr", "copy.zarr") == nothing
    assert spahgc_store("diff", "data.zarr", "copy.zarr").output == ""
    spahgc_store("set", "A1", "tissue=breast")
    spahgc_store("remove", "B1", "--store", "copy.zarr")
    told = report("diff", "data.zarr", "copy.zarr", exit_code=1)
    assert told == {**nothing, "only_first": ["B1"], "changed": {"A1": ["facts"]}}
    shown = spahgc_store("diff", "data.zarr", "copy.zarr", exit_code=1)
    assert shown.stdout == "only in data.zarr: B1\nA1: facts differ\n"
    assert shown.stderr == ""


def test_removed_slides_are_freed_by_gc(lab):
    assert report("remove", "A1", "B1", "A1") == {"removed": ["A1", "B1"], "commit": 5}
    assert report("ls") == {}
    assert report("gc") == []
    freed = report("gc", "--older-than-hours", "0")
    assert {"tables/A1", "tables/B1"} <= set(freed)
    assert spahgc_store("gc").stdout == "data.zarr: 0 leftover(s) removed or mended\n"


def test_set_says_something_and_forgets_it(lab):
    told = report("set", "A1", "patient=7", "tissue=breast", "lite0.licence=MIT")
    assert told == {
        "slide": "A1",
        "patient": "7",
        "tissue": "breast",
        "licences": {"lite0": "MIT"},
    }
    assert report("show", "A1")["embeddings"]["lite0"]["licence"] == "MIT"
    assert spahgc_store("set", "A1", "note=a=b").stdout == (
        "A1: patient 7, note a=b, tissue breast\n"
    )
    forgotten = spahgc_store("set", "A1", "patient=", "tissue=", "note=", "lite0.licence=")
    assert forgotten.stdout == "A1: nothing said\n"
    assert report("show", "A1")["patient"] is None


@pytest.mark.parametrize(("to", "suffix"), [("h5ad", "h5ad"), ("spatialdata", "zarr")])
def test_export_writes_a_file_a_slide(lab, to, suffix):
    told = report("export", "A1", "out", "--to", to)
    assert told == {"A1": f"out/A1.{suffix}"}
    if to == "h5ad":
        assert anndata.read_h5ad(told["A1"]).obsm["lite0"].shape == (5, 4)
    spahgc_store("export", "--all", "out", "--to", to, "--overwrite")
    assert {path.name for path in (lab / "out").iterdir()} == {f"A1.{suffix}", f"B1.{suffix}"}


def test_a_foreign_stores_words_never_reach_the_terminal_raw(lab):
    def forge(head):
        entry = replace(
            head.slides["A1"],
            patient="\x1b[31mP1\n",
            platform="\x1b[2Jst",
            about={"tissue": "\x1b]0;owned\x07", "licence": "\x9b31mCC0", "\x1b[1m": "\udcff"},
            licences={"lite0": "\x1b[8mhidden"},
        )
        return head.with_slide("A1", entry)

    open_store("data.zarr").commit(forge, message="\x1b[5mforged\r\n")
    (lab / "data.zarr/staging/\x9b2J").write_bytes(b"")
    assert r"\x1b[31mP1\n" in spahgc_store("ls").stdout
    assert r"\x1b[8mhidden" in spahgc_store("info").stdout
    assert json.loads(spahgc_store("show", "A1").stdout)["patient"] == "\x1b[31mP1\n"
    for arguments in (
        *(("ls",), ("info",), ("show", "A1"), ("verify",), ("set", "A1", "section=2")),
        *(("copy", "data.zarr", "copy.zarr"), ("pack", "data.zarr", "data.zip")),
        *(("ls", "--json"), ("info", "--json"), ("unpack", "data.zip", "--json")),
        *(("gc", "--older-than-hours", "0"),),
    ):
        shown = spahgc_store(*arguments).output
        assert is_plain(shown.replace("\n", "")), arguments
