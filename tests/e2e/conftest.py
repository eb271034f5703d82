"""Fixtures that the whole tier shares: models are made, quantised and packed once per run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

from .checkpoints import VARIANT_NAMES, MakePair, MakeStore, Pair, quantize
from .cli import QStore
from .models import Family
from .report import Report

_REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config.stash[_REPORT] = Report()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the measured table, and writes it where QSTORE_E2E_REPORT says, for the documentation."""
    report = terminalreporter.config.stash[_REPORT]
    if not report.rows:
        return
    terminalreporter.section("stored sizes")
    terminalreporter.write(report.markdown())
    if target := os.environ.get("QSTORE_E2E_REPORT"):
        Path(target).write_text(report.markdown(), encoding="utf-8")


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash[_REPORT]


@pytest.fixture(scope="session")
def qstore() -> QStore:
    """The binary under test. Never skipped: a tier that passes without its subject says nothing."""
    path = os.environ.get("QSTORE_BIN")
    if not path:
        pytest.fail("set QSTORE_BIN to the qstore binary (cargo build --release makes target/release/qstore)")
    binary = Path(path).resolve()
    if not os.access(binary, os.X_OK):
        pytest.fail(f"QSTORE_BIN names no executable: {binary}")
    return QStore(binary)


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePair]:
    """Makes a family's folders in one dtype and in LLM.int8; the same folders for every test that asks."""

    @cache
    def make(family: Family, dtype: torch.dtype) -> Pair:
        root = tmp_path_factory.mktemp(f"{family.name}-{VARIANT_NAMES[dtype]}")
        pair = Pair(high=root / VARIANT_NAMES[dtype], low=root / "int8")
        family.build(dtype).save_pretrained(pair.high)
        quantize(pair.high, family.model_class, pair.low)
        return pair

    yield make
    make.cache_clear()


@pytest.fixture(scope="session")
def make_store(qstore: QStore, make_pair: MakePair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeStore]:
    """Packs a family's pair; tests that change a store copy it first."""

    @cache
    def make(family: Family, dtype: torch.dtype) -> Path:
        pair = make_pair(family, dtype)
        name = VARIANT_NAMES[dtype]
        store = tmp_path_factory.mktemp(f"{family.name}-{name}-store") / "store"
        return qstore.pack(store, **{name: pair.high, "int8": pair.low})

    yield make
    make.cache_clear()
