"""A cache of the Hugging Face hub, filled by hand, and no network behind it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import save_file

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What `hf download` would have left in ``cache``."""

    cache: Path

    def folder(self, repository: str) -> Path:
        """The files of the only revision of a repository."""
        root = self.cache / f"models--{repository.replace('/', '--')}"
        folder = root / "snapshots" / REVISION
        if not folder.is_dir():
            folder.mkdir(parents=True)
            (root / "refs").mkdir()
            (root / "refs/main").write_text(REVISION)
        return folder

    def add(self, repository: str, *, state=None, **documents: dict) -> Path:
        """Put weights and JSON documents into a repository."""
        folder = self.folder(repository)
        if state is not None:
            save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
        for name, document in documents.items():
            (folder / f"{name}.json").write_text(json.dumps(document))
        return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FakeHub:
    """An empty cache; the network is off."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return FakeHub(cache)
