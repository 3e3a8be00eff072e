import io

from rich.console import Console

from spahgc.report.listing import print_slides
from spahgc.report.neighbours import FoundSpot, print_neighbours
from spahgc.store.entries import SlideEntry

SLIDE = {
    "group": "tables/C2",
    "manifest": "0" * 64,
    "content": "1" * 64,
    "platform": "st",
    "patient": "C",
    "n_spots": 187,
    "n_genes": 15_000,
    "microns_per_pixel": 0.687_123,
    "image": "C2.jpg",
    "encoders": {"uni": "3" * 64, "lite0": "2" * 64},
}


def shown(slides, *, title="data.zarr at commit 3"):
    page = io.StringIO()
    print_slides(slides, console=Console(file=page, width=120), title=title)
    return page.getvalue()


def cells(slides):
    rows = [line.split("│") for line in shown(slides).splitlines() if "│" in line]
    return [[cell.strip() for cell in row[1:-1]] for row in rows]


def test_a_slide_is_listed_with_what_it_can_be_used_for():
    assert cells({"C2": SlideEntry(**SLIDE)}) == [
        ["C2", "st", "C", "187", "15000", "0.6871", "yes", "lite0, uni"]
    ]


def test_what_is_not_known_is_a_dash():
    bare = {"patient": None, "n_genes": 0, "microns_per_pixel": None, "image": None}
    assert cells({"X": SlideEntry(**{**SLIDE, **bare, "encoders": {}})}) == [
        ["X", "st", "unknown", "187", "–", "–", "no", "–"]
    ]


def test_slides_come_by_name():
    slides = {name: SlideEntry(**SLIDE) for name in ("D1", "A1", "C2")}
    assert [row[0] for row in cells(slides)] == ["A1", "C2", "D1"]


def test_a_store_without_slides_is_an_empty_table():
    assert "data.zarr at commit 3" in shown({})
    assert cells({}) == []


def test_brackets_in_free_text_are_shown_and_never_obeyed():
    entry = SlideEntry(**{**SLIDE, "patient": "7 [bold]", "encoders": {"[/red]": "2" * 64}})
    (row,) = cells({"C2": entry})
    assert row[2] == "7 [bold]"
    assert row[-1] == "[/red]"
    assert "studies [2024]/a [x].zarr" in shown({}, title="studies [2024]/a [x].zarr")


def test_what_a_terminal_would_obey_is_shown_escaped():
    entry = SlideEntry(**{**SLIDE, "patient": "\x1b[31m7\n", "platform": "st\x07"})
    (row,) = cells({"C2": entry})
    assert row[1:3] == [r"st\x07", r"\x1b[31m7\n"]
    page = io.StringIO()
    spot = FoundSpot("C2", "\x9b7", "[b]1x1\x1b", 0.5)
    print_neighbours([spot], console=Console(file=page, width=120), title="C2", metric="l2")
    assert r"\x9b7" in page.getvalue()
    assert r"[b]1x1\x1b" in page.getvalue()
