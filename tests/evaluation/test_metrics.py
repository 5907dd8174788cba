"""Every number equals an independent computation by scikit-learn or by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from runner.evaluation import metrics

RANDOM = np.random.default_rng(1)
LABELS = RANDOM.integers(0, 7, 400)
PROBABILITIES = RANDOM.dirichlet(np.ones(7) * 0.4, 400).astype("float32")
PREDICTED = PROBABILITIES.argmax(axis=1)
NAMES = [f"class {i}" for i in range(7)]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k(k: int) -> None:
    ranks = metrics.ranks(PROBABILITIES, LABELS)
    expected = sk.top_k_accuracy_score(LABELS, PROBABILITIES, k=k, labels=range(7))
    assert metrics.top_k(ranks, k) == expected


def test_equal_probabilities_count_in_the_order_of_the_classes() -> None:
    same = np.full((3, 4), 0.25, "float32")
    assert metrics.ranks(same, np.array([0, 1, 3])).tolist() == [0, 1, 3]
    assert same.argmax(axis=1).tolist() == [0, 0, 0]


def test_cross_entropy() -> None:
    p = np.clip(PROBABILITIES.astype("float64"), 1e-6, 1)
    p /= p.sum(axis=1, keepdims=True)
    assert metrics.cross_entropy(p, LABELS) == pytest.approx(
        sk.log_loss(LABELS, p, labels=range(7)), abs=1e-12
    )


def test_impossible_class_costs_no_more_than_keras_counts() -> None:
    loss = metrics.cross_entropy(np.array([[0.0, 1.0]]), np.array([0]))
    assert loss == pytest.approx(-np.log(1e-7))


def test_confusion_and_per_class_accuracy() -> None:
    confusion = metrics.confusion_matrix(LABELS, PREDICTED, 7)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(LABELS, PREDICTED))
    np.testing.assert_array_equal(
        metrics.per_class_accuracy(confusion), sk.recall_score(LABELS, PREDICTED, average=None)
    )


def test_class_without_images_has_no_accuracy() -> None:
    accuracy = metrics.per_class_accuracy(np.array([[2, 0], [0, 0]]))
    np.testing.assert_array_equal(accuracy, [1, np.nan])


def test_certainty_asks_for_the_true_class_and_consistency_for_the_plain_one() -> None:
    labels = np.array([0, 1])
    predicted = np.array([[0, 2], [0, 2], [1, 2], [0, 1]])  # plain and three passes
    assert metrics.certainty(predicted, labels) == (3 / 4 + 1 / 4) / 2
    assert metrics.consistency(predicted) == (3 / 4 + 3 / 4) / 2


def test_without_augmented_passes_certainty_is_accuracy() -> None:
    assert metrics.certainty(PREDICTED[None], LABELS) == sk.accuracy_score(LABELS, PREDICTED)
    assert metrics.consistency(PREDICTED[None]) == 1


def test_confused_pairs_count_both_directions() -> None:
    confusion = np.array([[5, 1, 0], [3, 6, 0], [0, 1, 9]])
    first, second = metrics.confused_pairs(confusion, ["oak", "maple", "fox"])
    assert first == {
        "classes": ["oak", "maple"],
        "count": 4,
        "there": 1,
        "back": 3,
        "share": 4 / 15,
    }
    assert second["classes"] == ["maple", "fox"]
    assert len(metrics.confused_pairs(confusion, ["a", "b", "c"], most=1)) == 1


def test_calibration_by_hand() -> None:
    confidence = PROBABILITIES.max(axis=1).astype("float64")
    right = PREDICTED == LABELS
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    found = metrics.calibration(PROBABILITIES, LABELS)
    assert found["expected_calibration_error"] == pytest.approx(error / 400, abs=1e-6)
    assert sum(bar["count"] for bar in found["reliability"]) == 400
    assert found["reliability"][0]["accuracy"] is None


def test_calibration_of_the_surest() -> None:
    sure = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
    found = metrics.calibration(sure, np.array([0, 0]), bins=10)
    assert found["expected_calibration_error"] == 0.5
    assert found["reliability"][-1]["count"] == 2
