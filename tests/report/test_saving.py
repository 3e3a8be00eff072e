import pytest
from matplotlib.figure import Figure
from PIL import Image

from spahgc.errors import StoreError
from spahgc.report.saving import save_picture


def test_a_folder_is_never_taken_for_a_picture(tmp_path):
    (tmp_path / "one.png").mkdir()
    (tmp_path / "one.png" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"one\.png is a folder"):
        save_picture(Figure(), tmp_path / "one.png")
    assert (tmp_path / "one.png" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["one.png", "one.PNG", "one.svg", "folder/one.pdf"])
def test_the_suffix_names_the_format(tmp_path, name):
    save_picture(Figure(), tmp_path / name)
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert (tmp_path / name).read_bytes().startswith(starts[(tmp_path / name).suffix.lower()])


def test_a_picture_is_as_fine_as_it_is_asked_to_be(tmp_path):
    save_picture(Figure(figsize=(2, 1)), tmp_path / "one.png", dots_per_inch=60)
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (120, 60)


def test_a_picture_larger_than_its_format_is_one_clear_line(tmp_path):
    with pytest.raises(StoreError, match=r"long\.webp cannot be written: "):
        save_picture(Figure(figsize=(1, 200)), tmp_path / "long.webp", dots_per_inch=100)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path, monkeypatch
):
    place = tmp_path / "one.png"
    place.write_bytes(b"old")

    def fill_the_disk(_figure, unfinished, **_how):
        unfinished.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        save_picture(Figure(), place)
    assert place.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [place]
