"""Batches that suit the device, found without one."""

import numpy as np
import pytest
import torch

from spahgc.errors import EncoderError
from spahgc.ingest import forward
from spahgc.ingest.forward import ForwardPass, choose_device, fastest_batch_size


class SmallDevice:
    """An encoder on a device that holds so many patches and no more."""

    name, input_px, device = "tiny", 2, torch.device("cuda")

    def __init__(self, *, holds, seconds=lambda n: n):
        self.holds, self.seconds, self.asked = holds, seconds, []

    def embed(self, pixels_BHWC):
        self.asked.append(len(pixels_BHWC))
        if len(pixels_BHWC) > self.holds:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        CLOCK[0] += self.seconds(len(pixels_BHWC))
        return pixels_BHWC.reshape(len(pixels_BHWC), -1)[:, :3].astype(np.float32)


CLOCK = [0.0]


@pytest.fixture(autouse=True)
def _own_clock(monkeypatch):
    monkeypatch.setattr(forward.time, "perf_counter", lambda: CLOCK[0])


def patches(n):
    return np.random.default_rng(0).integers(0, 255, (n, 2, 2, 3), dtype=np.uint8)


@pytest.mark.parametrize("holds", [1, 3, 5, 40])
def test_where_memory_ends_batches_shrink_and_no_patch_is_lost(holds):
    device = SmallDevice(holds=holds)
    run = ForwardPass(device, batch_size=32)
    pixels = patches(70)
    assert np.array_equal(run.embed(pixels), pixels.reshape(70, -1)[:, :3])
    assert run.batch_size <= holds
    n_asked = len(device.asked)
    run.embed(pixels)
    assert max(device.asked[n_asked:]) <= holds  # learned once


def test_memory_for_not_even_one_patch_is_one_line():
    with pytest.raises(EncoderError, match="memory does not suffice for one patch of tiny"):
        ForwardPass(SmallDevice(holds=0), batch_size=4).embed(patches(2))


def test_the_batch_size_is_the_fastest_that_fits():
    sizes = (32, 64, 128, 256)
    assert fastest_batch_size(SmallDevice(holds=100, seconds=lambda n: 1 + n / 100), sizes) == 64
    assert fastest_batch_size(SmallDevice(holds=999, seconds=lambda n: 1 + n / 100), sizes) == 256
    assert fastest_batch_size(SmallDevice(holds=999, seconds=float), sizes) == 32
    assert fastest_batch_size(SmallDevice(holds=9), sizes) == 1


def test_devices_that_are_not_here_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(EncoderError, match="no device 'cuda:1' here, expected auto, cpu"):
        choose_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"


def test_a_cpu_takes_a_few_patches_a_core_at_a_time(monkeypatch):
    device = SmallDevice(holds=999)
    device.device = torch.device("cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    run = ForwardPass(device)
    assert run.batch_size == 24
    run.embed(patches(50))
    assert device.asked == [24, 24, 2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert ForwardPass(device).batch_size == 16
