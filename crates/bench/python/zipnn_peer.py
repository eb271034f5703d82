"""ZipNN by its own package, tensor by tensor into a safetensors file, as its scripts zipnn_compress_safetensors.py and
zipnn_decompress_safetensors.py do. They keep integers as they are; here 8-bit ones are coded as 8-bit floats."""

import json
import platform
import warnings
from importlib.metadata import version

warnings.simplefilter("ignore")  # torch and ZipNN warn of each other's ways

import safetensors.torch
import torch
from safetensors import safe_open
from zipnn import ZipNN

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2)
BYTES = (torch.int8, torch.uint8)
KEY = "znn"


def describe():
    packages = ", ".join(f"{name} {version(name)}" for name in ("zipnn", "safetensors", "torch"))
    return f"{packages}, Python {platform.python_version()}"


def prepare(job):
    torch.set_num_threads(job["threads"])


def coder(job, dtype):
    return ZipNN(input_format="torch", bytearray_dtype=dtype, method="HUFFMAN", threads=job["threads"])


def save(job, source, target):
    tensors, coded = {}, {}
    with safe_open(source, "pt", "cpu") as file:
        metadata = file.metadata() or {}
        for name in file.keys():
            tensor = tensors[name] = file.get_tensor(name)
            if tensor.dtype not in FLOATS + BYTES or tensor.numel() == 0:
                continue
            # ZipNN works in place.
            copy = tensor.clone().reshape(-1)
            if tensor.dtype in BYTES:
                copy = copy.view(torch.float8_e4m3fn)
            data = coder(job, copy.dtype).compress(copy)
            if len(data) < tensor.nbytes:
                tensors[name] = torch.frombuffer(data, dtype=torch.uint8)
                coded[name] = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
    safetensors.torch.save_file(tensors, target, {**metadata, KEY: json.dumps(coded)})


def load(job, path):
    with safe_open(path, "pt", "cpu") as file:
        coded = json.loads(file.metadata()[KEY])
        return {name: decoded(job, file.get_tensor(name), coded.get(name)) for name in file.keys()}


def decoded(job, tensor, coded):
    if coded is None:
        return tensor.clone()
    dtype, shape = coded
    result = coder(job, torch.uint8).decompress(tensor.numpy())
    return result.view(getattr(torch, dtype)).reshape(shape)


def as_bytes(tensor):
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


# From frame.py, which stands before this in the same program.
serve(describe, prepare, by_file(save), from_files(load), as_bytes)  # noqa: F821
