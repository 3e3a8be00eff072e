import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spahgc.errors import DamagedStoreError
from spahgc.model import training
from spahgc.model.checkpoints import Checkpoint, Checkpoints, TrainingState, keep_checkpoints
from spahgc.model.runs import train_fold
from tests.model.conftest import RUN_CONFIG, fold_of, weights_of

CONFIG = replace(RUN_CONFIG, training=replace(RUN_CONFIG.training, max_epochs=6, ema=0.9))


@pytest.fixture(scope="module")
def whole(grown):
    return train_fold(grown, fold_of(grown), config=CONFIG).run


def stop_after(monkeypatch, n_epochs):
    """Interrupt training when so many epochs are done."""
    run_epoch = training._Training.run_epoch

    def run_until(self, *samples):
        if len(self.curve) == n_epochs:
            raise KeyboardInterrupt
        run_epoch(self, *samples)

    monkeypatch.setattr(training._Training, "run_epoch", run_until)


@pytest.mark.parametrize("every", [1, 2, 4])
def test_an_interrupted_training_goes_on_to_the_same_result(
    grown, whole, tmp_path, monkeypatch, every
):
    checkpoints = Checkpoints(folder=tmp_path, every=every)
    with keep_checkpoints(checkpoints):
        with monkeypatch.context() as patch:
            stop_after(patch, 5)
            with pytest.raises(KeyboardInterrupt):
                train_fold(grown, fold_of(grown), config=CONFIG)
        assert len(list(tmp_path.glob("*.safetensors"))) == 1
        again = train_fold(grown, fold_of(grown), config=CONFIG).run
    pd.testing.assert_frame_equal(again.curve, whole.curve, rtol=0, atol=1e-6)
    one, other = weights_of(again).sort_index(), weights_of(whole).sort_index()
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert again.record.best_epoch == whole.record.best_epoch


def test_a_finished_training_is_not_done_again(grown, whole, tmp_path, monkeypatch):
    with keep_checkpoints(Checkpoints(folder=tmp_path)):
        train_fold(grown, fold_of(grown), config=CONFIG)
        monkeypatch.setattr(training._Training, "run_epoch", None)
        again = train_fold(grown, fold_of(grown), config=CONFIG).run
    one, other = weights_of(again).sort_index(), weights_of(whole).sort_index()
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_another_training_does_not_go_on_from_it(grown, tmp_path):
    with keep_checkpoints(Checkpoints(folder=tmp_path)):
        for seed in (1, 2):
            config = replace(CONFIG, training=replace(CONFIG.training, seed=seed, max_epochs=1))
            train_fold(grown, fold_of(grown), config=config)
        train_fold(grown, fold_of(grown, test="A1"), config=config)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_nobody_keeps_anything_unasked(grown, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = replace(CONFIG, training=replace(CONFIG.training, max_epochs=1))
    train_fold(grown, fold_of(grown), config=config)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "one.safetensors")
    assert checkpoint.read() is None
    checkpoint.write(TrainingState(tensors={"random": {"a": torch.ones(3)}}, numbers={"b": 1}))
    assert checkpoint.read().numbers == {"b": 1}
    assert checkpoint.read().tensors["random"]["a"].tolist() == [1, 1, 1]
    checkpoint.path.write_bytes(b"half")
    with pytest.raises(DamagedStoreError, match="damaged checkpoint") as caught:
        checkpoint.read()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_something_else_is_one_line(grown, tmp_path):
    with keep_checkpoints(Checkpoints(folder=tmp_path, every=1)):
        train_fold(grown, fold_of(grown), config=CONFIG)
        (path,) = tmp_path.glob("*.safetensors")
        Checkpoint(path=path).write(TrainingState(tensors={"network": {}}, numbers={}))
        with pytest.raises(DamagedStoreError, match=r"damaged checkpoint.*remove it") as caught:
            train_fold(grown, fold_of(grown), config=CONFIG)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_killed_command_is_resumed_to_the_same_weights(grown, tmp_path):
    def command(out, *more):
        return [
            *(sys.executable, "-m", "spahgc.cli", "train", "--store", grown.where),
            *("--preset", "paper", "--embedding", "tiny", "--genes", "heg:6", "--epochs", "25"),
            *("--test", "B2", "--out", str(tmp_path / out), *more),
        ]

    subprocess.run(command("whole"), check=True, env={**os.environ})
    killed = subprocess.Popen(command("killed"))
    work = tmp_path / ".killed.unfinished/work"
    while killed.poll() is None and not any(work.glob("*.safetensors")):
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    subprocess.run(command("killed", "--resume"), check=True, env={**os.environ})
    one, other = (pd.read_csv(tmp_path / name / "curve.csv") for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(one, other, rtol=1e-6, atol=1e-6)
    assert not work.exists()
