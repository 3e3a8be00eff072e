import subprocess
import sys

import pytest

from spahgc.ingest.networks import survey
from spahgc.ingest.networks.catalogue import CATALOGUE
from spahgc.ingest.networks.survey import survey_encoders


def row(name):
    return next(row for row in survey_encoders() if row.name == name)


def test_every_known_encoder_is_listed_once_and_timm_at_last():
    names = [row.name for row in survey_encoders()]
    assert names[: len(CATALOGUE)] == list(CATALOGUE)
    assert names[-1] == "timm:MODEL"
    assert len(names) == len(set(names))


def test_the_default_encoder_is_usable_without_a_network(hub):
    assert row("lite0").is_usable
    assert row("lite0").cure is None


def test_what_is_gated_and_not_here_says_where_to_ask(hub):
    assert not row("uni2-h").is_usable
    assert row("uni2-h").cure.startswith(
        "ask for access at https://huggingface.co/MahmoodLab/UNI2-h, hf auth login, "
    )


def test_what_is_open_and_not_here_says_what_to_download(hub):
    assert row("h-optimus-0").cure.startswith("hf download bioptimus/H-optimus-0;")


def test_what_lies_in_the_cache_whole_is_usable(hub):
    from torch import ones

    hub.add("MahmoodLab/UNI", config={})
    assert not row("uni").is_usable
    hub.add("MahmoodLab/UNI", state={"x": ones(1)})
    assert row("uni").is_usable


def test_what_transformers_builds_needs_its_processor_too(hub):
    from torch import ones

    hub.add("owkin/phikon", config={}, state={"x": ones(1)})
    assert not row("phikon").is_usable
    hub.add("owkin/phikon", preprocessor_config={})
    assert row("phikon").is_usable


def test_a_missing_library_is_what_to_mend_first(hub, monkeypatch):
    find = survey.find_spec
    monkeypatch.setattr(
        survey, "find_spec", lambda name: None if name == "transformers" else find(name)
    )
    assert row("hibou-l").cure == "pip install 'spahgc[transformers]'"


def test_weights_that_are_on_no_hub_are_asked_for_as_a_file(hub):
    assert "--weights FILE" in row("ctranspath").cure


@pytest.mark.parametrize("module", ["ingest.networks.survey", "report.encoders"])
def test_listing_imports_no_torch(module):
    code = (
        f"import sys, spahgc.{module}, spahgc.ingest.networks.survey as s; s.survey_encoders(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
