from __future__ import annotations

import json

import numpy as np
import pytest
from trireme.errors import ConfigError
from trireme.repository.folders import ModelFolder
from trireme_export.warmup import raw_tensor, write_warmup

WARMUP = """
model_warmup [ {{
  name: "short" batch_size: 1
  inputs {{ key: "{name}" value {{ data_type: {type} dims: [ {dims} ] input_data_file: "{file}" }} }}
}} ]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "golden").mkdir()
    inputs = [
        {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["né"]},
        {"name": "IDS", "datatype": "INT64", "shape": [1, 2], "data": [1, 258]},
    ]
    sample = {"request": {"inputs": inputs}, "response": {"outputs": []}}
    (tmp_path / "golden/short.json").write_text(json.dumps(sample))
    return ModelFolder(tmp_path)


def configure(folder, **fields):
    folder.config_path.write_text(WARMUP.format(**fields))


def test_text_is_prefixed_with_its_length_in_bytes(folder):
    configure(folder, name="TEXT", type="TYPE_STRING", dims=1, file="short.TEXT")

    assert write_warmup(folder)
    assert (folder.warmup_dir / "short.TEXT").read_bytes() == b"\x03\0\0\0n\xc3\xa9"


def test_numbers_are_written_little_endian(folder):
    configure(folder, name="IDS", type="TYPE_INT64", dims=2, file="short.IDS")

    write_warmup(folder)
    assert (folder.warmup_dir / "short.IDS").read_bytes() == b"\1\0\0\0\0\0\0\0\2\1\0\0\0\0\0\0"


def test_intact_files_are_kept_and_truncated_ones_are_rewritten(folder):
    configure(folder, name="IDS", type="TYPE_INT64", dims=2, file="short.IDS")
    write_warmup(folder)

    assert not write_warmup(folder)
    (folder.warmup_dir / "short.IDS").write_bytes(b"\1\0")
    assert write_warmup(folder)


def test_file_without_a_golden_sample_is_rejected_with_the_available_names(folder):
    configure(folder, name="IDS", type="TYPE_INT64", dims=2, file="long.IDS")

    with pytest.raises(ConfigError, match=r"'long.IDS'; available: short.TEXT, short.IDS"):
        write_warmup(folder)


def test_shape_other_than_the_samples_is_rejected(folder):
    configure(folder, name="IDS", type="TYPE_INT64", dims=3, file="short.IDS")

    with pytest.raises(ConfigError, match=r"declared as \[1, 3\], but the golden sample has \[1, 2\]"):
        write_warmup(folder)


def test_big_endian_arrays_are_converted():
    assert raw_tensor(np.array([258], ">i4")) == b"\2\1\0\0"
