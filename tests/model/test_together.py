"""Several processes that train one network, however often they are interrupted."""

import random
import signal
import time
from multiprocessing import active_children, get_context

import numpy as np
import pandas as pd
import psutil
import pytest

from spahgc.errors import WorkerError
from spahgc.index import ReferenceIndex
from spahgc.model import together, training
from spahgc.model.checkpoints import Checkpoints
from spahgc.model.curves import show_curves
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig
from spahgc.model.panel_rules import PanelRule
from spahgc.model.paper import fit_paper
from spahgc.model.resuming import keep_checkpoints
from spahgc.model.teaching import gather_teaching
from spahgc.model.training import TrainingConfig
from spahgc.store.cohort import open_cohort
from tests.model.conftest import EMBEDDING, SMALL, fold_of, weights_of
from tests.model.interrupting import (
    PLACE,
    is_running,
    miss_the_other,
    read_pid,
    train_until_interrupted,
)
from tests.waiting import wait_until

CONFIG = TrainingConfig(max_epochs=16, learning_rate=0.003, seed=1, ema=0.9, devices=2)


def gather(cohort):
    return gather_teaching(
        cohort,
        ReferenceIndex.open(cohort, embedding=EMBEDDING),
        fold_of(cohort),
        panel_rule=PanelRule.parse("heg:6"),
        graph_config=GraphConfig(),
        features=FeatureConfig(embeddings=(EMBEDDING,)),
    )


def fit(teaching, **how):
    return fit_paper(teaching, validation=["A1"], shape=SMALL, config=CONFIG, **how)


@pytest.fixture(scope="module")
def teaching(grown):
    return gather(grown)


@pytest.fixture(scope="module")
def whole(teaching):
    """A training that nobody interrupts, and the epochs it told of."""
    epochs = []
    return fit(teaching, advance=epochs.append), epochs


@pytest.fixture
def interrupted(monkeypatch, tmp_path):
    """Let processes be interrupted: which of them, at which epoch, and how."""

    def at(*place):
        monkeypatch.setenv(PLACE, ",".join(map(str, (*place, tmp_path))))
        monkeypatch.setattr(training, "_train", train_until_interrupted)

    return at


def fit_elsewhere(where, checkpoints):
    """Run in a process of its own, which is to be killed."""
    training._train = train_until_interrupted
    with keep_checkpoints(checkpoints):
        fit(gather(open_cohort(where)))


def test_two_processes_train_one_network(teaching, whole):
    fitted, epochs = whole
    assert sum(epochs) == 16
    assert list(fitted.curve["epoch"]) == list(range(1, 17))
    assert fitted.curve["train_loss"].iloc[-1] < fitted.curve["train_loss"].iloc[0]
    predicted_SG = fitted.model.predict(teaching.read("A1"))
    assert np.isfinite(predicted_SG).all()
    assert np.allclose(predicted_SG, fitted.held_out["A1"])


def test_interrupted_again_and_again_they_come_to_the_same_result(
    teaching, whole, interrupted, tmp_path, monkeypatch
):
    epochs = sorted(random.Random(7).sample(range(3, 16), 3))  # noqa: S311  places, not secrets
    checkpoints = Checkpoints(folder=tmp_path / "work", every=2)
    with keep_checkpoints(checkpoints):
        interrupted(0, epochs[0], "wait")
        told = []

        def press_ctrl_c(n):
            told.append(n)
            if sum(told) == epochs[0]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(teaching, advance=press_ctrl_c)
        assert not any(is_running(int(path.read_text())) for path in tmp_path.glob("*.pid"))

        interrupted(1, epochs[1], "kill itself")
        with pytest.raises(WorkerError, match=r"one of 2 training .*died.*SIGKILL.*--resume"):
            fit(teaching)

        interrupted(0, epochs[2], "kill the parent")
        parent = get_context("spawn").Process(
            target=fit_elsewhere, args=(teaching.cohort.where, checkpoints)
        )
        parent.start()
        parent.join(120)
        assert parent.exitcode == -signal.SIGKILL
        pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
        deadline = time.monotonic() + 10
        while any(map(is_running, pids)):
            assert time.monotonic() < deadline, "processes outlive the one that started them"
            time.sleep(0.05)

        monkeypatch.undo()
        told.clear()
        with show_curves(tmp_path / "curves"):
            again = fit(teaching, advance=told.append)
        assert told[0] == (epochs[2] - 1) // 2 * 2
        assert sum(told) == 16
        assert len(list((tmp_path / "curves").rglob("events.out.tfevents.*"))) == 1
        monkeypatch.setattr(training, "train_together", None)
        done = fit(teaching)  # without any process
    assert len(list(checkpoints.folder.iterdir())) == 1
    for other in (again, done):
        pd.testing.assert_frame_equal(other.curve, whole[0].curve, rtol=0, atol=1e-6)
        one, two = weights_of(other).sort_index(), weights_of(whole[0]).sort_index()
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)
        assert other.best_epoch == whole[0].best_epoch


def test_of_two_that_died_the_one_that_was_killed_is_named(tmp_path):
    def look_elsewhere(_):
        pids = {read_pid(tmp_path, rank) for rank in range(2)}
        (tmp_path / "looks elsewhere").touch()
        wait_until(
            lambda: pids.isdisjoint(child.pid for child in active_children()),
            told="the two did not end",
        )

    with pytest.raises(WorkerError, match=r"died \(process 1 terminated with signal SIGKILL\)"):
        together.train_together(miss_the_other, tmp_path, n_processes=2, advance=look_elsewhere)


def test_where_processes_meet_is_held_until_they_do_and_on_loopback_only():
    meeting_point = together.open_meeting_point()
    (listener,) = (
        connection
        for connection in psutil.Process().net_connections("tcp")
        if connection.laddr.port == meeting_point.port and connection.status == "LISTEN"
    )
    assert listener.laddr.ip == "127.0.0.1"
