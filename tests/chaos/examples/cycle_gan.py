"""CycleGAN: four networks, four optimizers, one persistent tape, two pipelines zipped."""

from typing import Any

import keras
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, normals, pipeline


class CycleGAN(keras.Model):
    def __init__(self, there: Any, back: Any, critic_x: Any, critic_y: Any) -> None:
        super().__init__()
        self.there, self.back, self.critic_x, self.critic_y = there, back, critic_x, critic_y

    def compile(self, there: Any, back: Any, critic_x: Any, critic_y: Any) -> None:
        super().compile()
        self.there_optimizer, self.back_optimizer = there, back
        self.x_optimizer, self.y_optimizer = critic_x, critic_y
        self.adversarial = keras.losses.MeanSquaredError()
        self.cycle = keras.losses.MeanAbsoluteError()

    def train_step(self, batch: Any) -> Any:
        x, y = batch
        with tf.GradientTape(persistent=True) as tape:
            fake_y, fake_x = self.there(x, training=True), self.back(y, training=True)
            x_fake, y_fake = self.critic_x(fake_x), self.critic_y(fake_y)
            round_trips = self.cycle(x, self.back(fake_y)) + self.cycle(y, self.there(fake_x))
            there_loss = self.adversarial(tf.ones_like(y_fake), y_fake) + 10.0 * round_trips
            back_loss = self.adversarial(tf.ones_like(x_fake), x_fake) + 10.0 * round_trips
            x_loss = self.adversarial(tf.zeros_like(x_fake), x_fake)
            x_loss += self.adversarial(tf.ones_like(x_fake), self.critic_x(x))
            y_loss = self.adversarial(tf.zeros_like(y_fake), y_fake)
            y_loss += self.adversarial(tf.ones_like(y_fake), self.critic_y(y))
        descend(self.there_optimizer, tape, there_loss, self.there.trainable_variables)
        descend(self.back_optimizer, tape, back_loss, self.back.trainable_variables)
        descend(self.x_optimizer, tape, x_loss, self.critic_x.trainable_variables)
        descend(self.y_optimizer, tape, y_loss, self.critic_y.trainable_variables)
        return {"there": there_loss, "back": back_loss, "x": x_loss, "y": y_loss}


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(4)
    networks = [dense(12, width, inputs=5) for width in (5, 5, 1, 1)]
    model = CycleGAN(*networks)
    optimizers = [keras.optimizers.Adam(2e-3, beta_1=0.5) for _ in networks]
    model.compile(*optimizers)
    horses = pipeline(normals(24, 5), batch=4, seed=1)
    zebras = pipeline(2.0 + normals(28, 5, seed=1), batch=4, seed=2)
    data = tf.data.Dataset.zip((horses, zebras))
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    named = {f"optimizer {number}": one for number, one in enumerate(optimizers)}
    return {"model": model, "history": history, **named}
