"""Telling how far a long operation has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from qstore.errors import UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

#: Called with the stage that is under way, the bytes of it that are done, and its bytes in all, some twenty times a
#: second, on the thread that called the operation. What it raises ends the operation, which undoes what it has done
#: unless that is all.
Callback: TypeAlias = Callable[[str, int, int], object]

#: What operations take as `progress`: a callback, or `True` for a bar, or `None` for neither.
Progress: TypeAlias = Callback | bool | None


class Bar:
    """A tqdm bar for each stage, in a terminal or a notebook: `qstore.pack(..., progress=qstore.Bar(leave=False))`.

    Args:
        options: What `tqdm` takes beside `total` and `desc`. `progress=True` is a bar without any.
    """

    def __init__(self, **options: Any) -> None:
        self._options = {"unit": "B", "unit_scale": True, **options}
        self._stage: str | None = None
        self._bar: tqdm[Any] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        from tqdm.auto import tqdm

        if self._bar is None or stage != self._stage or done < self._bar.n:
            self.close()
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, **self._options)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.refresh()

    def close(self) -> None:
        """Leaves the bar as it is. Operations do so when they end."""
        if self._bar is not None:
            self._bar.close()
        self._stage = self._bar = None


class Watched:
    """Hands an operation its callback, and closes the bar behind it."""

    def __init__(self, progress: Progress) -> None:
        self._callback = Bar() if progress is True else None if progress is False else progress
        if not (self._callback is None or callable(self._callback)):
            raise UsageError(f"progress is True for a bar, or a function of (stage, done, total), not {progress!r}")

    def __enter__(self) -> Callback | None:
        return self._callback

    def __exit__(self, *_: object) -> None:
        if isinstance(self._callback, Bar):
            self._callback.close()
