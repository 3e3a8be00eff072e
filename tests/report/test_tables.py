import io
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from spahgc.metrics import FEWEST_UNITS, SCORES
from spahgc.model.baselines import BASELINES
from spahgc.report.tables import mean_table, method_order, print_scores
from spahgc.store.run_record import KERNEL_RIDGE, PAPER, STACKED
from spahgc.store.splits import units_of

PCC = {
    # by method, slide and gene
    "model": {"C2": [0.1, 0.3], "C3": [0.5, 0.1]},
    "ridge": {"C2": [0.4, 0.2], "C3": [0.6, np.nan]},
    "7 nearest": {"C2": [0.1, 0.1], "C3": [0.1, -0.5]},
    "mean": {"C2": [np.nan, np.nan], "C3": [np.nan, np.nan]},
}


def make_scores(pcc_of, *, rmse=None):
    rows = [
        {"fold": slide, "slide": slide, "method": method, "gene": f"G{gene}", "pcc": pcc}
        for method, slides in pcc_of.items()
        for slide, pccs in slides.items()
        for gene, pcc in enumerate(pccs)
    ]
    scores = pd.DataFrame(rows).reindex(columns=["fold", "slide", "method", "gene", *SCORES])
    scores["rmse"] = scores["method"].map(rmse or {}).fillna(0.5).astype(float)
    scores["mae"] = 0.4
    scores["seed"] = pd.array([0 if m == "model" else None for m in scores["method"]], "Int64")
    return scores


@pytest.fixture
def scores():
    return make_scores(PCC, rmse={"model": 0.25})


def shown(scores, *, width=100, terminal=False, notes=(), title="Scores"):
    page = io.StringIO()
    system = "standard" if terminal else "auto"
    console = Console(
        file=page, width=width, force_terminal=terminal, no_color=False, color_system=system
    )
    print_scores(scores, console=console, title=title, notes=notes)
    return page.getvalue()


def row_of(page, method):
    return next(line.split() for line in page.splitlines() if line.strip().startswith(method))


def test_slide_mean_leaves_undefined_genes_out(scores):
    table = mean_table(scores)
    assert table.loc["ridge", ["C2", "C3", "mean"]].tolist() == pytest.approx([0.3, 0.6, 0.45])


def test_mean_with_undefined_genes_as_zero_stands_beside_it(scores):
    table = mean_table(scores)
    assert table.loc["ridge", "mean, undefined as 0"] == pytest.approx((0.3 + 0.3) / 2)
    assert table.loc["mean", "mean, undefined as 0"] == 0.0
    assert table["undefined genes"].to_dict() == {"model": 0, "ridge": 1, "7 nearest": 0, "mean": 4}


def test_every_slide_weighs_the_same_however_many_genes_it_has():
    table = mean_table(make_scores({"model": {"A": [0.0] * 9, "B": [1.0]}}))
    assert table.loc["model", "mean"] == 0.5


def test_slide_tested_in_several_folds_has_one_column(scores):
    again = scores.assign(fold="again", pcc=scores["pcc"] + 0.2)
    table = mean_table(pd.concat([scores, again]))
    assert table.loc["model", "C2"] == pytest.approx(0.3)


def test_slide_without_any_correlation_keeps_its_column():
    table = mean_table(make_scores({"mean": {"A": [np.nan], "B": [np.nan]}}))
    assert table.columns[:3].tolist() == ["A", "B", "mean"]
    assert table.loc["mean", "rmse"] == 0.5


def test_model_comes_before_the_baselines_however_it_scores(scores):
    assert method_order(scores) == ["model", "ridge", "7 nearest", "mean"]


def test_screen_shows_every_method_and_number(scores):
    page = shown(scores, width=70)
    assert row_of(page, "ridge")[:4] == ["ridge", ".300*", ".600*", ".450*"]
    assert row_of(page, "7 nearest")[2:5] == [".100", "-.200", "-.050"]
    assert row_of(page, "mean")[1:5] == ["-", "-", "-", ".000"]
    assert row_of(page, "model")[-3:] == ["0.250*", "0.400*", "0"]


def many_slides(n_slides):
    generator = np.random.default_rng(0)
    slides = {f"C{n}": generator.uniform(-1, 1, size=3).tolist() for n in range(n_slides)}
    return make_scores(dict.fromkeys(("model", *BASELINES), slides))


def test_interval_holds_the_mean_and_says_what_was_drawn():
    page = shown(many_slides(FEWEST_UNITS), width=100)
    _, mean, _, low, high, *_ = row_of(page, "model")
    assert float(low) < float(mean.rstrip("*")) < float(high)
    assert f"95 % bootstrap interval over {FEWEST_UNITS} slides" in " ".join(page.split())


def test_too_few_slides_have_no_interval_and_the_legend_says_so(scores):
    page = shown(scores)
    headings = next(line.split() for line in page.splitlines() if line.strip().startswith("method"))
    assert headings[3:6] == ["mean", "or", "0"]
    assert not {"low", "high"} & set(headings)
    assert f"no interval: 2 slides, at least {FEWEST_UNITS} are needed" in " ".join(page.split())


@pytest.mark.parametrize(
    ("n_slides", "of_each", "said"),
    [
        (20, 2, "over 10 patients"),
        (36, 6, "no interval: 6 patients"),
        (36, 36, "over 36 slides"),
    ],
    ids=["two slides each", "six slides each", "one patient"],
)
def test_where_there_are_several_patients_they_are_drawn_whole(n_slides, of_each, said):
    units = units_of({f"C{n}": f"patient {n // of_each}" for n in range(n_slides)})
    page = io.StringIO()
    console = Console(file=page, width=100)
    print_scores(many_slides(n_slides), console=console, title="Scores", units=units)
    assert said in " ".join(page.getvalue().split())


def test_notes_stand_below_as_they_were_written(scores):
    note = "one patient on both sides: weaker than a test on another patient [not markup]"
    page = shown(scores, notes=[note, "synthetic slides"], title="Fold [C2]")
    assert f"Note: {note}" in page
    assert page.index("7 nearest") < page.index(note) < page.index("Note: synthetic slides")
    assert "Fold [C2]" in page


def test_best_is_bold_on_a_terminal_and_marked_in_a_pipe(scores):
    assert re.search(r"\x1b\[1m *\.600\x1b\[0m", shown(scores, terminal=True))
    piped = shown(scores)
    assert "\x1b" not in piped
    assert "*: best" in piped


def test_values_that_look_the_same_are_both_best():
    page = shown(make_scores({"model": {"A": [0.20001]}, "ridge": {"A": [0.2]}}))
    assert row_of(page, "model")[1] == row_of(page, "ridge")[1] == ".200*"


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("n_slides", [1, 4, 36])
def test_no_line_is_cut_or_wider_than_the_screen(width, terminal, n_slides):
    named = {"model": KERNEL_RIDGE, "mean": STACKED, "ridge": PAPER}
    many = many_slides(n_slides)
    extra = many.assign(method=many["method"].map(named)).dropna(subset="method")
    page = shown(pd.concat([many, extra]), width=width, terminal=terminal)
    plain = page.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert max(len(line) for line in plain.splitlines()) <= width
    assert "…" not in plain
    assert all(method in plain for method in BASELINES)
    assert "no PCC" in plain
    assert ("C3" in plain) == (n_slides == 4)
    assert ("worst" in plain) == (n_slides == 36)


def test_plain_ascii_reaches_an_ascii_pipe(scores):
    page = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_scores(scores, console=Console(file=page, width=100), title="Scores")
    page.flush()
    assert b"ridge" in page.buffer.getvalue()


@pytest.mark.parametrize("module", ["tables", "pictures"])
def test_report_imports_no_torch(module):
    code = f"import sys, spahgc.report.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
