"""What a stage reports about itself while it runs; plain data, no Keras."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One look at a running stage."""

    stage: str  #: "train", "validate", "evaluate", or receiving.STAGE
    epoch: int = 0  #: epochs done
    epochs: int = 0  #: epochs at most
    step: int = 0  #: steps done in this epoch or stage
    steps: int = 0  #: steps of one epoch or of the stage
    global_step: int = 0  #: optimizer updates since the job began
    batch_size: int = 0  #: examples of a step; 0 where nobody knows
    steps_per_second: float | None = None
    eta_seconds: float | None = None  #: to the end of the stage, if no callback ends it before
    metrics: Mapping[str, float] = field(default_factory=dict)
    interval: str = ""  #: between checkpoints, and why; for people
    unsaved_seconds: float | None = None  #: since the last committed checkpoint


OnProgress = Callable[[Progress], None]
