"""The order in which slides are gone over, one graph at a time, by one process or several."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

Sample = TypeVar("Sample")


class Slides(Generic[Sample]):
    """Go over slides one by one.

    A torch ``DataLoader`` would do the same, and Lightning would ask it for worker processes.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)


class ShuffledSlides(Slides[Sample]):
    """Go over slides in an order that follows from the seed and the epoch.

    It does not follow from how often somebody asked: Lightning asks once more where it begins, so a
    resumed training would see another order than one that was never interrupted.

    Parameters
    ----------
    samples
        The slides.
    seed
        Of the orders.
    n_epochs_done
        Tells at any time how many epochs are.
    n_processes, rank
        Between how many processes they are dealt out, and which of them this one is, from 0.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        seed: int,
        n_epochs_done: Callable[[], int],
        n_processes: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(samples)
        self._seed = seed % 2**32
        self._n_epochs_done = n_epochs_done
        self._n_processes = n_processes
        self._rank = rank

    def __len__(self) -> int:
        return math.ceil(len(self._samples) / self._n_processes)

    def __iter__(self) -> Iterator[Sample]:
        draws = np.random.default_rng([self._seed, self._n_epochs_done()])
        order = draws.permutation(len(self._samples))
        # every process has as many steps: some slides come twice where they do not divide
        order = np.resize(order, len(self) * self._n_processes)
        return iter([self._samples[place] for place in order[self._rank :: self._n_processes]])
