"""Where learning curves can be watched while they grow: TensorBoard, if it is installed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias

TENSORBOARD: Final = "tensorboard"

WriteScalars: TypeAlias = Callable[[Mapping[str, float]], None]
"""Takes one row of a learning curve."""

_folder: ContextVar[Path | None] = ContextVar("folder of curves", default=None)


@contextmanager
def show_curves(folder: Path | None) -> Iterator[None]:
    """Let every training in the block write its curve below ``folder``, if there is one."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


@contextmanager
def curve_writer() -> Iterator[WriteScalars]:
    """Give what a training tells of each epoch; without TensorBoard it goes nowhere."""
    folder = _folder.get()
    if folder is None or find_spec(TENSORBOARD) is None:
        yield lambda _: None
        return
    from torch.utils.tensorboard import SummaryWriter

    started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    with SummaryWriter(str(folder / started)) as writer:

        def write(row: Mapping[str, float]) -> None:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(row["epoch"]))

        yield write
