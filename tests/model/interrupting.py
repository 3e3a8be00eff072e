"""What a training process does that a test interrupts; it imports little, as it starts often."""

import os
import signal
import time
from pathlib import Path

import psutil

from spahgc.model import training
from tests.waiting import wait_until

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


def miss_the_other(folder, advance):
    """Let the second process be killed, and the first one fail for want of it."""
    rank = int(os.environ["LOCAL_RANK"])
    Path(folder, f"{rank}.pid").write_text(str(os.getpid()))
    advance(1)
    wait_until(Path(folder, "looks elsewhere").exists, told="the parent did not look elsewhere")
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    wait_until(lambda: not is_running(read_pid(folder, 1)), told="the other one did not die")
    raise ConnectionError("the other one is gone")


def read_pid(folder, rank):
    """Wait for the process of that rank to say which one it is."""
    path = Path(folder, f"{rank}.pid")
    wait_until(lambda: path.exists() and path.read_text(), told=f"process {rank} did not start")
    return int(path.read_text())


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
