"""A second decoder of QStore stores, written from docs/format.md alone: it shares no code with the first.

It is there to keep that document honest, so it is plain rather than fast. Section numbers cite the document.
`chunk_decoder` holds sections 7 to 9.
Usage: python second_decoder.py STORE VARIANT TARGET
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from chunk_decoder import (
    FLOATS,
    Cursor,
    DamageError,
    Grid,
    Ints,
    check,
    decode_code_residual,
    decode_codes,
    decode_float_split,
    decode_floats,
    decode_packed,
    decode_residual,
    decode_step_residual,
    decode_zstd,
    int8_bins,
    unpacked,
    unzstd,
)

Json = dict[str, Any]

MIB = 1 << 20
FORM_HEAD, FORM_CODED, FORM_RAW = 0, 1, 2
FLOAT_RESIDUALS = ("residual", "step-residual")
RESIDUALS = (*FLOAT_RESIDUALS, "code-residual")
KINDS_WITH_HEAD = (*RESIDUALS, "float-split", "codes", "packed")
KINDS_ELSEWHERE = ("reference", "slice")
KINDS_OF_BUNDLES = ("float-split", "codes", "zstd", "raw")
KINDS_OF_SHORT_FLOATS = (*FLOAT_RESIDUALS, "float-split")
#: The fields of each kind of encoding beside `kind`, and those that may be there (4).
FIELDS = {
    "reference": ("to", ""),
    "slice": ("of offset", ""),
    "verbatim": ("file offset", ""),
    "residual": ("codes scale scheme rounding", "transposed"),
    "step-residual": ("given steps", "transposed"),
    "code-residual": ("given own", ""),
    "packed": ("bits", ""),
}
WIDTHS = (2, 3, 4, 8)
RECORD = np.dtype([("length", "<u4"), ("form", "u1"), ("zero", "u1", 3), ("hash", "<u8")])


def xxh3_128(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def has_fields(value: Json, required: str, optional: str = "") -> None:
    """Unknown fields are an error (2, 4)."""
    names, needed = set(value), set(required.split())
    check(needed <= names <= needed | set(optional.split()), f"fields {sorted(names)}, not {required}")


def parse(text: bytes) -> Json:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DamageError(f"no JSON: {error}") from None
    check(isinstance(value, dict), "no JSON object")
    return dict(value)


def relative(path: str) -> str:
    """Refuses what is no relative path (1): restored files must stay below their folder."""
    bad = {"", ".", ".."} & set(path.split("/")) or set("\\\0") & set(path) or path.encode()[1:2] == b":"
    check(not bad and len(path.encode()) <= 4096, f"not a relative path: {path!r}")
    return path


@dataclass(frozen=True)
class Array:
    """An array of a plan (4), its records in the list of chunks (5), and where the first of them lies."""

    plan: Json
    records: Ints
    source: Path
    begin: int

    @property
    def bits(self) -> int:
        dtype = self.plan["dtype"]
        return 8 if dtype == "BOOL" else int(re.findall(r"\d+", dtype)[0])

    @property
    def width(self) -> int:
        """Bytes of an element (6)."""
        return max(1, self.bits // 8)

    @property
    def kind(self) -> str:
        return str(self.plan["encoding"]["kind"])

    @property
    def transposed(self) -> bool:
        """Whether what is coded is the transposed matrix (6)."""
        encoding = self.plan["encoding"]
        always = self.kind == "packed" or (self.kind == "code-residual" and encoding["own"]["scheme"] == "gptq")
        return always or encoding.get("transposed", False) is True

    @property
    def coded_shape(self) -> list[int]:
        """The shape of the matrix that is coded (6)."""
        shape = list(self.plan["shape"])
        check(len(shape) == 2, f"{self.plan['key']} is no matrix")
        return shape[::-1] if self.transposed else shape

    @property
    def floats(self) -> str:
        """The kind of floats that it has (8.2)."""
        return "short F16" if "mantissa" in self.plan else str(self.plan["dtype"])

    def check(self) -> None:
        """Whether the plan says of it what it may (4, 6, 11)."""
        plan, encoding, kind = self.plan, self.plan["encoding"], self.kind
        if kind == "slice":
            has_fields(plan, "key dtype shape encoding")
        else:
            has_fields(plan, "key dtype shape hash grid encoding", "mantissa")
            has_fields(plan["grid"], "cols rows_per_chunk", "lanes")
        has_fields(encoding, "kind " + FIELDS.get(kind, ("", ""))[0], FIELDS.get(kind, ("", ""))[1])
        is_short = (plan["dtype"], plan.get("mantissa")) == ("F16", 7) and kind in KINDS_OF_SHORT_FLOATS
        check(is_short or "mantissa" not in plan, f"{plan['key']} is no short F16")
        if kind not in (*RESIDUALS, "packed"):
            return
        rows, cols = self.coded_shape
        check(plan["grid"]["cols"] == cols, f"{plan['key']} is in rows of another length")
        check(rows <= 1 << 22 and min(rows, plan["grid"]["rows_per_chunk"]) <= 1 << 14, "too many rows")
        check(not self.transposed or self.size <= 256 * MIB, "a transposed matrix that is too large")
        if kind in FLOAT_RESIDUALS:
            check(plan["dtype"] in FLOATS, f"{plan['key']} has no floats")
        if kind == "step-residual":
            check(encoding["steps"] in (1, 2, 4, 8, 16), "a number of steps")
        if kind == "packed":
            check(encoding["bits"] in WIDTHS and cols * 32 % encoding["bits"] == 0, "codes of broken words")
        if self.transposed and kind in ("packed", "code-residual"):
            bits = encoding["bits"] if kind == "packed" else encoding["own"]["bits"]
            check(
                min(rows, plan["grid"]["rows_per_chunk"]) * cols * 32 <= bits << 24,
                "chunks of too many codes",
            )
        if kind in ("packed", "code-residual"):
            check(plan["dtype"] == ("I32" if self.transposed else "I8"), f"{plan['key']} has no codes")

    @property
    def lanes(self) -> int:
        lanes = self.plan["grid"].get("lanes", 64)
        check(lanes in (64, 128), "a coder has 64 or 128 lanes")
        return int(lanes)

    @property
    def size(self) -> int:
        return math.prod(self.plan["shape"]) * self.bits // 8

    @property
    def chunk_sizes(self) -> list[int]:
        """Decoded bytes of each chunk (6)."""
        if self.kind in KINDS_ELSEWHERE:
            return []
        cols, rows = self.plan["grid"]["cols"], self.plan["grid"]["rows_per_chunk"]
        starts = range(0, self.size, self.width * cols * rows) if self.size else range(0)
        return [min(starts.step, self.size - start) for start in starts]

    def stored(self) -> Iterator[tuple[int, bytes]]:
        """Form and stored bytes of each record, once their hash was checked (5)."""
        with self.source.open("rb") as file:
            file.seek(self.begin)
            for record in self.records:
                data = file.read(int(record["length"]))
                check(xxhash.xxh3_64_intdigest(data) == record["hash"], f"{self.source}: a chunk is damaged")
                yield int(record["form"]), data


class Shard:
    """A layer file (3): its plan, its list of chunks, and where its streams lie."""

    def __init__(self, path: Path, entry: Json) -> None:
        size = path.stat().st_size
        check(size == entry["bytes"], f"{path} has another size")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            check(length <= min(100_000_000, size), f"{path}: the header is too long")
            text = file.read(length)
            check(xxh3_128(text) == entry["id"], f"{path}: the header is damaged")
            header = parse(text)
            metadata = header.pop("__metadata__")
            has_fields(metadata, "format format_version plan_xxh3 chunks_xxh3")
            check((metadata["format"], metadata["format_version"]) == ("qstore", "1"), f"{path}: not version 1")
            self.path, at = path, 8 + length
            self.streams: dict[str, tuple[int, int]] = {}
            for name, stream in header.items():
                begin, end = (8 + length + offset for offset in stream["data_offsets"])
                flat = stream["dtype"] == "U8" and stream["shape"] == [end - begin]
                check(flat and begin == at, f"{path}: {name} is no stream")
                self.streams[name], at = (begin, end - begin), end
            check(at == size, f"{path}: the streams do not fill it")

            def pinned(name: str) -> bytes:
                begin, count = self.streams.pop(f"qstore.{name}")
                file.seek(begin)
                data = file.read(count)
                check(xxh3_128(data) == metadata[f"{name}_xxh3"], f"{path}: the {name} are damaged")
                return data

            plan = pinned("plan")
            self.records = np.frombuffer(pinned("chunks"), RECORD)
        self.plan = parse(unzstd(plan, min(512 * MIB, MIB + 50 * len(plan))))
        has_fields(self.plan, "variant given arrays", "files empty_folders")
        check(not self.records["zero"].any(), f"{path}: a record's zeros are not")


def check_bundles(arrays: list[Array]) -> None:
    """Whether the slices of a shard fill its bundles, type by type and in order (4, 11)."""
    bundles = {array.plan["key"]: array for array in arrays if array.plan["key"].startswith("bundle:")}
    for key, bundle in bundles.items():
        check(re.fullmatch(r"bundle:(0|[1-9]\d{0,9})", key) and int(key[7:]) < 1 << 32, f"{key} is no bundle")
        plain = bundle.kind in KINDS_OF_BUNDLES and len(bundle.plan["shape"]) == 1
        check(plain and bundle.size <= MIB, f"{key} is too large, or no list of elements")
    filled, current = dict[str, int](), dict[str, str]()
    for array in arrays:
        if array.kind != "slice":
            continue
        key, of, dtype = array.plan["key"], array.plan["encoding"]["of"], array.plan["dtype"]
        check(key.startswith("tensor:") and of in bundles, f"{key} is a slice of {of}")
        check(bundles[of].plan["dtype"] == dtype, f"{key} has another type than {of}")
        before = current.setdefault(dtype, of)
        full = before == of or filled[before] == bundles[before].size
        check(full and array.plan["encoding"]["offset"] == filled.get(of, 0), f"{key} comes out of order")
        current[dtype], filled[of] = of, filled.get(of, 0) + array.size
    sizes = {key: bundle.size for key, bundle in bundles.items()}
    check(filled == sizes, "a bundle has bytes of no tensor, or a slice ends outside of it")


#: Decodes a chunk of some rows of an array, from its head and the chunk.
Decode = Callable[[Cursor, Cursor, slice], bytes]


@dataclass(frozen=True)
class Part:
    """An array that a residual needs."""

    dtype: str
    shape: list[int]
    data: bytes

    def floats(self) -> Ints:
        """Its values as F32 (9.1)."""
        if self.dtype == "BF16":
            return (np.frombuffer(self.data, "<u2").astype(np.uint32) << 16).view(np.float32)
        check(self.dtype in ("F16", "F32"), f"scales of {self.dtype}")
        return np.frombuffer(self.data, "<f2" if self.dtype == "F16" else "<f4").astype(np.float32)


@dataclass(frozen=True)
class Layer:
    """What the shards of a variant hold together (4)."""

    arrays: dict[str, Array]
    files: list[Json]
    empty_folders: list[str]


class Store:
    """An open store, whose manifest is checked (2)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.variants = folder, dict[str, Json]()
        self.layer = cache(self._layer)
        self.bundle = lru_cache(32)(self.array)
        file = self._file("qstore.json")
        check(file.stat().st_size <= 16 * MIB, "the manifest is too large")
        manifest = parse(file.read_bytes())
        has_fields(manifest, "format format_version variants checksum")
        check((manifest["format"], manifest["format_version"]) == ("qstore", 1), "not a store of version 1")
        unsigned = json.dumps(manifest | {"checksum": None}, separators=(",", ":"), ensure_ascii=False)
        check(xxh3_128(unsigned.encode()) == manifest["checksum"], "the manifest is damaged")
        check(len(manifest["variants"]) <= 256, "too many variants")
        for variant in manifest["variants"]:
            fields = "name scheme dtype given content tensors tensor_bytes files raw_bytes layer"
            has_fields(variant, fields, "verbatim given_only excluded unshared")
            for note in variant.get("unshared", ()):
                has_fields(note, "first matrices why", "with")
            name = variant["name"]
            check(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name), f"not a name: {name!r}")
            check(name not in self.variants and name != "qstore.json", f"a second {name!r}")
            only = variant.get("given_only", list(self.variants))
            check(len(only) <= 256, f"{name} may be given too many")
            reach = set(only)
            for lower, entry in reversed(self.variants.items()):
                reach |= {given["variant"] for given in entry["given"]} if lower in reach else set()
            for given in variant["given"]:
                has_fields(given, "variant content")
                check(given["variant"] in reach, f"{name} is given more than it may be")
                lower = self.variants.get(given["variant"], {}).get("content")
                check(lower == given["content"], f"{name} was coded against another {given['variant']}")
            self.variants[name] = variant

    def _file(self, path: str) -> Path:
        """A file of the store: regular, or a link into `blobs` of a Hugging Face cache (1)."""
        file = self.folder / relative(path)
        if file.is_symlink():
            above = self.folder.absolute().parents
            blobs = next((up.parent / "blobs" for up in above if up.name == "snapshots"), None)
            check(blobs and file.resolve().parent == blobs.resolve(), f"{path} is a link")
        else:
            check(file.resolve().is_relative_to(self.folder.resolve()), f"{path} is outside the store")
        check(file.is_file(), f"{path} is no file")
        return file

    def _layer(self, name: str) -> Layer:
        """All shards of a variant, whose `content` is checked (2, 3, 4, 5)."""
        variant, layer = self.variants[name], Layer({}, [], [])
        for entry in variant["layer"]:
            has_fields(entry, "name bytes id")
            check(entry["name"] == f"{name}-{entry['id'][:12]}.safetensors", f"layer name {entry['name']}")
            shard = Shard(self._file(entry["name"]), entry)
            plan, records = shard.plan, shard.records
            check(plan["variant"] == name, f"{shard.path} is of another variant")
            check(all(given in variant["given"] for given in plan["given"]), f"{shard.path}: given")
            for array_plan in plan["arrays"]:
                key, encoding = array_plan["key"], array_plan["encoding"]
                check(key not in layer.arrays, f"a second {key}")
                kind, source = encoding["kind"], shard.path
                begin, length = shard.streams.pop(key, (0, 0))
                if kind == "verbatim":
                    source, begin = self._file(f"{name}/{relative(encoding['file'])}"), encoding["offset"]
                array = Array(array_plan, records, source, begin)
                array.check()
                count = len(array.chunk_sizes) + (kind in KINDS_WITH_HEAD)
                own, records = records[:count], records[count:]
                check(own.size == count, f"{shard.path}: the list of chunks is too short")
                check(kind == "verbatim" or own["length"].sum(dtype=np.uint64) == length, f"{key}: length")
                layer.arrays[key] = replace(array, records=own)
            check_bundles([layer.arrays[array["key"]] for array in plan["arrays"]])
            check(not shard.streams and not records.size, f"{shard.path}: streams or records of no array")
            check(entry is variant["layer"][-1] or "files" not in plan, f"{shard.path}: files too early")
            layer.files.extend(plan.get("files", []))
            layer.empty_folders.extend(plan.get("empty_folders", []))
        named = [f"tensor:{name}" for file in layer.files for name in file["content"].get("tensors", [])]
        slices = {key for key, array in layer.arrays.items() if array.kind == "slice"}
        in_order = [key for key in layer.arrays if key in slices] == [key for key in named if key in slices]
        check(in_order, f"slices of {name} do not come in the order of its files")
        lines = [f"{file['sha256']} {file['bytes']} {relative(file['path'])}\n" for file in layer.files]
        lines += [f"{relative(folder)}/\n" for folder in layer.empty_folders]
        check(xxh3_128("".join(lines).encode()) == variant["content"], f"{name} is not what its content says")
        check(len({file["path"] for file in layer.files}) == len(layer.files) <= 1_000_000, f"files of {name}")
        return layer

    def _find(self, variant: str, ref: Json) -> tuple[str, str]:
        """The variant and the key that a REF leads to (4)."""
        has_fields(ref, "variant array")
        given = {given["variant"] for given in self.variants[variant]["given"]}
        check(ref["variant"] in {variant} | given, f"{variant} is not given {ref['variant']}")
        check(not ref["array"].startswith("bundle:"), f"{variant} refers to a bundle")
        return ref["variant"], ref["array"]

    def array(self, variant: str, key: str) -> bytes:
        """The bytes of an array (8), once their hash was checked (4)."""
        array = self.layer(variant).arrays[key]
        encoding = array.plan["encoding"]
        if encoding["kind"] == "reference":
            name, to = self._find(variant, encoding["to"])
            target = self.layer(name).arrays[to].plan["encoding"]["kind"]
            check(target != "reference", f"{key} of {variant} leads to a reference")
            data = self.array(name, to)
        elif encoding["kind"] == "slice":
            begin = encoding["offset"]
            data = self.bundle(variant, encoding["of"])[begin : begin + array.size]
        else:
            data = b"".join(self._chunks(variant, array))
            if array.transposed:
                cols = array.plan["shape"][0]
                data = np.frombuffer(data, f"V{array.width}").reshape(-1, cols).T.tobytes()
        check(len(data) == array.size, f"{key} of {variant} has another size")
        own_hash = array.kind == "slice" or xxh3_128(data) == array.plan["hash"]
        check(own_hash, f"{key} of {variant} is damaged")
        return data

    def _source(self, name: str, key: str) -> Array:
        """The array that has the bytes of another one, if that is a reference (4)."""
        array = self.layer(name).arrays[key]
        if array.kind != "reference":
            return array
        name, key = self._find(name, array.plan["encoding"]["to"])
        return self.layer(name).arrays[key]

    def _part(self, variant: str, ref: Json, is_codes: bool = False, may_be_own: bool = False) -> Part:
        """An array that a residual needs, if it may be one (4)."""
        name, key = self._find(variant, ref)
        check(may_be_own or name != variant, f"{key} is of {variant} itself")
        plan, source = self.layer(name).arrays[key].plan, self._source(name, key)
        check(source.kind not in (FLOAT_RESIDUALS if is_codes else RESIDUALS), f"{key} is itself a residual")
        return Part(plan["dtype"], plan["shape"], self.array(name, key))

    def _grid(self, variant: str, quant: Json, shape: list[int], may_be_own: bool = False) -> Grid:
        """What the codes of a matrix of this shape stand for (9.1)."""
        rows, cols = shape
        if quant["scheme"] == "llm.int8":
            has_fields(quant, "scheme scale")
            scale = self._part(variant, quant["scale"], may_be_own=may_be_own)
            check(scale.shape in ([rows], [rows, 1], [1, rows]), "scales that do not fit")
            of_row = scale.floats() / np.float32(127)
            return Grid(None, np.zeros(cols, np.int64), of_row[:, None], np.zeros((rows, 1), np.int64))
        has_fields(quant, "scheme bits scale zeros zero_offset", "groups")
        bits, offset = quant["bits"], quant["zero_offset"]
        check(quant["scheme"] == "gptq" and bits in WIDTHS and offset in (0, 1), "no grid of GPTQ")
        scale, zeros = (self._part(variant, quant[part], may_be_own=may_be_own) for part in ("scale", "zeros"))
        check(len(scale.shape) == 2 and scale.shape[1] == rows, "scales that do not fit")
        count = scale.shape[0]
        check(1 <= count <= cols, "a number of groups that does not fit")
        words = -(-rows * bits // 32)
        check((zeros.dtype, zeros.shape) == ("I32", [count, words]), "zero-points that do not fit")
        if "groups" in quant:
            listed = self._part(variant, quant["groups"], may_be_own=may_be_own)
            check((listed.dtype, listed.shape) == ("I32", [cols]), "groups that do not fit")
            groups = np.frombuffer(listed.data, "<i4").astype(np.int64)
            check(((groups >= 0) & (groups < count)).all(), "a group that there is not")
        else:
            groups = np.arange(cols) // -(-cols // count)
        stored = unpacked(np.frombuffer(zeros.data, np.uint8).reshape(count, -1), bits, rows)
        points = stored.astype(np.int64) + offset & ((1 << bits) - 1)
        return Grid(bits, groups, scale.floats().reshape(count, rows).T, points.T)

    def _quantised(self, variant: str, array: Array, shape: list[int]) -> tuple[Ints, Grid]:
        """The codes of a lower variant's matrix of this shape, and what they stand for (8.4, 8.6)."""
        given = array.plan["encoding"]["given"]
        has_fields(given, "codes grid")
        grid = self._grid(variant, given["grid"], shape)
        codes, (rows, cols) = self._part(variant, given["codes"], is_codes=True), shape
        if array.kind == "code-residual":
            source = self._source(*self._find(variant, given["codes"]))
            given_codes = source.kind == array.kind
            both = [
                (each.coded_shape[0], min(each.coded_shape[0], each.plan["grid"]["rows_per_chunk"]))
                for each in (array, source)
                if given_codes
            ]
            check(not both or both[0] == both[1], "chunks of codes that do not meet")
        words = cols * (grid.bits or 8) // 32
        expected = ("I8", shape) if grid.bits is None else ("I32", [words, rows])
        whole = grid.bits is None or words * 32 == cols * grid.bits
        check(whole and (codes.dtype, codes.shape) == expected, "codes that do not fit")
        return grid.codes(codes.data, cols), grid

    def _residual(self, variant: str, array: Array) -> Decode:
        """Decodes chunks of a residual: of its rows, from the head and the chunk (8.3, 8.4, 8.6)."""
        encoding, shape = array.plan["encoding"], array.coded_shape
        lanes = array.lanes
        if array.kind == "residual":
            check(encoding["scheme"] == "llm.int8", "a residual of an unknown scheme")
            part = self._part(variant, encoding["codes"], is_codes=True)
            scale = self._part(variant, encoding["scale"])
            check((part.dtype, part.shape) == ("I8", shape), "codes that do not fit")
            check(scale.shape in ([shape[0]], [shape[0], 1], [1, shape[0]]), "scales that do not fit")
            codes, scales = np.frombuffer(part.data, np.int8).reshape(shape), scale.floats()

            def of_bins(head: Cursor, chunk: Cursor, rows: slice) -> bytes:
                bins = int8_bins(array.floats, scales[rows], encoding["rounding"])
                mantissa_bits = FLOATS[array.floats][0]
                return decode_floats(
                    chunk,
                    array.floats,
                    lambda part: decode_residual(head, part, mantissa_bits, codes[rows], bins, lanes),
                ).tobytes()

            return of_bins
        if array.kind == "step-residual":
            codes, grid = self._quantised(variant, array, shape)
            steps = encoding["steps"]
            return lambda head, chunk, rows: decode_step_residual(
                head, chunk, array.floats, codes[rows], grid, steps, rows, lanes
            ).tobytes()
        if array.transposed:
            bits = encoding["own"]["bits"]
            check(bits in WIDTHS and shape[1] * 32 % bits == 0, "codes of broken words")
            shape = [shape[0], shape[1] * 32 // bits]
        codes, grid = self._quantised(variant, array, shape)
        own = self._grid(variant, encoding["own"], shape, may_be_own=True)
        return lambda head, chunk, rows: decode_code_residual(head, chunk, codes[rows], grid, own, rows, lanes)

    def _chunks(self, variant: str, array: Array) -> Iterator[bytes]:
        """The decoded chunks of an array that is no reference (5, 6, 8)."""
        kind, cols, step = array.kind, array.plan["grid"]["cols"], array.plan["grid"]["rows_per_chunk"]
        lanes, stored, head = array.lanes, array.stored(), b""
        if kind in KINDS_WITH_HEAD:
            form, head = next(stored)
            check(form == FORM_HEAD, "a head is missing")
        residual = self._residual(variant, array) if kind in RESIDUALS else None
        for number, (size, (form, data)) in enumerate(zip(array.chunk_sizes, stored, strict=True)):
            check(size <= 16 * MIB, "a chunk is too large")
            if form == FORM_RAW:
                check(len(data) == size, "a raw chunk has another size")
                yield data
                continue
            check(form == FORM_CODED and len(data) < size, "a coded chunk is not shorter than a raw one")
            chunk, elements = Cursor(data), size // array.width
            if residual is not None:
                yield residual(Cursor(head), chunk, slice(number * step, number * step + elements // cols))
            elif kind == "zstd":
                yield decode_zstd(chunk, elements, array.width)
            elif kind == "packed":
                bits = array.plan["encoding"]["bits"]
                yield decode_packed(Cursor(head), chunk, bits, elements // cols, cols, lanes)
            elif kind == "codes" and array.width == 1:
                yield decode_codes(Cursor(head), chunk, elements, cols, lanes).tobytes()
            elif kind == "float-split" and array.plan["dtype"] in FLOATS:
                split = partial(decode_float_split, Cursor(head), elements=elements, cols=cols, lanes=lanes)
                yield decode_floats(chunk, array.floats, split).tobytes()
            else:
                raise DamageError(f"a coded chunk of {kind} {array.plan['dtype']}")
            check(chunk.at == len(data), "a chunk is too long")

    def files(self, variant: str) -> Iterator[tuple[str, bytes]]:
        """Each original file of a variant, once its size and SHA-256 were checked (10)."""
        for file in self.layer(variant).files:
            has_fields(file, "path bytes sha256 content")
            content = file["content"]
            if content["kind"] == "opaque":
                has_fields(content, "kind")
                data = self.array(variant, f"file:{file['path']}")
            else:
                has_fields(content, "kind header tensors")
                check(content["kind"] == "safetensors", f"unknown content {content['kind']!r}")
                header = content["header"].encode()
                tensors = (self.array(variant, f"tensor:{name}") for name in content["tensors"])
                data = b"".join([len(header).to_bytes(8, "little"), header, *tensors])
            check(len(data) == file["bytes"], f"{file['path']} has another size")
            check(hashlib.sha256(data).hexdigest() == file["sha256"], f"{file['path']} is not the original")
            yield file["path"], data

    def restore(self, variant: str, target: Path) -> None:
        """Writes a variant's original files and empty folders below the new folder `target`."""
        target.mkdir(parents=True)
        for path, data in self.files(variant):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(data)
        for folder in self.layer(variant).empty_folders:
            (target / folder).mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    store_folder, variant_name, target_folder = sys.argv[1:]
    Store(Path(store_folder)).restore(variant_name, Path(target_folder))
