"""The one faiss of this environment: its CPU or its GPU wheel, never both."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from spahgc.errors import InstallationError

WHEELS: Final = (
    "faiss-cpu",
    *("faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cu13"),
    *("faiss-gpu-cuvs", "faiss-gpu-cuvs-cu12", "faiss-gpu-cuvs-cu13"),
)
"""Distributions that all install the module ``faiss``, each over the other's files."""


def check_one_wheel() -> None:
    """Refuse an environment where two wheels have written over each other.

    Raises
    ------
    InstallationError
        If more than one of `WHEELS` is installed; the text says what to type.
    """
    found = {name: installed for name in WHEELS if (installed := _version_of(name)) is not None}
    if len(found) > 1:
        wanted = next(name for name in reversed(WHEELS) if name in found)
        raise InstallationError(
            f"{' and '.join(f'{name} {number}' for name, number in found.items())} are installed "
            "together, and each has overwritten files of the other; run `pip uninstall --yes "
            f"{' '.join(found)}`, then `pip install {wanted}`"
        )


def import_faiss() -> Any:  # noqa: ANN401  faiss has no types
    """Import faiss.

    Raises
    ------
    InstallationError
        If it is missing, or installed twice.
    """
    check_one_wheel()
    try:
        import faiss
    except ImportError as error:
        raise InstallationError(
            f"faiss cannot be imported ({error}); run `pip install faiss-cpu`, or on a machine "
            "with an NVIDIA GPU `pip install faiss-gpu-cu12`"
        ) from error
    return faiss


def n_gpus() -> int:
    """Count the devices that this faiss can use; a CPU wheel sees none."""
    count = getattr(faiss, "get_num_gpus", None)
    can_search = hasattr(faiss, "StandardGpuResources")
    return int(count()) if count is not None and can_search else 0


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


faiss: Final = import_faiss()
FAISS_VERSION: Final[str] = faiss.__version__
