"""Small trainings after Keras's own public examples, each with code of its own that fit runs.

Each module has `train(backup)`: it seeds itself as a user's script does (or does not), builds,
fits with `callbacks=[..., *backup()]`, and returns what is to be the same, by name.
"""

from dataclasses import dataclass

TENSORFLOW, JAX = "tensorflow", "jax"


@dataclass(frozen=True, kw_only=True)
class Example:
    backends: tuple[str, ...] = (TENSORFLOW,)
    tf_data: bool = False  #: its data come from tf.data, on JAX too
    says: str | None = None  #: why it can't be exact, by design: a part of what is warned


BOTH = Example(backends=(TENSORFLOW, JAX))
BOTH_TF_DATA = Example(backends=(TENSORFLOW, JAX), tf_data=True)
ONE = Example()

EXAMPLES: dict[str, Example] = {
    # generative
    "dcgan": ONE,
    "conditional_gan": Example(says="Random"),
    "vae": ONE,
    "vae_layer": BOTH,
    "diffusion": ONE,
    "stateful_lstm": BOTH,
    # vision
    "distillation": BOTH,
    "nnclr": ONE,
    "mean_teacher": ONE,
    "siamese": ONE,
    "forward_forward": ONE,
    "unet": Example(backends=(TENSORFLOW, JAX)),
    "ctc_reader": BOTH,
    "unfreezing": BOTH_TF_DATA,
    "mixup": Example(backends=(TENSORFLOW, JAX), tf_data=True, says="tf.data pipeline"),
    # text
    "masked_lm": ONE,
    "addition_rnn": BOTH,
    "sentiment": ONE,
    # structured data
    "feature_space": BOTH_TF_DATA,
    "wide_and_deep": BOTH,
    "imbalanced": BOTH,
    # timeseries
    "weather": BOTH_TF_DATA,
    "quantiles": BOTH,
    # recipes, and learning of other kinds
    "centralized_gradients": BOTH,
    "weight_average": BOTH,
    "warm_up": BOTH,
    "generator": Example(backends=(TENSORFLOW, JAX), says="Generator"),
    "accumulation": ONE,
    "layer_optimizers": ONE,
    "eager_numpy": ONE,
    "q_learning": ONE,
    "jax_step": Example(backends=(JAX,)),
}
