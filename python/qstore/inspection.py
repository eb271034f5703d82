"""What a store holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qstore import _core

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True)
class FileInspection:
    """An original file, as `unpack` restores it."""

    #: Path in the variant's folder.
    path: str
    #: Size.
    bytes: int
    #: SHA-256, as a model hub shows it.
    sha256: str
    #: How it is stored: `tensors` of a safetensors file, whose tensors are described by themselves, else as a tensor
    #: is.
    encoding: str
    #: The variant that it is equal to a file of.
    given: str | None
    #: Bytes that it takes in the store, its tensors left out.
    stored_bytes: int


@dataclass(frozen=True)
class Unshared:
    """Matrices that share less than one would expect, for one reason."""

    #: The variant that they could have shared with, where it is about one.
    with_variant: str | None
    #: `no-counterpart`, `other-shape`, `fused-experts`, `not-made-from`, `floats`, `nothing-higher`, `unknown-format`,
    #: `unusable` or `malformed`.
    reason: str
    #: The first of them.
    first: str
    #: How many there are.
    matrices: int
    #: All of that as a sentence.
    text: str


@dataclass(frozen=True)
class TensorInspection:
    """A tensor, and how it is stored."""

    name: str
    #: Element type, as safetensors calls it: `BF16`, `I8`, ...
    dtype: str
    shape: tuple[int, ...]
    #: `residual`, `codes`, `reference`, ...: docs/format.md describes them.
    encoding: str
    #: The variant that it is stored given, or equal to a tensor of.
    given: str | None
    #: Bytes in memory.
    raw_bytes: int
    #: Bytes that it takes in the store.
    stored_bytes: int
    #: Stored bits for each element, or for each code that is packed into one; `None` for an empty tensor.
    bits_per_weight: float | None


@dataclass(frozen=True)
class VariantInspection:
    """A variant of a store."""

    name: str
    #: How its weights are quantised, such as `llm.int8`, or `none`.
    scheme: str
    #: The element type that most of its weights have.
    dtype: str
    #: The variants that its tensors are stored given, or shared with; reading it reads these, and those that they are
    #: given in turn.
    given: tuple[str, ...]
    #: Whether its files are kept as they are.
    verbatim: bool
    #: Whether it is archived: stored given variants of higher precision.
    archived: bool
    #: How many variants reading it reads, itself included.
    reads: int
    #: Number of tensors.
    tensor_count: int
    #: Its original files; empty if its shards cannot be read.
    files: tuple[FileInspection, ...]
    #: The files of the store that hold it, relative to the store's folder.
    stored_files: tuple[str, ...]
    #: Those of them that are not there.
    missing_files: tuple[str, ...]
    #: Bytes of its original files.
    raw_bytes: int
    #: Bytes that it adds to the store: what its tensors and files take, and the overhead.
    stored_bytes: int
    #: Bytes of headers, plans and lists of chunks; `None` if its shards cannot be read.
    overhead_bytes: int | None
    #: Bytes that loading all its tensors reads; `None` if its shards cannot be read.
    read_bytes: int | None
    #: Why its shards cannot be read, if it cannot.
    problem: str | None
    #: Patterns of the files that were left out when it was stored.
    excluded: tuple[str, ...]
    #: What of it shares less than one would expect, and why.
    unshared: tuple[Unshared, ...]
    #: Its tensors, in the order of the files; empty unless asked for.
    tensors: tuple[TensorInspection, ...]


@dataclass(frozen=True)
class Inspection:
    """A store."""

    #: Version of its format.
    format_version: int
    #: Bytes of all variants' original files.
    raw_bytes: int
    #: Bytes of all that the store has in its folder: its manifest, and what each variant adds.
    stored_bytes: int
    #: Bytes of the manifest.
    manifest_bytes: int
    #: `stored_bytes / raw_bytes`.
    ratio: float
    #: The variants, lower precision first.
    variants: tuple[VariantInspection, ...]
    #: Files that an interrupted change left; the next change deletes them.
    leftovers: tuple[str, ...]
    #: What else lies in the store's folder. It is not the store's, and is left alone.
    foreign: tuple[str, ...]


def inspect(path: str | PathLike[str], *, tensors: bool = False) -> Inspection:
    """Describes a store: its variants, their sizes and files.

    Args:
        path: The store.
        tensors: Describe each tensor, too.

    Raises:
        NotFoundError: There is no store.
        DamagedError: Its manifest is not whole. (A variant that cannot be read is described as far as the manifest
            does, with its `problem`.)
    """
    return _inspection(json.loads(_core.Store(path).inspect(tensors)))


def _inspection(found: dict[str, Any]) -> Inspection:
    variants = tuple(_variant(variant) for variant in found.pop("variants"))
    leftovers, foreign = tuple(found.pop("leftovers")), tuple(found.pop("foreign"))
    return Inspection(variants=variants, leftovers=leftovers, foreign=foreign, **found)


def _variant(found: dict[str, Any]) -> VariantInspection:
    return VariantInspection(
        given=tuple(found.pop("given")),
        files=tuple(FileInspection(**file) for file in found.pop("files")),
        stored_files=tuple(found.pop("stored_files")),
        missing_files=tuple(found.pop("missing_files")),
        excluded=tuple(found.pop("excluded")),
        unshared=tuple(Unshared(with_variant=one.pop("with"), **one) for one in found.pop("unshared")),
        tensors=tuple(
            TensorInspection(shape=tuple(tensor.pop("shape")), **tensor) for tensor in found.pop("tensors", ())
        ),
        **found,
    )
