"""Converts a GGUF file to a Hugging Face model directory; a script for vLLM's environment.

    .trireme/vllm/bin/python gguf_to_safetensors.py MODEL.gguf FOLDER < TEXT

The exporter's own environment has neither torch nor transformers. The last line of output is JSON: the mean negative
log-likelihood per token of the text, and the number of tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch  # type: ignore[import-not-found,unused-ignore]
from transformers import AutoModelForCausalLM, AutoTokenizer  # type: ignore[import-not-found,unused-ignore]


def main(gguf: Path, folder: Path, text: str) -> None:
    convert(gguf, folder)
    loss, tokens = mean_loss(folder, text)
    print(json.dumps({"mean_loss": loss, "tokens": tokens}))


def convert(gguf: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # The weights are dequantised now, so the quantisation settings would mislead a reader.
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    # The library makes weights readable only by their owner.
    for path in folder.iterdir():
        path.chmod(0o644)


def mean_loss(folder: Path, text: str) -> tuple[float, int]:
    """The loss of the written files, not of the model in memory."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        loss = model(tokens, labels=tokens).loss
    return float(loss), tokens.shape[1] - 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.stdin.read())
