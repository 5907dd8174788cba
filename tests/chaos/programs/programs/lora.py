"""A language model of KerasHub with random weights; only its low-rank additions are trained."""

import keras
import keras_hub

import runner
from tests.chaos.examples.common import integers


def program(*, rank: int = 2, length: int = 12) -> runner.Program:
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=30,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=length,
    )
    backbone.enable_lora(rank)
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-2), loss, weighted_metrics=["accuracy"])
    tokens = integers(30, 184, length + 1).cumsum(1) % 30
    x = {"token_ids": tokens[:, :-1], "padding_mask": tokens[:, :-1] != 29}
    y, weight = tokens[:, 1:], (tokens[:, 1:] != 29).astype("float32")
    return runner.Program(
        model=model,
        fit={
            "x": {name: part[:160] for name, part in x.items()},
            "y": y[:160],
            "sample_weight": weight[:160],
            "batch_size": 16,
            "shuffle": False,
        },
        evaluate={"x": {name: part[160:] for name, part in x.items()}, "y": y[160:]},
    )
