"""What an interrupted training goes on from: tensors and numbers, one file a piece, no pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spahgc.errors import DamagedStoreError
from spahgc.store.durable import write_durably

Value = TypeVar("Value")

_NUMBERS: Final = "numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A training at the end of some epoch."""

    tensors: Mapping[str, Tensor]
    """Weights, the optimiser's memory, the states of random generators, by name."""

    numbers: Mapping[str, Any]
    """What JSON can spell, such as the learning curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """A folder of checkpoints, one for each network that a run trains."""

    folder: Path
    """Where; made when the first is written."""

    every: int = 10
    """Epochs between two checkpoints of one training."""

    def read(self, piece: str) -> Checkpoint | None:
        """Read the newest checkpoint of a piece, None where there is none.

        Raises
        ------
        DamagedStoreError
            If it is not one.
        """
        path = self._path(piece)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                numbers = json.loads(file.metadata()[_NUMBERS])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self.damaged(piece, error) from error
        return Checkpoint(tensors=tensors, numbers=numbers)

    def damaged(self, piece: str, error: Exception) -> DamagedStoreError:
        """Say that a piece's checkpoint is not what `write` wrote, and why."""
        reason = " ".join(str(error).split())
        return DamagedStoreError(
            f"{self._path(piece)} is a damaged checkpoint: {reason}; remove it to begin that part "
            "again"
        )

    def write(self, piece: str, checkpoint: Checkpoint) -> None:
        """Put a checkpoint in the older one's place, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # a copy of its own: safetensors refuses memory that two tensors share
        tensors = {name: t.detach().cpu().clone() for name, t in checkpoint.tensors.items()}
        numbers = {_NUMBERS: json.dumps(dict(checkpoint.numbers))}
        write_durably(self._path(piece), save(tensors, metadata=numbers))

    def _path(self, piece: str) -> Path:
        return self.folder / f"{piece}.safetensors"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give an optimiser's memory, by parameter and name."""
    state = optimizer.state_dict()["state"]
    return {
        f"{place}.{name}": torch.as_tensor(value)
        for place, values in state.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        place, _, name = key.partition(".")
        state.setdefault(int(place), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def part_of(values: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Give the tensors or arrays whose names begin with ``prefix``, without it."""
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Put ``prefix`` before every name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}
