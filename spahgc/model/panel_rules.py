"""How genes are chosen, as a user writes it: by a rule, or by a list that somebody made."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from spahgc.errors import MismatchError

LISTED: Final = "file:"
"""What the rule of a panel that a list gave begins with; the list's name follows."""

_RANKED: Final[dict[str, Literal["hvg", "heg"]]] = {"hvg": "hvg", "heg": "heg"}
_EXPECTED: Final = "expected hvg:N, heg:N, all, or a text file with one gene per line"


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelRule:
    """How genes are chosen; ``str`` gives what a run writes down."""

    kind: Literal["hvg", "heg", "all", "file"]
    """Most variable, highest mean count, every gene, or a list."""

    n_genes: int | None = None
    """Of ``hvg`` and ``heg``."""

    name: str = ""
    """Of ``file``, without where it lies."""

    genes: tuple[str, ...] = ()
    """Of ``file``, as they were in it when it was read."""

    @classmethod
    def parse(cls, text: str) -> "PanelRule":
        """Read a rule, and the list where it names one.

        Parameters
        ----------
        text
            ``hvg:50``, ``heg:50``, ``all``, ``file:PATH``, or the path of an existing file.

        Raises
        ------
        MismatchError
            If the text is none of these, or the file does not exist or holds no list of genes.
        """
        chosen = _parse_chosen(text)
        if chosen is not None:
            return chosen
        is_file = text.startswith(LISTED) and text != LISTED
        path = Path(text.removeprefix(LISTED) if is_file else text)
        if not path.is_file():
            problem = f"no file {path}" if is_file else "not a rule and no such file"
            raise MismatchError(f"gene panel {text!r}: {problem}; {_EXPECTED}")
        return cls(kind="file", name=path.name, genes=_read_genes(path))

    @classmethod
    def parse_recorded(cls, text: str) -> "PanelRule":
        """Read a rule that a run wrote down; nothing is read from any file.

        Raises
        ------
        MismatchError
            If the text is no rule by which genes are chosen.
        """
        chosen = _parse_chosen(text)
        if chosen is None:
            raise MismatchError(f"gene panel {text!r}: not a rule that genes are chosen by")
        return chosen

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{LISTED}{self.name}"
        return self.kind if self.n_genes is None else f"{self.kind}:{self.n_genes}"


def some_of(genes: Sequence[str]) -> str:
    """Name a few genes, and say that there are more."""
    return ", ".join(genes[:5]) + (", …" if len(genes) > 5 else "")


def _parse_chosen(text: str) -> PanelRule | None:
    kind, _, value = text.partition(":")
    if text == "all":
        return PanelRule(kind="all")
    if (ranked := _RANKED.get(kind)) is not None:
        return PanelRule(kind=ranked, n_genes=_n_genes(value, rule=text))
    return None


def _n_genes(value: str, *, rule: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) > 0):
        raise MismatchError(f"gene panel {rule!r}: {value!r} is not a number of genes; {_EXPECTED}")
    return int(value)


def _read_genes(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MismatchError(f"gene panel {path}: not UTF-8 text; expected one gene per line") from (
            error
        )
    genes = [gene for line in text.splitlines() if (gene := line.strip())]
    twice = [gene for gene, n_times in Counter(genes).items() if n_times > 1]
    if twice or not genes:
        problem = f"{some_of(twice)} listed twice" if twice else "no gene in it"
        raise MismatchError(f"gene panel {path}: {problem}; expected one gene per line, each once")
    return tuple(genes)
