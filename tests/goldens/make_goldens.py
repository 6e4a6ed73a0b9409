#!/usr/bin/env python3
"""Makes the golden files that tests/integration/golden.rs compares against.

    python3 -m venv /tmp/goldens && . /tmp/goldens/bin/activate
    pip install -r tests/goldens/requirements.txt       # 5 GB: torch's wheel does not import without CUDA's
    python tests/goldens/make_goldens.py --minilm FOLDER

Without --minilm, minilm.json is left as it is. FOLDER holds all-MiniLM-L6-v2 in f32 (config.json,
model.safetensors, tokenizer.json); it is read, never copied.

Each small model is a seeded random checkpoint in Hugging Face format with its outputs beside it, computed by
PyTorch in f32 on the CPU:

    <name>/config.json, model.safetensors (or shards), tokenizer.json
    <name>/golden.json    {"cases": [{"ids", "type_ids", "hidden": [tokens * hidden_size], "logits": [labels] | null}]}

Weights are drawn wider than BERT's 0.02, so that attention is far from uniform, GELU works where its variants
differ, and every bias and layer norm parameter moves the result: a wrong step must not hide below the tolerance.
"""

import argparse
import json
import pathlib
import shutil

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HERE = pathlib.Path(__file__).resolve().parent
WORDS = """the a an of to and in is it was that this for on with as at by be not are from or have had but one all
good bad great poor film movie story price market rate rain sun city court law team goal win lose time day year new
old he she they we you i very more less why how what when""".split()

SENTENCES = [
    "Yes.",
    "The quick brown fox jumps over the lazy dog.",
    "A man is eating food.",
    "How do I reset my password?",
    "The company's revenue grew 12.5% year-over-year, to $3.2 billion.",
    "Naïve café façade: déjà vu in Zürich.",
    "東京は日本の首都です。",
    "Das Wetter ist heute schön, aber morgen soll es regnen.",
    "unaffable antidisestablishmentarianism 🙂 http://example.org/a?b=c#d",
    "  Spaces \t and\nnewlines   are not content.  ",
    "Dynamic int8 quantization keeps one scale per token for the activations and one scale per output channel for "
    "the weights, so that a row of the result depends on one text only, whatever else is in the batch.",
    " ".join(f"Sentence number {i} says that item {i * 7 % 13} is stored in room {i * 5 % 11}." for i in range(30)),
]


def scramble(model, seed):
    """Draws every parameter anew, from one generator in the order of state_dict."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape, std):
        return torch.randn(shape, generator=generator, dtype=torch.float32) * std

    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if "LayerNorm.weight" in name or "layer_norm.weight" in name:
                drawn = 1.0 + normal(value.shape, 0.2)
            elif value.dim() == 1:
                drawn = normal(value.shape, 0.2)
            elif "embeddings" in name:
                drawn = normal(value.shape, 0.5)
            else:
                drawn = normal(value.shape, 1.5 / value.shape[1] ** 0.5)
            value.copy_(drawn)
    return model.eval()


def bert_tokenizer():
    """WordPiece over letters and a few words, as BERT's uncased tokenizer is built."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = specials + list(letters + "0123456789.,?!'-") + ["##" + c for c in letters + "0123456789"] + WORDS
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def roberta_tokenizer():
    """Byte-level BPE whose merges spell a few words."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate(specials[:4] + alphabet)}
    merges = []
    for word in ["Ġthe", "Ġa", "Ġof", "Ġfilm", "Ġgood", "Ġbad"]:
        left = word[0]
        for right in word[1:]:
            if left + right not in vocab:
                merges.append((left, right))
                vocab[left + right] = len(vocab)
            left += right
    vocab["<mask>"] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]))
    tokenizer.add_special_tokens(specials)
    return tokenizer


def xlm_roberta_tokenizer():
    """SentencePiece Unigram over letters and a few words."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-▁"
    pieces = [(s, 0.0) for s in specials] + [(c, -8.0) for c in letters]
    pieces += [("▁" + w, -4.0 - 0.01 * i) for i, w in enumerate(WORDS) if len(w) > 1] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(specials + ["<mask>"])
    return tokenizer


def labels(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def bert_config(tokenizer, **overrides):
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    return transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, type_vocab_size=2, **(sizes | overrides)
    )


def small_models():
    """Yields (name, seed, model, tokenizer, longest sequence, segments, save options)."""
    bert, roberta, xlmr = bert_tokenizer(), roberta_tokenizer(), xlm_roberta_tokenizer()
    yield "bert", 1, transformers.BertModel(bert_config(bert), add_pooling_layer=False), bert, 64, 2, {}
    config = bert_config(
        bert, hidden_size=48, num_attention_heads=3, intermediate_size=96, problem_type="single_label_classification",
        **labels("negative", "neutral", "positive"),
    )
    yield "bert-classify", 2, transformers.BertForSequenceClassification(config), bert, 64, 2, {}
    config = transformers.DistilBertConfig(
        vocab_size=bert.get_vocab_size(), dim=48, n_layers=2, n_heads=3, hidden_dim=96, max_position_embeddings=64,
        problem_type="multi_label_classification", **labels("toxic", "insult", "threat", "spam"),
    )
    yield "distilbert-multilabel", 3, transformers.DistilBertForSequenceClassification(config), bert, 64, 1, {}
    # RoBERTa counts positions from pad_token_id + 1 = 2: 66 rows hold 64 tokens.
    config = transformers.RobertaConfig(
        vocab_size=roberta.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, **labels("no", "yes"),
    )
    yield "roberta-classify", 4, transformers.RobertaForSequenceClassification(config), roberta, 64, 1, {}
    config = transformers.XLMRobertaConfig(
        vocab_size=xlmr.get_vocab_size(), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, num_labels=1, problem_type="regression",
    )
    yield "xlm-roberta-regression", 5, transformers.XLMRobertaForSequenceClassification(config), xlmr, 64, 1, {}
    # The same family with the other activations, and with an epsilon large enough to be seen in the result.
    config = bert_config(bert, hidden_act="gelu_new", layer_norm_eps=1e-2)
    yield "bert-gelu-tanh", 6, transformers.BertModel(config, add_pooling_layer=False), bert, 64, 2, {}
    config = bert_config(bert, hidden_act="relu")
    yield "bert-relu", 7, transformers.BertModel(config, add_pooling_layer=False), bert, 64, 2, {}
    for dtype, seed in ((torch.bfloat16, 8), (torch.float16, 9)):
        model = transformers.BertModel(bert_config(bert), add_pooling_layer=False)
        name = {torch.bfloat16: "bert-bf16", torch.float16: "bert-f16"}[dtype]
        yield name, seed, model, bert, 64, 2, {"dtype": dtype}
    model = transformers.BertModel(bert_config(bert), add_pooling_layer=False)
    yield "bert-sharded", 10, model, bert, 64, 2, {"max_shard_size": "40KB"}


def id_sequences(seed, vocab_size, longest, segments):
    """Sequences of 1, 2, 7, 33 and `longest` tokens without special ids; the longer ones have two segments."""
    generator = torch.Generator().manual_seed(1000 + seed)
    for tokens in (1, 2, 7, 33, longest):
        ids = torch.randint(5, vocab_size, (tokens,), generator=generator).tolist()
        second = tokens // 3 if segments == 2 and tokens > 2 else tokens
        yield ids, [0 if i < second or second == tokens else 1 for i in range(tokens)]


def run(model, ids, type_ids):
    """Last hidden states, flat, and logits (None without a head)."""
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    if model.config.model_type != "distilbert":
        inputs["token_type_ids"] = torch.tensor([type_ids])
    with torch.no_grad():
        hidden = model.base_model(**inputs).last_hidden_state
        logits = model(**inputs).logits[0] if hasattr(model, "classifier") else None
    return rounded(hidden.flatten()), None if logits is None else rounded(logits)


def rounded(values, digits=7):
    return [round(v, digits) for v in values.tolist()]


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


def make_small_models():
    for name, seed, model, tokenizer, longest, segments, options in small_models():
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        dtype = options.pop("dtype", torch.float32)
        scramble(model, seed).to(dtype).save_pretrained(folder, **options)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        # Computed from what was stored, widened to f32.
        bare = {"add_pooling_layer": False} if isinstance(model, transformers.BertModel) else {}
        model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **bare).eval()
        cases = []
        for ids, type_ids in id_sequences(seed, model.config.vocab_size, longest, segments):
            hidden, logits = run(model, ids, type_ids)
            cases.append({"ids": ids, "type_ids": type_ids, "hidden": hidden, "logits": logits})
        write_json(folder / "golden.json", {"cases": cases})
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name}: {size} bytes, {sorted(f.name for f in folder.iterdir())}")


def make_minilm(source):
    """Mean pooling and L2 norm, as sentence-transformers configures all-MiniLM-L6-v2; at most 256 tokens."""
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    model = transformers.BertModel.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    cases = []
    for text in SENTENCES:
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        embedding = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        cases.append({"text": text, "ids": ids, "embedding": rounded(embedding)})
    write_json(HERE / "minilm.json", {"max_tokens": 256, "cases": cases})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=pathlib.Path, help="folder of all-MiniLM-L6-v2 in f32")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    make_small_models()
    if arguments.minilm:
        make_minilm(arguments.minilm)


if __name__ == "__main__":
    main()
