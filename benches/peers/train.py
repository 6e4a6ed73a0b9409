#!/usr/bin/env python3
"""One epoch of fine-tuning in PyTorch, to hold `octet train` against:

    python benches/peers/train.py FLOAT_MODEL TRAIN.jsonl [--texts N] [--epochs N] [--dev DEV.jsonl]

The same model (mean pooling, a dense layer with tanh, outputs for classes and one number), the same loss, AdamW with
the same groups, clipping, dropout and schedule, batches of 32 padded to their longest text. Prints seconds per epoch,
and with --dev accuracy and correlation. Threads: OMP_NUM_THREADS.
"""
import argparse
import json
import time

import torch
from transformers import AutoModel, AutoTokenizer

LABELS = ["negative", "neutral", "positive"]


class Model(torch.nn.Module):
    def __init__(self, folder):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        width = self.encoder.config.hidden_size
        self.dropout, self.dense, self.out = torch.nn.Dropout(0.1), torch.nn.Linear(width, width), torch.nn.Linear(width, 4)

    def forward(self, ids, mask):
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.out(self.dropout(torch.tanh(self.dense(self.dropout(pooled)))))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model"), parser.add_argument("train"), parser.add_argument("--dev")
    parser.add_argument("--texts", type=int), parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32), parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--head-learning-rate", type=float, default=5e-4)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rows = [json.loads(line) for line in open(args.train, encoding="utf-8")][: args.texts]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = Model(args.model)
    ratings = torch.tensor([r["rating"] for r in rows])
    mean, deviation = ratings.mean(), ratings.std(unbiased=False)

    def batch(chosen, rows):
        tokens = tokenizer([rows[i]["text"] for i in chosen], padding=True, truncation=True, max_length=128, return_tensors="pt")
        labels = torch.tensor([LABELS.index(rows[i]["label"]) for i in chosen])
        return tokens["input_ids"], tokens["attention_mask"], labels, torch.tensor([rows[i]["rating"] for i in chosen])

    def group(head, decay):
        named = [(n, p) for n, p in model.named_parameters() if n.startswith("encoder") != head]
        params = [p for n, p in named if (p.ndim == 2 and "embeddings" not in n) == decay]
        rate = args.head_learning_rate if head else args.learning_rate
        return {"params": params, "lr": rate, "weight_decay": 0.01 if decay else 0.0}

    optimizer = torch.optim.AdamW([group(h, d) for h in (False, True) for d in (False, True)])
    batches = (len(rows) + args.batch_size - 1) // args.batch_size
    steps, warm = args.epochs * batches, 0.1 * args.epochs * batches
    rate = lambda s: (s + 1) / (warm + 1) if s < warm else (steps - s) / (steps - warm)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for epoch in range(args.epochs):
        model.train()
        order, started, losses = torch.randperm(len(rows)).tolist(), time.monotonic(), []
        for start in range(0, len(rows), args.batch_size):
            ids, mask, labels, values = batch(order[start : start + args.batch_size], rows)
            logits = model(ids, mask)
            loss = torch.nn.functional.cross_entropy(logits[:, :3], labels)
            loss = loss + torch.nn.functional.mse_loss(logits[:, 3], (values - mean) / deviation)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(), schedule.step()
            losses.append(loss.item())
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}, {seconds:.1f} s, {batches / seconds:.3f} steps/s", flush=True)
        if args.dev:
            dev = [json.loads(line) for line in open(args.dev, encoding="utf-8")]
            model.eval()
            with torch.no_grad():
                found = torch.cat([model(*batch(range(i, min(i + 64, len(dev))), dev)[:2]) for i in range(0, len(dev), 64)])
            truth = torch.tensor([LABELS.index(r["label"]) for r in dev])
            pair = torch.stack([found[:, 3], torch.tensor([r["rating"] for r in dev])])
            accuracy = (found[:, :3].argmax(1) == truth).float().mean()
            print(f"  dev accuracy {accuracy:.4f}, correlation {torch.corrcoef(pair)[0, 1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
