"""Leaks planted as careless code would: really fitted with the test slide, then saved whole."""

from dataclasses import replace

import numpy as np
import pytest

from spahgc.model import committee_fitting, kernel_ridge, runs, teaching
from spahgc.model.audit import CHECKS, audit_run
from spahgc.model.committee import with_neighbours
from spahgc.model.committee_fitting import CommitteeConfig, penalty_errors
from spahgc.model.features import Reducer
from spahgc.model.panel_rules import PanelRule
from spahgc.model.presets import DEFAULT, EMBEDDINGS
from spahgc.model.runs import train_fold
from spahgc.model.spots import expression_of, wide_of
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.opening import create_store
from spahgc.store.runs import read_run, write_run
from spahgc.store.staging import add_slide
from tests.model.conftest import SMALL, SPOTS, draw_tissue, fold_of, weights_of, with_counts

SHIPPED = replace(DEFAULT, panel_rule=PanelRule.parse("heg:6"))
"""The default preset as it is shipped, but for the number of genes: tests have twelve."""
UNSCALED = replace(SHIPPED, features=replace(SHIPPED.features, standardise=False))
"""Features standardised slide by slide have the mean 0 with the test slide as without it."""
NETWORKS = replace(
    SHIPPED,
    network=SMALL,
    training=replace(SHIPPED.training, max_epochs=1),
    committee=CommitteeConfig(n_networks=1, n_folds=2),
)


def grow(path, *, counts=False, image=False, size=8, is_blank=False):
    """Make a store of the preset's four fields, its B2 with other counts or another image."""
    store = create_store(path)
    for name in SPOTS:
        slide, looks_SD = draw_tissue(name)
        if name == "B2" and counts:
            slide = with_counts(slide, seed=1)
        if name == "B2" and image:
            looks_SD = draw_tissue("B2", seed=7)[1] * 2
        add_slide(store, slide)
        for number, embedding in enumerate(EMBEDDINGS):
            noise = np.random.default_rng([number, *name.encode()])
            field_SD = np.resize(looks_SD.T, (size, len(looks_SD))).T
            field_SD = field_SD + noise.normal(0, 0.3, field_SD.shape)
            if is_blank:
                field_SD = np.ones_like(field_SD)
            draft = EmbeddingDraft(
                open_cohort(path)[name],
                embedding,
                fingerprint={"encoder": "tiny", "patch_um": 77.0 * 2**number},
                size=field_SD.shape[1],
            )
            for rows in draft.missing():
                draft.write(rows, field_SD[rows.start : rows.stop].astype(np.float32))
            draft.commit()
    return open_cohort(path)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return grow(tmp_path_factory.mktemp("own") / "data.zarr")


@pytest.fixture(scope="module")
def other_counts(tmp_path_factory):
    return grow(tmp_path_factory.mktemp("counts") / "data.zarr", counts=True)


@pytest.fixture(scope="module")
def other_image(tmp_path_factory):
    return grow(tmp_path_factory.mktemp("image") / "data.zarr", image=True)


@pytest.fixture(params=["own", "other_counts", "other_image"])
def cohort(request):
    """B2 is to be tested: as drawn, with other counts, with another image."""
    return request.getfixturevalue(request.param)


def train_and_save(cohort, folder, *, config=SHIPPED):
    """Train without B2, for all the code says, and read back what was written."""
    run = train_fold(cohort, fold_of(cohort), config=config).run
    folder.mkdir()
    write_run(run, folder)
    return read_run(folder)


def outsider_of(cohort, config=SHIPPED):
    """Read the test slide as the run's own slides are read."""
    return runs.gather_fold(cohort, config.divide(fold_of(cohort)), config=config).read("B2")


def verdicts_of(run, cohort):
    return {finding.check: finding.verdict for finding in audit_run(run, cohort)}


def leaks_of(run, cohort):
    """Give what leaks, by check."""
    return {f.check: f.text for f in audit_run(run, cohort) if f.verdict == "leak"}


def test_an_honest_run_of_the_shipped_preset_is_clean(cohort, tmp_path):
    run = train_and_save(cohort, tmp_path / "run")
    assert verdicts_of(run, cohort) == {
        "parts": "clean",
        "panel": "clean",
        "statistics": "clean",
        "ridge": "clean",
        "choices": "clean",
        "networks": "absent",
        "trust": "clean",
        "index": "absent",
        "scores": "clean",
        "checkpoint": "absent",
        "copies": "clean",
        "patients": "caveat",
    }


def test_neither_counts_nor_image_of_the_test_slide_leave_a_trace(own, other_counts, other_image):
    expected, *others = (
        weights_of(train_fold(cohort, fold_of(cohort), config=SHIPPED).run)
        for cohort in (own, other_counts, other_image)
    )
    for weights in others:
        assert weights.equals(expected)


def plant_in_basis(monkeypatch, change, outsider):
    """Put into the honest basis a part of the one that the test slide is in."""
    honest = committee_fitting.fit_basis

    def fit(slides, config, **how):
        good = honest(slides, config, **how)
        leaky = honest([*slides, outsider], config, **how)
        return change(good, leaky, slides)

    monkeypatch.setattr(committee_fitting, "fit_basis", fit)


def take_mean(good, leaky, _):
    reducer = replace(good.reducer, mean_D=leaky.reducer.mean_D)
    return replace(good, reducer=reducer)


def length_of(reducer):
    return np.linalg.norm(reducer.components_PD[0])


def take_spread(good, leaky, _):
    ratio = length_of(leaky.reducer) / length_of(good.reducer)
    components_PD = good.reducer.components_PD * np.float32(ratio)
    return replace(good, reducer=replace(good.reducer, components_PD=components_PD))


def take_directions(good, leaky, _):
    ratio = length_of(good.reducer) / length_of(leaky.reducer)
    components_PD = leaky.reducer.components_PD * np.float32(ratio)
    return replace(good, reducer=replace(good.reducer, components_PD=components_PD))


def take_expression_mean(good, leaky, _):
    return replace(good, programmes=replace(good.programmes, mean_G=leaky.programmes.mean_G))


def take_loadings(good, leaky, slides):
    loadings_AR = leaky.programmes.loadings_AR
    scores_NR = np.concatenate([leaky.programmes.score(wide_of(spots)) for spots in slides])
    measured = [expression_of(spots) for spots in slides]
    centred_NG = np.concatenate([each - each.mean(axis=0) for each in measured])
    genes_RG = np.linalg.lstsq(scores_NR, centred_NG, rcond=None)[0].astype(np.float32)
    programmes = replace(good.programmes, loadings_AR=loadings_AR, genes_RG=genes_RG)
    return replace(good, programmes=programmes)


def take_all(_, leaky, __):
    return leaky


def plant_landmarks(monkeypatch, outsider):
    """Let the test slide teach the ridge, in the place where the model is fitted in the end."""
    honest, bases = committee_fitting.fit_ridges, []
    monkeypatch.setattr(committee_fitting, "fit_basis", keep(committee_fitting.fit_basis, bases))
    monkeypatch.setattr(
        committee_fitting,
        "fit_ridges",
        lambda reduced, *settings, **how: honest(
            [*reduced, bases[-1].reduce(outsider)] if len(reduced) == 3 else reduced,
            *settings,
            **how,
        ),
    )


def keep(function, given):
    """Write down what a function gives."""

    def call(*args, **how):
        given.append(function(*args, **how))
        return given[-1]

    return call


def plant_coefficients(monkeypatch, outsider):
    """The same, the landmarks being of the training slides."""
    plant_landmarks(monkeypatch, outsider)
    n_test = len(outsider.spot_names)
    monkeypatch.setattr(
        kernel_ridge, "_draw", lambda rows, *_: rows[:-n_test] if len(rows) > 100 else rows
    )


def plant_width(monkeypatch, outsider):
    """Make the kernel as wide as pairs of spots are apart, those of the test slide among them."""
    honest, bases = kernel_ridge.pdist, []
    monkeypatch.setattr(committee_fitting, "fit_basis", keep(committee_fitting.fit_basis, bases))
    monkeypatch.setattr(
        kernel_ridge,
        "pdist",
        lambda sample, metric: honest(
            np.concatenate([sample, with_neighbours(bases[-1].reduce(outsider))]), metric
        ),
    )


PLANTED_IN_BASIS = {
    "feature spread": take_spread,
    "principal directions": take_directions,
    "expression mean": take_expression_mean,
    "program loadings": take_loadings,
}


@pytest.mark.parametrize("part", PLANTED_IN_BASIS)
def test_what_features_and_genes_are_reduced_by_is_named(cohort, tmp_path, monkeypatch, part):
    plant_in_basis(monkeypatch, PLANTED_IN_BASIS[part], outsider_of(cohort))
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    leaks = leaks_of(run, cohort)
    told = leaks.pop("statistics")
    assert told == f"{part}: fitted with the test slides (B2), not on A1, A2, B1 alone"
    assert set(leaks) <= {"choices", "trust"}, "held-out slides were predicted with it too"


def test_a_feature_mean_with_the_test_slide_is_named(cohort, tmp_path, monkeypatch):
    plant_in_basis(monkeypatch, take_mean, outsider_of(cohort, UNSCALED))
    run = train_and_save(cohort, tmp_path / "run", config=UNSCALED)
    monkeypatch.undo()
    told = leaks_of(run, cohort)["statistics"]
    assert told == "feature mean: fitted with the test slides (B2), not on A1, A2, B1 alone"
    honest = train_and_save(cohort, tmp_path / "honest", config=UNSCALED)
    assert leaks_of(honest, cohort) == {}


def test_every_part_of_a_basis_with_the_test_slide_is_named(cohort, tmp_path, monkeypatch):
    plant_in_basis(monkeypatch, take_all, outsider_of(cohort))
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    told = leaks_of(run, cohort)["statistics"]
    for part in (*PLANTED_IN_BASIS, "program genes"):
        assert part in told
    assert "fitted with the test slides (B2)" in told


@pytest.mark.parametrize(
    ("plant", "parts"),
    [
        pytest.param(plant_landmarks, "landmarks, kernel width, coefficients", id="landmarks"),
        pytest.param(plant_coefficients, "coefficients", id="coefficients"),
        pytest.param(plant_width, "kernel width, coefficients", id="width"),
    ],
)
def test_a_ridge_that_the_test_slide_taught_is_named(cohort, tmp_path, monkeypatch, plant, parts):
    plant(monkeypatch, outsider_of(cohort))
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    leaks = leaks_of(run, cohort)
    assert leaks.pop("ridge").startswith(f"{parts}: ")
    assert "statistics" not in leaks
    assert "scores" not in leaks, (
        "predicting again does not see it, which is why it is fitted again"
    )


def test_a_test_slide_that_taught_the_ridge_helps_and_is_called_by_name(own, tmp_path, monkeypatch):
    honest = train_and_save(own, tmp_path / "honest")
    plant_landmarks(monkeypatch, outsider_of(own))
    run = train_and_save(own, tmp_path / "run")
    monkeypatch.undo()
    assert run.scores["pcc"].mean() > honest.scores["pcc"].mean() + 0.02
    assert "fitted with the test slides (B2)" in leaks_of(run, own)["ridge"]


def trial_on(cohort, config=SHIPPED):
    """Predict the test slide with a ridge of every penalty, fitted on the training slides."""
    taught = runs.gather_fold(cohort, config.divide(fold_of(cohort)), config=config)
    members = committee_fitting._fit_members(
        taught, {}, config.committee, config.network, config.training, lambda _: None
    )
    return committee_fitting._try_out(taught, members, taught.read("B2"))


def test_a_penalty_that_the_test_slide_chose_is_named(other_counts, tmp_path, monkeypatch):
    cohort, penalties = other_counts, (1e-2, 3e-2, 1.0, 100.0)
    config = replace(SHIPPED, committee=CommitteeConfig(n_networks=0, penalties=penalties))
    chosen = penalty_errors([trial_on(cohort, config)])
    honest = train_and_save(cohort, tmp_path / "honest", config=config)
    assert leaks_of(honest, cohort) == {}
    monkeypatch.setattr(committee_fitting, "penalty_errors", lambda _: chosen)
    run = train_and_save(cohort, tmp_path / "run", config=config)
    monkeypatch.undo()
    leaks = leaks_of(run, cohort)
    assert set(leaks) == {"choices"}
    assert leaks["choices"].startswith("penalty 100.0: training slides held out in turn choose ")
    assert "the test slides (B2) choose that of the run" in leaks["choices"]


def test_a_share_that_the_test_slide_had_part_in_is_named(cohort, tmp_path, monkeypatch):
    trial, honest = trial_on(cohort), committee_fitting.weigh_members
    monkeypatch.setattr(
        committee_fitting,
        "weigh_members",
        lambda trials, **how: honest([*trials, trial], **how),
    )
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    leaks = leaks_of(run, cohort)
    assert set(leaks) == {"choices"}
    assert leaks["choices"].startswith("share of the ridge ")


def plant_in_trust(monkeypatch, change):
    honest = runs.find_trust
    monkeypatch.setattr(
        runs, "find_trust", lambda taught, *, held_out: change(honest, taught, held_out)
    )


def with_test_slide_held_out(honest, taught, held_out):
    return honest(taught, held_out={**held_out, "B2": expression_of(taught.read("B2"))})


def with_library(honest, taught, held_out):
    """Let the test slide's spots be among those that others lie near to."""
    library = replace(taught, train=(*taught.train, "B2"), borrowed=set())
    return honest(library, held_out=held_out)


def test_reliability_found_on_the_test_slide_is_named(cohort, tmp_path, monkeypatch):
    plant_in_trust(monkeypatch, with_test_slide_held_out)
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    leaks = leaks_of(run, cohort)
    assert "test slide B2 was held out to say how far to believe genes" in leaks["trust"]
    assert "B2 was held out to settle the model" in leaks["checkpoint"]
    assert set(leaks) == {"trust", "checkpoint"}
    run = replace(run, trust=replace(run.trust, slides=("A1", "A2", "B1")))  # and not owned up to
    assert "reliability of genes" in leaks_of(run, cohort)["trust"]


def test_nearness_to_a_library_with_the_test_slide_is_named(cohort, tmp_path, monkeypatch):
    plant_in_trust(monkeypatch, with_library)
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    leaks = leaks_of(run, cohort)
    assert set(leaks) == {"trust"}
    assert "nearness of spots" in leaks["trust"]


def test_genes_of_programs_chosen_with_the_test_slide_are_named(
    other_counts, tmp_path, monkeypatch
):
    cohort, honest = other_counts, teaching.choose_wide
    counts, genes = teaching.read_known(cohort, ["B2"])
    rare = {"B2": counts["B2"].multiply(np.arange(len(genes)) > 2).tocsr()}
    monkeypatch.setattr(
        teaching, "choose_wide", lambda known, names: honest({**known, **rare}, names)
    )
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    leaks = leaks_of(run, cohort)
    assert set(leaks) == {"panel"}
    assert "the genes of programs are not those that the training slides give" in leaks["panel"]


def test_a_panel_of_the_shipped_preset_chosen_with_the_test_slide_is_named(
    other_counts, tmp_path, monkeypatch
):
    cohort, honest = other_counts, teaching.choose_panel
    with_b2, _ = teaching.read_known(cohort, ["B2"])
    monkeypatch.setattr(
        teaching,
        "choose_panel",
        lambda known, names, **how: honest({**known, **with_b2}, names, **how),
    )
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    leaks = leaks_of(run, cohort)
    assert set(leaks) == {"panel"}
    assert "chosen with the test slides" in leaks["panel"]


@pytest.fixture(scope="module")
def many_features(tmp_path_factory):
    """More features than spots, so that training slides leave some directions undecided."""
    return grow(tmp_path_factory.mktemp("many") / "data.zarr", size=40)


@pytest.mark.parametrize("store", ["own", "many_features"])
def test_another_machine_that_turns_components_and_rounds_otherwise_makes_no_leak(
    request, tmp_path, monkeypatch, store
):
    cohort = request.getfixturevalue(store)
    honest, generator = committee_fitting.fit_reducer, np.random.default_rng(0)

    def rounded(values):
        noise = generator.normal(1, 1e-7, values.shape)
        return (values * noise).astype(np.float32)

    def fit(slides, **how):
        reducer = honest([rounded(each) for each in slides], **how)
        return Reducer(mean_D=reducer.mean_D, components_PD=rounded(-reducer.components_PD))

    monkeypatch.setattr(committee_fitting, "fit_reducer", fit)
    run = train_and_save(cohort, tmp_path / "run")
    monkeypatch.undo()
    assert leaks_of(run, cohort) == {}


def test_images_on_which_no_spot_differs_from_another_can_be_audited(tmp_path):
    cohort = grow(tmp_path / "data.zarr", is_blank=True)
    run = train_and_save(cohort, tmp_path / "run")
    assert verdicts_of(run, cohort)["statistics"] == "clean"
    made_up = run.weights["reducer.components"] + 1
    other = replace(run, weights={**run.weights, "reducer.components": made_up})
    assert "feature spread" in leaks_of(other, cohort)["statistics"]


def test_a_difference_is_told_with_the_libraries_that_may_be_why(own, tmp_path):
    run = train_and_save(own, tmp_path / "run")
    versions = {**run.record.versions, "scikit-learn": "0.1"}
    weights = {**run.weights, "ridge.weights": run.weights["ridge.weights"] * np.float32(1.01)}
    old = replace(run, weights=weights, record=replace(run.record, versions=versions))
    assert "the run was made with scikit-learn 0.1 (here " in leaks_of(old, own)["ridge"]
    same = replace(run, record=replace(run.record, versions=versions))
    assert leaks_of(same, own) == {}


def test_networks_are_said_not_to_have_been_checked(own, tmp_path):
    run = train_and_save(own, tmp_path / "run", config=NETWORKS)
    findings = audit_run(run, own)
    unseen = {f.check for f in findings if f.verdict == "not checked"}
    assert unseen == {"networks", "choices", "trust", "checkpoint"}
    assert not [f for f in findings if f.verdict == "leak"]
    clean = {f.check for f in findings if f.verdict == "clean"}
    assert {"statistics", "ridge", "choices", "trust", "index"} <= clean
    assert len({f.check for f in findings}) == len(CHECKS)
