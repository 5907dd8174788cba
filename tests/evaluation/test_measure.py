"""What a model's answers mean: one sigmoid, probabilities or logits, and labels in any form."""

import numpy as np
import pytest

from runner.evaluation.measure import _labels, class_probabilities


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([[0.25], [1.0]], [[0.75, 0.25], [0.0, 1.0]]),
        ([0.25, 1.0], [[0.75, 0.25], [0.0, 1.0]]),
        ([[0.0], [np.log(3.0)], [-2.0]], [[0.5, 0.5], [0.25, 0.75], [0.880797, 0.119203]]),
        ([[0.2, 0.3, 0.5]], [[0.2, 0.3, 0.5]]),
        ([[np.log(1.0), np.log(3.0)]], [[0.25, 0.75]]),
        ([[-1000.0, 1000.0]], [[0.0, 1.0]]),
    ],
)
def test_answers_become_probabilities(answer: object, expected: object) -> None:
    found = class_probabilities(answer)
    assert found == pytest.approx(np.asarray(expected), abs=1e-6)
    assert found.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("given", [[2, 0, 1], [[2.0], [0.0], [1.0]], np.eye(3)[[2, 0, 1]]])
def test_labels_are_numbers_whatever_their_form(given: object) -> None:
    assert _labels(given).tolist() == [2, 0, 1]
