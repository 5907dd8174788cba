"""What the predictions on the test images say, without Keras.

Everything is a function of the true labels, the predicted probabilities of the plain pass and
the classes predicted by all passes. Sums are float64. Where two classes are equally probable,
the one with the lower number comes first, everywhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_SMALLEST = 1e-7  #: Keras's bound: no probability counts as less, so that a loss stays finite


def ranks(probabilities: NDArray[Any], labels: NDArray[Any]) -> Counts:
    """Place of the true class among the predicted ones, 0 for the most probable."""
    true = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)
    before = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    ahead: Counts = ((probabilities > true) | ((probabilities == true) & before)).sum(axis=1)
    return ahead


def top_k(ranks_of_true: Counts, k: int) -> float:
    """Share of the images whose true class is among the k most probable."""
    return float(np.mean(ranks_of_true < k))


def cross_entropy(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean of -log of the true class's probability, without any weight decay."""
    true = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)
    bounded = np.clip(true.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    return float(-np.log(bounded).mean())


def confusion_matrix(labels: NDArray[Any], predicted: NDArray[Any], classes: int) -> Counts:
    """Count images by true class (row) and predicted class (column)."""
    from sklearn.metrics import confusion_matrix as count

    return np.asarray(count(labels.ravel(), predicted.ravel(), labels=range(classes)), np.int64)


def per_class_accuracy(confusion: Counts) -> Floats:
    """Share of each class's images predicted as that class; NaN where there are none."""
    with np.errstate(invalid="ignore"):
        shares: Floats = np.diagonal(confusion) / confusion.sum(axis=1)
    return shares


def certainty(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean over the images of the share of passes that predict the true class.

    Args:
        predicted: Classes, passes x images; the first row is the plain pass.
        labels: True classes.
    """
    return float(np.mean(predicted == labels[None, :]))


def consistency(predicted: NDArray[Any]) -> float:
    """Mean over the images of the share of passes, the plain one included, that agree with it."""
    return float(np.mean(predicted == predicted[:1]))


def confused_pairs(
    confusion: Counts, class_names: Sequence[str], *, most: int = 10
) -> list[dict[str, Any]]:
    """Return the pairs of classes most often mistaken for each other, in either direction.

    Each has the two `classes`, the `count` of mistakes between them, how many went from the
    first to the second (`there`) and `back`, and their `share` of the two classes' images.
    """
    both = np.triu(confusion + confusion.T, k=1)
    totals = confusion.sum(axis=1)
    order = np.argsort(-both, axis=None, kind="stable")[:most]
    pairs = []
    for a, b in zip(*np.unravel_index(order, both.shape), strict=True):
        if both[a, b] == 0:
            break
        pairs.append(
            {
                "classes": [class_names[a], class_names[b]],
                "count": int(both[a, b]),
                "there": int(confusion[a, b]),
                "back": int(confusion[b, a]),
                "share": float(both[a, b] / (totals[a] + totals[b])),
            }
        )
    return pairs


def calibration(probabilities: NDArray[Any], labels: NDArray[Any], *, bins: int = 15) -> Any:
    """Compare how sure the network is with how often it is right.

    Images are put into `bins` equal intervals (low, high] by the probability of the predicted
    class. `expected_calibration_error` is the mean over the images of their interval's
    |accuracy - confidence|; `reliability` lists the intervals (null where one is empty).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    sure = np.bincount(index, weights=confidence, minlength=bins)
    correct = np.bincount(index, weights=right.astype(np.float64), minlength=bins)
    reliability = [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "count": int(counts[i]),
            "confidence": float(sure[i] / counts[i]) if counts[i] else None,
            "accuracy": float(correct[i] / counts[i]) if counts[i] else None,
        }
        for i in range(bins)
    ]
    return {
        "expected_calibration_error": float(np.abs(correct - sure).sum() / len(labels)),
        "reliability": reliability,
    }
