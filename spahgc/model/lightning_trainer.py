"""Lightning's trainer, silent and on the devices asked for."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from spahgc.errors import MismatchError
from spahgc.model.curves import curve_loggers
from spahgc.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before Lightning, which imports torchvision

from lightning.fabric.utilities.exceptions import MisconfigurationException  # noqa: E402
from lightning.pytorch import LightningModule, Trainer  # noqa: E402

__all__ = ["LightningModule", "check_device", "make_trainer", "quiet"]

_TALKATIVE: Final = ("lightning.pytorch", "lightning.fabric", "torch.multiprocessing.spawn")
"""Loggers that tell on the screen what is told better by ourselves."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's advertisements, and its own use of old torch names, off the screen."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", module="lightning")
            warnings.filterwarnings("ignore", message="GPU available but not used")  # as asked
            warnings.filterwarnings("ignore", message="You defined a `validation_step`")  # the same
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_device(*, device: str, devices: int) -> None:
    """Refuse devices that are not here; see `make_trainer`."""
    with quiet():
        make_trainer(device=device, devices=devices, max_epochs=1)


def make_trainer(*, device: str, devices: int, max_epochs: int, uses_all: bool = True) -> Trainer:
    """Give a trainer that keeps nothing and shows nothing by itself.

    Parameters
    ----------
    device
        As Lightning names accelerators.
    devices
        How many of it, a process each.
    max_epochs
        Most rounds over the slides.
    uses_all
        Whether every parameter has a part in every loss; where one has not, several processes must
        look for it.

    Raises
    ------
    MismatchError
        If they are not here.
    """
    strategy = "auto"
    if devices > 1:
        strategy = "ddp" if uses_all else "ddp_find_unused_parameters_true"
    try:
        return Trainer(
            accelerator=device,
            devices=devices,
            strategy=strategy,
            max_epochs=max_epochs,
            logger=curve_loggers(),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, ImportError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MismatchError(
            f"no {devices} × {device!r} to train on here ({reason}); give another `--device`, or "
            "fewer `--devices`"
        ) from error
