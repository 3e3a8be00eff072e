"""Wrong input to the `spahgc store` commands: one clear line, and nothing is changed by it."""

import shutil

import pytest
from click.testing import CliRunner

from spahgc.cli import cli
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.packing import pack_store
from spahgc.store.staging import add_slide
from spahgc.store.words import is_plain
from tests.conftest import build_slide, embed_slide


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store, it in an archive, one with another slide of the same name, and no store."""
    folder = tmp_path_factory.mktemp("template")
    for place, seed in (("data.zarr", 0), ("other.zarr", 9)):
        for name in ("A1", "B1"):
            add_slide(create_store(folder / place), build_slide(name, seed=seed))
    embed_slide(folder / "data.zarr", "A1")
    pack_store(open_cohort(folder / "data.zarr"), folder / "data.zip")
    (folder / "plain").mkdir()
    (folder / "plain/notes.txt").write_text("mine")
    (folder / "plain/B1.h5ad").write_text("mine")
    return folder


@pytest.fixture
def lab(template, tmp_path, monkeypatch):
    folder = shutil.copytree(template, tmp_path / "lab")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SPAHGC_STORE", raising=False)
    return folder


def files(folder):
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.suffix != ".lock"
    }


NO_DIGEST = ["--digest", "sha256:" + "0" * 64]
ONLY_READ = "data.zip can only be read; `spahgc store copy` it to a folder"
NO_STORE = "plain is not a spahgc store"
GONE = "none.zarr does not exist"

WRONG = [
    (["init", "plain"], NO_STORE),
    (["init", "data.zip"], ONLY_READ),
    (["init", "plain/notes.txt"], "notes.txt is not a spahgc store"),
    *(([name, "none.zarr"], GONE) for name in ("info", "ls", "verify", "gc")),
    *(([name, "plain"], NO_STORE) for name in ("info", "ls", "verify", "gc")),
    (["gc", "data.zip"], ONLY_READ),
    (["show", "A1", "--store", "none.zarr"], GONE),
    (["info", "--store", ""], "no place is named; name a folder, s3://bucket/name"),
    (["copy", "data.zarr", ""], "no place is named"),
    (["show", "Z9"], "has no slide 'Z9'; it has A1, B1"),
    (["copy", "none.zarr", "new.zarr"], GONE),
    (["copy", "data.zarr", "plain"], NO_STORE),
    (["copy", "data.zarr", "plain/notes.txt"], "notes.txt is not a spahgc store"),
    (["copy", "other.zarr", "data.zip"], ONLY_READ),
    (["copy", "data.zarr", "new.zarr", "--slides", "A1,Z9"], "has no slide 'Z9'"),
    (["copy", "data.zarr", "new.zarr", "--encoders", "uni"], "has an embedding 'uni'"),
    (["copy", "data.zarr", "new.zarr", *NO_DIGEST], "has the digest sha256:"),
    (["copy", "data.zarr", "other.zarr"], "the target has a slide 'A1' with other content"),
    (["pack", "none.zarr", "new.zip"], GONE),
    (["pack", "data.zarr", "data.zip"], "data.zip is there already"),
    (["pack", "data.zarr", "new.tar"], "let it end in .zip"),
    (["pack", "data.zarr", "plain/notes.txt/new.zip"], "new.zip cannot be written: Not a directo"),
    (["unpack", "none.zip"], "none.zip does not exist"),
    (["unpack", "data.zip", "plain"], NO_STORE),
    (["unpack", "data.zip", "new.zarr", *NO_DIGEST], "nothing was copied"),
    (["merge", "data.zarr", "none.zarr", "--into", "new.zarr"], GONE),
    (["merge", "data.zarr", "other.zarr", "--into", "new.zarr"], "different slides of the name"),
    (["merge", "data.zarr", "--into", "plain"], NO_STORE),
    (["merge", "data.zarr", "--into", "other.zarr"], "the target has a slide 'A1'"),
    (["merge", "other.zarr", "--into", "data.zip"], "the target has a slide 'A1'"),
    (["diff", "data.zarr", "none.zarr"], GONE),
    (["diff", "plain", "data.zarr"], NO_STORE),
    (["remove", "A1", "--store", "none.zarr"], GONE),
    (["remove", "A1", "Z9"], "has no slide 'Z9'"),
    (["remove", "A1", "--store", "data.zip"], ONLY_READ),
    (["set", "A1", "tissue=breast", "--store", "none.zarr"], GONE),
    (["set", "Z9", "tissue=breast"], "has no slide 'Z9'"),
    (["set", "A1", "tissue=breast", "--store", "data.zip"], ONLY_READ),
    (["set", "A1", "tissue=breast", "platform=x"], "'platform' cannot be set"),
    (["set", "A1", "tissue=breast", "uni.licence=MIT"], "no 'uni.licence' to set"),
    (["set", "A1", "patient=\x1b[31mP1\n"], "has line breaks or control characters"),
    (["export", "A1", "out", "--to", "h5ad", "--store", "none.zarr"], GONE),
    (["export", "A1", "Z9", "out", "--to", "h5ad"], "has no slide 'Z9'"),
    (["export", "--all", "plain", "--to", "h5ad"], "plain/B1.h5ad exists already"),
    (["export", "A1", "plain/notes.txt", "--to", "h5ad"], "A1.h5ad cannot be written: Not a"),
]


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["", "json"])
@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
def test_wrong_input_is_one_clear_line_and_changes_nothing(lab, arguments, message, as_json):
    before = files(lab)
    result = CliRunner().invoke(cli, ["store", *arguments, *as_json], prog_name="spahgc")
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert is_plain(line)
    assert files(lab) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", "A1", "patient"],
        ["export", "out", "--to", "h5ad"],
        ["export", "A1", "out", "--all", "--to", "h5ad"],
        ["merge", "data.zarr"],
        ["remove"],
        ["gc", "--older-than-hours", "-1"],
    ],
    ids=" ".join,
)
def test_a_command_typed_wrongly_shows_its_usage(lab, arguments):
    before = files(lab)
    result = CliRunner().invoke(cli, ["store", *arguments], prog_name="spahgc")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Usage: spahgc store {arguments[0]} ")
    assert result.stderr.count("Error: ") == 1
    assert files(lab) == before
