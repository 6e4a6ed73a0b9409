#!/usr/bin/env python3
"""Makes tests/goldens/bert-pruned: a classifier whose heads Transformers pruned, and whose neurons were cut by hand.

    pip install "transformers==4.57.1" torch     # version 5 has no `prune_heads` any more
    python tests/goldens/make_pruned.py

Transformers writes the heads as `pruned_heads` into config.json, and this script checks that it reads them again. It has
no key for the neurons of each layer; `intermediate_sizes` is Octet's. Otherwise as make_goldens.py, whose helpers it uses.
"""

import json
import shutil

import torch
import transformers
from make_goldens import HERE, bert_config, bert_tokenizer, id_sequences, labels, run, scramble, write_json

HEADS = {0: [1], 2: [0, 2, 3]}
NEURONS = [96, 32, 72]


def main():
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    tokenizer = bert_tokenizer()
    config = bert_config(
        tokenizer, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        problem_type="single_label_classification", attn_implementation="eager", **labels("negative", "neutral", "positive"),
    )
    model = scramble(transformers.BertForSequenceClassification(config), 11)
    model.prune_heads(HEADS)
    folder = HERE / "bert-pruned"
    shutil.rmtree(folder, ignore_errors=True)
    cases = list(id_sequences(11, model.config.vocab_size, 64, 2))

    model.save_pretrained(folder)
    again = type(model).from_pretrained(folder, attn_implementation="eager").eval()
    assert [run(model, *case) for case in cases] == [run(again, *case) for case in cases], "read differently"

    for layer, kept in zip(model.bert.encoder.layer, NEURONS):
        up, down = layer.intermediate.dense, layer.output.dense
        chosen = torch.randperm(96, generator=torch.Generator().manual_seed(kept))[:kept].sort().values
        up.weight, up.bias = (torch.nn.Parameter(t.data[chosen].clone()) for t in (up.weight, up.bias))
        down.weight = torch.nn.Parameter(down.weight.data[:, chosen].clone())
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_sizes"] = NEURONS
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    outputs = [(case, run(model, *case)) for case in cases]
    golden = [{"ids": i, "type_ids": t, "hidden": hidden, "logits": logits} for (i, t), (hidden, logits) in outputs]
    write_json(folder / "golden.json", {"cases": golden})
    print(sorted(f.name for f in folder.iterdir()), config["pruned_heads"])


if __name__ == "__main__":
    main()
