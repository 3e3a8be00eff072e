import pytest

from spahgc.demo.formats import write_demo_slides
from spahgc.errors import SlideFormatError
from spahgc.ingest.samples import read_samples
from spahgc.ingest.slides import ingest_slides
from spahgc.store.cohort import open_cohort


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo_slides(tmp_path_factory.mktemp("demo") / "slides", seed=3, scale=0.35)


def write(folder, *lines, header="slide,platform,path,patient,tissue,mpp"):
    path = folder / "samples.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_each_row_is_read_by_its_own_reader(demo):
    table = write(
        demo.root,
        "A1,st,st,,breast,",
        "left,visium,visium/C1,C,lymph node,",
        f"new,image,image/A3.jpg,,,{demo.image_microns_per_pixel}",
    )
    slides = {item.name: item.read() for item in read_samples(table)}
    assert [slide.platform for slide in slides.values()] == ["st", "visium", "image"]
    assert [slide.patient for slide in slides.values()] == ["A", "C", None]
    assert [slide.tissue for slide in slides.values()] == ["breast", "lymph node", None]
    assert [slide.name for slide in slides.values()] == ["A1", "left", "new"]


def test_a_bad_slide_does_not_stop_the_others_and_again_does_only_what_is_missing(demo, tmp_path):
    table = write(demo.root, "A1,st,st,,,", "lost,visium,nowhere,,,", "B1,st,st,,,")
    store = tmp_path / "data.zarr"
    first = list(ingest_slides(read_samples(table), store=store))
    assert [done.outcome for done in first] == ["added", "failed", "added"]
    assert "nowhere" in str(first[1].error)
    second = list(ingest_slides(read_samples(table), store=store))
    assert [done.outcome for done in second] == ["kept", "failed", "kept"]
    assert open_cohort(store).commit.number == 2


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("slide,path", ["A1,st"], "no column 'platform'"),
        ("slide,platform,path,colour", ["A1,st,x,red"], "unknown column 'colour'"),
        ("slide,platform,path", [], "no row"),
        ("slide,platform,path", ["A1,xenium,x"], "line 2: unknown platform 'xenium'"),
        ("slide,platform,path", ["A1,st,x", "A1,st,y"], "line 3: slide 'A1' is there already"),
        ("slide,platform,path", ["A1,st,"], "line 2: no path"),
        ("slide,platform,path,mpp", ["A1,st,x,wide"], "line 2: mpp 'wide'"),
        ("slide,platform,path,mpp", ["A1,st,x,-1"], "line 2: mpp '-1'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_table_is_refused_before_anything_is_read(tmp_path, header, lines, message):
    with pytest.raises(SlideFormatError, match=message):
        read_samples(write(tmp_path, *lines, header=header))


def test_all_that_is_wrong_with_a_table_is_said_at_once(tmp_path):
    with pytest.raises(SlideFormatError, match=r"line 2: no path; line 3: unknown platform"):
        read_samples(write(tmp_path, "A1,st,", "A2,x,y", header="slide,platform,path"))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(SlideFormatError, match=r"none\.csv does not exist"):
        read_samples(tmp_path / "none.csv")
