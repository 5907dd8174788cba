"""Keras's optimizers and their arguments, without Keras: a spec is checked before the import."""

from collections.abc import Iterable

from runner import registry

#: Keras's built-in optimizers, by the names of their classes in lower case: what each may be given
#: besides what any takes. Keras takes seconds to import, and a spec is checked before that
ARGUMENTS = {
    "adadelta": "rho epsilon",
    "adafactor": "beta_2_decay epsilon_1 epsilon_2 clip_threshold relative_step",
    "adagrad": "initial_accumulator_value epsilon",
    "adam": "beta_1 beta_2 epsilon amsgrad",
    "adamax": "beta_1 beta_2 epsilon",
    "adamw": "beta_1 beta_2 epsilon amsgrad",
    "ftrl": "learning_rate_power initial_accumulator_value l1_regularization_strength"
    " l2_regularization_strength l2_shrinkage_regularization_strength beta",
    "lamb": "beta_1 beta_2 epsilon",
    "lion": "beta_1 beta_2",
    "muon": "adam_beta_1 adam_beta_2 adam_weight_decay epsilon exclude_layers exclude_embeddings"
    " muon_a muon_b muon_c adam_lr_ratio momentum ns_steps nesterov rms_rate",
    "nadam": "beta_1 beta_2 epsilon",
    "rmsprop": "rho momentum epsilon centered",
    "sgd": "momentum nesterov",
}
_OF_ANY = (
    "clipnorm clipvalue ema_momentum ema_overwrite_frequency global_clipnorm"
    " gradient_accumulation_steps loss_scale_factor use_ema weight_decay"
)


def arguments(name: str) -> set[str]:
    """What the optimizer of this name may be given besides its learning rate."""
    return {*ARGUMENTS[name].split(), *_OF_ANY.split()}


def mistakes(name: str, given: Iterable[str]) -> list[str]:
    """What is wrong with the names of an optimizer's arguments, in sentences."""
    known = arguments(name)
    return [
        f"optimizer.arguments.{one}: {name} has no such argument."
        f"{registry.nearest(one, known, 'optimizer.arguments.')} Known: {', '.join(sorted(known))}."
        for one in given
        if one not in known
    ]
