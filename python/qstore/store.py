"""Open stores, with the interface of safetensors."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from qstore import _core
from qstore.errors import UnknownNameError, UsageError
from qstore.frameworks import Framework, framework
from qstore.progress import Progress, Watched

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    from typing_extensions import Self

#: From one to before another.
_Range: TypeAlias = tuple[int, int]


def open(path: str | PathLike[str], *, framework: str = "np", device: Any = None, threads: int = 0) -> Store:
    """Opens a store. Nothing but its manifest is read until a variant is asked for.

    Args:
        path: The store's folder.
        framework: What tensors come as: `"np"` (numpy) or `"pt"` (torch).
        device: For torch, where they go: `"cpu"`, `"cuda:0"`, 0, a `torch.device`.
        threads: Threads that decode a large tensor, or all tensors; 0 for one a core.

    Raises:
        NotFoundError: There is no store.
        DamagedError: Its manifest is not whole.
    """
    return Store(path, framework=framework, device=device, threads=threads)


def safe_open(
    filename: str | PathLike[str],
    framework: str,
    device: Any = "cpu",
    *,
    variant: str | None = None,
    threads: int = 0,
) -> Variant:
    """What `safetensors.safe_open` is for a file, for a variant of a store; `with` closes it.

    Args:
        filename: The store's folder.
        framework: `"np"` or `"pt"`.
        device: Where tensors go.
        variant: The variant; may be left out where the store has one only.
        threads: Threads that decode a large tensor, or all tensors; 0 for one a core.

    Raises:
        NotFoundError: There is no store.
        UnknownNameError: It has no such variant.
        UsageError: It has several variants, and none is named.
    """
    return Store(filename, framework=framework, device=device, threads=threads).variant(variant)


class Store(Mapping[str, "Variant"]):
    """An open store: a mapping from variants' names to variants, which are opened when they are asked for.

    May be used from several threads. Tensors stay valid when it is closed.
    """

    def __init__(
        self, path: str | PathLike[str], *, framework: str = "np", device: Any = None, threads: int = 0
    ) -> None:
        #: The store's folder.
        self.path = path
        self._framework = _framework(framework, device)
        self._threads = checked_threads(threads)
        self._core: _core.Store | None = _core.Store(path)
        self._names = tuple(self._core.variants())
        self._variants: dict[str, Variant] = {}
        self._lock = threading.Lock()

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants' names, lower precision first."""
        return self._names

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name; the only one if there is but one.

        Raises:
            UnknownNameError: The store has no such variant.
            UsageError: It has several, and none is named.
            NotFoundError: A file that holds it is not there.
            DamagedError: A file that holds it is not whole.
        """
        if name is None and len(self._names) != 1:
            example = f"variant={self._names[0]!r}" if self._names else "none is there"
            raise UsageError(f"{self.path}: name the variant, as in {example}; it has {', '.join(self._names)}")
        return self[self._names[0] if name is None else name]

    def __getitem__(self, name: str) -> Variant:
        with self._lock:
            core, found = self._core, self._variants.get(name)
        if core is None:
            raise UsageError(f"{self.path}: this store is closed")
        if found is not None:
            return found
        if name not in self._names:
            raise UnknownNameError(f"{self.path}: no variant {name}; it has {', '.join(self._names)}")
        opened = Variant(self.path, name, core.variant(name), self._framework, self._threads)
        with self._lock:
            if self._core is None:
                raise UsageError(f"{self.path}: this store is closed")
            # Whichever thread was first.
            return self._variants.setdefault(name, opened)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its files."""
        with self._lock:
            variants, self._variants, self._core = self._variants, {}, None
        for variant in variants.values():
            variant.close()

    def __repr__(self) -> str:
        return f"<qstore.Store {str(self.path)!r}: {', '.join(self._names)}>"

    # Two stores are not one because they have the same variants.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Variant:
    """A variant of a store: what `safetensors.safe_open` gives for a file, for all files of the variant together.

    May be used from several threads: nothing that decodes holds Python's lock. Whoever has threads of their own may
    want to open the store with `threads=1`.
    """

    def __init__(
        self, store: str | PathLike[str], name: str, core: _core.Variant, framework: Framework, threads: int
    ) -> None:
        self._store = store
        #: Its name.
        self.name = name
        self._opened: _core.Variant | None = core
        self._framework = framework
        self._threads = threads
        #: Element type and shape of each tensor, in the order of the files.
        self._tensors = {tensor: (dtype, tuple(shape)) for tensor, dtype, shape in core.tensors()}

    @property
    def _core(self) -> _core.Variant:
        if self._opened is None:
            raise UsageError(f"{self._store}: variant {self.name} is closed")
        return self._opened

    def keys(self) -> list[str]:
        """The tensors' names, sorted. `FILE:NAME` where another file of the variant has one of that name."""
        return sorted(self._tensors)

    def offset_keys(self) -> list[str]:
        """The tensors' names in the order in which they lie in the files, which is the fastest to read them in."""
        return list(self._tensors)

    def metadata(self) -> dict[str, str] | None:
        """What the files' headers say beside their tensors (`__metadata__`), such as `{"format": "pt"}`; `None` if
        nothing."""
        return self._core.metadata() or None

    def get_tensor(self, name: str) -> Any:
        """A tensor: an array of the framework, of its own element type and shape. Its memory is its own, and may be
        written.

        Raises:
            UnknownNameError: The variant has no such tensor.
            UsageError: The framework has no such element type.
            DamagedError: What is stored is damaged.
        """
        dtype, shape = self._described(name)
        self._check(name)
        return self._framework.array(self._core.read(name, self._threads), dtype, shape)

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor that is not read yet: `get_slice(name)[10:20]` reads and decodes the chunks that hold those rows,
        and no others; `[:, 10:20]` those that hold those columns.

        Raises:
            UnknownNameError: The variant has no such tensor.
        """
        dtype, shape = self._described(name)
        return TensorSlice(name, dtype, shape, self)

    def get_tensors(self, *, progress: Progress = None) -> dict[str, Any]:
        """All tensors by name, in the order of the files.

        Args:
            progress: `True` for a bar, or a callback.
        """
        for name in self._tensors:
            self._check(name)
        with Watched(progress) as callback:
            loaded = self._core.load(self._threads, callback)
        tensors = {}
        loaded.reverse()
        while loaded:
            # Let go of one by one, where arrays are made on another device.
            name, dtype, shape, memory = loaded.pop()
            tensors[name] = self._framework.array(memory, dtype, shape)
        return tensors

    def files(self) -> dict[str, int]:
        """The variant's original files: each path in its folder, and its bytes."""
        return {path: size for path, size, _ in self._core.files()}

    def read_file(self, path: str) -> bytes:
        """An original file, such as `config.json`, checked by its SHA-256.

        Raises:
            UnknownNameError: The variant has no such file.
            DamagedError: It is not what was stored.
        """
        return self._core.read_file(path)

    @property
    def bytes_read(self) -> int:
        """Bytes of the store that were read so far for this variant, of itself and of those that it is given."""
        return self._core.bytes_read

    def _described(self, name: str) -> tuple[str, tuple[int, ...]]:
        if name not in self._tensors:
            raise UnknownNameError(f"{self._store}: variant {self.name} has no tensor {name}")
        return self._tensors[name]

    def _check(self, name: str) -> None:
        """Raises `UsageError` if the framework has no arrays for a tensor, before it is decoded."""
        try:
            self._framework.check(*self._tensors[name])
        except UsageError as error:
            raise UsageError(f"{self._store}: {name} of variant {self.name}: {error}") from None

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its files. Tensors that were read stay valid."""
        self._opened = None

    def __repr__(self) -> str:
        return f"<qstore.Variant {self.name}: {len(self)} tensors>"


class TensorSlice:
    """A tensor that is not read yet. `slice[...]` reads all of it."""

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...], variant: Variant) -> None:
        #: The tensor's name.
        self.name = name
        self._dtype = dtype
        self._shape = shape
        self._variant = variant

    def get_shape(self) -> list[int]:
        """The tensor's shape."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """The tensor's element type, as safetensors calls it: `BF16`, `I8`, ..."""
        return self._dtype

    def __getitem__(self, index: Any) -> Any:
        """A part of the tensor, as numpy and torch index: whole numbers, slices, `...` and `None`. Only the chunks that
        hold some of it, from the first row to the last along the first dimension and from the first column to the last
        along the last, are read and decoded; of these, what is asked for is given, in memory of its own.

        Raises:
            IndexError: It has no such element, or not so many dimensions.
            UsageError: It cannot be indexed so.
            DamagedError: What is stored is damaged.
        """
        index = index if isinstance(index, tuple) else (index,)
        for part in index:
            if not (part is None or part is ... or _is_basic(part)):
                raise UsageError(f"{self.name}: index with whole numbers, slices, `...` or `None`, not {part!r}")
        core, made, threads = self._variant._core, self._variant._framework, self._variant._threads
        self._variant._check(self.name)
        parts = self._parts(index)
        if parts is None:
            memory = core.read(self.name, threads)
            whole = made.array(memory, self._dtype, self._shape)
            return made.compact(whole[index], memory) if _takes_part(index) else whole
        rows, columns, index = parts
        shape = (rows[1] - rows[0], *self._shape[1:])
        if columns is None:
            memory = core.read_rows(self.name, *rows, threads)
        else:
            between = math.prod(self._shape[1:-1])
            lines = (rows[0] * between, rows[1] * between)
            memory = core.read_block(self.name, lines, columns, threads)
            shape = (*shape[:-1], columns[1] - columns[0])
        some = made.array(memory, self._dtype, shape)
        return made.compact(some[index], memory)

    def _parts(self, index: tuple[Any, ...]) -> tuple[_Range, _Range | None, tuple[Any, ...]] | None:
        """The rows that an index needs, and the columns if it needs not all; and what then indexes them. `None` if it
        needs all of the tensor."""
        # Elements that share a byte cannot be read apart.
        if not self._shape or not index or self._dtype in ("F4", "F6_E2M3", "F6_E3M2"):
            return None
        dimensions = len(self._shape)
        if index.count(...) == 1 and None not in index and len(index) <= dimensions + 1:
            at = index.index(...)
            every = (slice(None),) * (dimensions + 1 - len(index))
            index = (*index[:at], *every, *index[at + 1 :])
        if index[0] is None or index[0] is ...:
            return None
        rows, first = self._range(0, index[0])
        columns = None
        if len(index) == dimensions > 1 and None not in index and ... not in index:
            columns, last = self._range(dimensions - 1, index[-1])
            if columns[1] - columns[0] == self._shape[-1]:
                columns = None
            else:
                index = (*index[:-1], last)
        return rows, columns, (first, *index[1:])

    def _range(self, dimension: int, index: Any) -> tuple[_Range, Any]:
        """What an index needs along a dimension, from one to before another, and what then indexes it."""
        count = self._shape[dimension]
        if isinstance(index, slice):
            wanted = range(*index.indices(count))
            step = slice(None, None, wanted.step)
            return ((min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1]) + 1) if wanted else (0, 0)), step
        at = operator.index(index)
        if not -count <= at < count:
            what = "row" if dimension == 0 else "column"
            raise IndexError(f"{self.name}: {what} {at} of a tensor that has {count}")
        at %= count
        return (at, at + 1), 0

    def __repr__(self) -> str:
        return f"<qstore.TensorSlice {self.name}: {self._dtype} {list(self._shape)}>"


def _is_basic(part: object) -> bool:
    """Whether it is a slice or a whole number. Arrays may have `__index__` as well, but index otherwise; so do truth
    values."""
    if isinstance(part, slice):
        return True
    # numpy's had `__index__` up to release 2.2.
    truth = isinstance(part, bool) or str(getattr(part, "dtype", "")) == "bool"
    return hasattr(part, "__index__") and not truth and not hasattr(part, "__len__")


def _takes_part(index: tuple[Any, ...]) -> bool:
    return index not in ((), (...,))


def checked_threads(threads: int) -> int:
    """`threads`, if so many can be asked for."""
    if not isinstance(threads, int) or not 0 <= threads <= 1024:
        raise UsageError(f"threads is a number from 1 to 1024, or 0 for one a core, not {threads!r}")
    return threads


# `framework` is the name of an argument, too.
_framework = framework
