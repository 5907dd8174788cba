"""What one fit's checkpoints are to be like, and who is asked and told meanwhile."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.checkpoint.manifest import Position
from runner.checkpoint.policy import Every
from runner.training.best import Best
from runner.training.progress import OnProgress
from runner.training.trace import Recorder
from runner.training.urgency import NoHurry, Urgency

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Settings:
    """What a training's checkpoints are to be like."""

    every: Every
    best: Best | None = None
    start: Position = field(
        default_factory=Position
    )  #: where a fresh fit stands, in a training of several
    history: Mapping[str, list[Any]] = field(default_factory=dict)  #: of the fits before this one
    epoch_times: Sequence[float] = ()  #: theirs: when each epoch ended, seconds since 1970
    should_stop: Callable[[], str | None] = lambda: None  #: asked after each step: why, or None
    urgency: Urgency = field(default_factory=NoHurry)  #: how much time there is for saving
    on_progress: OnProgress | None = None
    warn: Callable[[str], None] = logger.warning
    tell: Callable[[str], None] = logger.info  #: people, where a fit goes on
    number: int = 0  #: of this program's fits with this folder, how many have ended before
    waits: bool = False  #: for a bucket that is away when the training has ended
    discard: Callable[[], None] | None = None  #: removes all at the end, instead of saving it
    release: Callable[[], None] = lambda: None  #: the fit is over, however it ended
    recorder: Recorder | None = None  #: writes down each step, under `runner drill -- PROGRAM`
