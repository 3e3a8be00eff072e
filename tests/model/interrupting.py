"""What a training process does that a test interrupts; it imports little, as it starts often."""

import os
import signal
import time
from pathlib import Path

from spahgc.model import training

PLACE = "SPAHGC_TEST_INTERRUPTED"
train = training._train


def train_until_interrupted(task, advance):
    """Train in one of the processes; do what a test asks for at the epoch it names."""
    rank, epoch, what, folder = os.environ[PLACE].split(",")
    own = os.environ["LOCAL_RANK"]
    Path(folder, f"{own}.pid").write_text(str(os.getpid()))
    n_done = 0

    def advance_until(n):
        nonlocal n_done
        n_done += n
        advance(n)
        if own == rank and n_done == int(epoch):
            interrupt(what)

    return train(task, advance_until)


def interrupt(what):
    if what != "wait":
        os.kill(os.getppid() if what == "kill the parent" else os.getpid(), signal.SIGKILL)
    time.sleep(60)
