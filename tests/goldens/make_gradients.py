#!/usr/bin/env python3
"""Makes gradients.json beside this file: what PyTorch's autograd gives for the small models of make_goldens.py.

    python tests/goldens/make_gradients.py        # with the packages of requirements.txt

For each model, a batch of three sequences (without padding: one after another) gives hidden states h, and the loss is
the sum of h[token, column] * wave(token * width + column), with wave(i) = cos(0.7 i + 0.3) and tokens counted over the
batch. Of every parameter's gradient g the file holds its length and the sum of g[i] * wave(i).
"""
import json
import math
import pathlib

import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
MODELS = ["bert", "bert-gelu-tanh", "distilbert-multilabel", "roberta-classify"]
LENGTHS = [1, 5, 19]


def wave(count: int) -> torch.Tensor:
    return torch.tensor([math.cos(0.7 * i + 0.3) for i in range(count)], dtype=torch.float64)


def gradients(name: str) -> dict:
    model = transformers.AutoModel.from_pretrained(HERE / name).double().eval()
    ids = [[(7 * i * i + 11 * i + 3 * length) % 140 + 5 for i in range(length)] for length in LENGTHS]
    hidden = torch.cat([model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ids])
    (hidden.flatten() * wave(hidden.numel())).sum().backward()
    found = {}
    for parameter, value in model.named_parameters():
        if value.grad is not None:
            g = value.grad.flatten()
            found[parameter] = [float(f"{x:.7g}") for x in (g.norm().item(), (g * wave(g.numel())).sum().item())]
    return {"ids": ids, "gradients": found}


if __name__ == "__main__":
    rows = [f"{json.dumps(name)}: {json.dumps(gradients(name))}" for name in MODELS]
    (HERE / "gradients.json").write_text("{" + ",\n".join(rows) + "}\n")
