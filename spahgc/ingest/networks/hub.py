"""Files of the Hugging Face hub, from its cache or the network, and what helps without them.

The user's own login counts: ``hf auth login``, or ``HF_TOKEN``; ``HF_HUB_OFFLINE`` is respected.
"""

from pathlib import Path
from typing import Final

from spahgc.errors import EncoderError

CONFIGURATION: Final = "config.json"
PROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
"""As hub repositories call them; the first one wins."""


def fetch_file(repository: str, names: tuple[str, ...]) -> Path:
    """Download a file, or find it in the cache.

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
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    owner_and_name, _, revision = repository.partition("@")
    is_unreachable = False
    for name in names:
        try:
            return Path(hf_hub_download(owner_and_name, name, revision=revision or None))
        except LocalEntryNotFoundError:  # the network is off or down
            is_unreachable = True
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
    if is_unreachable:
        raise EncoderError(explain_absence(repository))
    raise EncoderError(f"{url_of(repository)} has no {' or '.join(names)}; pass `--weights FILE`")


def find_cached(repository: str, names: tuple[str, ...]) -> Path | None:
    """Look for a file in the cache alone; never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repository, name)
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
        f"a network run `hf download {repository}` and copy the folder "
        f"models--{repository.replace('/', '--')} there, or pass its weights as `--weights FILE`"
    )
