"""A folder to type in: a small store, a run trained on it, and much that is neither."""

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.sparse import csr_matrix

from spahgc.cli import cli
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.model.conftest import EMBEDDING, draw_tissue, embed, grow_store

TRAIN = ("--embedding", EMBEDDING, "--genes", "heg:6")


def spahgc(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, list(map(str, arguments)), prog_name="spahgc")
    assert result.exit_code == exit_code, result.output
    return result


def files(folder):
    """Give everything in a folder, with the bytes of every file."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.suffix != ".lock"
    }


def the_error(*arguments):
    """Give the one line that a refused command shows, after it has shown nothing else."""
    result = spahgc(*arguments, exit_code=1)
    assert result.stdout == ""
    *notes, line = result.stderr.splitlines()
    expected = (" is left out: it ", "training on ", "what is done is kept: go on with `--resume ")
    assert all(any(words in note for words in expected) for note in notes), notes
    assert line.startswith("Error: ")
    return line


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Four slides that teach or judge, two that cannot, other stores, and a run tested on B2."""
    folder = tmp_path_factory.mktemp("trained")
    store = grow_store(folder / "data.zarr").store
    add_slide(store, draw_tissue("C1")[0])
    image, embedding_SD = draw_tissue("I1")
    bare = replace(image, counts=csr_matrix((len(image.spots), 0)), genes=image.genes[:0])
    add_slide(store, bare)
    embed(store, "I1", embedding_SD, fingerprint=None)
    grow_store(folder / "other.zarr", fingerprint={"encoder": "other", "patch_um": 112.0})
    create_store(folder / "empty.zarr")
    spahgc(
        *("train", *TRAIN, "--test", "B2", "--out", folder / "run"),
        *("--store", folder / "data.zarr"),
    )
    (folder / "plain").mkdir()
    (folder / "plain/notes.txt").write_text("mine")
    (folder / "plain/mine.zarr").mkdir()
    (folder / "plain/mine.zarr/notes.txt").write_text("mine")
    for suffix in ("h5ad", "parquet", "geojson"):
        (folder / f"plain/B2.{suffix}").write_text("mine")
    Image.new("RGB", (400, 300), "white").save(folder / "plain/white.png")
    return folder


@pytest.fixture
def lab(trained, monkeypatch):
    """That folder, to be left as it is found."""
    monkeypatch.chdir(trained)
    monkeypatch.delenv("SPAHGC_STORE", raising=False)
    return trained


@pytest.fixture
def run_copy(trained, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(trained / "run", tmp_path / "copy")


def forge(run, **changes):
    """Change a run's record as somebody would who wants it to look whole."""
    document = json.loads((run / "run.json").read_bytes())
    document.pop("sha256", None)  # gone where it was forged before
    (run / "run.json").write_text(json.dumps({**document, **changes}))
