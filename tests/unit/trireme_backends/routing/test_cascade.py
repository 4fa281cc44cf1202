from __future__ import annotations

import numpy as np
import pytest
from trireme_backends.routing.cascade import CurvePoint, choose, confidence, curve, fit_temperature


def test_temperature_one_keeps_the_probability() -> None:
    assert confidence(np.array([[0.9, 0.1], [0.3, 0.7]], dtype=np.float32), 1.0) == pytest.approx([0.9, 0.7], abs=1e-6)


def test_higher_temperature_lowers_confidence_and_keeps_the_order() -> None:
    probabilities = np.array([[0.99, 0.01], [0.8, 0.2], [0.5, 0.5]])
    cooled = confidence(probabilities, 2.0)
    assert (cooled[:2] < [0.99, 0.8]).all()
    assert list(np.argsort(cooled)) == [2, 1, 0]


def test_certain_probabilities_stay_finite() -> None:
    assert confidence(np.array([[1.0, 0.0]]), 0.5) == pytest.approx([1.0])


def test_fitted_temperature_corrects_overconfidence() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 20_000)
    labels = (random.random(20_000) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    overconfident = 1 / (1 + np.exp(-3 * logits))
    temperature = fit_temperature(np.stack([1 - overconfident, overconfident], axis=1), labels)
    assert temperature == pytest.approx(3.0, rel=0.05)


def test_curve_has_share_accuracy_and_cost() -> None:
    sure = np.array([0.6, 0.7, 0.8, 0.9])
    first = np.array([False, False, True, True])
    second = np.array([True, True, True, False])
    points = curve(sure, first, second, 0.25, np.array([0.0, 0.75, 1.0]))
    assert points == [
        CurvePoint(0.0, 0.0, 0.5, 0.25),
        CurvePoint(0.75, 0.5, 1.0, 0.75),
        CurvePoint(1.0, 1.0, 0.75, 1.25),
    ]
    assert choose(points, 0.7).threshold == 0.75
    assert choose(points, 0.4).threshold == 0.0


def test_without_a_good_enough_point_the_most_accurate_one_is_chosen() -> None:
    points = [CurvePoint(0.5, 0.1, 0.8, 0.3), CurvePoint(0.9, 0.5, 0.85, 0.7)]
    assert choose(points, 0.9).threshold == 0.9
