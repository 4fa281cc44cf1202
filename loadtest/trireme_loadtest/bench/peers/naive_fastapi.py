"""A model behind FastAPI in the usual way: load at import, one inference per request.

Run as ``MODEL_PATH=... TOKENIZER_PATH=... uvicorn trireme_loadtest.bench.peers.naive_fastapi:app --workers 2``.
"""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(os.environ["TOKENIZER_PATH"])
tokenizer.no_padding()
tokenizer.enable_truncation(256)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ.get("INTRA_OP_THREADS", "0"))  # 0: the library's default
session = onnxruntime.InferenceSession(os.environ["MODEL_PATH"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Question(BaseModel):
    text: str


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/embed")
def embed(question: Question) -> dict[str, list[float]]:
    encoding = tokenizer.encode(question.text)
    (embedding,) = session.run(
        ["EMBEDDING"],
        {"INPUT_IDS": np.array([encoding.ids]), "ATTENTION_MASK": np.array([encoding.attention_mask])},
    )
    return {"embedding": embedding[0].tolist()}
