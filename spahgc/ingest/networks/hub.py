"""Files of the Hugging Face hub, from its cache or the network, and what helps without them.

The user's own login counts: ``hf auth login``, or ``HF_TOKEN``; ``HF_HUB_OFFLINE`` is respected.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spahgc.errors import EncoderError

CONFIGURATION: Final = "config.json"
PROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
"""As hub repositories call them; the first one wins."""


def fetch_file(repository: str, names: tuple[str, ...]) -> Path:
    """Find a file in the cache, or download it.

    What is in the cache is taken without asking the hub whether it has something newer: the same
    command gives the same numbers next year, and needs no network.

    Parameters
    ----------
    repository
        ``owner/name``, or ``owner/name@revision``.
    names
        The first that the repository has is taken.

    Raises
    ------
    EncoderError
        If it cannot be had; the text says what to do about it.
    """
    from huggingface_hub.errors import HFValidationError

    try:
        if (cached := find_cached(repository, names)) is not None:
            return cached
        with _quietly():
            return _download(repository, names)
    except HFValidationError as error:
        raise EncoderError(f"{repository!r} is no OWNER/NAME of the Hugging Face hub") from error


def find_cached(repository: str, names: tuple[str, ...]) -> Path | None:
    """Look for a file in the cache alone; never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    owner_and_name, _, revision = repository.partition("@")
    for name in names:
        found = try_to_load_from_cache(owner_and_name, name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def url_of(repository: str) -> str:
    """Give the page of a repository."""
    return f"https://huggingface.co/{repository}"


def revision_of(path: Path) -> str:
    """Read the commit that a cached file belongs to: …/snapshots/<commit>/<file>."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"


def explain_gate(repository: str) -> str:
    """Say how to get past a gate."""
    return (
        f"{repository} is gated and your Hugging Face account has no access here: ask for it at "
        f"{url_of(repository)}, then `hf auth login` (or set HF_TOKEN) and run this again; or pass "
        f"the weights file from there as `--weights FILE`"
    )


def explain_absence(repository: str) -> str:
    """Say how to bring files here without a network."""
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    return (
        f"the files of {repository} are not in {constants.HF_HUB_CACHE} and {why}: where there is "
        f"a network run `hf download {repository}` (if it is gated, after asking at "
        f"{url_of(repository)} and `hf auth login`) and copy the folder "
        f"models--{repository.replace('/', '--')} there, or pass its weights as `--weights FILE`"
    )


def _download(repository: str, names: tuple[str, ...]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    owner_and_name, _, revision = repository.partition("@")
    for name in names:
        try:
            return Path(hf_hub_download(owner_and_name, name, revision=revision or None))
        except LocalEntryNotFoundError as error:  # the network is off or down
            raise EncoderError(explain_absence(owner_and_name)) from error
        except EntryNotFoundError:
            continue
        except GatedRepoError as error:
            raise EncoderError(explain_gate(repository)) from error
        except RepositoryNotFoundError as error:
            raise EncoderError(
                f"the Hugging Face hub shows you no {repository}: check the name, or log in with "
                "`hf auth login` (or HF_TOKEN) if it is private"
            ) from error
        except HfHubHTTPError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise EncoderError(
                f"the Hugging Face hub refused {repository}/{name}: {reason}"
            ) from error
    raise EncoderError(f"{url_of(repository)} has no {' or '.join(names)}; pass `--weights FILE`")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep huggingface_hub from reporting each attempt to reach the hub."""
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
