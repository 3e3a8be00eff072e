import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from PIL import Image

from spahgc.report.pictures import (
    GeneMap,
    example_genes,
    plot_curve,
    plot_gene_maps,
    plot_pcc_distribution,
)
from spahgc.schema import Thumbnail

CENTERS_S2 = np.stack(np.meshgrid(np.arange(6.0), np.arange(4.0)), axis=-1).reshape(-1, 2) * 400


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is written while a test runs."""
    written = []
    save = matplotlib.figure.Figure.savefig

    def remember(figure, *args, **kwargs):
        written.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", remember)
    return written


def make_maps(*genes):
    values_S = np.linspace(0, 3, len(CENTERS_S2)).astype(np.float32)
    return {gene: GeneMap(values_S, values_S * 0.2 + 1, 0.5) for gene in genes}


def draw_maps(path, gene_maps, **settings):
    plot_gene_maps(
        path,
        gene_maps,
        slide_name="C5",
        centers_S2=CENTERS_S2,
        **({"microns_per_pixel": 0.5, "spot_diameter_um": 100.0} | settings),
    )


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def overlapping(figure):
    """Pairs of titles that lie on top of each other."""
    figure.draw_without_rendering()
    boxes = [axis.title.get_window_extent() for axis in figure.axes if axis.get_title()]
    if figure.get_suptitle():
        boxes.append(figure._suptitle.get_window_extent())
    return [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def make_scores(pcc_of):
    rows = [
        {"fold": 0, "slide": "C5", "method": method, "gene": f"G{gene}", "pcc": pcc}
        for method, pccs in pcc_of.items()
        for gene, pcc in enumerate(pccs)
    ]
    return pd.DataFrame(rows).assign(rmse=0.5, mae=0.4, spearman=0.1, r2=0.1, ccc=0.1, seed=0)


def test_examples_are_the_best_a_middle_and_the_worst_gene():
    pcc = pd.DataFrame({"pcc": [0.1, np.nan, 0.9, -0.2, 0.4, 0.3]}, index=list("ABCDEF"))
    assert example_genes(pcc) == ["C", "F", "D"]


@pytest.mark.parametrize(
    ("pcc", "expected"),
    [
        pytest.param([0.1], ["A"], id="one gene"),
        pytest.param([0.1, 0.2], ["B", "A"], id="two genes"),
        pytest.param([np.nan], [], id="none defined"),
    ],
)
def test_examples_never_repeat_a_gene(pcc, expected):
    scores = pd.DataFrame({"pcc": pcc}, index=list("AB")[: len(pcc)])
    assert example_genes(scores) == expected


def test_maps_have_a_row_per_gene_and_print_the_correlation(tmp_path, figures):
    draw_maps(tmp_path / "maps.png", make_maps("ERBB2", "FN1", "ACTB"))
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.height > picture.width > 600
    words = texts(figures[0])
    assert "Slide C5" in words
    assert words.count("r = 0.50") == 3
    assert words.count("1 mm") == 6


def test_spots_are_drawn_to_scale_with_y_downwards(tmp_path, figures):
    draw_maps(tmp_path / "maps.png", make_maps("ERBB2"))
    axis = figures[0].axes[0]
    [spots] = axis.findobj(EllipseCollection)
    bottom, top = axis.get_ylim()
    assert bottom > top
    assert axis.get_aspect() == 1.0
    np.testing.assert_allclose(spots.get_offsets(), CENTERS_S2 * 0.5 / 1000)
    assert spots.get_widths() == pytest.approx(0.1)
    figures[0].draw_without_rendering()
    drawn, of_axis = (
        np.diff(transform.transform([(0, 0), (1, 0)])[:, 0])[0]
        for transform in (spots.get_transform(), axis.transData)
    )
    assert drawn == pytest.approx(of_axis)


def test_each_map_has_its_own_colour_limits_and_says_so(tmp_path, figures):
    draw_maps(tmp_path / "maps.png", make_maps("ERBB2"))
    measured, predicted = figures[0].findobj(EllipseCollection)
    assert measured.get_clim() == pytest.approx((0.03, 2.97))
    assert predicted.get_clim() == pytest.approx((1.006, 1.594))
    assert "its own colour limits" in texts(figures[0])


def test_the_colour_bar_of_a_predicted_map_says_that_it_is_relative(tmp_path, figures):
    draw_maps(tmp_path / "maps.png", make_maps("A", "B"))
    labels = [axis.get_ylabel() for axis in figures[0].findobj(Axes) if axis.get_ylabel()]
    assert labels == ["log1p, as measured", "log1p, relative within the slide"] * 2


def test_scale_bar_is_one_millimetre(tmp_path, figures):
    draw_maps(tmp_path / "maps.png", make_maps("ERBB2"), microns_per_pixel=2.0)
    bars = figures[0].axes[0].patches
    assert [bar.get_width() for bar in bars] == [1.0]


def test_thumbnail_lies_under_the_spots_it_shows(tmp_path, figures):
    pixels = np.full((150, 250, 3), 200, dtype=np.uint8)
    thumbnail = Thumbnail(pixels=pixels, scale=0.1)
    draw_maps(tmp_path / "maps.png", make_maps("ERBB2", "FN1"), thumbnail=thumbnail)
    spots, _, picture = figures[0].axes[:3]
    # 250 thumbnail pixels are 2,500 full-resolution pixels of half a micrometre
    assert picture.images[0].get_extent() == pytest.approx([0, 1.25, 0.75, 0])
    assert picture.get_xlim() == spots.get_xlim()
    assert picture.get_ylim() == spots.get_ylim()


def test_gene_unknown_here_is_grey_and_its_correlation_undefined(tmp_path, figures):
    nothing_S = np.full(len(CENTERS_S2), np.nan)
    flat_S = np.ones(len(CENTERS_S2))
    draw_maps(tmp_path / "maps.png", {"ERBB2": GeneMap(nothing_S, flat_S, float("nan"))})
    assert "r = undefined" in texts(figures[0])
    measured, predicted = figures[0].findobj(EllipseCollection)
    assert measured.get_array().mask.all()
    assert predicted.get_clim() == (0.5, 1.5)


def test_long_gene_names_do_not_run_into_each_other(tmp_path, figures):
    draw_maps(tmp_path / "maps.png", make_maps("ENSG00000141736.14_ERBB2_$" * 3, "W" * 80))
    assert overlapping(figures[0]) == []


def test_distribution_lists_methods_as_the_table_does(tmp_path, figures):
    pcc_of = {"mean": [np.nan] * 4, "ridge": [0.1, 0.2, 0.3, np.nan], "model": [0.0, 0.1, 0.2, 0.1]}
    plot_pcc_distribution(tmp_path / "pcc.png", make_scores(pcc_of))
    [axis] = figures[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["model", "ridge", "mean"]
    top_row, last_row = axis.transData.transform([(0, 0), (0, 2)])[:, 1]
    assert top_row > last_row
    words = texts(figures[0])
    assert "1 of 4 undefined" in words
    assert "4 of 4 undefined" in words


def test_long_method_names_stay_inside_the_picture(tmp_path, figures):
    name = "an ensemble of five graph models, smoothed over neighbours"
    plot_pcc_distribution(
        tmp_path / "pcc.png", make_scores({name: [0.1, 0.2], "ridge": [0.3, 0.1]})
    )
    figures[0].draw_without_rendering()
    label = figures[0].axes[0].get_yticklabels()[0].get_window_extent()
    assert label.x0 >= 0


def test_thousands_of_genes_are_drawn_as_boxes_alone(tmp_path, figures):
    pcc = np.random.default_rng(0).normal(size=2001).clip(-1, 1)
    plot_pcc_distribution(tmp_path / "pcc.png", make_scores({"model": pcc, "ridge": pcc[:9]}))
    assert len(figures[0].axes[0].collections) == 1


def test_curve_marks_the_epoch_whose_weights_were_kept(tmp_path, figures):
    curve = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "train_loss": [3.0, 2.0, 1.0],
            "validation_loss": [3.0, 2.5, 2.6],
            "validation_pcc": [0.0, 0.2, 0.1],
        }
    )
    plot_curve(tmp_path / "curve.png", curve, best_epoch=2)
    upper, lower = figures[0].axes
    assert [line.get_label() for line in upper.lines[:2]] == ["training", "validation"]
    np.testing.assert_array_equal(lower.lines[0].get_ydata(), curve["validation_pcc"])
    assert list(lower.lines[1].get_xdata()) == [2, 2]
    assert "epoch 2" in upper.get_title()
    assert lower.get_xlabel() == "epoch"


def test_curve_without_validation_says_so(tmp_path, figures):
    curve = pd.DataFrame({"epoch": [1], "train_loss": [3.0]})
    curve = curve.assign(validation_loss=np.nan, validation_pcc=np.nan)
    plot_curve(tmp_path / "curve.png", curve, best_epoch=1)
    assert "no validation slide" in texts(figures[0])
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_pictures_leave_no_figure_open(tmp_path):
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    draw_maps(tmp_path / "maps.pdf", make_maps("ERBB2"))
    assert plt.get_fignums() == before
    assert (tmp_path / "maps.pdf").read_bytes().startswith(b"%PDF")
