"""Bits a weight of a set of variants, everything counted: `python tests/measure/bits.py QSTORE NAME=DIR... [OPTIONS]`.

Packs the folders (the first, one of floats, is the one whose linear weights are counted) with these options of `qstore pack`. Bits are
eight times the bytes of the store, less those of tensors and files that belong to no linear matrix, over the number of
linear weights: codes, scales, tables, exceptions, plans, headers and the manifest are in it. Linear are the tensors that
have `_proj.` in their names. Fails unless every variant comes back byte for byte.
"""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def of_linear(tensors: list[dict[str, Any]], is_linear: bool = True) -> list[dict[str, Any]]:
    return [tensor for tensor in tensors if ("_proj." in tensor["name"]) == is_linear]


def same(one: Path, other: Path) -> bool:
    files = [{path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (one, other)]
    return files[0] == files[1] and all(filecmp.cmp(one / path, other / path, shallow=False) for path in files[0])


def main() -> None:
    qstore, *rest = sys.argv[1:]
    folders = dict(argument.split("=", 1) for argument in rest if "=" in argument and not argument.startswith("-"))
    options = [argument for argument in rest if argument.startswith("-") or "=" not in argument]
    variants = [f"{name}={folder}" for name, folder in folders.items()]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as root:
        store = Path(root) / "store"
        run(qstore, "-q", "pack", *variants, "-o", store, *options)
        for name, folder in folders.items():
            run(qstore, "-q", "unpack", store, name, "-o", Path(root) / name)
            assert same(Path(root) / name, Path(folder)), f"{name} is not what was packed"
        inspection = json.loads(run(qstore, "inspect", store, "--tensors", "--json"))
        whole = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    found = {variant["name"]: variant for variant in inspection["variants"]}
    first = of_linear(found[next(iter(folders))]["tensors"])
    weight_bytes = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}
    matrices = [tensor for tensor in first if tensor["name"].endswith(("_proj.weight", "_proj"))]
    weights = sum(tensor["raw_bytes"] // weight_bytes.get(tensor["dtype"], 1) for tensor in matrices)
    rest_bytes = 0
    for name, variant in found.items():
        parts = (of_linear(variant["tensors"], is_linear=False), variant["files"])
        rest_bytes += sum(part["stored_bytes"] for each in parts for part in each)
        own = sum(tensor["stored_bytes"] for tensor in of_linear(variant["tensors"]))
        role = " (archived)" if variant["archived"] else ""
        given = f" given {', '.join(variant['given'])}" if variant["given"] else ""
        print(f"{own * 8 / weights:8.3f}  {name}{role}{given}")
    print(f"{(whole - rest_bytes) * 8 / weights:8.3f}  all, everything counted")


if __name__ == "__main__":
    main()
