"""By which names genes of several slides meet: the ids they are stored under, or their symbols.

Names alone decide here; no expression is looked at.

Dimension letters in this file:

S spots, G genes as stored, N genes by name
"""

import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.errors import MismatchError, StoreError
from spahgc.store.commits import Commit, Store
from spahgc.store.slide import StoredSlide

NamedBy: TypeAlias = Literal["id", "symbol"]

FEWEST_SHARED: Final = 0.1
"""Share of the genes of a slide below which slides of ids and slides of symbols do not meet."""

_ENSEMBL: Final = re.compile(r"ENS[A-Z]*G\d{11}(?:_PAR_Y)?")
_VERSION: Final = re.compile(r"(?<=\d{11})\.\d+(?=(?:_PAR_Y)?$)")
_EXPECTED: Final = "expected id, symbol, or a file with two columns, gene id and symbol"
_MOST_FILE_BYTES: Final = 64 << 20
_MOST_NAMED: Final = 3
_MOST_SAMPLED: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneNames:
    """How the genes of a slide are named; where two have one name, their counts are summed."""

    by: NamedBy = "id"
    """``id``: as stored, which may be symbols where a slide's files have no ids; ``symbol``: by
    symbol, and by the id where a gene has none."""

    symbols: tuple[tuple[str, str], ...] = ()
    """Ids and their symbols from a file; they go before what a slide itself says."""

    @classmethod
    def parse(cls, text: str) -> "GeneNames":
        """Read what a user writes: ``id``, ``symbol``, or the path of a file of ids and symbols.

        Raises
        ------
        MismatchError
            If it is none of these, or the file holds no such table.
        """
        if text == "id":
            return cls()
        if text == "symbol":
            return cls(by="symbol")
        path = Path(text)
        if not path.is_file():
            raise MismatchError(f"gene ids {text!r}: no such file; {_EXPECTED}")
        return cls(by="symbol", symbols=_read_symbols(path))

    def of(self, slide: StoredSlide) -> pd.Index:
        """Name the genes of a slide, in stored order; a name may repeat."""
        genes = slide.genes
        if self.by == "id":
            return genes.index
        from_file = dict(self.symbols)
        named = [
            from_file.get(gene) or (symbol if isinstance(symbol, str) and symbol.strip() else gene)
            for gene, symbol in zip(genes.index, genes["symbol"], strict=True)
        ]
        return pd.Index(named, dtype=object)

    def read(self, slide: StoredSlide) -> tuple[csr_matrix, pd.Index]:
        """Read the (S, N) raw counts of a slide and its N unique gene names.

        Counts of one name are summed here, before anything is made of them, so that a spot's total
        stays what it was.
        """
        counts_SG, names_G = slide.read_counts(), self.of(slide)
        if self.by == "id" or names_G.is_unique:
            return counts_SG, names_G
        code_G, names_N = pd.factorize(names_G)
        ones_G = np.ones(len(code_G), np.int64)
        shape = (len(code_G), len(names_N))
        joins_GN = csr_matrix((ones_G, (np.arange(len(code_G)), code_G)), shape=shape)
        summed_SN = csr_matrix(counts_SG.astype(np.int64) @ joins_GN)
        summed_SN.sort_indices()
        return summed_SN, pd.Index(names_N, dtype=object)

    def share(self, slides: Mapping[str, StoredSlide]) -> list[str]:
        """List the gene names that all slides have, in the first one's order.

        Raises
        ------
        MismatchError
            If there is none, or hardly one because some slides have Ensembl ids and others
            symbols; the text says what lets them meet.
        """
        self.refuse_apart(slides)
        shared = _shared([self.of(slide) for slide in slides.values()])
        if not len(shared):
            raise MismatchError(self._why_apart(slides, n_shared=0))
        return [str(gene) for gene in shared]

    def refuse_apart(self, slides: Mapping[str, StoredSlide]) -> None:
        """Refuse slides that hardly share a gene as some go by Ensembl ids and others by symbols.

        Raises
        ------
        MismatchError
            If they do; the text says what lets them meet.
        """
        if len({_has_ids(slide.genes.index) for slide in slides.values()}) < 2:
            return
        n_shared = len(_shared([self.of(slide) for slide in slides.values()]))
        if n_shared < max(1, FEWEST_SHARED * min(len(slide.genes) for slide in slides.values())):
            raise MismatchError(self._why_apart(slides, n_shared=n_shared))

    def find(self, listed: Sequence[str], slides: Mapping[str, StoredSlide]) -> tuple[str, ...]:
        """Give the names of genes that a list names by id or by symbol, in its order.

        What no slide knows is left as it is.

        Raises
        ------
        MismatchError
            If a symbol stands for several genes, or two entries are the same gene.
        """
        names = set(self.share(slides))
        otherwise: dict[str, dict[str, None]] = {}
        for slide in slides.values():
            known = self.of(slide)
            for column in (slide.genes.index, slide.genes["symbol"]):
                for spelled, name in zip(column, known, strict=True):
                    otherwise.setdefault(spelled, {})[name] = None
        found: dict[str, str] = {}
        for gene in listed:
            stable = _VERSION.sub("", gene)
            choices = [gene] if gene in names else list(otherwise.get(stable, [gene]))
            choices = [name for name in choices if name in names] or choices
            if len(choices) > 1:
                raise MismatchError(
                    f"gene {gene} of the list stands for {' and '.join(choices)}; list one of these"
                )
            if choices[0] in found:
                raise MismatchError(
                    f"{found[choices[0]]} and {gene} of the list are one gene, {choices[0]}; list "
                    "it once"
                )
            found[choices[0]] = gene
        return tuple(found)

    def _why_apart(self, slides: Mapping[str, StoredSlide], *, n_shared: int) -> str:
        with_ids = {n: s for n, s in sorted(slides.items()) if _has_ids(s.genes.index)}
        others = {n: s for n, s in sorted(slides.items()) if n not in with_ids}
        if self.by == "symbol" or not (with_ids and others):
            what = "gene symbol" if self.by == "symbol" else "gene id"
            cure = (
                "do those with Ensembl ids alone need `--gene-ids FILE` with two columns, id and "
                "symbol?"
                if with_ids and others
                else "and all with Ensembl ids or all with symbols?"
            )
            return f"slides {', '.join(slides)} share no {what}: are they of one species, {cure}"
        has_both = all((s.genes["symbol"] != s.genes.index).any() for s in with_ids.values())
        by_symbol = GeneNames(by="symbol")
        n_symbols = len(_shared([by_symbol.of(slide) for slide in slides.values()]))
        few = FEWEST_SHARED * min(len(slide.genes) for slide in slides.values())
        if not has_both:
            cure = "give `--gene-ids FILE` with two columns, Ensembl id and symbol"
        elif n_symbols > few:
            cure = f"by symbol they share {n_symbols}: give `--gene-ids symbol`"
        else:
            cure = f"by symbol they share {n_symbols}, too: are they of one species?"
        return (
            f"{_told(with_ids)} Ensembl ids and {_told(others)} symbols, so they share "
            f"{n_shared or 'no'} gene{'s' if n_shared > 1 else ''}; {cure}"
        )


BY_ID: Final = GeneNames()
"""As slides are stored."""


class NamedGenes(NamedTuple):
    """Whether a slide's genes go by Ensembl ids or by other names, with an example."""

    has_ids: bool
    example: str


def named_genes(genes: pd.Index) -> NamedGenes | None:
    """Tell what most names of genes are; None where there is no gene."""
    if not len(genes):
        return None
    has_ids = _has_ids(genes)
    example = next(name for name in genes if bool(_ENSEMBL.match(name)) is has_ids)
    return NamedGenes(has_ids, str(example))


def sample_named(store: Store, commit: Commit) -> dict[str, NamedGenes]:
    """Tell how some slides of a commit name their genes: of each platform, and evenly spread."""
    measured = {name: entry for name, entry in sorted(commit.slides.items()) if entry.n_genes}
    first = {entry.platform: name for name, entry in reversed(measured.items())}
    step = -(-len(measured) // _MOST_SAMPLED) or 1
    found = {}
    for name in dict.fromkeys([*first.values(), *list(measured)[::step]]):
        try:
            genes = named_genes(StoredSlide(store, name, measured[name]).gene_ids)
        except StoreError:  # for a note it does not matter; `store verify` tells
            continue
        if genes is not None:
            found[name] = genes
    return found


def note_mixed(found: Mapping[str, NamedGenes], *, of: str | None = None) -> str | None:
    """Say that slides name their genes in two ways, None where they agree.

    With ``of``, the slide of that name stands for its kind.
    """
    if of is not None:
        kind = found[of].has_ids
        found = {n: genes for n, genes in found.items() if n == of or genes.has_ids is not kind}
    ids, others = (
        {name: genes for name, genes in found.items() if genes.has_ids is has_ids}
        for has_ids in (True, False)
    )
    if not (ids and others):
        return None
    (one, by_id), (other, by_symbol) = next(iter(ids.items())), next(iter(others.items()))
    return (
        f"slide {one} names genes by Ensembl ids ({by_id.example}), slide {other} by symbols "
        f"({by_symbol.example}): to train on both, give `--gene-ids symbol` to train and evaluate, "
        "or a file with two columns, id and symbol"
    )


def _has_ids(genes: pd.Index) -> bool:
    n_ids = sum(_ENSEMBL.match(str(gene)) is not None for gene in genes)
    return 2 * n_ids > len(genes)


def _shared(names: Sequence[pd.Index]) -> pd.Index:
    shared = names[0].unique() if names else pd.Index([])
    for others in names[1:]:
        shared = shared[shared.isin(others)]
    return shared


def _told(slides: Mapping[str, StoredSlide]) -> str:
    names = list(slides)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    found = named_genes(slides[names[0]].genes.index)
    example = f" (as {found.example})" if found else ""
    verb = "has" if len(names) == 1 else "have"
    return f"{', '.join(names[:_MOST_NAMED])}{more}{example} {verb}"


def _read_symbols(path: Path) -> tuple[tuple[str, str], ...]:
    symbols: dict[str, str] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip().strip('"') for cell in line.split("\t" if "\t" in line else ",")]
        if len(cells) < 2 or not (cells[0] and cells[1]):
            raise MismatchError(
                f"{path} line {number}: {line[:60]!r}, expected a gene id and a symbol, parted by "
                "a tab or a comma"
            )
        gene = _VERSION.sub("", cells[0])
        if symbols.setdefault(gene, cells[1]) != cells[1]:
            raise MismatchError(
                f"{path} line {number}: {gene} is {cells[1]}, and {symbols[gene]} in an earlier "
                "line, expected one symbol for each id"
            )
    if not symbols:
        raise MismatchError(f"{path}: no line in it, expected a gene id and a symbol in each")
    return tuple(symbols.items())


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            is_packed = file.peek(2)[:2] == b"\x1f\x8b"
            source = gzip.GzipFile(fileobj=file) if is_packed else file
            content = source.read(_MOST_FILE_BYTES + 1)
        if len(content) > _MOST_FILE_BYTES:
            raise MismatchError(f"{path}: more than {_MOST_FILE_BYTES >> 20} MiB; {_EXPECTED}")
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise MismatchError(f"{path} cannot be read as text ({error}); {_EXPECTED}") from error
