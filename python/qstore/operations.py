"""Making, changing, restoring and checking stores: what the commands of the same names do."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from qstore import _core
from qstore.errors import DamagedError, Problem, UsageError
from qstore.progress import Progress, Watched
from qstore.store import checked_threads

Path = str | os.PathLike[str]


def pack(
    variants: Mapping[str, Path],
    target: Path,
    *,
    verbatim: Collection[str] = (),
    given: Mapping[str, Collection[str]] | None = None,
    archive: Collection[str] = (),
    levels: int | None = None,
    exclude: Collection[str] = (),
    strict: bool = False,
    threads: int = 0,
    memory: int | None = None,
    shard_size: int | None = None,
    progress: Progress = None,
) -> None:
    """Makes a store of a model's variants. There is a store when it is complete, and nothing before.

    Args:
        variants: A name that you choose and the Hugging Face folder of each variant, which is only read. Their order
            does not matter.
        target: The folder to make the store in; new or empty.
        verbatim: Variants whose files are kept as they are, so that any tool loads them from the store; takes more
            space.
        given: For a variant, the others that it may be stored given (and reading it reads); `[]` makes it independent
            of all. Variants that are not named may be given any lower one.
        archive: Variants that are stored given higher ones, such as INT8 given BF16, so that they take little but their
            scales; reading one reads what it is given.
        levels: The most other variants whose matrices one may be given, each of which must be read for it, beside what
            these are themselves given, 1 to 16; 3 if not said.
        exclude: Patterns of files that are left out, which the store remembers: of a name anywhere (`.git`, `*.bin`) or
            of a path (`original/*`).
        strict: Refuse folders that are not whole (shards missing, downloads under way, Git LFS pointers), where else a
            warning says so.
        threads: Worker threads; 0 for one a core. The store does not depend on it.
        memory: Bytes to work in, about; 1 GiB if not said.
        shard_size: Most bytes of one file of the store; 5 GB if not said.
        progress: `True` for a bar, or a callback.

    Raises:
        UsageError: The target is taken, or a name cannot be one.
        NotFoundError: There is no such folder.
        InputError: A folder cannot be stored exactly.
        FileError: The system refused to read or write.
    """
    if not isinstance(variants, Mapping):
        raise UsageError(f"variants are folders by name, such as {{'bf16': 'llama'}}, not {variants!r}")
    given = given or {}
    _known(("verbatim", verbatim), ("given", given), ("archive", archive), names=variants)
    wish = _Wish(verbatim, given, archive, levels, exclude, strict)
    specs = [wish.spec(name, folder) for name, folder in variants.items()]
    with Watched(progress) as callback:
        _core.pack(specs, target, _limits(threads, memory, shard_size), callback)


def add(
    store: Path,
    variant: str,
    folder: Path,
    *,
    verbatim: bool = False,
    given: Collection[str] | None = None,
    archive: bool = False,
    levels: int | None = None,
    exclude: Collection[str] = (),
    strict: bool = False,
    threads: int = 0,
    memory: int | None = None,
    shard_size: int | None = None,
    progress: Progress = None,
) -> None:
    """Adds a variant to a store. Those of higher precision are stored anew where it helps them; each is still what it
    was.

    Args:
        store: The store.
        variant: A name that you choose.
        folder: The Hugging Face folder of the variant, which is only read.
        verbatim: Keep its files as they are.
        given: The variants that it may be stored given; any lower one if `None`, none if empty.
        archive: Store it given higher ones.
        levels, exclude, strict, threads, memory, shard_size, progress: As in `pack`.

    Raises:
        UsageError: The store has a variant of that name.
        BusyError: Another process is changing the store.
        QStoreError: As `pack`. The store is then unchanged.
    """
    if not isinstance(variant, str):
        raise UsageError(f"a variant's name is text, not {variant!r}")
    only = {} if given is None else {variant: given}
    wish = _Wish([variant] * verbatim, only, [variant] * archive, levels, exclude, strict)
    spec = wish.spec(variant, folder)
    with Watched(progress) as callback:
        _core.add(store, spec, _limits(threads, memory, shard_size), callback)


def remove(
    store: Path,
    variant: str,
    *,
    threads: int = 0,
    memory: int | None = None,
    shard_size: int | None = None,
    progress: Progress = None,
) -> None:
    """Removes a variant from a store. Those that were stored given it are stored anew first.

    Raises:
        UnknownNameError: The store has no such variant.
        UsageError: It is the only one.
        BusyError: Another process is changing the store.
    """
    with Watched(progress) as callback:
        _core.remove(store, variant, _limits(threads, memory, shard_size), callback)


def unpack(
    store: Path,
    variant: str,
    target: Path,
    *,
    threads: int = 0,
    memory: int | None = None,
    progress: Progress = None,
) -> None:
    """Restores a variant's folder, every file byte for byte and checked by its SHA-256.

    A new folder appears when all of it is there; in an empty one that exists, such as a mounted volume, the files do.

    Args:
        store: The store.
        variant: The variant.
        target: The folder to restore it in; new or empty.
        threads, memory, progress: As in `pack`.

    Raises:
        UnknownNameError: The store has no such variant.
        UsageError: The target is taken.
        DamagedError: What would be restored is not what was stored.
    """
    with Watched(progress) as callback:
        _core.unpack(store, variant, target, _limits(threads, memory), callback)


@dataclass(frozen=True)
class VariantVerification:
    """What `verify` checked of a variant."""

    name: str
    #: Original files.
    files: int
    #: Bytes: of the original files, or for a quick check of what is stored.
    bytes: int


@dataclass(frozen=True)
class Verification:
    """What `verify` checked."""

    variants: tuple[VariantVerification, ...]


def verify(
    store: Path,
    variant: str | None = None,
    *,
    quick: bool = False,
    threads: int = 0,
    memory: int | None = None,
    progress: Progress = None,
) -> Verification:
    """Checks that every file of a variant, or of all, comes back with its SHA-256. Goes on after damage, so that all of
    it is known.

    Args:
        store: The store.
        variant: The variant; all if `None`.
        quick: Only compare the checksums of what is stored, and decode nothing.
        threads, memory, progress: As in `pack`.

    Raises:
        DamagedError: Something is wrong; `problems` lists all that is.
        UnknownNameError: The store has no such variant.
    """
    with Watched(progress) as callback:
        found = json.loads(_core.verify(store, variant, quick, _limits(threads, memory), callback))
    lines = [
        f"{checked['name']}: {problem['text']}" for checked in found["variants"] for problem in checked["problems"]
    ]
    problems = tuple(Problem(**problem) for checked in found["variants"] for problem in checked.pop("problems"))
    if problems:
        error = DamagedError("\n".join(lines))
        error.path, error.problems = store, problems
        raise error
    return Verification(tuple(VariantVerification(**checked) for checked in found["variants"]))


@dataclass(frozen=True)
class _Wish:
    """How variants are to be stored."""

    verbatim: Collection[str]
    given: Mapping[str, Collection[str]]
    archive: Collection[str]
    levels: int | None
    exclude: Collection[str]
    strict: bool

    def spec(
        self, name: str, folder: Path
    ) -> tuple[str, Path, bool, list[str] | None, bool, int | None, list[str], bool]:
        """What the library takes for a variant."""
        if not isinstance(name, str):
            raise UsageError(f"a variant's name is text, not {name!r}")
        lists = ("verbatim", self.verbatim), ("given", self.given.get(name)), ("archive", self.archive)
        for option, names in lists:
            if isinstance(names, str):
                raise UsageError(f"{option}: give a list of variants' names, not {names!r}")
        if isinstance(self.exclude, str):
            raise UsageError(f"exclude: give a list of patterns, not {self.exclude!r}")
        if self.levels is not None and not (isinstance(self.levels, int) and 1 <= self.levels <= 16):
            raise UsageError(f"levels: a number from 1 to 16, not {self.levels!r}")
        only = list(self.given[name]) if name in self.given else None
        archived, exclude = name in self.archive, list(self.exclude)
        return name, os.fspath(folder), name in self.verbatim, only, archived, self.levels, exclude, self.strict


def _limits(
    threads: int, memory: int | None = None, shard_size: int | None = None
) -> tuple[int, int | None, int | None]:
    for what, size in (("memory", memory), ("shard_size", shard_size)):
        if size is not None and not (isinstance(size, int) and 0 < size < 1 << 63):
            raise UsageError(f"{what} is a number of bytes, not {size!r}")
    return checked_threads(threads), memory, shard_size


def _known(*options: tuple[str, Collection[str]], names: Collection[str]) -> None:
    for option, mentioned in options:
        for name in [] if isinstance(mentioned, str) else mentioned:
            if name not in names:
                raise UsageError(f"{option}: no variant {name} is being stored, only {', '.join(names)}")
