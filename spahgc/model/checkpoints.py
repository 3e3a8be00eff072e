"""What an interrupted training is resumed from, to the same result: safetensors, no pickle.

A run may train many networks, deep inside what fits it. So whoever starts a run says where
checkpoints lie, and every training finds its own by a digest of all that decides it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spahgc.errors import DamagedStoreError
from spahgc.model.network import GraphTensors
from spahgc.store.durable import write_durably

Value = TypeVar("Value")

EVERY: Final = 10
"""Epochs between two checkpoints of one training."""

_NUMBERS: Final = "numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """A folder of checkpoints, one for each network that a run trains."""

    folder: Path
    """Where; made when the first is written."""

    every: int = EVERY
    """Epochs between two checkpoints of one training."""


_kept: ContextVar[Checkpoints | None] = ContextVar("checkpoints", default=None)


@contextmanager
def keep_checkpoints(checkpoints: Checkpoints) -> Iterator[None]:
    """Let every training in the block keep checkpoints, and go on from those it finds."""
    token = _kept.set(checkpoints)
    try:
        yield
    finally:
        _kept.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """A training at the end of some epoch."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """Weights, the optimiser's memory, the states of random generators, by part and name."""

    numbers: Mapping[str, Any]
    """What JSON can spell, such as the learning curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where the newest state of one training lies."""

    path: Path
    """A safetensors file, written when there is a first state."""

    every: int = EVERY
    """Epochs between two states."""

    def read(self) -> TrainingState | None:
        """Read the newest state, None where there is none.

        Raises
        ------
        DamagedStoreError
            If it is not one.
        """
        if not self.path.exists():
            return None
        tensors: dict[str, dict[str, Tensor]] = {}
        with self.refusing_what_does_not_fit(), safe_open(self.path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  it is no mapping
                part, _, name = key.partition("/")
                tensors.setdefault(part, {})[name] = file.get_tensor(key)
            return TrainingState(tensors=tensors, numbers=json.loads(file.metadata()[_NUMBERS]))

    def write(self, state: TrainingState) -> None:
        """Put a state in the older one's place, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # copies: safetensors refuses memory that two tensors share
        tensors = {
            f"{part}/{name}": tensor.detach().cpu().clone()
            for part, named in state.tensors.items()
            for name, tensor in named.items()
        }
        numbers = {_NUMBERS: json.dumps(dict(state.numbers))}
        write_durably(self.path, save(tensors, metadata=numbers))

    @contextmanager
    def refusing_what_does_not_fit(self) -> Iterator[None]:
        """Raise DamagedStoreError where a block finds the state to be none of this training."""
        try:
            yield
        except (
            *(SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError),
            AttributeError,
        ) as error:
            reason = " ".join(str(error).split())
            raise DamagedStoreError(
                f"{self.path} is a damaged checkpoint: {reason}; remove it to begin that part again"
            ) from error


def find_checkpoint(
    *settings: Any,  # noqa: ANN401  whatever has a repr that says all
    samples: Sequence[tuple[GraphTensors, Tensor]],
) -> Checkpoint | None:
    """Find a training's place among the checkpoints, None where nobody wants any.

    Parameters
    ----------
    settings
        Shape and settings of the training.
    samples
        All graphs that it learns from or stops by, with what was measured on them.
    """
    kept = _kept.get()
    if kept is None:
        return None
    digest = sha256(repr(settings).encode())
    for graph, measured_TG in samples:
        for tensor in (*(getattr(graph, field.name) for field in fields(graph)), measured_TG):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return Checkpoint(path=kept.folder / f"{digest.hexdigest()[:24]}.safetensors", every=kept.every)


def part_of(values: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Give the tensors or arrays whose names begin with ``prefix``, without it."""
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
