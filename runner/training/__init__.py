"""The Keras zone: model.fit, made exact and killable."""
