"""The two ways to train: the paper's graph network, and a kernel ridge on gene programs."""

from typing import Final

from spahgc.model.committee_fitting import CommitteeConfig
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig
from spahgc.model.losses import LossWeights
from spahgc.model.network import NetworkShape
from spahgc.model.runs import RunConfig
from spahgc.model.training import TrainingConfig

FIELDS_UM: Final = (77, 154, 308, 616)
"""Fields of view of the default model, in µm: a few cells, a spot, its neighbours, the tissue."""

EMBEDDINGS: Final = tuple(f"lite0-{width}um" for width in FIELDS_UM)
"""Names under which `spahgc ingest` and `spahgc embed` store them."""

PAPER: Final = RunConfig(features=FeatureConfig(embeddings=("lite0-154um",)))

DEFAULT: Final = RunConfig(
    features=FeatureConfig(embeddings=EMBEDDINGS, signed_root=True, standardise=True),
    graph=GraphConfig(n_refer=50),
    network=NetworkShape(hidden_size=64, n_layers=1),
    training=TrainingConfig(
        max_epochs=40,
        patience=10,
        learning_rate=3e-3,
        weight_decay=1e-2,
        target_mask=0.1,
        reference_mask=0.1,
        losses=LossWeights(target=0, reference=0),
    ),
    committee=CommitteeConfig(n_networks=0),
)

PRESETS: Final = {"paper": PAPER, "default": DEFAULT}
