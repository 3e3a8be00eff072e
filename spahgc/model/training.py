"""Train the network on graphs; others, held out, choose the epoch.

Dimension letters in this file:

T target spots, G genes
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from spahgc.model.checkpoints import restore_optimizer
from spahgc.model.lightning_trainer import LightningModule, make_trainer, quiet
from spahgc.model.losses import LossWeights, expression_loss, total_loss
from spahgc.model.masking import frozen_copy, mask_graph, update_average
from spahgc.model.network import GraphTensors, NetworkConfig, NetworkShape, SpaHGC
from spahgc.model.progress import Advance, ignore
from spahgc.model.resuming import Attempt, begin_attempt, restore_random
from spahgc.model.scoring import mean_pcc
from spahgc.model.slide_order import ShuffledSlides, Slides
from spahgc.model.together import train_together


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
    """``cpu``, ``cuda`` …, as Lightning names accelerators."""

    devices: int = 1
    """Processes, each with a device and slides of its own; every step averages their gradients."""


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

    References
    ----------
    arXiv 2603.22821, training.
    """
    graph, measured_TG = samples[0]
    network = NetworkConfig(
        embedding_size=graph.target_TD.shape[1], n_genes=measured_TG.shape[1], **asdict(shape)
    )
    attempt = begin_attempt(network, config, samples=(*samples, *held_out))
    task = (samples, held_out, network, config, attempt)
    if config.devices == 1 or (attempt is not None and attempt.is_done):
        return _train(task, advance or ignore)
    with quiet():
        # a device that is not here is told before they start
        make_trainer(device=config.device, devices=1, max_epochs=config.max_epochs)
        return train_together(_train, task, n_processes=config.devices, advance=advance or ignore)


def _train(
    task: tuple[Sequence[Sample], Sequence[Sample], NetworkConfig, TrainingConfig, Attempt | None],
    advance: Advance,
) -> TrainedNetwork:
    samples, held_out, network_config, config, attempt = task
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(config.seed)
        lesson = _Lesson(SpaHGC(network_config), config, advance, attempt)
        if attempt is not None:
            attempt.take_up(lesson)
        if lesson.curve:
            advance(len(lesson.curve))
        if not lesson.is_done:
            _teach(lesson, samples, held_out)
    advance(config.max_epochs - len(lesson.curve))
    best = lesson.best
    return TrainedNetwork(
        network=network_config,
        weights={name: value.numpy() for name, value in lesson.best_weights.items()},
        curve=pd.DataFrame(lesson.curve),
        best_epoch=int(best["epoch"]),
        validation_pcc=float(best["validation_pcc"]),
    )


def _teach(lesson: "_Lesson", samples: Sequence[Sample], held_out: Sequence[Sample]) -> None:
    config = lesson.config
    trainer = make_trainer(
        device=config.device,
        devices=config.devices,
        max_epochs=config.max_epochs,
        uses_all=config.losses.contrast,  # without it, some of the encoder has no part
    )
    slides = ShuffledSlides(
        samples,
        seed=config.seed,
        n_epochs_done=lambda: len(lesson.curve),
        n_processes=config.devices,
        rank=trainer.global_rank,
    )
    trainer.fit(lesson, slides, Slides(held_out) if held_out else None)


class _Lesson(LightningModule):
    """The masked contrastive training of DESIGN §4 as Lightning wants it."""

    def __init__(
        self,
        network: SpaHGC,
        config: TrainingConfig,
        advance: Advance,
        attempt: Attempt | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.other_encoder = frozen_copy(network.encoder)
        self.config = config
        self.curve: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self._advance = advance
        self.masks = torch.Generator().manual_seed(config.seed)
        self.memory: dict[str, Tensor] = {}
        self.random: dict[str, Tensor] = {}
        self._attempt = attempt
        self._train_losses: list[float] = []
        self._validation: list[tuple[float, float]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give AdamW over everything that learns."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        if self.memory:
            restore_optimizer(optimizer, self.memory)
        return optimizer

    def on_fit_start(self) -> None:
        """Let every process draw masks and dropout of its own."""
        if self.random:
            restore_random(self)
        elif self.global_rank:
            self.masks.manual_seed(self.config.seed + self.global_rank)
            torch.manual_seed(self.config.seed + self.global_rank)

    def training_step(self, sample: Sample, _: int) -> Tensor:
        """Predict from the first view, and compare the encoders' two views."""
        views = mask_graph(
            sample.graph,
            generator=self.masks,
            target_share=self.config.target_mask,
            reference_share=self.config.reference_mask,
        )
        with torch.no_grad():
            other = self.other_encoder(views.second) if self.config.losses.contrast else None
        output = self.network(views.first)
        losses = total_loss(output, sample.measured_TG, other=other, weights=self.config.losses)
        self._train_losses.append(float(losses.total.detach()))
        return losses.total

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401  Lightning's own signature
        """Move the second encoder where it is a moving average."""
        if self.config.ema is not None:
            update_average(self.other_encoder, self.network.encoder, decay=self.config.ema)

    def validation_step(self, sample: Sample, _: int) -> None:
        """Predict a whole graph and score it."""
        predicted_TG = self.network(sample.graph).expression_TG
        listed_G = torch.isfinite(sample.measured_TG).all(dim=0)
        loss = expression_loss(predicted_TG[:, listed_G], sample.measured_TG[:, listed_G])
        pcc = mean_pcc(sample.measured_TG.cpu().numpy(), predicted_TG.cpu().numpy())
        self._validation.append((float(loss), pcc))

    def on_train_epoch_end(self) -> None:
        """Write the epoch down, keep its weights if they are the best, stop if none will be.

        Lightning validates before it comes here.
        """
        losses, scores = zip(*self._validation or [(np.nan, np.nan)], strict=True)
        means = torch.tensor([np.mean(self._train_losses), np.mean(losses), np.mean(scores)])
        # over all processes, which must decide alike when to stop
        if self.config.devices > 1:
            means = self.trainer.strategy.reduce(means.to(self.device), reduce_op="mean")
        names = ("train_loss", "validation_loss", "validation_pcc")
        row = dict(zip(names, means.tolist(), strict=True))
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=len(self.curve) + 1)
        self.curve.append({"epoch": len(self.curve) + 1, **row})
        self._train_losses, self._validation = [], []
        if self.best is self.curve[-1]:
            state = self.network.state_dict()
            self.best_weights = {k: v.detach().cpu().clone() for k, v in state.items()}
        self._advance(1)
        self.trainer.should_stop = self.is_done
        if self._attempt is not None:
            self._attempt.keep(self, self.trainer.optimizers[0], is_done=self.is_done)

    @property
    def is_done(self) -> bool:
        """Whether another epoch would change nothing, or none is left."""
        if not self.curve:
            return False
        is_idle = len(self.curve) - self.best["epoch"] >= self.config.patience
        return is_idle or len(self.curve) >= self.config.max_epochs

    @property
    def best(self) -> dict[str, float]:
        """The epoch with the least validation loss so far, the first of several; else the last."""
        if np.isnan(self.curve[-1]["validation_loss"]):
            return self.curve[-1]
        return min(self.curve, key=lambda row: row["validation_loss"])
