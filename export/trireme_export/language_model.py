"""Writes the engine settings of a language model, and measures its perplexity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trireme.errors import ConfigError, GateError, TriremeError
from trireme.repository.manifest import Perplexity
from trireme_backends.errors import FileError, ModelError
from trireme_backends.generation.openvino_pipeline import OpenVinoPipeline
from trireme_backends.generation.openvino_settings import ENGINE, MODEL_FILE, OpenVinoSettings
from trireme_backends.strict_json import check_json

from trireme_export.recipe import PerplexityGate

LANGUAGE_MODEL_NAME = "model.gguf"

# Plain English that a small model predicts well, so that a high perplexity shows a loss from quantisation.
PERPLEXITY_TEXT = """\
The river begins high in the mountains, where the snow melts slowly in the spring. At first it is only a small stream \
that runs between the stones, cold and clear. Further down, other streams join it, and it becomes wide enough for \
boats. People have lived along its banks for thousands of years, because the water is good for their fields and the \
fish are easy to catch. In the morning, when the air is still cool, the farmers walk down to the water and open the \
gates of the canals. The water flows into the fields, and by noon the ground is dark and wet. In the evening the \
children swim near the old bridge, and their parents sit on the grass and talk about the weather, the price of wheat, \
and the news from the city. When the summer is dry, the river becomes shallow, and one can walk from one side to the \
other without getting wet above the knees. Then everybody waits for the rain. The first storm usually comes at the end \
of August. The sky turns black, the wind blows dust across the road, and within an hour the river is brown and loud \
again. Nobody complains about the mud, because they know that without the storm there would be no harvest next year.\
"""


def write_engine_file(version_dir: Path, engine: Mapping[str, Any], recipe_path: Path) -> OpenVinoSettings:
    """Write ``model.json``.

    Raises:
        ConfigError: a key is unknown to the engine, or a value is invalid; names the key.
    """
    document = {"model": LANGUAGE_MODEL_NAME, **engine}
    try:
        settings = check_json(recipe_path, document, OpenVinoSettings)
    except FileError as error:
        raise ConfigError(recipe_path, error.detail) from None
    (version_dir / MODEL_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return settings


def measure_perplexity(weights: Path, settings: OpenVinoSettings) -> Perplexity:
    """The perplexity of the bundled text.

    Raises:
        TriremeError: the engine cannot load the file.
    """
    # Every token must be computed by the model: without cached prefixes and speculation.
    plain = replace(settings, enable_prefix_caching=False, speculative_config=None)
    try:
        logprobs = OpenVinoPipeline(weights, plain).text_logprobs(PERPLEXITY_TEXT)
    except ModelError as error:
        raise TriremeError(str(error)) from None
    perplexity = math.exp(-sum(logprobs) / len(logprobs))
    return Perplexity(perplexity, len(logprobs), f"{ENGINE} {version('openvino-genai')}")


def check_perplexity(measured: Perplexity, gate: PerplexityGate, subject: str) -> None:
    """Compare a measurement with the recipe's threshold.

    Raises:
        GateError: the perplexity is above the threshold.
    """
    if not measured.perplexity <= gate.max_perplexity:
        raise GateError("perplexity", measured.perplexity, gate.max_perplexity, subject)
