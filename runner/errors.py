"""What can go wrong, grouped by what the caller does next.

RunnerError
├── SpecError (ValueError)            the user edits the spec
│   └── DataError                     the user fixes the data file that the spec names
│       └── MissingHereError          this machine lacks it: leave the job to another
├── NotFoundError (LookupError)       unknown job, model, dataset or checkpoint
│   └── NotReadyError                 not there yet: wait for the training
├── ConflictError                     someone was first: read again, retry
│   └── LeaseLostError                stop; write nothing more
├── StoreError (OSError)              the bucket failed for now: back off, retry
│   ├── DataAwayError                what a job reads can't be had here: another machine may have it
│   ├── StoreRefusedError             it will not work until someone fixes it: stop, lose nothing
│   └── DamagedRecordError            one record is not what was written: use its copy, or ask
├── CheckpointError                   incomplete or damaged: use the one before
│   └── OtherModelError               it is whole, and this machine's code builds another model
├── TrainingError                     the job's own fault: counts as a failed attempt
│   └── DivergedError                 its loss is no number any more: the user edits the spec
└── PreemptedError                    asked to stop, and the state is saved: run again
"""

from collections.abc import Sequence
from typing import Any


class RunnerError(Exception):
    """Base of all errors that runner raises on purpose; its text is meant for the user."""


class SpecError(RunnerError, ValueError):
    """The spec cannot work. The text names file, field, value and the fix."""

    data: Sequence[Any] = ()  #: pairs of file and spec, whose data can be checked all the same


class DataError(SpecError):
    """The data that a spec names is missing, damaged or of the wrong form."""


class MissingHereError(DataError):
    """A file, a package or access that another machine may have, and this one has not."""


class NotFoundError(RunnerError, LookupError):
    """No such job, model, dataset or checkpoint."""


class NotReadyError(NotFoundError):
    """The job has not come to what was asked for. It may, later."""


class ConflictError(RunnerError):
    """Another writer was first. Read again, then decide anew."""


class LeaseLostError(ConflictError):
    """The job belongs to a later token now. Stop, and write nothing more."""


class StoreError(RunnerError, OSError):
    """The bucket did not do what was asked, and may do so later."""


class StoreRefusedError(StoreError):
    """The bucket will not do what was asked until someone fixes access, name or space."""


class DataAwayError(StoreError):
    """What a job reads besides the store can't be had here, or not now. The store is fine."""


class OneObjectError(StoreRefusedError):
    """An object can't be used until someone fixes it: a link, say. Others are not concerned."""


class DamagedRecordError(StoreError):
    """A record of a log is not what its writer wrote. The text names the object."""


class CheckpointError(RunnerError):
    """A checkpoint is incomplete or damaged. The text says which piece."""


class OtherModelError(CheckpointError):
    """The program does not build what the checkpoint was written of. Another machine's may."""


class TrainingError(RunnerError):
    """The training failed by its own fault (its spec, its data, its numbers)."""


class DivergedError(TrainingError):
    """The loss became NaN or infinite: the same again would end the same."""


class PreemptedError(RunnerError):
    """The training stopped because it was asked to; everything up to here is saved."""
