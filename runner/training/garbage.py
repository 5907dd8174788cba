"""Python's collector of cycles, kept out of a training's way.

Whenever enough new containers have come together it looks through all that there are: half a
million of TensorFlow's and Keras's, 0.3 s in which no other thread runs. Imports, building and
tracing call for it again and again (0.7 of 4.4 s until MyInception is built); what is kept of a
dozen checkpoints does once more. So it rests until the first step has been done, and passes over
what is there by then, all of which stays until the training ends.
Source: gc.freeze in Python's library.
"""

import gc

_OF_PYTHON = 1000  # objects; Python 3.12 itself passes over 375


class Collector:
    """The collector of this process, for the time of a training.

    Where it is switched off or passes something over already, someone else takes care of it: then
    it is left as it is.
    """

    _worked = False  # a training went before in this process

    def __init__(self) -> None:
        self._ours = gc.isenabled() and gc.get_freeze_count() < _OF_PYTHON
        self._rests = False

    def rest(self) -> None:
        """Collect nothing until `pass_over`; what an earlier fit or training left goes before."""
        if not self._ours or self._rests:
            return
        gc.unfreeze()
        if Collector._worked:
            gc.collect()
        Collector._worked = True
        gc.disable()
        self._rests = True

    def pass_over(self) -> None:
        """Look at nothing that is there now, and collect what is new; once after each `rest`."""
        if self._rests:
            gc.freeze()
            gc.enable()
            self._rests = False

    def release(self) -> None:
        """Let everything be as it was."""
        if self._ours:
            gc.unfreeze()
            gc.enable()
            self._rests = False
