"""pack, add, remove, unpack and verify: what goes into a store comes out of it, file for file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import qstore
from arrays import raw
from checkpoints import Raw, llm_int8, model, tree, write_folder
from qstore import UsageError


def assert_holds(store: Path, folders: dict[str, Path], scratch: Path) -> None:
    """That a store gives back those folders, and no others."""
    assert set(qstore.open(store).variants) == set(folders)
    for name, folder in folders.items():
        qstore.unpack(store, name, scratch / name)
        assert tree(scratch / name) == tree(folder), name
    verified = qstore.verify(store)
    assert {variant.name for variant in verified.variants} == set(folders)


def given(store: Path) -> dict[str, tuple[str, ...]]:
    """What each variant is stored given."""
    return {variant.name: variant.given for variant in qstore.inspect(store).variants}


def test_pack_and_unpack(store: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    assert_holds(store, folders, tmp_path)
    assert given(store)["gptq4"] == ()
    assert set(given(store)["bf16"]) & {"int8", "gptq4"}


def test_the_order_of_variants_does_not_matter(store: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    qstore.pack(dict(reversed(folders.items())), tmp_path / "store", threads=1, memory=64 << 20)
    assert tree(tmp_path / "store") == tree(store)


def test_paths_of_all_kinds(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    qstore.pack({"int8": str(folders["int8"])}, "store")
    qstore.add(Path("store"), "bf16", folders["bf16"])
    qstore.unpack("store", "bf16", Path("bf16"))
    assert tree(tmp_path / "bf16") == tree(folders["bf16"])
    qstore.unpack("store", "int8", "made/on/the/way")
    assert tree(tmp_path / "made/on/the/way") == tree(folders["int8"])


def test_add_and_remove(folders: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    qstore.pack({"bf16": folders["bf16"]}, store)
    alone = tree(store)
    there = {"bf16": folders["bf16"]}
    for name in ("int8", "gptq4"):
        qstore.add(store, name, folders[name])
        there[name] = folders[name]
        assert_holds(store, there, tmp_path / f"with-{name}")
        assert given(store)["bf16"]
    for name in ("int8", "gptq4"):
        qstore.remove(store, name)
        del there[name]
        assert_holds(store, there, tmp_path / f"without-{name}")
    assert tree(store) == alone
    with pytest.raises(UsageError, match="only"):
        qstore.remove(store, "bf16")
    assert tree(store) == alone


def test_an_open_store_stays_what_it_was(
    folders: dict[str, Path], originals: dict[str, dict[str, Raw]], tmp_path: Path
) -> None:
    """Its files are open, so a change of the store does not take them away."""
    store = tmp_path / "store"
    qstore.pack({name: folders[name] for name in ("bf16", "int8")}, store)
    opened = qstore.open(store)
    variant = opened["bf16"]
    qstore.remove(store, "int8")
    loaded = variant.get_tensors()
    assert {name: raw(array) for name, array in loaded.items()} == {n: t.data for n, t in originals["bf16"].items()}
    assert qstore.open(store).variants == ("bf16",)


def test_verbatim(folders: dict[str, Path], tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    store = tmp_path / "store"
    qstore.pack(folders, store, verbatim=["int8"])
    assert tree(store / "int8") == tree(folders["int8"])
    assert_holds(store, folders, tmp_path / "restored")
    assert {v.name: v.verbatim for v in qstore.inspect(store).variants} == {
        "gptq4": False,
        "int8": True,
        "bf16": False,
    }
    # That it is given nothing says nothing of it.
    assert not recwarn.list
    qstore.remove(store, "int8")
    assert not (store / "int8").exists()
    qstore.add(store, "int8", folders["int8"], verbatim=True)
    assert tree(store / "int8") == tree(folders["int8"])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, None),
        ({}, None),
        ({"bf16": []}, ()),
        ({"bf16": ()}, ()),
        ({"bf16": ["int8"], "int8": []}, ("int8",)),
        ({"bf16": {"gptq4"}}, ("gptq4",)),
    ],
)
def test_given(
    folders: dict[str, Path], tmp_path: Path, rule: dict[str, list[str]] | None, expected: tuple[str, ...] | None
) -> None:
    store = tmp_path / "store"
    qstore.pack(folders, store, given=rule)
    found = given(store)["bf16"]
    assert found == expected if expected is not None else found
    assert_holds(store, folders, tmp_path / "restored")


def test_given_to_add(folders: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    qstore.pack({"int8": folders["int8"]}, store)
    qstore.add(store, "free", folders["bf16"])
    qstore.add(store, "alone", folders["bf16"], given=[])
    qstore.add(store, "chosen", folders["bf16"], given=["int8"])
    found = given(store)
    assert found["free"] == ("int8",)
    assert found["alone"] == ()
    assert found["chosen"] == ("int8",)


def test_archive(folders: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    qstore.pack(folders, store, archive=["int8"], levels=2)
    assert_holds(store, folders, tmp_path / "restored")
    variants = {variant.name: variant for variant in qstore.inspect(store, tensors=True).variants}
    assert [name for name in variants if variants[name].archived] == ["int8"]
    assert "bf16" in variants["int8"].given
    assert "int8" not in variants["bf16"].given
    assert variants["int8"].reads == len(folders)
    assert "rounded" in {tensor.encoding for tensor in variants["int8"].tensors}
    assert variants["int8"].stored_bytes * 10 < variants["int8"].raw_bytes
    qstore.remove(store, "int8")
    qstore.add(store, "int8", folders["int8"], archive=True)
    assert_holds(store, folders, tmp_path / "restored again")
    assert next(variant.archived for variant in qstore.inspect(store).variants if variant.name == "int8")


def test_names_in_place_of_lists(folders: dict[str, Path], store: Path, tmp_path: Path) -> None:
    """A str is a collection of letters, which is never meant."""
    target = tmp_path / "store"
    for call in (
        lambda: qstore.pack(folders, target, verbatim="int8"),
        lambda: qstore.pack(folders, target, given={"bf16": "int8"}),
        lambda: qstore.pack(folders, target, verbatim=["int4"]),
        lambda: qstore.pack(folders, target, given={"fp16": ["int8"]}),
        lambda: qstore.pack(folders, target, given={"bf16": ["int4"]}),
        lambda: qstore.pack(folders, target, given={"gptq4": ["bf16"], "bf16": ["gptq4"]}),
        lambda: qstore.pack(folders, target, archive="int8"),
        lambda: qstore.pack(folders, target, archive=["int4"]),
        lambda: qstore.pack(folders, target, archive=["int8"], given={"bf16": ["int8"]}),
        lambda: qstore.pack(folders, target, levels=0),
        lambda: qstore.pack(folders, target, levels=17),
        lambda: qstore.pack(folders, target, exclude="*.bin"),
        lambda: qstore.pack(folders, target, exclude=["["]),
        lambda: qstore.add(store, "more", folders["bf16"], given="int8"),
        lambda: qstore.add(store, "more", folders["bf16"], given=["int4"]),
    ):
        with pytest.raises(UsageError):
            call()
    assert not target.exists()
    assert "more" not in qstore.open(store)


def test_shards(folders: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    qstore.pack({"bf16": folders["bf16"]}, store, shard_size=300_000)
    files = sorted(store.glob("*.safetensors"))
    assert len(files) > 2
    # A tensor is not cut.
    largest = max(tensor.stored_bytes for tensor in qstore.inspect(store, tensors=True).variants[0].tensors)
    assert all(file.stat().st_size < 300_000 + largest for file in files)
    assert_holds(store, {"bf16": folders["bf16"]}, tmp_path / "restored")


def test_verify_says_what_it_checked(store: Path, folders: dict[str, Path]) -> None:
    verified = qstore.verify(store)
    for variant in verified.variants:
        sizes = [path.stat().st_size for path in folders[variant.name].rglob("*") if path.is_file()]
        assert (variant.files, variant.bytes) == (len(sizes), sum(sizes))
    (one,) = qstore.verify(store, "int8").variants
    assert one == next(variant for variant in verified.variants if variant.name == "int8")
    assert {variant.name for variant in qstore.verify(store, quick=True).variants} == set(folders)


def test_inspect_says_what_there_is(
    store: Path, folders: dict[str, Path], originals: dict[str, dict[str, Raw]]
) -> None:
    found = qstore.inspect(store, tensors=True)
    assert found.stored_bytes == sum(path.stat().st_size for path in store.iterdir())
    assert found.raw_bytes == sum(variant.raw_bytes for variant in found.variants)
    assert found.ratio == pytest.approx(found.stored_bytes / found.raw_bytes)
    assert found.leftovers == ()
    for variant in found.variants:
        assert {file.path: file.bytes for file in variant.files} == qstore.open(store)[variant.name].files()
        described = {tensor.name: (tensor.dtype, tensor.shape, tensor.raw_bytes) for tensor in variant.tensors}
        assert described == {n: (t.dtype, t.shape, len(t.data)) for n, t in originals[variant.name].items()}
        assert variant.tensor_count == len(variant.tensors)
        assert variant.stored_bytes == sum((store / name).stat().st_size for name in variant.stored_files)
        assert variant.raw_bytes == sum(p.stat().st_size for p in folders[variant.name].rglob("*") if p.is_file())
        assert variant.problem is None
    schemes = {variant.name: variant.scheme for variant in found.variants}
    assert schemes == {"gptq4": "gptq", "int8": "llm.int8", "bf16": "none"}
    assert all(variant.tensors == () for variant in qstore.inspect(store).variants)


def test_variants_that_do_not_fit_are_told_of(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of another model, whose weights are other ones: stored all the same, at the line that asked for it."""
    other = write_folder(tmp_path / "other", llm_int8(model(99, [(256, 128), (128, 384)])), {}, None)
    with pytest.warns(qstore.QStoreWarning, match="is it the same model") as warned:
        qstore.pack({"bf16": folders["bf16"], "other": other}, tmp_path / "store")
    assert {Path(warning.filename).name for warning in warned} == {Path(__file__).name}
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert all("qstore.pack(" in lines[warning.lineno - 1] for warning in warned)
    assert_holds(tmp_path / "store", {"bf16": folders["bf16"], "other": other}, tmp_path / "restored")
    unshared = qstore.inspect(tmp_path / "store").variants[1].unshared
    assert [(one.reason, one.with_variant) for one in unshared] == [("not-made-from", "other")]
    again = write_folder(tmp_path / "again", model(98, [(256, 128), (128, 384)]), {}, None)
    with pytest.warns(qstore.QStoreWarning) as warned:
        qstore.add(tmp_path / "store", "again", again)
    assert all("qstore.add(" in lines[warning.lineno - 1] for warning in warned)


def test_what_is_left_out(folders: dict[str, Path], tmp_path: Path) -> None:
    """Patterns are remembered; a folder that is not whole is refused by whoever is strict, and else told of."""
    folder = tmp_path / "model"
    shutil.copytree(folders["int8"], folder)
    (folder / "x.incomplete").write_bytes(b"half")
    with pytest.raises(qstore.InputError, match=r"x\.incomplete"):
        qstore.pack({"int8": folder}, tmp_path / "store", strict=True)
    with pytest.warns(qstore.QStoreWarning, match="still being fetched"):
        qstore.pack({"int8": folder}, tmp_path / "told")
    qstore.pack({"int8": folder}, tmp_path / "store", strict=True, exclude=["*.incomplete"])
    found = qstore.inspect(tmp_path / "store")
    assert found.variants[0].excluded == ("*.incomplete",)
    qstore.unpack(tmp_path / "store", "int8", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in folders["int8"].iterdir()
    )
    (tmp_path / "store/mine").write_text("mine", encoding="utf-8")
    assert qstore.inspect(tmp_path / "store").foreign == ("mine",)


def test_every_byte_is_accounted_for(folders: dict[str, Path], store: Path) -> None:
    found = qstore.inspect(store, tensors=True)
    for variant in found.variants:
        parts = [*variant.tensors, *variant.files]
        assert sum(part.stored_bytes for part in parts) + (variant.overhead_bytes or 0) == variant.stored_bytes
        originals = [path for path in folders[variant.name].rglob("*") if path.is_file()]
        assert len(variant.files) == len(originals)
    on_disk = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert (
        found.manifest_bytes + sum(variant.stored_bytes for variant in found.variants) == found.stored_bytes == on_disk
    )


def test_a_store_that_changed(folders: dict[str, Path], tmp_path: Path) -> None:
    """A handle that was opened before says that the store is another one, not that its files are missing."""
    store = tmp_path / "store"
    qstore.pack({name: folders[name] for name in ("bf16", "int8")}, store)
    with qstore.open(store) as opened:
        qstore.remove(store, "int8")
        for name in ("int8", "bf16"):
            with pytest.raises(qstore.ChangedError, match="open it again") as raised:
                opened[name]
            assert raised.value.path == store
    with qstore.open(store) as opened:
        assert opened["bf16"].keys()


def test_variants_that_fit_are_not(folders: dict[str, Path], tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    qstore.pack(folders, tmp_path / "store")
    assert not recwarn.list
