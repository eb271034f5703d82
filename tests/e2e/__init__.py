"""End-to-end tier: checkpoints written by transformers and bitsandbytes, through the `qstore` binary and back.

    pip install -r tests/e2e/requirements.txt
    QSTORE_BIN=target/release/qstore pytest tests/e2e

No network, no accelerator, minutes on two cores. QSTORE_E2E_REPORT=FILE writes the table of measured sizes.
"""
