import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spahgc.errors import MismatchError
from spahgc.index import ReferenceIndex
from spahgc.model import curves, runs, training
from spahgc.model.curves import show_curves
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig
from spahgc.model.panel_rules import PanelRule
from spahgc.model.panels import GenePanel
from spahgc.model.paper import fit_paper
from spahgc.model.runs import RunConfig, train_fold
from spahgc.model.scoring import mean_pcc
from spahgc.model.spots import expression_of
from spahgc.model.teaching import TeachingSet, gather_teaching
from spahgc.model.training import TrainingConfig
from spahgc.store.run_record import PAPER
from spahgc.store.slide import StoredSlide
from tests.model.conftest import (
    EMBEDDING,
    RUN_CONFIG,
    SMALL,
    copy_store,
    draw_tissue,
    fold_of,
    weights_of,
    with_counts,
    without_gene,
)


@pytest.fixture(scope="module")
def teaching(grown):
    """A2 and B1 teach."""
    index = ReferenceIndex.open(grown, embedding=EMBEDDING)
    return gather_teaching(
        grown,
        index,
        fold_of(grown),
        panel_rule=PanelRule.parse("heg:6"),
        graph_config=GraphConfig(),
        features=FeatureConfig(embeddings=(EMBEDDING,)),
    )


def train(teaching, *, advance=None, **config):
    config = TrainingConfig(**{"max_epochs": 3, "learning_rate": 0.003, "seed": 1, **config})
    return fit_paper(teaching, validation=["A1"], shape=SMALL, config=config, advance=advance)


@pytest.fixture(scope="module")
def trained(teaching):
    return train(teaching)


@pytest.fixture(scope="module")
def long_trained(teaching):
    """Long enough to grow worse again."""
    return train(teaching, max_epochs=30, seed=2)


def assert_same_training(first, second):
    pd.testing.assert_series_equal(weights_of(first), weights_of(second), check_exact=True)
    pd.testing.assert_frame_equal(first.curve, second.curve, check_exact=True)


def score_on_a1(teaching, trained):
    spots = teaching.read("A1")
    return mean_pcc(expression_of(spots), trained.model.predict(spots))


def test_the_same_seed_gives_the_same_weights_and_curve(teaching, trained):
    torch.rand(7)  # whatever happened before
    assert_same_training(train(teaching), trained)


def test_another_seed_gives_other_weights(teaching, trained):
    assert not weights_of(train(teaching, seed=2)).equals(weights_of(trained))


def test_the_curve_has_a_row_for_each_epoch(trained):
    assert list(trained.curve.columns) == [
        "epoch",
        "train_loss",
        "validation_loss",
        "validation_pcc",
    ]
    assert trained.curve["epoch"].tolist() == [1, 2, 3]
    assert np.isfinite(trained.curve.to_numpy()).all()


def test_training_makes_the_losses_small(long_trained):
    curve = long_trained.curve
    assert curve["train_loss"].iloc[-1] < 0.5 * curve["train_loss"].iloc[0]
    assert curve["validation_loss"].min() < 0.5 * curve["validation_loss"].iloc[0]


def test_the_kept_weights_are_those_of_the_best_epoch(teaching, long_trained):
    curve = long_trained.curve
    best = int(curve["epoch"][curve["validation_loss"].idxmin()])
    assert long_trained.best_epoch == best
    assert long_trained.validation_pcc == curve["validation_pcc"][best - 1]
    assert score_on_a1(teaching, long_trained) == pytest.approx(long_trained.validation_pcc)
    stopped_there = train(teaching, max_epochs=best, seed=2)
    assert weights_of(stopped_there).equals(weights_of(long_trained))


@pytest.mark.parametrize("patience", [1, 4])
def test_training_stops_when_patience_ends(teaching, long_trained, patience):
    losses = long_trained.curve["validation_loss"].tolist()
    n_epochs, since_best = 0, 0
    while since_best < patience:
        n_epochs += 1
        since_best = n_epochs - 1 - losses.index(min(losses[:n_epochs]))
    assert n_epochs < 30
    told = []
    impatient = train(teaching, max_epochs=30, seed=2, patience=patience, advance=told.append)
    pd.testing.assert_frame_equal(
        impatient.curve, long_trained.curve.iloc[:n_epochs], check_exact=True
    )
    assert impatient.best_epoch == n_epochs - patience
    assert told == [1] * n_epochs + [30 - n_epochs]


def test_progress_is_told_for_every_epoch(teaching):
    told = []
    train(teaching, advance=told.append)
    assert told == [1, 1, 1, 0]


def test_nobody_elses_random_numbers_change(teaching):
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    train(teaching, max_epochs=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1][1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_training_says_and_leaves_nothing(teaching, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    train(teaching, max_epochs=1)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_a_curve_can_be_watched_in_tensorboard(teaching, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with show_curves(tmp_path / "tensorboard"):
        fitted = train(teaching)
    (events,) = (tmp_path / "tensorboard").rglob("events.out.tfevents.*")
    watched = EventAccumulator(str(events)).Reload()
    losses = [scalar.value for scalar in watched.Scalars("validation_loss")]
    assert losses == pytest.approx(list(fitted.curve["validation_loss"]), rel=1e-6)


@pytest.mark.parametrize("device", ["cuda", "tpu", "abacus"])
def test_a_device_that_is_not_here_is_one_line(teaching, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MismatchError, match=f"^no '{device}' to train on here .*--device") as told:
        train(teaching, device=device)
    assert "\n" not in str(told.value)


def test_without_a_gpu_auto_is_the_cpu(teaching, trained, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_same_training(train(teaching, device="auto"), trained)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_about_as_well(teaching, trained, precision):
    mixed = train(teaching, precision=precision)
    assert all(array.dtype == np.float32 for array in mixed.arrays.values())
    assert not weights_of(mixed).equals(weights_of(trained))
    losses, expected = mixed.curve["validation_loss"], trained.curve["validation_loss"]
    np.testing.assert_allclose(losses, expected, rtol=0.05)


def test_a_clipped_gradient_changes_training_and_a_lax_clip_does_not(teaching, trained):
    assert_same_training(train(teaching, gradient_clip=1e6), trained)
    clipped = train(teaching, gradient_clip=1e-3)
    assert not weights_of(clipped).equals(weights_of(trained))


def test_without_tensorboard_nothing_is_written(teaching, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "find_spec", lambda _: None)
    with show_curves(tmp_path / "tensorboard"):
        train(teaching)
    assert not (tmp_path / "tensorboard").exists()


def second_encoder_after(teaching, monkeypatch, **config):
    """Train, and tell how far the second encoder has moved from the first weights."""
    kept = []
    original = training.frozen_copy

    def keep(network):
        copy = original(network)
        start = {name: value.clone() for name, value in copy.state_dict().items()}
        kept.append((copy, start))
        return copy

    monkeypatch.setattr(training, "frozen_copy", keep)
    trained = train(teaching, **config)
    ((copy, start),) = kept
    moved = max(float((v - start[name]).abs().max()) for name, v in copy.state_dict().items())
    return trained, moved


def test_the_second_encoder_stays_where_it_began(teaching, monkeypatch):
    _, moved = second_encoder_after(teaching, monkeypatch)
    assert moved == 0


def test_a_moving_average_moves_the_second_encoder_and_so_the_weights(
    teaching, trained, monkeypatch
):
    averaged, moved = second_encoder_after(teaching, monkeypatch, ema=0.5)
    assert moved > 0
    assert not weights_of(averaged).equals(weights_of(trained))


def test_a_moving_average_that_keeps_all_of_itself_stays(teaching, trained, monkeypatch):
    kept, moved = second_encoder_after(teaching, monkeypatch, ema=1.0)
    assert moved == 0
    assert_same_training(kept, trained)


def test_a_gene_unknown_on_the_validation_slide_is_left_out_there(tmp_path, grown):
    slide = without_gene(draw_tissue("A1")[0], "G3")
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    teaching = TeachingSet(
        cohort=cohort,
        index=ReferenceIndex.open(cohort, embedding=EMBEDDING),
        groups={name: name for name in cohort.slides},
        train=("A2", "B1"),
        panel=GenePanel(genes=("G1", "G3", "G8"), rule="all"),
        features=FeatureConfig(embeddings=(EMBEDDING,)),
    )
    trained = train(teaching)
    assert np.isfinite(trained.curve.to_numpy()).all()
    spots = teaching.read("A1")
    predicted_SG = trained.model.predict(spots)
    listed = mean_pcc(spots.expression_SG[:, [0, 2]], predicted_SG[:, [0, 2]])
    assert trained.validation_pcc == pytest.approx(listed)


def test_a_test_slides_expression_is_read_once_and_after_training(grown, monkeypatch):
    seen = []
    read_counts, train_as_ever = StoredSlide.read_counts, runs.fit_model

    def read(slide):
        seen.append(slide.name)
        return read_counts(slide)

    def train_and_say(*args, **kwargs):
        trained = train_as_ever(*args, **kwargs)
        seen.append("trained")
        return trained

    monkeypatch.setattr(StoredSlide, "read_counts", read)
    monkeypatch.setattr(runs, "fit_model", train_and_say)
    train_fold(grown, fold_of(grown), config=RUN_CONFIG)
    assert seen.count("B2") == 1
    assert seen.index("B2") > seen.index("trained")


def test_a_test_slides_numbers_leave_no_trace_in_the_model(tmp_path, grown, finished):
    slide = with_counts(draw_tissue("B2")[0], seed=1)
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    other = train_fold(cohort, fold_of(cohort), config=RUN_CONFIG)
    assert_same_training(other.run, finished.run)
    assert other.run.record.panel == finished.run.record.panel
    assert np.array_equal(other.predictions["B2"], finished.predictions["B2"])
    assert not other.run.scores["pcc"].equals(finished.run.scores["pcc"])


def test_a_training_slides_numbers_do(tmp_path, grown, finished):
    slide = with_counts(draw_tissue("B1")[0], seed=1)
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    other = train_fold(cohort, fold_of(cohort), config=RUN_CONFIG)
    assert not weights_of(other.run).equals(weights_of(finished.run))


def test_a_run_records_what_it_was_made_of(grown, finished):
    record = finished.run.record
    assert record.train == {name: grown[name].entry.content for name in ("A2", "B1")}
    assert (record.validation, record.test) == (("A1",), ("B2",))
    assert record.panel == finished.teaching.panel.genes
    assert record.panel_digest == finished.teaching.panel.digest
    assert record.panel_rule == "heg:6"
    assert record.encoders == {"tiny": {"encoder": "tiny", "patch_um": 112.0}}
    assert record.commit == grown.commit.number
    assert record.network["embedding_size"] == 8
    assert record.training["seed"] == 1
    assert record.best_epoch == finished.run.curve["validation_loss"].idxmin() + 1
    assert {"python", "torch", "torch-geometric", "faiss", "spahgc"} <= set(record.versions)


def test_scores_have_a_row_for_each_gene_of_the_test_slide(finished):
    scores = finished.run.scores
    assert scores["gene"].tolist() == list(finished.run.record.panel)
    assert set(scores["fold"]) == set(scores["slide"]) == {"B2"}
    assert set(scores["method"]) == {PAPER}
    measured_SG, predicted_SG = finished.measured["B2"], finished.predictions["B2"]
    first = np.corrcoef(measured_SG[:, 0], predicted_SG[:, 0])[0, 1]
    assert scores["pcc"][0] == pytest.approx(first)


def test_a_gene_unknown_on_the_test_slide_has_no_score(tmp_path, grown):
    slide = without_gene(draw_tissue("B2")[0], "G3")
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    config = replace(RUN_CONFIG, panel_rule=PanelRule.parse("all"))
    scores = train_fold(cohort, fold_of(cohort), config=config).run.scores.set_index("gene")
    assert len(scores) == 12
    assert scores.loc["G3", ["pcc", "rmse", "mae"]].isna().all()
    assert scores["rmse"].drop("G3").notna().all()


def test_a_test_slide_that_lists_no_gene_of_the_panel_has_no_scores(tmp_path, grown):
    slide = draw_tissue("B2")[0]
    renamed = replace(slide, genes=slide.genes.set_axis([f"H{n}" for n in range(12)]))
    cohort = copy_store(grown, tmp_path / "data.zarr", renamed)
    scores = train_fold(cohort, fold_of(cohort), config=RUN_CONFIG).run.scores
    assert len(scores) == 6
    assert scores[["pcc", "rmse"]].isna().all(axis=None)


def test_a_model_for_use_tests_nothing(grown):
    fold = replace(fold_of(grown), test=())
    finished = train_fold(grown, fold, config=RUN_CONFIG)
    assert finished.run.scores is None
    assert finished.predictions == {}
    assert finished.run.record.test == ()


def test_the_defaults_are_the_papers():
    config = RunConfig()
    assert config.graph == GraphConfig(n_refer=7, n_close=3)
    assert (config.training.learning_rate, config.training.weight_decay) == (1e-4, 1e-4)
    assert (config.training.target_mask, config.training.reference_mask) == (0.1, 0.9)
    assert config.training.max_epochs == 200
