"""Go on with trainings where an interrupted command left them, to the same result.

A run may train many networks, deep inside what fits it; which of them are finished is nobody's
business on the way there. So whoever starts a run says where checkpoints lie, and every training
finds its own by a digest of all that decides it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spahgc.model.checkpoints import (
    Checkpoint,
    Checkpoints,
    optimizer_tensors,
    part_of,
    with_prefix,
)
from spahgc.model.network import GraphTensors

_kept: ContextVar[Checkpoints | None] = ContextVar("checkpoints", default=None)


class Lesson(Protocol):
    """A training that can be stopped between two epochs."""

    network: nn.Module
    other_encoder: nn.Module
    masks: torch.Generator
    curve: list[dict[str, float]]
    best_weights: dict[str, Tensor]
    memory: dict[str, Tensor]
    """What the optimiser is to begin with."""


@contextmanager
def keep_checkpoints(checkpoints: Checkpoints) -> Iterator[None]:
    """Let every training in the block keep checkpoints, and go on from those it finds."""
    token = _kept.set(checkpoints)
    try:
        yield
    finally:
        _kept.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One training, and where its checkpoint lies."""

    checkpoints: Checkpoints
    """All of the run's."""

    piece: str
    """This training's."""

    def take_up(self, lesson: Lesson) -> bool:
        """Put a lesson where an earlier attempt left it; say whether nothing is left to do."""
        checkpoint = self.checkpoints.read(self.piece)
        if checkpoint is None:
            return False
        tensors = checkpoint.tensors
        lesson.network.load_state_dict(part_of(tensors, "network."))
        lesson.other_encoder.load_state_dict(part_of(tensors, "other."))
        lesson.best_weights = part_of(tensors, "best.")
        lesson.memory = part_of(tensors, "optimizer.")
        lesson.curve = [dict(row) for row in checkpoint.numbers["curve"]]
        lesson.masks.set_state(tensors["random.masks"])
        torch.set_rng_state(tensors["random.dropout"])
        return bool(checkpoint.numbers["is_done"])

    def keep(
        self, lesson: Lesson, optimizer: torch.optim.Optimizer, *, is_done: bool = False
    ) -> None:
        """Write down where a lesson is, every so many epochs and at its end."""
        if not is_done and len(lesson.curve) % self.checkpoints.every:
            return
        tensors = {
            **with_prefix(lesson.network.state_dict(), "network."),
            **with_prefix(lesson.other_encoder.state_dict(), "other."),
            **with_prefix(lesson.best_weights, "best."),
            **with_prefix(optimizer_tensors(optimizer), "optimizer."),
            "random.masks": lesson.masks.get_state(),
            "random.dropout": torch.get_rng_state(),
        }
        numbers = {"curve": lesson.curve, "is_done": is_done}
        self.checkpoints.write(self.piece, Checkpoint(tensors=tensors, numbers=numbers))


def begin_attempt(
    *settings: Any,  # noqa: ANN401  whatever has a repr that says all
    samples: Sequence[tuple[GraphTensors, Tensor]],
) -> Attempt | None:
    """Find a training's place among the checkpoints, None where nobody wants any.

    Parameters
    ----------
    settings
        Shape and settings of the training.
    samples
        All graphs that it learns from or stops by, with what was measured on them.
    """
    checkpoints = _kept.get()
    if checkpoints is None:
        return None
    digest = sha256(repr(settings).encode())
    for graph, measured_TG in samples:
        for tensor in (*(getattr(graph, field.name) for field in fields(graph)), measured_TG):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return Attempt(checkpoints=checkpoints, piece=digest.hexdigest()[:24])
