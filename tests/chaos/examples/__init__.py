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
    "wgan_gp": ONE,
    "conditional_gan": Example(says="random"),
    "cycle_gan": ONE,
    "adaptive_gan": ONE,
    "vae": ONE,
    "vae_layer": BOTH,
    "vq_vae": ONE,
    "diffusion": ONE,
    "real_nvp": ONE,
    "miniature_gpt": BOTH,
    "stateful_lstm": BOTH,
    # vision
    "distillation": BOTH,
    "nnclr": ONE,
    "barlow_twins": ONE,
    "mean_teacher": ONE,
    "siamese": ONE,
    "metric_learning": ONE,
    "captioning": ONE,
    "masked_autoencoder": ONE,
    "forward_forward": ONE,
    "supervised_contrastive": BOTH,
    "unet": Example(backends=(TENSORFLOW, JAX), says="PyDataset"),
    "learned_resizer": BOTH,
    "boxes": BOTH,
    "conv_lstm": BOTH,
    "ctc_reader": BOTH,
    "pointnet": BOTH,
    "unfreezing": BOTH_TF_DATA,
    "mixup": Example(backends=(TENSORFLOW, JAX), tf_data=True, says="random"),
    # text
    "masked_lm": ONE,
    "translation": BOTH_TF_DATA,
    "addition_rnn": BOTH,
    "entities": BOTH_TF_DATA,
    "sentiment": ONE,
    # structured data
    "feature_space": BOTH_TF_DATA,
    "tab_transformer": Example(says="shuffle()"),
    "wide_and_deep": BOTH,
    "imbalanced": BOTH,
    "recommender": BOTH,
    # timeseries
    "weather": BOTH_TF_DATA,
    "anomalies": BOTH,
    "quantiles": BOTH,
    # recipes, and learning of other kinds
    "centralized_gradients": BOTH,
    "weight_average": BOTH,
    "warm_up": BOTH,
    "endpoint": ONE,
    "generator": Example(backends=(TENSORFLOW, JAX), says="Generator"),
    "accumulation": ONE,
    "layer_optimizers": ONE,
    "reptile": ONE,
    "eager_numpy": ONE,
    "q_learning": ONE,
    "jax_step": Example(backends=(JAX,)),
}
