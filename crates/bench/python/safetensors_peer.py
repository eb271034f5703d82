"""safetensors by its own package: with torch where there is torch, else with numpy and ml_dtypes."""

import json
import platform
from importlib.metadata import version

import safetensors  # noqa: F401  before the others, so that it is the one to be named if it is missing

try:
    import safetensors.torch as library
    import torch
except ImportError:
    torch = None
    import ml_dtypes  # noqa: F401  numpy knows BF16 once this is imported
    import safetensors.numpy as library

PAGE = 4096


def describe():
    packages = ["safetensors", "torch"] if torch else ["safetensors", "numpy", "ml_dtypes"]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{versions}, Python {platform.python_version()} ({library.__name__}.load_file)"


def prepare(job):
    if torch:
        torch.set_num_threads(job["threads"])


def metadata_of(path):
    """The header's free text, such as which framework wrote it; a saved file keeps it."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__")


def save(job, source, target):
    library.save_file(library.load_file(source), target, metadata_of(source))


def load(job, path):
    tensors = library.load_file(path)
    # A mapped file is in memory when every page of it has been used.
    for tensor in tensors.values():
        int(raw(tensor)[::PAGE].sum())
    return tensors


def raw(tensor):
    """A tensor's elements as bytes, not copied."""
    flat = tensor.reshape(-1)
    return flat.view(torch.uint8) if torch else flat.view("uint8")


def as_bytes(tensor):
    return memoryview(raw(tensor).numpy() if torch else raw(tensor))


# From frame.py, which stands before this in the same program.
serve(describe, prepare, by_file(save), from_files(load), as_bytes)  # noqa: F821
