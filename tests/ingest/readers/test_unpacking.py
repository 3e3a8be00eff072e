import gzip
import tracemalloc

import h5py
import numpy as np
import pytest

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.unpacking import MIB, check_file, check_stored, open_bytes, read_bytes


def bomb(path, n_mib, *, content=b"0"):
    """Write a file of some KiB that unpacks to many MiB."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(n_mib):
            file.write(content * (MIB // len(content)))
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "zipped"])
def test_a_file_is_read_whole_up_to_its_limit_and_refused_beyond(tmp_path, pack):
    path = tmp_path / "table.csv"
    content = np.random.default_rng(0).bytes(3 * MIB)
    path.write_bytes(pack(content))
    assert read_bytes(path, most=3 * MIB) == content
    with pytest.raises(SlideFormatError, match=r"table\.csv: found more than 2 MiB"):
        read_bytes(path, most=3 * MIB - 1)


def test_files_zipped_one_after_another_count_together(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"ab") + gzip.compress(b"cd"))
    assert read_bytes(path, most=4) == b"abcd"
    with pytest.raises(SlideFormatError, match="once unzipped"):
        read_bytes(path, most=3)


def test_a_bomb_is_refused_in_little_memory(tmp_path):
    path = bomb(tmp_path / "features.tsv.gz", 128)
    assert path.stat().st_size < MIB
    tracemalloc.start()
    with pytest.raises(SlideFormatError, match="found more than 4 MiB once unzipped"):
        read_bytes(path, most=4 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * MIB


def test_the_advice_stands_at_the_end_of_the_refusal(tmp_path):
    path = bomb(tmp_path / "m.gz", 2)
    with (
        pytest.raises(SlideFormatError, match=r"expected less of such a file; unpack it$"),
        open_bytes(path, most=MIB, advice="unpack it") as file,
    ):
        file.read()


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    for name, found in {
        "gone": "gone does not exist",
        "link": "link is a link that leads nowhere",
        "": "is a folder",
    }.items():
        with pytest.raises(SlideFormatError, match=f"{found}, expected a table"):
            check_file(tmp_path / name, expected="a table")


def test_arrays_that_claim_more_than_their_file_can_hold_are_refused(tmp_path):
    path = tmp_path / "counts.h5"
    with h5py.File(path, "w") as file:
        file["matrix/shape"] = [3, 4]
        file.create_dataset("matrix/data", (2**30,), "u4", chunks=(2**16,))
    with h5py.File(path) as file:
        check_stored(path, file["matrix/shape"])
        for element in (file, file["matrix"], file["matrix/data"]):
            with pytest.raises(SlideFormatError, match="matrix/data claims 4096 MiB, expected at"):
                check_stored(path, element)
