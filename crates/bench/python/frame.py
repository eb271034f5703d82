"""What the Python peers of `qstore bench` share; one of them follows in the same program. It takes a job as JSON on
standard input and answers with an outcome as JSON, as the Rust peers do. Only the work of `save` and `load` is timed:
imports come before, the comparison comes after."""

import json
import os
import sys
import time

# Packages come from the interpreter's environment, never from the folder that we happen to run in.
sys.path = [path for path in sys.path if path not in ("", os.getcwd())]

STEP = 1 << 20


def peak_rss_bytes():
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def settle(size):
    """Uses memory and gives it back, then counts the peak anew, as memory.rs does and for its reason."""
    bytearray(b"\1") * size
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def await_file(path, bytes_per_second):
    """Waits for as long as the file would take to come over a link of that speed, reading it meanwhile."""
    began, done, buffer = time.perf_counter(), 0, bytearray(STEP)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            done += count
            time.sleep(max(0.0, began + done / bytes_per_second - time.perf_counter()))


def sync(path):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def difference(variants, loaded):
    """The first difference between the tensors in `loaded`, by variant, file and name, and the source; None if there is
    none."""
    for variant in variants:
        for file in tensor_files(variant):
            with open(os.path.join(variant["folder"], file["path"]), "rb") as source:
                for tensor in file["tensors"]:
                    name = f"{variant['name']}: {tensor['name']}"
                    data = loaded.pop((variant["name"], file["path"], tensor["name"]), None)
                    if data is None:
                        return f"{name} was not loaded"
                    if len(data) != tensor["bytes"]:
                        return f"{name}: {len(data)} bytes were loaded of {tensor['bytes']}"
                    source.seek(tensor["offset"])
                    for at in range(0, len(data), STEP):
                        if source.read(min(STEP, len(data) - at)) != data[at : at + STEP]:
                            return f"{name}: its bytes differ from byte {at} on or later"
    return f"{next(iter(loaded))} is not in the source" if loaded else None


def tensor_files(variant):
    return [file for file in variant["files"] if file["tensors"]]


def stored_path(job, variant, file):
    path = os.path.join(job["stored"], variant["name"], file["path"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def copy_others(job):
    """Files without tensors are stored as they are by every peer."""
    for variant in job["variants"]:
        for file in variant["files"]:
            if not file["tensors"]:
                path = stored_path(job, variant, file)
                with open(os.path.join(variant["folder"], file["path"]), "rb") as source, open(path, "wb") as target:
                    target.write(source.read())
                sync(path)


def by_file(save):
    """A `save` for `serve` of one that stores one file with tensors as another."""

    def save_all(job):
        copy_others(job)
        for variant in job["variants"]:
            for file in tensor_files(variant):
                path = stored_path(job, variant, file)
                save(job, os.path.join(variant["folder"], file["path"]), path)
                sync(path)

    return save_all


def from_files(load):
    """A `load` for `serve` of one that gives the tensors of one stored file by name."""

    def load_all(job):
        loaded, bytes_read = {}, 0
        for variant in job["variants"]:
            for file in tensor_files(variant):
                path = stored_path(job, variant, file)
                bytes_read += os.path.getsize(path)
                if job["bytes_per_second"]:
                    await_file(path, job["bytes_per_second"])
                for name, tensor in load(job, path).items():
                    loaded[variant["name"], file["path"], name] = tensor
        return loaded, bytes_read

    return load_all


def serve(describe, prepare, save, load, as_bytes):
    """Does the job with a peer's functions. `prepare(job)` makes ready what is not timed; `save(job)` stores all
    variants; `load(job)` gives all tensors by variant, file and name, and the bytes that it read; `as_bytes(tensor)`
    shows such a tensor as bytes."""
    job = json.load(sys.stdin)
    if job["task"] == "describe":
        print(json.dumps({"version": describe()}))
        return
    prepare(job)
    settle(job["settle_bytes"])
    loaded, bytes_read, different = {}, 0, None
    began = time.perf_counter()
    if job["task"] == "save":
        save(job)
    else:
        loaded, bytes_read = load(job)
    seconds = time.perf_counter() - began
    peak = peak_rss_bytes()
    if job["task"] == "load":
        different = difference(job["variants"], {key: as_bytes(tensor) for key, tensor in loaded.items()})
    print(json.dumps({"seconds": seconds, "bytes_read": bytes_read, "peak_rss_bytes": peak, "different": different}))
