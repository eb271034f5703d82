"""Loading variants as numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qstore.store import safe_open

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np

    from qstore.progress import Progress


def load_file(
    filename: str | PathLike[str],
    *,
    variant: str | None = None,
    threads: int = 0,
    progress: Progress = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a variant by name. BF16 and FP8 are types of ml_dtypes.

    Args:
        filename: The store's folder.
        variant: The variant; may be left out where the store has one only.
        threads: Threads to decode on; 0 for one a core.
        progress: `True` for a bar, or a callback.

    Raises:
        NotFoundError: There is no store, or a file of the variant is not there.
        UnknownNameError: The store has no such variant.
        UsageError: It has several, and none is named; or numpy has no type for a tensor's elements.
        DamagedError: What is stored is damaged.
    """
    with safe_open(filename, "np", variant=variant, threads=threads) as opened:
        return opened.get_tensors(progress=progress)
