"""What every driver does once, done in the process that children are forked off: imports at first use, and the checks
of records, which are built when the first record of a kind is read. No thread is started: a fork takes none along."""

from __future__ import annotations

import encodings.utf_8_sig  # noqa: F401
import gc

import pyarrow.dataset  # noqa: F401

from orchestrator.driver.drive import _versions
from orchestrator.ledger.ledger import Ledger
from tests.faults.ledgers.record import HERE

for _folder in HERE.glob("*/*/ledger"):
    _ = Ledger(_folder).records
_versions()
gc.collect()
gc.freeze()  # else each child copies the pages of what it never touches
