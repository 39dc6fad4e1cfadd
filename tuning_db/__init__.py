"""Tuning records: schema, store and lookup."""

from __future__ import annotations

from dllmc.tuning_db.difference import Difference, difference
from dllmc.tuning_db.evidence import (
    EvidenceStore,
    Outcome,
    Pair,
    QualityEvidence,
    QualityKey,
    SpeedEvidence,
    SpeedKey,
    outcomes_digest,
    sample_id,
    split_digest,
)
from dllmc.tuning_db.lookup import Layer, Level, Match, lookup
from dllmc.tuning_db.merge import Merged, Pruned, merge, prune
from dllmc.tuning_db.record import (
    AppliesTo,
    Key,
    ModelKey,
    Objective,
    Provenance,
    Quality,
    Range,
    Record,
    Speed,
    SplitId,
    Workload,
)
from dllmc.tuning_db.store import Entry, Store, Unavailable, default_root, layers, shipped
from dllmc.tuning_db.transfer import (
    Imported,
    Listed,
    export_records,
    find_record,
    import_records,
    list_records,
    verify,
)

__all__ = [
    "AppliesTo",
    "Difference",
    "Entry",
    "EvidenceStore",
    "Imported",
    "Key",
    "Layer",
    "Level",
    "Listed",
    "Match",
    "Merged",
    "ModelKey",
    "Objective",
    "Outcome",
    "Pair",
    "Provenance",
    "Pruned",
    "Quality",
    "QualityEvidence",
    "QualityKey",
    "Range",
    "Record",
    "Speed",
    "SpeedEvidence",
    "SpeedKey",
    "SplitId",
    "Store",
    "Unavailable",
    "Workload",
    "default_root",
    "difference",
    "export_records",
    "find_record",
    "import_records",
    "layers",
    "list_records",
    "lookup",
    "merge",
    "outcomes_digest",
    "prune",
    "sample_id",
    "shipped",
    "split_digest",
    "verify",
]
