import numpy as np
import pytest

from spahgc.errors import InstallationError
from spahgc.index import ReferenceIndex, faiss_library, flat


def installed(monkeypatch, *names):
    monkeypatch.setattr(faiss_library, "_version_of", lambda name: "1.9" if name in names else None)


def test_two_wheels_of_faiss_are_refused_with_what_to_type(monkeypatch):
    installed(monkeypatch, "faiss-cpu", "faiss-gpu-cu12")
    with pytest.raises(
        InstallationError,
        match=r"faiss-cpu 1.9 and faiss-gpu-cu12 1.9 .* `pip uninstall --yes faiss-cpu "
        r"faiss-gpu-cu12`, then `pip install faiss-gpu-cu12`",
    ):
        faiss_library.check_one_wheel()


@pytest.mark.parametrize("wheel", faiss_library.WHEELS)
def test_any_one_wheel_will_do(monkeypatch, wheel):
    installed(monkeypatch, wheel)
    faiss_library.check_one_wheel()


def test_a_missing_faiss_names_both_ways_to_get_it(monkeypatch):
    monkeypatch.setitem(
        faiss_library.import_faiss.__globals__["__builtins__"], "__import__", _no_faiss
    )
    with pytest.raises(InstallationError, match=r"pip install faiss-cpu.*pip install faiss-gpu"):
        faiss_library.import_faiss()


def _no_faiss(name, *rest, real=__import__):
    if name == "faiss":
        raise ImportError("gone")
    return real(name, *rest)


def test_a_device_that_faiss_sees_is_searched_on(monkeypatch):
    generator = np.random.default_rng(0)
    vectors = {name: generator.normal(size=(40, 8)).astype(np.float32) for name in ("A1", "B1")}
    alone = ReferenceIndex.of_vectors(vectors).search_slide("A1", k=5, exclude_slides=())
    asked = []

    def knn_gpu(resources, *arguments, **how):
        asked.append(resources)
        return flat.faiss.knn(*arguments, **how)

    monkeypatch.setattr(flat, "n_gpus", lambda: 1)
    monkeypatch.setattr(flat, "_gpu_resources", lambda: "the device")
    monkeypatch.setattr(flat.faiss, "knn_gpu", knn_gpu)
    device = ReferenceIndex.of_vectors(vectors).search_slide("A1", k=5, exclude_slides=())
    assert asked == ["the device"]
    assert np.array_equal(device.spot_SK, alone.spot_SK)
    assert np.array_equal(device.distance_SK, alone.distance_SK)
