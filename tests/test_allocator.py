"""What the C library is asked to do with freed memory."""

import os
import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from spahgc.allocator import keep_freed_memory
print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(40 * 2**20, dtype=np.uint8)  # 40 MiB: beyond what glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def run(**environment):
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    clean |= {"NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    said = subprocess.run(
        [sys.executable, "-c", CODE], env=clean, capture_output=True, text=True, check=True
    ).stdout.split()
    return said[0] == "True", int(said[1])


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept_but_where_the_user_decides():
    is_kept, n_faults = run()
    is_left_alone, n_faults_alone = run(MALLOC_ARENA_MAX="4")
    assert is_kept
    assert not is_left_alone
    assert n_faults < n_faults_alone / 20
