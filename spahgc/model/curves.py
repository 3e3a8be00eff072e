"""Where learning curves can be watched while they grow: TensorBoard, if it is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

TENSORBOARD: Final = "tensorboard"

_folder: ContextVar[Path | None] = ContextVar("folder of curves", default=None)


@contextmanager
def show_curves(folder: Path | None) -> Iterator[None]:
    """Let every training in the block write its curve below ``folder``, if there is one."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def curves_folder() -> Path | None:
    """Say where curves are written."""
    return _folder.get()


def curve_loggers() -> list["Logger"]:
    """Give what a Lightning trainer is to tell of each epoch; nothing without TensorBoard."""
    folder = curves_folder()
    if folder is None or find_spec(TENSORBOARD) is None:
        return []
    from lightning.pytorch.loggers import TensorBoardLogger

    return [TensorBoardLogger(folder, name="")]
