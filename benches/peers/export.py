#!/usr/bin/env python3
"""Makes every peer's model from one f32 checkpoint: f32 and int8 ONNX, OpenVINO's f32 and int8, CTranslate2's int8.

    python export.py --model FOLDER --out FOLDER --calibration train.jsonl

What is already there is not made again.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import engines
import workload

CALIBRATION_TEXTS = 400


def onnx_f32(model: Path, out: Path) -> None:
    """The plain export: three inputs, last_hidden_state out, nothing fused, so that each runtime fuses as it likes."""
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = AutoModel.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.inner(input_ids, attention_mask, token_type_ids).last_hidden_state

    ids = torch.ones((2, 8), dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    with torch.no_grad():
        torch.onnx.export(
            Encoder(),
            (ids, torch.ones_like(ids), torch.zeros_like(ids)),
            str(out),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in [*names, "last_hidden_state"]},
            opset_version=17,
            dynamo=False,
        )


def onnx_int8(f32: Path, out: Path) -> None:
    """Dynamic quantization: s8 weights, one scale per output channel, of the MatMuls with weights only."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        f32,
        out,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # What ONNX's shape inference does not see behind ONNX Runtime's own operators.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def onnx_fused(f32: Path, model: Path, out: Path) -> None:
    """ONNX Runtime's own transformer optimizer: MultiHeadAttention, SkipLayerNormalization and BiasGelu."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    options = FusionOptions("bert")
    options.use_multi_head_attention = True
    optimized = optimizer.optimize_model(
        str(f32), "bert", config.num_attention_heads, config.hidden_size, optimization_options=options
    )
    optimized.save_model_to_file(str(out))


def openvino_f32(f32: Path, out: Path) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(f32), out, compress_to_fp16=False)


def openvino_int8(f32: Path, model: Path, calibration: Path, out: Path) -> None:
    """NNCF's post-training quantization with its transformer preset (SmoothQuant) and fast bias correction."""
    import nncf
    import openvino

    texts = workload.read_texts(calibration)
    # Evenly from the whole file, which holds one source after the other.
    sample = workload.tokenize(model, texts[:: len(texts) // CALIBRATION_TEXTS][:CALIBRATION_TEXTS])
    quantized = nncf.quantize(
        openvino.Core().read_model(f32),
        nncf.Dataset(sample, lambda ids: engines.openvino_inputs(ids[None], np.ones_like(ids[None]))),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(sample),
        fast_bias_correction=True,
    )
    openvino.save_model(quantized, out, compress_to_fp16=False)


def ctranslate2_int8(model: Path, out: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(model)).convert(str(out), quantization="int8", force=True)


def make(path: Path, recipe, *inputs) -> None:
    """Runs `recipe(*inputs, path)` unless `path` is there."""
    if path.exists():
        return
    print(f"making {path.parent.name}/{path.name}", file=sys.stderr)
    recipe(*inputs, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="f32 checkpoint with its tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="jsonl of texts, a sample of which is taken")
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    make(out / "hf", lambda link: link.symlink_to(args.model.resolve()))
    make(out / "f32.onnx", onnx_f32, args.model)
    make(out / "int8.onnx", onnx_int8, out / "f32.onnx")
    make(out / "f32-fused.onnx", onnx_fused, out / "f32.onnx", args.model)
    make(out / "int8-fused.onnx", onnx_int8, out / "f32-fused.onnx")
    make(out / "openvino-f32.xml", openvino_f32, out / "f32.onnx")
    make(out / "openvino-int8.xml", openvino_int8, out / "openvino-f32.xml", args.model, args.calibration)
    make(out / "ctranslate2-int8", ctranslate2_int8, args.model)


if __name__ == "__main__":
    main()
