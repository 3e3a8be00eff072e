"""What becomes of freed memory: the C library's, and large blocks of our own."""

import gc
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from spahgc.allocator import KEPT_BY_A_CHILD, KeptBlocks, objects_left_alone

CODE = """
import resource, sys
from threading import Thread
import numpy as np
from spahgc.allocator import keep_freed_memory
print(keep_freed_memory())
def count_faults():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            np.ones(int(sys.argv[2]) * 2**20, dtype=np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
counting = Thread(target=count_faults)
if sys.argv[1] == "main":
    counting.run()
else:
    counting.start()
    counting.join()
"""


def run(thread="main", *, n_mib=40, **environment):
    """Tell whether memory is said to be kept, and how many pages come anew."""
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    clean |= {"NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    said = subprocess.run(
        [sys.executable, "-c", CODE, thread, str(n_mib)],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return said[0] == "True", int(said[1])


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize("n_mib", [40, 200])  # beyond what glibc keeps by itself
def test_freed_memory_is_kept_but_where_the_user_decides(n_mib):
    is_kept, n_faults = run(n_mib=n_mib)
    is_left_alone, n_faults_alone = run(n_mib=n_mib, MALLOC_ARENA_MAX="4")
    assert is_kept
    assert not is_left_alone
    assert n_faults < n_faults_alone / 20


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_child_keeps_freed_memory_in_any_thread():
    _, n_faults = run("another", n_mib=80, **KEPT_BY_A_CHILD)
    _, n_faults_alone = run("another", n_mib=80)
    assert n_faults < n_faults_alone / 20


def test_objects_are_left_alone_for_a_while_and_collected_after():
    class Knot:
        def __init__(self):
            self.itself = self

    knot = Knot()
    gone = weakref.ref(knot)
    with objects_left_alone():
        assert gc.get_freeze_count() > 1000
        del knot
        gc.collect()
        assert gone() is not None
        with objects_left_alone():
            pass
        assert gc.get_freeze_count() > 1000  # until the outer one ends
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert gone() is None


def test_a_block_is_used_again_when_nobody_holds_a_part_of_it():
    blocks = KeptBlocks(at_most=300, granule=100)
    first = blocks.take(90)
    part = first[10:20].reshape(2, 5)
    place = first.ctypes.data
    assert len(first) == 90
    others = [blocks.take(90)]
    del first
    others.append(blocks.take(90))
    assert place not in {other.ctypes.data for other in others}  # a part of it is still held
    del part
    assert blocks.take(95).ctypes.data == place


def test_what_is_kept_is_never_more_than_was_agreed():
    blocks = KeptBlocks(at_most=300, granule=100)
    held = [blocks.take(100) for _ in range(5)]
    held.clear()
    assert sum(map(len, blocks._free.values())) == 300
    large = blocks.take(250)  # none is large enough: what is free makes room
    assert not blocks._free
    del large
    assert [len(block) for block in blocks._free.values()] == [300]
    huge = blocks.take(1000)
    del huge
    assert not blocks._free  # beyond what may be kept


def test_threads_never_hold_the_same_block():
    blocks = KeptBlocks(at_most=10_000, granule=100)

    def work(mark):
        for _ in range(300):
            taken = blocks.take(50)
            taken[:] = mark
            if not (taken == mark).all():
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
