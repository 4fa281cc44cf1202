"""``trireme route calibrate``: measures on labelled rows from which confidence a cascade may keep the first result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import psutil
from trireme.errors import ConfigError
from trireme.files import json_text, write_atomic, write_json_atomic
from trireme.processes.server import ServerFlags, TritonServer
from trireme.repository.folders import ModelRepository
from trireme.repository.routes import RouteFolder, find_route
from trireme.settings import Settings
from trireme_backends.routing.cascade import CurvePoint, choose, confidence, curve, fit_temperature
from trireme_backends.routing.route import Cascade, Route, Tier
from trireme_client import OperatorClient

from trireme_export.labelled_data import load_labelled
from trireme_export.recipe import LabelledData

THRESHOLDS = np.round(np.arange(0.5, 1.0, 0.005), 3)
FOLDS = 5
ROWS_PER_REQUEST = 16
DEADLINE_SECONDS = 60.0

Probabilities = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Side:
    """The results of one tier on the labelled rows.

    Attributes:
        probabilities: FP32 [rows, classes].
        cpu_ms: CPU time of the server per row.
    """

    variant: str
    probabilities: Probabilities
    cpu_ms: float

    def correct(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return np.asarray(self.probabilities.argmax(axis=1) == labels)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A chosen threshold and the measurements behind it.

    Attributes:
        cross_fitted: chosen on four fifths of the rows and measured on the rest; the mean over the folds.
        points: the curve on all rows.
    """

    first: Side
    second: Side
    rows: int
    temperature: float
    chosen: CurvePoint
    cross_fitted: CurvePoint
    second_accuracy: float
    points: Sequence[CurvePoint]

    def as_json(self) -> dict[str, object]:
        return {
            "first": {"variant": self.first.variant, "cpu_ms_per_row": self.first.cpu_ms},
            "second": {
                "variant": self.second.variant,
                "cpu_ms_per_row": self.second.cpu_ms,
                "accuracy": self.second_accuracy,
            },
            "rows": self.rows,
            "temperature": self.temperature,
            "chosen": asdict(self.chosen),
            "cross_fitted": asdict(self.cross_fitted),
            "curve": [asdict(point) for point in self.points],
        }

    def as_text(self) -> str:
        lines = [
            f"{self.rows} held-out rows; {self.second.variant} alone: accuracy {self.second_accuracy:.4f}, "
            f"{self.second.cpu_ms:.2f} CPU-ms per row; {self.first.variant}: {self.first.cpu_ms:.2f} CPU-ms per row",
            f"temperature {self.temperature:.3f}",
            "",
            "| threshold | escalated | accuracy | cost relative to the second tier alone |",
            "| ---: | ---: | ---: | ---: |",
            *(_table_row(point) for point in self.points[::10]),
            "",
            f"chosen: threshold {self.chosen.threshold:g}: accuracy {self.chosen.accuracy:.4f} at "
            f"{self.chosen.cost:.0%} of the cost, {self.chosen.escalated:.1%} escalated",
            f"cross-validated ({FOLDS} folds): accuracy {self.cross_fitted.accuracy:.4f} at "
            f"{self.cross_fitted.cost:.0%} of the cost",
        ]
        return "\n".join(lines)


@click.command()
@click.argument("task")
@click.option(
    "--most-loss",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Maximum loss of accuracy compared with the second tier alone.",
)
@click.option("--write", is_flag=True, help="Write temperature and threshold to the newest route.json.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="Write a plot of accuracy over cost, as SVG."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def calibrate(task: str, most_loss: float, write: bool, plot_path: Path | None, as_json: bool) -> None:
    """Choose the cheapest threshold of TASK's cascade that loses at most --most-loss of accuracy.

    Runs both tiers on the held-out labelled rows, on a separate server; the cost is their CPU time.
    """
    settings = Settings.from_environment()
    found = find_route(ModelRepository(settings.repository_dir), task)
    route = found.route()
    if route.cascade is None:
        raise ConfigError(found.route_path, "cascade: is missing; add it, with any temperature and threshold")
    data = load_labelled(LabelledData.UCI_SENTENCES, settings.sources_dir, lambda step: click.echo(step, err=True))
    texts, labels = data.texts[data.train_rows :], np.array(data.labels[data.train_rows :])
    first, second = _infer_both(settings.repository_dir, route, route.cascade, texts)
    calibration = _calibrate(first, second, labels, most_loss)
    if plot_path:
        write_atomic(plot_path, _svg(calibration).encode())
    if write:
        _write(found, calibration)
        click.echo(f"wrote {found.route_path}; it takes effect when {task} is loaded next", err=True)
    click.echo(json_text(calibration.as_json()) if as_json else calibration.as_text())


def _infer_both(repository_dir: Path, route: Route, cascade: Cascade, texts: Sequence[str]) -> tuple[Side, Side]:
    names = [_variant_of(route, tier) for tier in (cascade.first_tier, cascade.second_tier)]
    with TritonServer.start(ServerFlags(repository_dir, load_models=tuple(names))) as server:
        first, second = (_infer(server, name, cascade.confidence_output, texts) for name in names)
    return first, second


def _variant_of(route: Route, tier: Tier) -> str:
    return next(variant.name for variant in route.variants if variant.tier is tier)


def _infer(server: TritonServer, variant: str, output: str, texts: Sequence[str]) -> Side:
    click.echo(f"calibrate: running {variant} on {len(texts)} rows", err=True)
    array = np.array([[text.encode()] for text in texts], dtype=np.object_)
    parts = []
    before = _cpu_seconds(server.pid)
    with OperatorClient(server.grpc_address) as client:
        for start in range(0, len(array), ROWS_PER_REQUEST):
            result = client.infer(variant, {"TEXT": array[start : start + ROWS_PER_REQUEST]}, DEADLINE_SECONDS)
            parts.append(result.outputs[output])
    cpu_ms = (_cpu_seconds(server.pid) - before) * 1000 / len(texts)
    return Side(variant, np.concatenate(parts), cpu_ms)


def _cpu_seconds(pid: int) -> float:
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _calibrate(first: Side, second: Side, labels: Labels, most_loss: float) -> Calibration:
    first_cost = first.cpu_ms / second.cpu_ms
    first_correct, second_correct = first.correct(labels), second.correct(labels)

    def points_on(
        rows: npt.NDArray[np.int64], temperature: float, thresholds: npt.NDArray[np.float64]
    ) -> list[CurvePoint]:
        confidences = confidence(first.probabilities[rows], temperature)
        return curve(confidences, first_correct[rows], second_correct[rows], first_cost, thresholds)

    def choose_on(rows: npt.NDArray[np.int64]) -> tuple[float, CurvePoint]:
        temperature = fit_temperature(first.probabilities[rows], labels[rows])
        min_accuracy = float(second_correct[rows].mean()) - most_loss
        return temperature, choose(points_on(rows, temperature, THRESHOLDS), min_accuracy)

    everything = np.arange(len(labels))
    temperature, chosen = choose_on(everything)
    return Calibration(
        first=first,
        second=second,
        rows=len(labels),
        temperature=round(temperature, 4),
        chosen=chosen,
        cross_fitted=_cross_fitted(everything, choose_on, points_on),
        second_accuracy=float(second_correct.mean()),
        points=points_on(everything, temperature, THRESHOLDS),
    )


def _cross_fitted(
    everything: npt.NDArray[np.int64],
    choose_on: Callable[[npt.NDArray[np.int64]], tuple[float, CurvePoint]],
    points_on: Callable[[npt.NDArray[np.int64], float, npt.NDArray[np.float64]], list[CurvePoint]],
) -> CurvePoint:
    """The mean over the folds; the rows are already shuffled."""
    measured = []
    for fold in range(FOLDS):
        inside = everything % FOLDS == fold
        temperature, point = choose_on(everything[~inside])
        measured += points_on(everything[inside], temperature, np.array([point.threshold]))
    return CurvePoint(*(float(np.mean([getattr(point, name) for point in measured])) for name in CurvePoint.__slots__))


def _write(found: RouteFolder, calibration: Calibration) -> None:
    document = json.loads(found.route_path.read_text(encoding="utf-8"))
    document["cascade"]["temperature"] = calibration.temperature
    document["cascade"]["threshold"] = calibration.chosen.threshold
    write_json_atomic(found.route_path, document)


def _table_row(point: CurvePoint) -> str:
    return f"| {point.threshold:.2f} | {point.escalated:.1%} | {point.accuracy:.4f} | {point.cost:.0%} |"


def _svg(calibration: Calibration) -> str:
    """A plot of accuracy over cost: the curve, the chosen point, and the second tier alone."""
    width, height, margin = 560, 320, 56
    costs = [point.cost for point in calibration.points] + [1.0]
    accuracies = [point.accuracy for point in calibration.points] + [calibration.second_accuracy]
    low, high, most = min(accuracies) - 0.002, max(accuracies) + 0.002, max(costs)

    def at(cost: float, accuracy: float) -> tuple[float, float]:
        x = margin + cost / most * (width - margin - 16)
        return round(x, 1), round(16 + (high - accuracy) / (high - low) * (height - margin - 16), 1)

    line = " ".join(f"{x},{y}" for x, y in (at(point.cost, point.accuracy) for point in calibration.points))
    alone, chosen = at(1.0, calibration.second_accuracy), at(calibration.chosen.cost, calibration.chosen.accuracy)
    bottom = height - margin
    ticks = "".join(
        f'<text x="{at(tick, low)[0]}" y="{bottom + 16}" text-anchor="middle">{tick:.0%}</text>'
        for tick in np.arange(0, most + 0.01, 0.25)
    ) + "".join(
        f'<text x="{margin - 6}" y="{at(0, tick)[1] + 4}" text-anchor="end">{tick:.3f}</text>'
        for tick in np.linspace(low, high, 5)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<path d="M{margin},16 V{bottom} H{width - 16}" fill="none" stroke="black"/>{ticks}'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="2"/>'
        f'<circle cx="{alone[0]}" cy="{alone[1]}" r="5" fill="#dc2626"/>'
        f'<text x="{alone[0] + 8}" y="{alone[1] + 16}">{calibration.second.variant} alone</text>'
        f'<circle cx="{chosen[0]}" cy="{chosen[1]}" r="5" fill="#059669"/>'
        f'<text x="{chosen[0] + 8}" y="{chosen[1] + 16}">threshold {calibration.chosen.threshold:g}</text>'
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">CPU cost relative to the second tier</text>'
        f'<text x="14" y="{height / 2}" text-anchor="middle" transform="rotate(-90 14 {height / 2})">accuracy</text>'
        "</svg>\n"
    )
