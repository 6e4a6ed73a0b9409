"""Runs an exported model with ONNX Runtime: run_onnx.py MODEL OUTPUT < ids.json > rows.json

ids.json is a list of lists of token ids. They run in batches of 16 neighbours, padded with id 0, and give one row each.
"""

import json
import sys

import numpy as np
import onnxruntime

BATCH = 16


def main():
    model, output = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    sequences, rows = json.load(sys.stdin), []
    for start in range(0, len(sequences), BATCH):
        batch = sequences[start : start + BATCH]
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found = session.run([output], {name: value for name, value in feeds.items() if name in names})[0]
        rows += found.astype(float).tolist()
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
