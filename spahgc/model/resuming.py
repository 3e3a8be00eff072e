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
from typing import Any, Final, Protocol

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

_MASKS: Final = "masks"
_DROPOUT: Final = "dropout"
_DROPOUT_ON_GPU: Final = "dropout on GPU"
"""Generators of random numbers, as checkpoints call them."""

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
    random: dict[str, Tensor]
    """What the generators of random numbers are to begin with, a row for each process."""

    @property
    def device(self) -> torch.device:
        """Where it is taught."""

    @property
    def global_rank(self) -> int:
        """Which of the processes that teach it this one is, from 0."""


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

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        checkpoint = self.checkpoints.read(self.piece)
        return checkpoint is not None and bool(checkpoint.numbers["is_done"])

    def take_up(self, lesson: Lesson) -> None:
        """Put a lesson where an earlier attempt left it, if there was one.

        Its generators of random numbers are another matter: see `restore_random`.
        """
        checkpoint = self.checkpoints.read(self.piece)
        if checkpoint is None:
            return
        tensors = checkpoint.tensors
        try:
            lesson.network.load_state_dict(part_of(tensors, "network."))
            lesson.other_encoder.load_state_dict(part_of(tensors, "other."))
            lesson.best_weights = part_of(tensors, "best.")
            lesson.memory = part_of(tensors, "optimizer.")
            lesson.random = part_of(tensors, "random.")
            lesson.curve = [dict(row) for row in checkpoint.numbers["curve"]]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise self.checkpoints.damaged(self.piece, error) from error

    def keep(
        self, lesson: Lesson, optimizer: torch.optim.Optimizer, *, is_done: bool = False
    ) -> None:
        """Write down where a lesson is, every so many epochs and at its end.

        Every process comes here at the same epochs; the first one writes for all.
        """
        if not is_done and len(lesson.curve) % self.checkpoints.every:
            return
        random = _gather_random(lesson)
        if lesson.global_rank:
            return
        tensors = {
            **with_prefix(lesson.network.state_dict(), "network."),
            **with_prefix(lesson.other_encoder.state_dict(), "other."),
            **with_prefix(lesson.best_weights, "best."),
            **with_prefix(optimizer_tensors(optimizer), "optimizer."),
            **with_prefix(random, "random."),
        }
        numbers = {"curve": lesson.curve, "is_done": is_done}
        self.checkpoints.write(self.piece, Checkpoint(tensors=tensors, numbers=numbers))


def restore_random(lesson: Lesson) -> None:
    """Let this process draw masks and dropout as it would have, had nobody interrupted it.

    Once it is known which of the processes this one is, and on which device.
    """
    # copies: torch 2.13 reads a generator's state from where the whole table begins
    own = {name: state[lesson.global_rank].clone() for name, state in lesson.random.items()}
    lesson.masks.set_state(own[_MASKS])
    torch.set_rng_state(own[_DROPOUT])
    if _DROPOUT_ON_GPU in own:
        torch.cuda.set_rng_state(own[_DROPOUT_ON_GPU], lesson.device)


def _gather_random(lesson: Lesson) -> dict[str, Tensor]:
    """Give the states of all processes' generators, (processes, bytes) each."""
    states = {_MASKS: lesson.masks.get_state(), _DROPOUT: torch.get_rng_state()}
    if lesson.device.type == "cuda":
        states[_DROPOUT_ON_GPU] = torch.cuda.get_rng_state(lesson.device)
    return {name: _gather(state, lesson.device) for name, state in states.items()}


def _gather(state: Tensor, device: torch.device) -> Tensor:
    if not torch.distributed.is_initialized():
        return state[None]
    own = state.to(device)  # where processes meet
    states = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(states, own)
    return torch.stack(states).cpu()


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
