import json

import pytest
import torch

from spahgc.ingest.networks import timm_networks, transformers_networks
from spahgc.ingest.networks.catalogue import CATALOGUE

NAMES = list(CATALOGUE)


def build_without_memory(name):
    """The real network at its real size, without a byte of parameters."""
    known = CATALOGUE[name]
    with torch.device("meta"):
        if known.library == "timm":
            network = timm_networks._create(known.architecture, known.arguments)
            if known.pooling == "class+mean":
                network = timm_networks.ClassAndMean(network)
        else:
            transformers = pytest.importorskip("transformers")
            family = getattr(transformers, known.architecture)
            pooler = {"add_pooling_layer": False} if known.architecture == "ViTModel" else {}
            config = family.config_class.from_dict(dict(known.arguments))
            network = transformers_networks.ClassToken(family(config, **pooler))
        return network.eval()


@pytest.mark.parametrize("name", NAMES)
def test_the_real_constructor_gives_the_published_size_and_number_of_parameters(name):
    known, network = CATALOGUE[name], build_without_memory(name)
    parameters = sum(value.numel() for value in network.parameters())
    assert round(parameters / 1e6, 1) == known.parameters
    patches = torch.zeros(2, 3, known.input_px, known.input_px, device="meta")
    assert network(patches).shape == (2, known.size)


@pytest.mark.parametrize("name", NAMES)
def test_what_enters_a_fingerprint_is_json_and_no_class(name):
    arguments = dict(CATALOGUE[name].arguments)
    assert json.loads(json.dumps(arguments)) == arguments


def test_names_are_what_a_command_line_and_a_store_take():
    assert all(name == name.lower() and name.replace("-", "").isalnum() for name in NAMES)


def test_who_has_no_hub_repository_has_a_page():
    assert all(known.repository or known.page for known in CATALOGUE.values())
    assert CATALOGUE["uni"].url == "https://huggingface.co/MahmoodLab/UNI"
