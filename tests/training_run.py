"""A training run in a process of its own, for the test that kills it: CHECKPOINT."""

import sys

import torch

from rcfast import data, models, training

EPOCHS = 12


def run(checkpoint: str | None) -> training.TrainingResult:
    torch.set_num_threads(1)
    digits = data.load("digits")
    model = models.digits_cnn()
    return training.fit(model, digits.train, epochs=EPOCHS, precision="float32", checkpoint=checkpoint)


if __name__ == "__main__":
    run(sys.argv[1])
