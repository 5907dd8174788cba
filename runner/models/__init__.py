"""The networks: one file each, whose `build` returns a Keras model."""
