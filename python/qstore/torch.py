"""Loading variants as torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstore.store import safe_open

if TYPE_CHECKING:
    from os import PathLike

    import torch

    from qstore.progress import Progress


def load_file(
    filename: str | PathLike[str],
    device: str | int | torch.device = "cpu",
    *,
    variant: str | None = None,
    threads: int = 0,
    progress: Progress = None,
) -> dict[str, torch.Tensor]:
    """All tensors of a variant by name, as `safetensors.torch.load_file` gives those of a file.

    Args:
        filename: The store's folder.
        device: Where the tensors go.
        variant: The variant; may be left out where the store has one only.
        threads: Threads to decode on; 0 for one a core.
        progress: `True` for a bar, or a callback.

    Raises:
        NotFoundError: There is no store, or a file of the variant is not there.
        UnknownNameError: The store has no such variant.
        UsageError: It has several, and none is named; or torch has no type for a tensor's elements.
        DamagedError: What is stored is damaged.
    """
    with safe_open(filename, "pt", device, variant=variant, threads=threads) as opened:
        return opened.get_tensors(progress=progress)
