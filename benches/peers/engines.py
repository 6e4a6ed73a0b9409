"""The peers behind one method: ids and mask of shape [batch, tokens] in, last hidden states out.

An engine gets the folder of its models (see export.py) and the number of threads that it may use, and nothing else: no
engine is told what it will be timed on. All take the ids as int64 numpy arrays and give [batch, tokens, hidden] f32.
"""

from pathlib import Path

import numpy as np


class Engine:
    """One peer, loaded. Subclasses give `run`; those that can run several batches at once also give `run_all`."""

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def run_all(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Runs (ids, mask) of every batch; returns when all are done."""
        for ids, mask in batches:
            self.run(ids, mask)


class OnnxRuntime(Engine):
    """ONNX Runtime with all graph optimizations."""

    def __init__(self, models: Path, threads: int, file: str):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(models / file), options, providers=["CPUExecutionProvider"])

    def run(self, ids, mask):
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return self.session.run(None, feed)[0]


class OpenVino(Engine):
    """OpenVINO; `precision` is the type of what is not int8, f32 or bf16."""

    def __init__(self, models: Path, threads: int, file: str, precision: str):
        self.request = compile_openvino(models / file, threads, precision, "LATENCY").create_infer_request()

    def run(self, ids, mask):
        return self.request.infer(openvino_inputs(ids, mask), share_inputs=True, share_outputs=True)[0]


class OpenVinoThroughput(Engine):
    """OpenVINO with its throughput hint: as many requests at once as it asks for."""

    def __init__(self, models: Path, threads: int, file: str, precision: str):
        import openvino

        self.queue = openvino.AsyncInferQueue(compile_openvino(models / file, threads, precision, "THROUGHPUT"))

    def run(self, ids, mask):
        request = self.queue[self.queue.get_idle_request_id()]
        return request.infer(openvino_inputs(ids, mask), share_outputs=True)[0]

    def run_all(self, batches):
        for ids, mask in batches:
            self.queue.start_async(openvino_inputs(ids, mask))
        self.queue.wait_all()


def compile_openvino(file: Path, threads: int, precision: str, hint: str):
    import openvino

    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision}
    return openvino.Core().compile_model(file, "CPU", config)


def openvino_inputs(ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


class CTranslate2(Engine):
    """CTranslate2: `threads` threads for one batch, and for many batches one thread for each of `threads` batches."""

    def __init__(self, models: Path, threads: int, file: str):
        import ctranslate2

        def encoder(workers: int, threads_each: int):
            return ctranslate2.Encoder(
                str(models / file), device="cpu", compute_type="int8", inter_threads=workers, intra_threads=threads_each
            )

        self.threads = threads
        self.together = encoder(1, threads)
        self.apart = encoder(threads, 1)

    def run(self, ids, mask):
        return np.asarray(self.encode(self.together, ids, mask).last_hidden_state)

    def run_all(self, batches):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(lambda batch: self.encode(self.apart, *batch), batches))

    @staticmethod
    def encode(encoder, ids: np.ndarray, mask: np.ndarray):
        import ctranslate2

        view = ctranslate2.StorageView.from_array
        return encoder.forward_batch(view(ids.astype(np.int32)), view(mask.sum(axis=1).astype(np.int32)))


class Torch(Engine):
    """PyTorch through transformers with scaled dot-product attention: f32, or dynamic int8 of the linear layers."""

    def __init__(self, models: Path, threads: int, precision: str):
        import torch
        from transformers import AutoModel

        torch.set_num_threads(threads)
        model = AutoModel.from_pretrained(models / "hf", dtype=torch.float32).eval()
        if precision == "int8":
            torch.backends.quantized.engine = "x86"
            # A scale per output channel; the default, one per matrix, is far less accurate and not faster.
            linear = {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
            model = torch.ao.quantization.quantize_dynamic(model, linear)
        self.torch, self.model = torch, model

    def run(self, ids, mask):
        tensor = self.torch.from_numpy
        with self.torch.inference_mode():
            return self.model(tensor(ids), tensor(mask)).last_hidden_state.numpy()
