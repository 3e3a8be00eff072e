"""Several processes that train one network."""

import os

import numpy as np
import pytest

from spahgc.errors import WorkerError
from spahgc.model.curves import show_curves
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig
from spahgc.model.paper import fit_paper
from spahgc.model.teaching import gather_teaching
from spahgc.model.together import train_together
from spahgc.model.training import TrainingConfig
from spahgc.store.index import open_index
from tests.model.conftest import EMBEDDING, SMALL, fold_of


@pytest.fixture(scope="module")
def teaching(grown):
    return gather_teaching(
        grown,
        open_index(grown, embedding=EMBEDDING),
        fold_of(grown),
        panel_rule="heg:6",
        graph_config=GraphConfig(),
        features=FeatureConfig(embeddings=(EMBEDDING,)),
    )


def test_two_processes_train_one_network(teaching, tmp_path):
    epochs = []
    config = TrainingConfig(max_epochs=12, learning_rate=0.003, seed=1, devices=2)
    fitted = fit_paper(
        teaching, validation=["A1"], shape=SMALL, config=config, advance=epochs.append
    )
    assert sum(epochs) == 12
    assert list(fitted.curve["epoch"]) == list(range(1, 13))
    assert fitted.curve["train_loss"].iloc[-1] < fitted.curve["train_loss"].iloc[0]
    predicted_SG = fitted.model.predict(teaching.read("A1"))
    assert np.isfinite(predicted_SG).all()
    assert np.allclose(predicted_SG, fitted.held_out["A1"])
    with show_curves(tmp_path):
        again = fit_paper(teaching, validation=["A1"], shape=SMALL, config=config)
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1
    for name, weights in fitted.arrays.items():
        assert np.allclose(weights, again.arrays[name], atol=1e-6)


def die(task, _advance):
    if os.environ["LOCAL_RANK"] == "1":
        os._exit(3)
    return task


def test_a_process_that_dies_is_one_line():
    with pytest.raises(WorkerError, match=r"one of 2 training processes died.*--devices"):
        train_together(die, 0, n_processes=2, advance=print)
