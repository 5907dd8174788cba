"""Deep Q-learning within fit: a replay buffer and an epsilon in plain Python, a target network."""

import collections
import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, normals, pipeline


class Agent(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.target = dense(12, 2, inputs=4), dense(12, 2, inputs=4)
        self.epsilon, self.frames = 1.0, 0
        self.replay: collections.deque[Any] = collections.deque(maxlen=64)

    def act(self, states: Any) -> Any:
        greedy = np.argmax(self.q(states).numpy(), 1)
        return np.where(np.random.rand(len(greedy)) < self.epsilon, greedy * 0 + 1, greedy)

    def train_step(self, states: Any) -> Any:
        actions = self.act(states)
        rewards = np.where(states.numpy()[:, 0] > 0, actions, 1 - actions).astype("float32")
        self.replay.extend(zip(states.numpy(), actions, rewards, strict=True))
        s, a, r = map(np.array, zip(*random.sample(list(self.replay), 12), strict=True))
        aim = r + 0.9 * tf.reduce_max(self.target(s), 1)
        with tf.GradientTape() as tape:
            chosen = tf.reduce_sum(self.q(s) * tf.one_hot(a, 2), 1)
            loss = keras.losses.huber(aim, chosen)
        descend(self.optimizer, tape, loss, self.q.trainable_weights)
        self.frames += 1
        self.epsilon = max(0.1, self.epsilon * 0.9)
        if self.frames % 5 == 0:
            self.target.set_weights(self.q.get_weights())
        return {"loss": loss, "reward": rewards.mean(), "epsilon": self.epsilon}


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(47)
    model = Agent()
    model.compile(keras.optimizers.Adam(1e-2, clipnorm=1.0), run_eagerly=True)
    history = model.fit(pipeline(normals(96, 4)), epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history, "epsilon": model.epsilon, "frames": model.frames}
