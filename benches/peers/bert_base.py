#!/usr/bin/env python3
"""A checkpoint of BERT-base's size (12 layers, 768 wide, 3072 inside) with random weights from a fixed seed: speed does
not depend on what the weights are. The vocabulary and the tokenizer are those of TOKENIZER_MODEL.

    python bert_base.py TOKENIZER_MODEL OUT
"""

import argparse
import shutil
from pathlib import Path

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer_model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.out.exists():
        return

    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    unfinished = args.out.with_name(args.out.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    # CTranslate2 asks for the setting that transformers no longer writes.
    BertModel(BertConfig(position_embedding_type="absolute")).save_pretrained(unfinished)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(args.tokenizer_model / name, unfinished)
    unfinished.rename(args.out)


if __name__ == "__main__":
    main()
