#!/usr/bin/env python3
"""Makes tests/goldens/compressed: `bert-classify` as the compressed-tensors package itself writes it, in several schemes.

    python3 -m venv /tmp/goldens && . /tmp/goldens/bin/activate
    pip install -r tests/goldens/requirements.txt compressed-tensors
    python tests/goldens/make_compressed.py

expected.json has what PyTorch computes in f32 with the weights that the stored integers stand for.
"""

import json
import pathlib
import shutil
import warnings

import compressed_tensors
import torch
import transformers
from compressed_tensors import ModelCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus
from compressed_tensors.quantization import apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from make_foreign import HERE, load, results
from safetensors.torch import load_file

OUT = HERE / "compressed"
INPUTS = QuantizationArgs(num_bits=8, symmetric=True, strategy="token", dynamic=True)


def weights(**options):
    return QuantizationArgs(num_bits=8, type="int", dynamic=False, **options)


# Name, dtype of the model, targets, modules left out, arguments of the weights, format.
RECIPES = [
    ("channel", torch.float32, ["Linear"], ["classifier"], weights(symmetric=True, strategy="channel"), "int-quantized"),
    ("asymmetric", torch.float32, ["Linear"], [], weights(symmetric=False, strategy="channel"), "int-quantized"),
    ("tensor", torch.bfloat16, ["re:.*encoder.*"], ["re:.*output.dense"], weights(symmetric=False, strategy="tensor"),
     "naive-quantized"),
    ("group", torch.float32, ["Linear"], ["classifier"],
     weights(symmetric=True, strategy="group", group_size=16), "int-quantized"),
]


def quantize(model, targets, ignore, arguments):
    scheme = QuantizationScheme(targets=targets, weights=arguments, input_activations=INPUTS)
    config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=ignore)
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is None:
            continue
        weight = module.weight.detach().float()
        if arguments.strategy == "group":
            groups = weight.reshape(weight.shape[0], -1, arguments.group_size)
            lowest, highest = groups.amin(-1), groups.amax(-1)
        elif arguments.strategy == "channel":
            lowest, highest = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        else:
            lowest, highest = weight.amin().reshape(1), weight.amax().reshape(1)
        scale, zero_point = calculate_qparams(lowest, highest, arguments)
        module.weight_scale.data = scale.to(module.weight_scale.dtype).reshape(module.weight_scale.shape)
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data = zero_point.to(module.weight_zero_point.dtype).reshape(module.weight_zero_point.shape)
        module.quantization_status = QuantizationStatus.FROZEN


def dequantized(tensors):
    """The float model whose weights the integers of a folder stand for."""
    state = {}
    for key, value in tensors.items():
        if value.dtype == torch.int8 and key.endswith(".weight"):
            scale = tensors[key + "_scale"].float()
            zero_point = tensors.get(key + "_zero_point", torch.zeros_like(scale)).float()
            groups = value.float().reshape(value.shape[0], scale.shape[1] if scale.ndim == 2 else 1, -1)
            state[key] = ((groups - zero_point.unsqueeze(-1)) * scale.unsqueeze(-1)).reshape(value.shape)
        elif not key.endswith(("_scale", "_zero_point")):
            state[key] = value.float()
    model = load("bert-classify")
    model.load_state_dict(state)
    return model


def main():
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(OUT, ignore_errors=True)
    packages = (torch, transformers, compressed_tensors)
    expected = {"made_with": {package.__name__: package.__version__ for package in packages}, "folders": {}}
    for name, dtype, targets, ignore, arguments, format in RECIPES:
        model = load("bert-classify").to(dtype)
        quantize(model, targets, ignore, arguments)
        compressor = ModelCompressor.from_pretrained_model(model, quantization_format=format)
        compressor.compress_model(model)
        folder = OUT / name
        model.save_pretrained(folder)
        compressor.update_config(folder)
        expected["folders"][name] = results("bert-classify", dequantized(load_file(folder / "model.safetensors")))
        print(name, sorted(f.name for f in folder.iterdir()), (folder / "model.safetensors").stat().st_size)
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
