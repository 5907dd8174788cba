"""Python's collector of cycles, kept out of a training's way.

Whenever enough new containers have come together it looks through all that there are: half a
million of TensorFlow's and Keras's, 0.3 s in which no other thread runs. Imports, building and
tracing call for it again and again (0.7 of 4.4 s until MyInception is built); what is kept of a
dozen checkpoints does once more. So it rests until the first step has been done, and passes over
what is there by then, all of which stays until the training ends.
Source: gc.freeze in Python's library.
"""

import gc


class Collector:
    """The collector of this process, for the time of a training.

    Where it is switched off already, someone else takes care of it: then it is left as it is.
    """

    def __init__(self) -> None:
        self._ours = gc.isenabled()
        self._rests = self._passes_over = False

    def rest(self) -> None:
        """Collect nothing until `pass_over`; what an earlier fit left goes before."""
        if not self._ours:
            return
        if self._passes_over:
            gc.unfreeze()
            self._passes_over = False
            gc.collect()
        gc.disable()
        self._rests = True

    def pass_over(self) -> None:
        """Look at nothing that is there now, and collect what is new; once after each `rest`."""
        if self._rests:
            gc.freeze()
            gc.enable()
            self._rests, self._passes_over = False, True

    def release(self) -> None:
        """Let everything be as it was."""
        if not self._ours:
            return
        gc.unfreeze()
        gc.enable()
        self._rests = self._passes_over = False
