"""Write the weights of a GGUF file as a model folder of Hugging Face's form: a script for vLLM's environment.

    .trireme/vllm/bin/python gguf_to_safetensors.py MODEL.gguf FOLDER

The exporter's own environment has neither torch nor transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch  # type: ignore[import-not-found,unused-ignore]
from transformers import AutoModelForCausalLM, AutoTokenizer  # type: ignore[import-not-found,unused-ignore]


def main(gguf: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # The weights are unpacked now: what says that they are quantised would make a reader look for packed ones.
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    # Told as they were made, which is for the owner alone.
    for path in folder.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
