"""The state of a training: how it is found, captured, restored, and what of it can't be saved.

- `anatomy`: what Python objects, functions and classes are made of, without running them.
- `reach`, `variables`: every variable that the models, callbacks and functions refer to, by name.
- `kinds`, `fields`, `files`: how an object's state is captured, from its class; its parts by name.
- `given`, `looking`, `restoring`: what the program gave and what the training changed, as JSON, and
  back into the objects that stand in the same places.
- `observers`: the callbacks of one fit, and the random generators.
- `attributes`: plain values that the program sets on Keras's own objects, and a report of the rest.
"""
