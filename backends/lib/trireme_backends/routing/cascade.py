"""The calibrated confidence of a classifier, and the threshold above which its result is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LEAST_PROBABILITY = 1e-7


def confidence(probabilities: npt.NDArray[np.floating[Any]], temperature: float) -> Floats:
    """Calibrated probability of the predicted class, shape [rows].

    Args:
        probabilities: softmax output, FP32 [rows, classes].
        temperature: above 1 for an overconfident classifier. Source: Guo et al., "On Calibration of Modern Neural
            Networks", ICML 2017, section 4.2.
    """
    scaled = _scaled_logs(np.asarray(probabilities, dtype=np.float64), temperature)
    return np.asarray(np.exp(scaled.max(axis=1)))


def fit_temperature(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]) -> float:
    """The temperature with the least negative log likelihood of ``labels`` [rows], between 0.1 and 10."""
    logs = np.asarray(probabilities, dtype=np.float64)
    rows = np.arange(len(labels))

    def loss(temperature: float) -> float:
        return float(-_scaled_logs(logs, temperature)[rows, labels].mean())

    candidates = np.geomspace(0.1, 10, 401)
    return float(candidates[int(np.argmin([loss(candidate) for candidate in candidates]))])


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The effect of a threshold on labelled rows.

    Attributes:
        escalated: share of rows that go to the second tier.
        accuracy: of the cascade.
        cost: relative to the second tier alone.
    """

    threshold: float
    escalated: float
    accuracy: float
    cost: float


def curve(
    first_confidence: Floats,
    first_right: npt.NDArray[np.bool_],
    second_right: npt.NDArray[np.bool_],
    first_cost: float,
    thresholds: Floats,
) -> list[CurvePoint]:
    """Accuracy and cost of the cascade for each threshold; ``first_cost`` is relative to the second tier's."""
    points = []
    for threshold in thresholds:
        up = first_confidence < threshold
        share = float(up.mean())
        right = float(np.where(up, second_right, first_right).mean())
        points.append(CurvePoint(float(threshold), share, right, first_cost + share))
    return points


def choose(points: list[CurvePoint], least_accuracy: float) -> CurvePoint:
    """The cheapest point with at least that accuracy; without one, the most accurate point."""
    good = [point for point in points if point.accuracy >= least_accuracy]
    if good:
        return min(good, key=lambda point: (point.cost, -point.accuracy))
    return max(points, key=lambda point: (point.accuracy, -point.cost))


def _scaled_logs(probabilities: Floats, temperature: float) -> Floats:
    logs = np.log(np.maximum(probabilities, _LEAST_PROBABILITY)) / temperature
    logs -= logs.max(axis=1, keepdims=True)
    return np.asarray(logs - np.log(np.exp(logs).sum(axis=1, keepdims=True)))
