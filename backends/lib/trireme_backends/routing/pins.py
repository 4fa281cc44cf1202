"""What the repository says of a variant now: the version its ensemble is pinned to, and that version's quality."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from trireme_backends.routing.route import Variant

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Pin:
    """The model version that does a variant's work.

    Attributes:
        model: the pinned step of the ensemble, or the variant itself where it is no ensemble.
        quality: accuracy on held-out rows from the version's manifest; None where it tells none.
    """

    model: str
    version: str
    quality: float | None = None


UNKNOWN = Pin("", "")


def read_pin(variant_dir: Path) -> Pin:
    """The pin of a variant. Of an ensemble's steps it is the one whose name is nearest to the variant's.

    Raises:
        OSError: the variant has no ``config.pbtxt``.
        ValueError: the file cannot be read, or names no version.
    """
    try:
        config = text_format.Parse(
            (variant_dir / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig()
        )
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None
    steps = config.ensemble_scheduling.step
    if not steps:
        return _pin(variant_dir, _newest_version(variant_dir, list(config.version_policy.specific.versions)))
    step = max(steps, key=lambda step: _common_characters(step.model_name, variant_dir.name))
    step_dir = variant_dir.parent / step.model_name
    return _pin(step_dir, step.model_version if step.model_version > 0 else _newest_version(step_dir, []))


class Pins:
    """The pins of a repository, read again when a ``config.pbtxt`` is replaced; a look costs one ``stat``."""

    def __init__(self, repository_dir: Path) -> None:
        self._repository_dir = repository_dir
        self._pins: dict[str, tuple[tuple[int, int], Pin]] = {}

    def pin(self, variant: str) -> Pin:
        """The pin as the file says it now; the last good one while the file is wrong, ``UNKNOWN`` before any."""
        held, pin = self._pins.get(variant, ((0, 0), UNKNOWN))
        try:
            status = os.stat(f"{self._repository_dir}/{variant}/config.pbtxt")  # noqa: PTH116 - pathlib takes ten times as long
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != held:
                pin = read_pin(self._repository_dir / variant)
                self._pins[variant] = (seen, pin)
        except (OSError, ValueError):
            pass
        return pin

    def quality(self, variant: Variant) -> float:
        """The quality that the route gives, else that of the pinned version; without either the order of the tiers."""
        if variant.quality is not None:
            return variant.quality
        # As of the last look at the pin: each call of the variant takes one.
        quality = (self._pins[variant.name][1] if variant.name in self._pins else self.pin(variant.name)).quality
        return variant.tier.rank / 10 if quality is None else quality


def _common_characters(left: str, right: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _pin(model_dir: Path, version: int) -> Pin:
    quality: float | None
    try:
        manifest = json.loads((model_dir / str(version) / "manifest.json").read_text(encoding="utf-8"))
        quality = float(manifest["accuracy"]["accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        quality = None
    return Pin(model_dir.name, str(version), quality)


def _newest_version(model_dir: Path, specific: list[int]) -> int:
    versions = specific or [int(entry.name) for entry in model_dir.iterdir() if _VERSION.fullmatch(entry.name)]
    if not versions:
        raise ValueError(f"{model_dir} has no version")
    return max(versions)
