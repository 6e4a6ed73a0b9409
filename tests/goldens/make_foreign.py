#!/usr/bin/env python3
"""Makes tests/goldens/foreign: the small golden models as other programs write them, by those programs themselves.

    python3 -m venv /tmp/goldens && . /tmp/goldens/bin/activate
    pip install -r tests/goldens/requirements.txt onnx onnxruntime onnxscript
    python tests/goldens/make_foreign.py

Each file comes from the golden folder that expected.json names beside it. expected.json has, per file,

    with      the golden folder
    integers  per weight: SHA-256 of its int8 values [rows, columns], first and last scale, and the zero points if any is
              not 0, all taken from the file by this script, by the names of nodes and modules
    vectors   names of biases and norms that are integers in the file too
    logits    (or hidden) what PyTorch computes in f32 for the cases of golden.json with the weights that those integers
              stand for

so that an importer that mixes up two weights, a transposition or a scale is found out.
"""

import hashlib
import json
import pathlib
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "foreign"


def load(name):
    config = json.loads((HERE / name / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    bare = {"add_pooling_layer": False} if config["architectures"][0] == "BertModel" else {}
    model = kind.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager", **bare)
    return model.eval()


def inputs(model, case):
    values = {"input_ids": torch.tensor([case["ids"]]), "attention_mask": torch.ones(1, len(case["ids"]), dtype=torch.int64)}
    if model.config.model_type == "bert":
        values["token_type_ids"] = torch.tensor([case["type_ids"]])
    return values


def results(name, model):
    """Logits, or hidden states where there is no head, of the golden cases."""
    key = "logits" if hasattr(model, "classifier") else "hidden"
    rows = []
    for case in json.loads((HERE / name / "golden.json").read_text())["cases"]:
        with torch.no_grad():
            out = model(**inputs(model, case))
        row = out.logits[0] if key == "logits" else out.last_hidden_state.flatten()
        rows.append([round(v, 6) for v in row.tolist()])
    return {key: rows}


def described(weights):
    """weights: name -> (int8 values [rows, columns], scales, zero points)."""
    entry = {}
    for name, (values, scales, zero_points) in sorted(weights.items()):
        scales, zero_points = np.atleast_1d(scales).astype(np.float32), np.atleast_1d(zero_points).astype(np.int64)
        entry[name] = {
            "sha256": hashlib.sha256(np.ascontiguousarray(values.astype(np.int8)).tobytes()).hexdigest(),
            "scales": [float(scales[0]), float(scales[-1])],
        }
        if zero_points.any():
            entry[name]["zero_points"] = [int(zero_points[0]), int(zero_points[-1])]
    return entry


def dequantized(name, weights, vectors):
    """The float model whose weights are those integers."""
    model = load(name)
    state = model.state_dict() | {vector: torch.tensor(values) for vector, values in vectors.items()}
    for weight, (values, scales, zero_points) in weights.items():
        scales, zero_points = (np.atleast_1d(v).astype(np.float64).reshape(-1, 1) for v in (scales, zero_points))
        state[weight] = torch.tensor(((values.astype(np.float64) - zero_points) * scales).astype(np.float32))
    model.load_state_dict(state)
    return model


def expectation(name, weights, vectors={}):
    entry = {"with": name, "integers": described(weights), "vectors": sorted(vectors)}
    return entry | results(name, dequantized(name, weights, vectors))


def torch_files():
    """Yields (file, expectation)."""
    model = load("bert")
    torch.save(model.state_dict(), OUT / "torch-float.bin")
    yield "torch-float.bin", {"with": "bert", "integers": {}}
    linear = torch.nn.Linear
    recipes = {
        "torch-dynamic.pt": {"qconfig_spec": {linear}, "dtype": torch.qint8},
        "torch-dynamic-channel.pt": {"qconfig_spec": {linear: torch.ao.quantization.per_channel_dynamic_qconfig}},
    }
    for file, options in recipes.items():
        quantized = torch.quantization.quantize_dynamic(load("bert-classify"), **options)
        torch.save(quantized.state_dict(), OUT / file)
        weights = {}
        for module, layer in quantized.named_modules():
            if isinstance(layer, torch.ao.nn.quantized.dynamic.Linear):
                weight = layer.weight()
                if weight.qscheme() == torch.per_tensor_affine:
                    parameters = weight.q_scale(), weight.q_zero_point()
                else:
                    parameters = weight.q_per_channel_scales().numpy(), weight.q_per_channel_zero_points().numpy()
                weights[f"{module}.weight"] = (weight.int_repr().numpy(), *parameters)
        yield file, expectation("bert-classify", weights)


class Wrapped(torch.nn.Module):
    """Positional inputs, and one tensor out."""

    def __init__(self, model):
        super().__init__()
        self.m = model

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        out = self.m(input_ids=input_ids, attention_mask=attention_mask, **types)
        return out.logits if hasattr(out, "logits") else out.last_hidden_state


def export(name, path, opset, dynamo=False, attention="eager"):
    model = load(name)
    model.config._attn_implementation = attention
    ids = torch.randint(5, 100, (2, 8))
    values = [ids, torch.ones_like(ids)] + [torch.zeros_like(ids)] * (model.config.model_type == "bert")
    names = ["input_ids", "attention_mask", "token_type_ids"][: len(values)]
    options = {"input_names": names, "output_names": ["output"], "opset_version": opset, "dynamo": dynamo}
    if dynamo:
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
        options |= {"dynamic_shapes": tuple(axes for _ in names), "external_data": False, "verbose": False}
    else:
        options["dynamic_axes"] = {name: {0: "batch", 1: "tokens"} for name in names}
    with torch.no_grad():
        torch.onnx.export(Wrapped(model).eval(), tuple(values), str(path), **options)
    if dynamo:
        forget_sources(path)


def forget_sources(path):
    """Takes out the stack traces that this exporter writes beside each node, with the paths of the machine it ran on."""
    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    onnx.save(model, path)


def modules(path):
    """Initializer of each weight of a float graph -> module, by the scopes that the exporter put into node names."""
    found = {}
    for node in onnx.load(path).graph.node:
        if node.op_type in ("MatMul", "Gemm") and ("onnx::" in node.input[1] or node.input[1].endswith(".weight")):
            found[node.input[1]] = node.name.removeprefix("/m/").rsplit("/", 1)[0].replace("/", ".") + ".weight"
    return found


def onnx_weights(float_path, path):
    """Integers of a quantized graph: weight -> (values [rows, columns], scales, zero points); vector -> floats."""
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    names, weights, vectors = modules(float_path), {}, {}

    def signed(values, zero_points):
        shift = 128 if values.dtype == np.uint8 else 0
        return values.astype(np.int16) - shift, zero_points.astype(np.int16) - shift

    for tensor, values in tensors.items():
        stem = tensor.removesuffix("_quantized")
        if stem == tensor or values.ndim not in (1, 2):
            continue
        own = tensor if tensor + "_scale" in tensors else stem  # biases have scales named after their integers
        scales, zero_points = tensors[own + "_scale"], tensors[own + "_zero_point"]
        if values.ndim == 1:
            if stem.startswith("m."):
                centered = values.astype(np.int64) - zero_points.astype(np.int64)
                vectors[stem.removeprefix("m.")] = centered.astype(np.float32) * scales.astype(np.float32)
            continue
        values, zero_points = signed(values, zero_points)
        if stem.startswith("Attention_"):
            layer = f"bert.encoder.layer.{stem.split('_')[1]}.attention.self"
            for part, third in zip(("query", "key", "value"), np.split(values, 3, axis=1)):
                weights[f"{layer}.{part}.weight"] = (third.T, scales, zero_points)
        elif "embeddings" in stem:
            weights[stem.removeprefix("m.")] = (values, scales, zero_points)
        elif stem in names and "onnx::" not in stem:  # Gemm, transB = 1
            weights[names[stem]] = (values, scales, zero_points)
        else:
            module = names.get(stem) or stem.removeprefix("m.").removesuffix("_Transposed")
            weights[module] = (values.T, scales, zero_points)
    return weights, vectors


class Calibration(CalibrationDataReader):
    def __init__(self):
        random = np.random.default_rng(0)
        mask, types = np.ones((1, 24), np.int64), np.zeros((1, 24), np.int64)
        ids = (random.integers(5, 146, (1, 24)) for _ in range(8))
        self.batches = ({"input_ids": i, "attention_mask": mask, "token_type_ids": types} for i in ids)

    def get_next(self):
        return next(self.batches, None)


def onnx_files(scratch):
    """Yields (file, expectation)."""
    floats = {
        "onnx-distilbert.onnx": ("distilbert-multilabel", {"opset": 14}),
        "onnx-roberta-dynamo.onnx": ("roberta-classify", {"opset": 18, "dynamo": True}),
        "onnx-bert-dynamo-sdpa.onnx": ("bert", {"opset": 18, "dynamo": True, "attention": "sdpa"}),
        "onnx-gelu-tanh.onnx": ("bert-gelu-tanh", {"opset": 14, "attention": "sdpa"}),
        "onnx-relu.onnx": ("bert-relu", {"opset": 17}),
    }
    for file, (name, options) in floats.items():
        export(name, OUT / file, **options)
        yield file, {"with": name, "integers": {}}

    plain, fused, heads = scratch / "plain.onnx", scratch / "fused.onnx", scratch / "heads.onnx"
    export("bert-classify", plain, 17)
    for path, multi_head in ((fused, False), (heads, True)):
        options = FusionOptions("bert")
        options.use_multi_head_attention = multi_head
        optimizer.optimize_model(str(plain), "bert", 3, 48, optimization_options=options).save_model_to_file(str(path))
    unseen = {"extra_options": {"DefaultTensorType": TensorProto.FLOAT}}
    recipes = {
        "onnx-dynamic-channel.onnx": (plain, {"weight_type": QuantType.QInt8, "per_channel": True}),
        "onnx-dynamic-tensor.onnx": (plain, {"weight_type": QuantType.QUInt8}),
        "onnx-fused-attention.onnx": (fused, {"weight_type": QuantType.QInt8} | unseen),
        "onnx-fused-heads.onnx": (heads, {"weight_type": QuantType.QUInt8, "per_channel": True} | unseen),
    }
    for file, (source, options) in recipes.items():
        quantize_dynamic(source, OUT / file, **options)
        yield file, expectation("bert-classify", *onnx_weights(plain, OUT / file))
    file = "onnx-qdq.onnx"
    quantize_static(
        plain, OUT / file, Calibration(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )
    yield file, expectation("bert-classify", *onnx_weights(plain, OUT / file))


def main():
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    packages = (torch, transformers, onnx, onnxruntime)
    expected = {"made_with": {package.__name__: package.__version__ for package in packages}}
    with tempfile.TemporaryDirectory() as scratch:
        expected["files"] = dict(torch_files()) | dict(onnx_files(pathlib.Path(scratch)))
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for file in sorted(OUT.iterdir()):
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main()
