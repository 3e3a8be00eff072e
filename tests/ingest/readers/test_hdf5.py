"""HDF5 files that lead to other files are refused before anything of them is read."""

import shutil
import struct
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from spahgc.demo.visium import VisiumSlide, write_visium
from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.h5ad import read_h5ad_slide
from spahgc.ingest.readers.hdf5 import open_hdf5
from spahgc.ingest.readers.hest import find_hest, read_hest
from spahgc.ingest.readers.visium import read_visium

SECRET = np.arange(100, 900, dtype="<i4")


@pytest.fixture
def secret(tmp_path):
    """A folder of files that somebody else may not read."""
    folder = tmp_path / "secret"
    folder.mkdir()
    with h5py.File(folder / "secret.h5", "w") as file:
        file["data"] = SECRET
    (folder / "hostname").write_bytes(SECRET.tobytes())
    return folder


def external_link(file, name, secret):
    del file[name]
    file[name] = h5py.ExternalLink(str(secret / "secret.h5"), "/data")


def external_storage(file, name, secret):
    n = len(file[name])
    del file[name]
    file.create_dataset(name, (n,), "<i4", external=[(str(secret / "hostname"), 0, 4 * n)])


def virtual(file, name, secret):
    n = len(file[name])
    del file[name]
    layout = h5py.VirtualLayout((n,), "<i4")
    layout[:] = h5py.VirtualSource(str(secret / "secret.h5"), "data", shape=SECRET.shape)[:n]
    file.create_virtual_dataset(name, layout)


def external_link_to_a_group(file, name, secret):
    group = name.rpartition("/")[0]
    shutil.copyfile(file.filename, secret / "same.h5")
    del file[group]
    file[group] = h5py.ExternalLink(str(secret / "same.h5"), group)


def link_nested_deep(file, name, secret):
    file["uns/a/b/c/d/e/f/g/h"] = h5py.ExternalLink(str(secret / "secret.h5"), "/data")


def soft_link(file, name, secret):
    file.move(name, "elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def soft_link_cycle(file, name, secret):
    file["one"], file["other"] = h5py.SoftLink("/other"), h5py.SoftLink("/one")


def groups_without_end(file, name, secret):
    file.create_group("/".join("g" * 40))


def compressed_by_plugin(file, name, secret):
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((4,))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file.id, b"packed", h5py.h5t.STD_I32LE, space, dcpl=created)


HOSTILE = {
    external_link: r"data' is a link to another file, '\S+secret\.h5'",
    external_storage: r"data' is stored in another file, '\S+hostname'",
    virtual: "data' is put together from other datasets",
    external_link_to_a_group: r"is a link to another file, '\S+same\.h5'",
    link_nested_deep: r"'uns/a/b/c/d/e/f/g/h' is a link to another file",
    soft_link: "data' is a link to '/elsewhere'",
    soft_link_cycle: "is a link to '/o(ne|ther)'",
    groups_without_end: "lies more than 32 groups deep",
    compressed_by_plugin: "'packed' is compressed by the plugin 32015 and not by gzip",
}


@pytest.fixture(params=list(HOSTILE), ids=lambda make: make.__name__)
def hostile(request, secret, monkeypatch):
    """What makes an array of a file hostile, and what is said of it; nothing of it is read."""
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("data was read"))
    return (lambda file, name: request.param(file, name, secret)), HOSTILE[request.param]


def write_visium_folder(folder):
    array = np.array([(row, column) for row in range(4) for column in range(row % 2, 8, 2)])
    truth = VisiumSlide(
        barcodes=tuple(f"{'ACGT'[n % 4]}{n:03d}-1" for n in range(len(array))),
        array=array,
        centers=20.0 + array[:, ::-1] * np.array([10, 17.3]),
        in_tissue=np.ones(len(array), bool),
        counts=np.ones((len(array), 3), np.uint32),
        gene_ids=("ENSG001", "ENSG002", "ENSG003"),
        gene_symbols=("A", "B", "C"),
        microns_per_pixel=5.0,
    )
    write_visium(folder, truth)
    return folder / "outs" / "filtered_feature_bc_matrix.h5"


def write_h5ad(path):
    obs = pd.DataFrame(index=[f"S{n}" for n in range(4)])
    table = anndata.AnnData(csr_matrix(np.ones((4, 3), np.float32)), obs=obs)
    table.obsm["spatial"] = np.arange(8.0).reshape(4, 2)
    table.write_h5ad(path)
    return path


def test_a_visium_matrix_that_leads_elsewhere_is_refused(tmp_path, hostile):
    make, found = hostile
    path = write_visium_folder(tmp_path / "V1")
    with h5py.File(path, "r+") as file:
        make(file, "matrix/data")
    with pytest.raises(SlideFormatError, match=f"{found}.*holds all its data itself") as refused:
        read_visium(tmp_path / "V1")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_h5ad_that_leads_elsewhere_is_refused(tmp_path, hostile):
    make, found = hostile
    path = write_h5ad(tmp_path / "brain.h5ad")
    with h5py.File(path, "r+") as file:
        make(file, "X/data")
    with pytest.raises(SlideFormatError, match=rf"brain\.h5ad: .*{found}"):
        read_h5ad_slide(path)


def test_a_slide_of_hest_that_leads_elsewhere_is_refused(tmp_path, hostile):
    make, found = hostile
    (tmp_path / "st").mkdir()
    with h5py.File(write_h5ad(tmp_path / "st" / "T1.h5ad"), "r+") as file:
        make(file, "X/data")
    with pytest.raises(SlideFormatError, match=rf"T1\.h5ad: .*{found}"):
        read_hest(find_hest(tmp_path)[0])


def hide_last_link(path: Path) -> None:
    """Take the last name of the file's first group out of its list; its object stays."""
    content = bytearray(path.read_bytes())
    at = content.index(b"SNOD") + 6
    (n_names,) = struct.unpack_from("<H", content, at)
    struct.pack_into("<H", content, at, n_names - 1)
    path.write_bytes(content)


def test_an_array_that_only_a_reference_leads_to_is_found_too(tmp_path, secret):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w", libver="earliest") as file:
        file["codes"] = np.zeros(4, np.int8)
        place = [(str(secret / "hostname"), 0, 16)]
        hidden = file.create_dataset("zz_hidden", (4,), "<i4", external=place)
        file["codes"].attrs["categories"] = hidden.ref
    hide_last_link(path)
    with h5py.File(path) as file:
        assert list(file) == ["codes"]
        assert list(file[file["codes"].attrs["categories"]]) == list(SECRET[:4])
    with (
        pytest.raises(SlideFormatError, match="'codes@categories' is stored in another file"),
        open_hdf5(path),
    ):
        pass


def test_plain_files_of_every_built_in_filter_are_opened(tmp_path):
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        for name in ("gzip", "lzf"):
            file.create_dataset(
                name, data=np.arange(99), compression=name, shuffle=True, fletcher32=True
            )
        file["again"] = file["gzip"]
        file["group/self"] = file["/"]  # a second name of the same group is no other file
        file["gzip"].attrs["to"] = file["lzf"].ref
        file["gzip"].attrs.create("to none", h5py.Reference(), dtype=h5py.ref_dtype)
    with open_hdf5(tmp_path / "plain.h5") as file:
        assert file["again"][5] == 5
