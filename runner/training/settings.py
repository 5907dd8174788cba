"""What one fit's checkpoints are to be like, and who is asked and told meanwhile."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.checkpoint.manifest import Position
from runner.checkpoint.policy import Every
from runner.training.best import Best
from runner.training.host import Alone, Host
from runner.training.trace import Recorder

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Settings:
    """What a training's checkpoints are to be like."""

    every: Every
    best: Best | None = None
    host: Host = field(default_factory=Alone)
    reports: bool = True  #: the host wants to see the progress
    start: Position = field(
        default_factory=Position
    )  #: where a fresh fit stands, in a training of several
    history: Mapping[str, list[Any]] = field(default_factory=dict)  #: of the fits before this one
    epoch_times: Sequence[float] = ()  #: theirs: when each epoch ended, seconds since 1970
    notes: Sequence[str] = ()  #: for the record of the first checkpoint
    on_first_step: Callable[[], None] = lambda: None  #: called once it is done
    warn: Callable[[str], None] = logger.warning
    inform: Callable[[str], None] = logger.info  #: people, where a fit resumes
    number: int = 0  #: of this program's fits with this folder, how many have ended before
    waits: bool = True  #: for a bucket that is away when the training has ended
    discard: Callable[[], None] | None = None  #: removes all at the end, instead of saving it
    recorder: Recorder | None = None  #: writes down each step, under `runner drill -- PROGRAM`
