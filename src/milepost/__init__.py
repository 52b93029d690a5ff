"""
milepost: the flight recorder of a single-node data pipeline, an embedded checkpoint store in one SQLite file.

The contract's eleven functions over a chain are in `milepost.checkpoint`.
"""

from milepost.answers import Answer, Answers, Verifications
from milepost.checkpoint import Checkpoint, ResumePoint, Watermark
from milepost.checkpointed import Checkpointed
from milepost.comparison import Comparison, Divergence, StageComparison
from milepost.errors import (
    ArchivedStageError,
    BrokenChainError,
    ClosedStoreError,
    CursorNotKeptError,
    DamagedStoreError,
    DamagedTargetError,
    EntriesArchivedError,
    FailedStoreError,
    FencedError,
    ForkedStoreError,
    IdempotencyConflictError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    MilepostWarning,
    MissingPackageError,
    NoCheckpointError,
    NotAStoreError,
    NothingShippedError,
    ReadOnlyStoreError,
    RejectedCheckpointError,
    RunExistsError,
    RunFinishedError,
    SchemaVersionError,
    SequenceError,
    SourceChangedError,
    StageMovedError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    TargetError,
    WatermarkRegressionError,
    WrongKeyError,
)
from milepost.fleet import Fleet, open_many
from milepost.mapped import Mapped
from milepost.once import Once
from milepost.receipt import BatchReceipt, Head, Receipt
from milepost.run import Run
from milepost.shipper import Shipper, ship
from milepost.source import Start, fingerprint
from milepost.store import CheckpointStore
from milepost.summary import RunSummary, Silence, StageState, StageSummary, StoreSummary
from milepost.times import ms
from milepost.tracked import Tracked
from milepost.verification import Fault, Verification

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Answers",
    "ArchivedStageError",
    "BatchReceipt",
    "BrokenChainError",
    "Checkpoint",
    "CheckpointStore",
    "Checkpointed",
    "ClosedStoreError",
    "Comparison",
    "CursorNotKeptError",
    "DamagedStoreError",
    "DamagedTargetError",
    "Divergence",
    "EntriesArchivedError",
    "FailedStoreError",
    "Fault",
    "FencedError",
    "Fleet",
    "ForkedStoreError",
    "Head",
    "IdempotencyConflictError",
    "InvalidArgumentError",
    "InvalidCheckpointError",
    "Mapped",
    "MilepostError",
    "MilepostWarning",
    "MissingPackageError",
    "NoCheckpointError",
    "NotAStoreError",
    "NothingShippedError",
    "Once",
    "ReadOnlyStoreError",
    "Receipt",
    "RejectedCheckpointError",
    "ResumePoint",
    "Run",
    "RunExistsError",
    "RunFinishedError",
    "RunSummary",
    "SchemaVersionError",
    "SequenceError",
    "Shipper",
    "Silence",
    "SourceChangedError",
    "StageComparison",
    "StageMovedError",
    "StageState",
    "StageSummary",
    "Start",
    "StoreBusyError",
    "StoreError",
    "StoreFullError",
    "StoreSummary",
    "TargetError",
    "Tracked",
    "Verification",
    "Verifications",
    "Watermark",
    "WatermarkRegressionError",
    "WrongKeyError",
    "__version__",
    "fingerprint",
    "ms",
    "open_many",
    "ship",
]
