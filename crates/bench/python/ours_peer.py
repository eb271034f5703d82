"""QStore by its own package: with torch where there is torch, else with numpy."""

import platform
from importlib.metadata import version

import ml_dtypes  # noqa: F401  imports are not timed
import numpy

import qstore

try:
    import torch
except ImportError:
    torch = None


def describe():
    packages = ["qstore", "torch"] if torch else ["qstore", "numpy"]
    return f"{', '.join(f'{name} {version(name)}' for name in packages)}, Python {platform.python_version()}"


def prepare(job):
    pass


def save(job):
    folders = {variant["name"]: variant["folder"] for variant in job["variants"]}
    qstore.pack(folders, job["stored"], threads=job["threads"], memory=job["memory"])


def load(job):
    if job["bytes_per_second"]:
        await_layers(job)
    loaded, bytes_read = {}, 0
    with qstore.open(job["stored"], framework="pt" if torch else "np", threads=job["threads"]) as store:
        for variant in job["variants"]:
            opened = store[variant["name"]]
            tensors = opened.get_tensors()
            files = {tensor["name"]: file["path"] for file in variant["files"] for tensor in file["tensors"]}
            for name, tensor in tensors.items():
                # Names that several files have come with the file's.
                file, name = (files[name], name) if name in files else name.split(":", 1)
                loaded[variant["name"], file, name] = tensor
            bytes_read += opened.bytes_read
    return loaded, bytes_read


def await_layers(job):
    described = {variant.name: variant for variant in qstore.inspect(job["stored"]).variants}
    for variant in job["variants"]:
        seen, waiting = set(), [variant["name"]]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += described[name].given
        for name in seen:
            for file in described[name].stored_files:
                await_file(f"{job['stored']}/{file}", job["bytes_per_second"])  # noqa: F821


def as_bytes(tensor):
    flat = tensor.reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy() if torch else flat.view(numpy.uint8))


# From frame.py, which stands before this in the same program.
serve(describe, prepare, save, load, as_bytes)  # noqa: F821
