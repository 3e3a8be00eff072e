"""Weights files: read without ever unpickling, names made to fit, loaded whole or not at all."""

import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from spahgc.errors import EncoderError

Weights: TypeAlias = Mapping[str, Tensor]
"""Parameters and buffers, by name."""

_NESTS: Final = ("state_dict", "teacher", "model", "model_state_dict", "module", "network")
"""Under what training loops file the weights; a teacher is what self-supervision publishes."""

_LEFT_OUT: Final = ("head.", "fc.", "classifier.", "dino_head.", "ibot_head.", "mask_token")
"""What training needed and embedding does not."""


def read_weights(path: Path) -> Weights:
    """Read a safetensors or torch file.

    Returns
    -------
    Weights
        On the CPU, out of whatever the training loop wrapped them in, names unchanged.

    Raises
    ------
    EncoderError
        If the file is missing, damaged, or holds anything but weights.
    """
    if not path.is_file():
        raise EncoderError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # the older torch format is no zip and cannot be mapped into memory
        loaded = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EncoderError(f"{path} is no weights file that is safe to read ({reason})") from error
    return _unwrap(loaded, path)


def load_weights(
    network: nn.Module,
    published: Weights,
    *,
    origin: str,
    heads: tuple[str, ...] = (),
    translate: Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]] | None = None,
) -> None:
    """Fill a network with weights that must be its own, all of them.

    Parameters
    ----------
    network
        Freshly built.
    published
        As read; a prefix common to the network's parameters is taken off, heads are left out.
    origin
        Where they came from, for messages.
    heads
        What the architecture calls its classifiers; theirs may be left over.
    translate
        What turns other names and shapes of the same architecture into the network's.

    Raises
    ------
    EncoderError
        If a parameter is missing, left over, or of another shape.
    """
    state = strip_prefix(published, network.state_dict().keys())
    if translate is not None:
        try:
            state = dict(translate(state, network))
        except (KeyError, RuntimeError, ValueError, AttributeError) as error:
            raise EncoderError(
                f"{origin} does not fit the architecture ({type(error).__name__}: {error}): is it "
                "another architecture's?"
            ) from error
    wanted = network.state_dict()
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    beside = (*_LEFT_OUT, *(f"{head}." for head in heads))
    surplus = [n for n in state if n not in wanted and not n.startswith(beside)]
    refuse_misfits(missing, surplus, n_wanted=len(wanted), origin=origin)
    for name in wanted.keys() & state.keys():
        if wanted[name].shape != state[name].shape:
            raise EncoderError(
                f"{origin}: {name} has shape {tuple(state[name].shape)}, the architecture wants "
                f"{tuple(wanted[name].shape)}: is it another architecture's?"
            )
    network.load_state_dict({n: v for n, v in state.items() if n in wanted}, strict=False)


def strip_prefix(published: Weights, wanted: Any) -> dict[str, Tensor]:  # noqa: ANN401  a set view
    """Take off what wrappers (``module.``, ``backbone.``) put before the names a network knows.

    What does not carry the prefix belongs to something beside the network and is left out.
    """
    prefixes: Counter[str] = Counter()
    for name in published:
        parts = name.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in wanted:
                prefixes["".join(f"{part}." for part in parts[:depth])] += 1
    prefix = min(prefixes, key=lambda p: (-prefixes[p], len(p)), default="")
    return {n.removeprefix(prefix): v for n, v in published.items() if n.startswith(prefix)}


def refuse_misfits(missing: list[str], surplus: list[str], *, n_wanted: int, origin: str) -> None:
    """Raise EncoderError if any of a network's ``n_wanted`` parameters is missing or left over."""
    found = []
    if missing:
        found.append(f"lacks {len(missing)} of {n_wanted} parameters ({_first(missing)})")
    if surplus:
        found.append(f"has {len(surplus)} that the architecture does not know ({_first(surplus)})")
    if found:
        raise EncoderError(f"{origin} {' and '.join(found)}: is it another architecture's?")


def digest_weights(weights: Weights) -> str:
    """Digest names, shapes, types and bytes, in the order of the names."""
    digest = sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        # viewed as bytes: NumPy has no bfloat16
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def _unwrap(loaded: Any, path: Path) -> Weights:  # noqa: ANN401  whatever the file holds
    inside = loaded
    while isinstance(inside, Mapping):
        nest = next((n for n in _NESTS if isinstance(inside.get(n), Mapping)), None)
        if nest is None:
            break
        inside = inside[nest]
    if not isinstance(inside, Mapping) or not any(isinstance(v, Tensor) for v in inside.values()):
        held = list(loaded) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise EncoderError(f"{path} holds no weights by name, only {held}")
    return {str(name): value for name, value in inside.items() if isinstance(value, Tensor)}


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
