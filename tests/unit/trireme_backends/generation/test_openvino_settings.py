from __future__ import annotations

import json

import pytest
from trireme_backends.errors import ModelError
from trireme_backends.generation.openvino_settings import OpenVinoSettings, PromptLookup
from trireme_backends.model import Model


def read(directory, **keys: object) -> OpenVinoSettings:
    (directory / "model.json").write_text(json.dumps({"model": "model.gguf", "max_model_len": 128, **keys}))
    return OpenVinoSettings.of(Model("m", {}, directory))


def test_keys_are_read_into_settings(tmp_path):
    settings = read(tmp_path, speculative_config={"method": "ngram", "num_speculative_tokens": 4}, threads=1)
    assert settings.speculative_config == PromptLookup("ngram", num_speculative_tokens=4)
    assert settings.thread_count() == 1
    assert read(tmp_path).thread_count() >= 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"enable_lora": True}, "enable_lora: unknown key"),
        ({"quantization": "fp8"}, "quantization: unknown key"),
        ({"speculative_config": {"method": "eagle"}}, "speculative_config.method: is 'eagle'"),
        ({"speculative_config": {"method": "ngram", "model": "x"}}, "speculative_config.model: unknown key"),
        ({"max_num_seqs": 0}, "max_num_seqs: is 0; it must be an integer from 1"),
        ({"max_num_seqs": "8"}, "max_num_seqs: is '8'; it must be an integer"),
        ({"enable_prefix_caching": 1}, "enable_prefix_caching: is 1; it must be true or false"),
        ({"kv_cache_tokens": 64}, "kv_cache_tokens: 64 cannot hold one request of max_model_len 128"),
    ],
    ids=str,
)
def test_what_the_engine_lacks_is_refused_at_load_by_name(tmp_path, keys, message):
    with pytest.raises(ModelError) as refused:
        read(tmp_path, **keys)
    assert message in str(refused.value)
    assert str(tmp_path / "model.json") in str(refused.value)


def test_weights_must_be_in_the_version_directory(tmp_path):
    for name in ("absent.gguf", "../model.gguf"):
        (tmp_path.parent / "model.gguf").touch()
        with pytest.raises(ModelError, match="missing"):
            read(tmp_path, model=name).weights(Model("m", {}, tmp_path))
