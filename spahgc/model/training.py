"""Train the network on graphs; others, held out, choose the epoch.

Dimension letters in this file:

T target spots, G genes
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spahgc.errors import MismatchError
from spahgc.model.checkpoints import TrainingState, find_checkpoint
from spahgc.model.curves import curve_writer
from spahgc.model.losses import LossWeights, expression_loss, total_loss
from spahgc.model.masking import frozen_copy, mask_graph, update_average
from spahgc.model.network import GraphTensors, NetworkConfig, NetworkShape, SpaHGC
from spahgc.model.progress import Advance, ignore
from spahgc.model.scoring import mean_pcc

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a network is trained; the defaults are the paper's, with an honest stop."""

    max_epochs: int = 200
    """Most rounds over the training slides."""

    patience: int = 40
    """Epochs without a smaller validation loss before training stops; the paper never stops."""

    learning_rate: float = 1e-4
    """Of AdamW."""

    weight_decay: float = 1e-4
    """Of AdamW."""

    target_mask: float = 0.1
    """Share of the targets' features that the learning view does not see."""

    reference_mask: float = 0.9
    """Share of the references' features that the learning view does not see."""

    losses: LossWeights = field(default_factory=LossWeights)
    """Weights of the parts of the loss."""

    ema: float | None = None
    """Decay of the second encoder's moving average; None keeps it at the first weights."""

    seed: int = 0
    """Of the first weights, the masks, dropout and the order of slides."""

    device: str = "cpu"
    """``cpu``, ``cuda``, ``cuda:1`` … as torch names them; ``auto`` is a GPU where there is one."""

    precision: Precision = "float32"
    """Of the products of a step; weights, losses and the optimiser stay in float32."""

    gradient_clip: float | None = None
    """Greatest norm of a step's gradient; None clips nothing, as the paper."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedNetwork:
    """The weights of the best epoch and how they were found."""

    network: NetworkConfig
    """Shape of the network."""

    weights: Mapping[str, NDArray[np.float32]]
    """Parameters by name."""

    curve: pd.DataFrame
    """One row per epoch: ``epoch`` from 1, ``train_loss``, ``validation_loss`` (squared error and
    correlation on whole graphs), ``validation_pcc``."""

    best_epoch: int
    """Counted from 1."""

    validation_pcc: float
    """Mean over genes and validation slides at that epoch."""


class Sample(NamedTuple):
    """One slide's graph and what was measured on it."""

    graph: GraphTensors
    """T targets."""

    measured_TG: Tensor
    """(T, G) float32 normalised expression; NaN for a gene the slide's files do not list."""


def train_network(
    samples: Sequence[Sample],
    *,
    held_out: Sequence[Sample],
    shape: NetworkShape,
    config: TrainingConfig,
    advance: Advance | None = None,
) -> TrainedNetwork:
    """Train on some slides; keep the epoch whose loss on those held out is least.

    Parameters
    ----------
    samples
        The training slides.
    held_out
        Slides whose loss (squared error and correlation, nothing masked) chooses the epoch. Their
        PCC alone would choose early epochs that order spots but have not learned how much is
        expressed. Where there are none the last epoch is kept.
    shape
        Of the network.
    config
        Settings; the same ones on the same machine give the same weights.
    advance
        Told how many more epochs are done, `TrainingConfig.max_epochs` in all.

    Raises
    ------
    MismatchError
        If the device is not here.
    DamagedStoreError
        If a checkpoint that is to be resumed from is damaged.

    References
    ----------
    arXiv 2603.22821, training.
    """
    advance = advance or ignore
    graph, measured_TG = samples[0]
    network = NetworkConfig(
        embedding_size=graph.target_TD.shape[1], n_genes=measured_TG.shape[1], **asdict(shape)
    )
    checkpoint = find_checkpoint(network, config, samples=(*samples, *held_out))
    device = find_device(config.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        training = _Training(network, config, device)
        if checkpoint is not None and (state := checkpoint.read()) is not None:
            with checkpoint.refusing_what_does_not_fit():
                training.load_state(state)
            advance(len(training.curve))
        with curve_writer() as write_scalars:
            while not training.is_done:
                training.run_epoch(samples, held_out)
                advance(1)
                write_scalars(training.curve[-1])
                is_due = checkpoint is not None and len(training.curve) % checkpoint.every == 0
                if checkpoint is not None and (is_due or training.is_done):
                    checkpoint.write(training.state())
    advance(config.max_epochs - len(training.curve))
    best = training.best
    return TrainedNetwork(
        network=network,
        weights={name: value.numpy() for name, value in training.best_weights.items()},
        curve=pd.DataFrame(training.curve),
        best_epoch=int(best["epoch"]),
        validation_pcc=float(best["validation_pcc"]),
    )


def find_device(name: str) -> torch.device:
    """Give the device of that name; ``auto`` is the first GPU, or the CPU where there is none.

    Raises
    ------
    MismatchError
        If it is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise MismatchError(
            f"no {name!r} to train on here ({reason}); give another `--device`"
        ) from None
    return device


class _Training:
    """One network in training: the masked contrastive training of DESIGN §4."""

    def __init__(
        self, network: NetworkConfig, config: TrainingConfig, device: torch.device
    ) -> None:
        self.curve: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self._config = config
        self._device = device
        self._network = SpaHGC(network)
        self._other_encoder = frozen_copy(self._network.encoder)
        self._network.to(device)
        self._other_encoder.to(device)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._masks = torch.Generator().manual_seed(config.seed)
        is_half = config.precision == "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=is_half)

    @property
    def is_done(self) -> bool:
        """Whether another epoch would change nothing, or none is left."""
        if not self.curve:
            return False
        is_idle = len(self.curve) - self.best["epoch"] >= self._config.patience
        return is_idle or len(self.curve) >= self._config.max_epochs

    @property
    def best(self) -> dict[str, float]:
        """The epoch with the least validation loss so far, the first of several; else the last."""
        if np.isnan(self.curve[-1]["validation_loss"]):
            return self.curve[-1]
        return min(self.curve, key=lambda row: row["validation_loss"])

    def run_epoch(self, samples: Sequence[Sample], held_out: Sequence[Sample]) -> None:
        """Train on every slide once, in an order of the seed and the epoch; then validate."""
        order = np.random.default_rng([self._config.seed % 2**32, len(self.curve)])
        self._network.train()
        self._other_encoder.train()
        train_losses = [self._step(samples[n]) for n in order.permutation(len(samples))]
        self._network.eval()
        validated = [self._validate(sample) for sample in held_out] or [(np.nan, np.nan)]
        losses, scores = zip(*validated, strict=True)
        self.curve.append(
            {
                "epoch": len(self.curve) + 1,
                "train_loss": _single(np.mean(train_losses)),
                "validation_loss": _single(np.mean(losses)),
                "validation_pcc": _single(np.mean(scores)),
            }
        )
        if self.best is self.curve[-1]:
            state = self._network.state_dict()
            self.best_weights = {k: v.detach().cpu().clone() for k, v in state.items()}

    def _step(self, sample: Sample) -> float:
        """Predict from the first view, compare the encoders' two views, and take one step."""
        graph, measured_TG = sample.graph.to(self._device), sample.measured_TG.to(self._device)
        views = mask_graph(
            graph,
            generator=self._masks,
            target_share=self._config.target_mask,
            reference_share=self._config.reference_mask,
        )
        weights = self._config.losses
        with self._mixed_precision():
            with torch.no_grad():
                other = self._other_encoder(views.second) if weights.contrast else None
            losses = total_loss(
                self._network(views.first), measured_TG, other=other, weights=weights
            )
        self._optimizer.zero_grad()
        self._scaler.scale(losses.total).backward()
        if self._config.gradient_clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._network.parameters(), self._config.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._config.ema is not None:
            update_average(self._other_encoder, self._network.encoder, decay=self._config.ema)
        return float(losses.total.detach())

    @torch.no_grad()
    def _validate(self, sample: Sample) -> tuple[float, float]:
        """Give the loss and PCC of a whole graph."""
        measured_TG = sample.measured_TG.to(self._device)
        with self._mixed_precision():
            predicted_TG = self._network(sample.graph.to(self._device)).expression_TG.float()
        listed_G = torch.isfinite(measured_TG).all(dim=0)
        loss = expression_loss(predicted_TG[:, listed_G], measured_TG[:, listed_G])
        return float(loss), mean_pcc(sample.measured_TG.numpy(), predicted_TG.cpu().numpy())

    def _mixed_precision(self) -> torch.autocast:
        is_mixed = self._config.precision != "float32"
        dtype = getattr(torch, self._config.precision) if is_mixed else None
        return torch.autocast(self._device.type, dtype=dtype, enabled=is_mixed)

    def state(self) -> TrainingState:
        """Give all that another process needs to go on to the same result."""
        optimizer = self._optimizer.state_dict()["state"]
        random = {"masks": self._masks.get_state(), "dropout": torch.get_rng_state()}
        if self._device.type == "cuda":
            random["dropout on GPU"] = torch.cuda.get_rng_state(self._device)
        tensors = {
            "network": self._network.state_dict(),
            "other": self._other_encoder.state_dict(),
            "best": self.best_weights,
            "optimizer": {
                f"{place}.{name}": torch.as_tensor(value)
                for place, values in optimizer.items()
                for name, value in values.items()
            },
            "random": random,
        }
        numbers = {"curve": self.curve, "scaler": self._scaler.state_dict()}
        return TrainingState(tensors=tensors, numbers=numbers)

    def load_state(self, state: TrainingState) -> None:
        """Take back what `state` gave."""
        self._network.load_state_dict(state.tensors["network"])
        self._other_encoder.load_state_dict(state.tensors["other"])
        self.best_weights = dict(state.tensors["best"])
        memory: dict[int, dict[str, Tensor]] = {}
        for key, value in state.tensors["optimizer"].items():
            place, _, name = key.partition(".")
            memory.setdefault(int(place), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": memory, "param_groups": groups})
        self.curve = [dict(row) for row in state.numbers["curve"]]
        self._scaler.load_state_dict(state.numbers["scaler"])
        random = state.tensors["random"]
        self._masks.set_state(random["masks"])
        torch.set_rng_state(random["dropout"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(random["dropout on GPU"], self._device)


def _single(value: np.floating) -> float:
    """Give a number as the curve on disk has it."""
    return float(np.float32(value))
