import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spahgc.errors import EncoderError
from spahgc.ingest.networks.checkpoints import digest_weights, load_weights, read_weights


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


@pytest.fixture
def state():
    torch.manual_seed(3)
    return {name: torch.randn_like(value) for name, value in small_network().state_dict().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="plain"),
        pytest.param(lambda state: {"state_dict": state, "epoch": 3}, id="state_dict"),
        pytest.param(lambda state: {"model": {"state_dict": state}}, id="nested twice"),
        pytest.param(lambda state: {f"module.{k}": v for k, v in state.items()}, id="module."),
        pytest.param(
            lambda state: {"model": {f"module.backbone.{k}": v for k, v in state.items()}},
            id="module.backbone.",
        ),
        pytest.param(
            lambda state: {
                "student": {k: v + 1 for k, v in state.items()},
                "teacher": {f"backbone.{k}": v for k, v in state.items()}
                | {"dino_head.mlp.0.weight": torch.ones(2)},
                "optimizer": {"lr": 0.1},
            },
            id="teacher with its head",
        ),
    ],
)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "older format"])
def test_weights_are_found_in_what_training_wrapped_around_them(tmp_path, state, wrap, is_zip):
    path = tmp_path / "weights.pth"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=is_zip)
    network = small_network()
    load_weights(network, read_weights(path), origin="here")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())


def test_heads_are_left_out_under_the_names_the_architecture_gives(state):
    network = small_network()
    head = {"head.weight": torch.ones(2), "head_dist.bias": torch.ones(2)}
    load_weights(network, state | head, origin="here", heads=("head_dist",))
    assert torch.equal(network.state_dict()["0.bias"], state["0.bias"])


def test_what_is_missing_and_left_over_is_named_in_one_line(state):
    del state["0.bias"]
    state["reg_token"] = torch.ones(1)
    with pytest.raises(EncoderError) as caught:
        load_weights(small_network(), state, origin="uni.bin")
    assert str(caught.value) == (
        "uni.bin lacks 1 of 4 parameters (0.bias) and has 1 that the architecture does not know "
        "(reg_token): is it another architecture's?"
    )


def test_another_shape_is_named_with_both_shapes(state):
    state["0.weight"] = torch.ones(4, 5)
    with pytest.raises(EncoderError, match=r"0\.weight has shape \(4, 5\).* wants \(4, 3\)"):
        load_weights(small_network(), state, origin="here")


def test_what_a_translation_chokes_on_is_another_architectures(state):
    def translate(state, network):
        raise KeyError("patch_embed.proj.weight")

    with pytest.raises(EncoderError, match=r"here does not fit .*patch_embed\.proj\.weight"):
        load_weights(small_network(), state, origin="here", translate=translate)


def test_a_pickle_is_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    for name, save in (("a.pth", pickle.dump), ("b.pt", torch.save)):
        path = tmp_path / name
        with path.open("wb") as file:
            save({"state_dict": Bomb()}, file)
        with pytest.raises(EncoderError, match=f"{name} is no weights file that is safe to read"):
            read_weights(path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", b"\x09\x00", "no weights file that is safe to read"),
        ("page.bin", b"<html>401</html>", "no weights file that is safe to read"),
        ("empty.pth", b"", "no weights file that is safe to read"),
    ],
)
def test_what_is_no_weights_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EncoderError, match=rf"{name} is {message}") as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("held", "said"), [({"epoch": 3}, r"\['epoch'\]"), ([torch.ones(2)], "list")]
)
def test_a_file_without_named_weights_says_what_it_holds(tmp_path, held, said):
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(EncoderError, match=f"holds no weights by name, only {said}"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(EncoderError, match="no such weights file"):
            read_weights(path)


def test_the_digest_is_of_names_shapes_types_and_bytes(tmp_path, state):
    known = digest_weights(state)
    assert digest_weights(dict(reversed(state.items()))) == known
    save_file(state, tmp_path / "w.safetensors")
    assert digest_weights(read_weights(tmp_path / "w.safetensors")) == known
    reshaped = state | {"0.weight": state["0.weight"].reshape(3, 4)}
    halved = state | {"0.weight": state["0.weight"].bfloat16()}
    renamed = {f"x.{name}": value for name, value in state.items()}
    nudged = state | {"0.bias": state["0.bias"] + 1e-6}
    others = {digest_weights(other) for other in (reshaped, halved, renamed, nudged)}
    assert len(others | {known}) == 5
