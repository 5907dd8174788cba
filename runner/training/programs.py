"""From a spec to its program: the user's own, or the one for images."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from runner import code, registry
from runner.errors import MissingHereError, NotFoundError, RunnerError, SpecError, StoreError
from runner.spec import JobSpec, as_called
from runner.specparts import Program as Part
from runner.store import places
from runner.training import numerics
from runner.training.check import obtaining
from runner.training.program import Program


def make(spec: JobSpec, *, training: bool = True, devices: int = 1) -> Program:
    """Make what a job trains, the same in every attempt.

    Args:
        spec: of the job.
        training: False where it is only to be evaluated: then the program for images has no
            data to train with.
        devices: that its model is trained on.

    Raises:
        SpecError: spec, data and model don't fit, or the program returned none.
        MissingHereError: this machine lacks the program, or what it needs.
    """
    code.forget()  # of other jobs; what is in use is what this one imports
    part = spec.program
    places.tell_fsspec([part.path, *part.arguments.values()] if part else [])
    if spec.program is None:
        from runner.training.images import program

        return program(spec, training=training, devices=devices)
    try:
        function = registry.get("programs", spec.program.name)
    except NotFoundError as error:
        raise MissingHereError(str(error)) from error
    own = as_called(function, "programs", spec.program.arguments)
    arguments = {**own, **_given(function, spec.program, spec.seed)}
    of_file = keras.config.dtype_policy()  # which its file may have set
    try:
        with numerics.begin_anew(spec.seed, of_file, devices), obtaining(StoreError):
            made = function(**arguments)
    except RunnerError as error:
        error.args = (code.with_line(str(error), error),)
        raise
    if inspect.iscoroutine(made):
        made.close()
    if not isinstance(made, Program):
        what = "None" if made is None else f"a {type(made).__name__}"
        msg = f"program {spec.program.name!r} returned {what}, no runner.Program."
        raise SpecError(msg)
    return made


def _given(function: Callable[..., Any], part: Part, seed: int) -> dict[str, Any]:
    """Return what `runner` gives to a function, of that which it asks for."""
    asked, path = registry.given(function, "programs"), part.path
    if path is not None and "path" not in asked:
        raise SpecError(f"program.path: {part.name} asks for no `path`: leave it out.")
    if path is None and asked.get("path") is inspect.Parameter.empty:
        raise SpecError(f"program.path: {part.name} asks for a `path`: give it one.")
    given = {"path": path and (places.here(path, part.given) or path), "seed": seed}
    return {key: given[key] for key in asked if given[key] is not None}
