"""Who takes part: octet and its peers, by the names that the results use."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import engines
import workload

# Engines that run inside worker.py: (models, threads) -> engine.
IN_PYTHON = {
    "openvino-int8-f32": lambda models, threads: engines.OpenVino(models, threads, "openvino-int8.xml", "f32"),
    "openvino-int8-bf16": lambda models, threads: engines.OpenVino(models, threads, "openvino-int8.xml", "bf16"),
    "openvino-int8-throughput": lambda models, threads: engines.OpenVinoThroughput(
        models, threads, "openvino-int8.xml", "f32"
    ),
    "openvino-f32": lambda models, threads: engines.OpenVino(models, threads, "openvino-f32.xml", "f32"),
    "openvino-bf16": lambda models, threads: engines.OpenVino(models, threads, "openvino-f32.xml", "bf16"),
    "onnxruntime-int8": lambda models, threads: engines.OnnxRuntime(models, threads, "int8.onnx"),
    "onnxruntime-int8-fused": lambda models, threads: engines.OnnxRuntime(models, threads, "int8-fused.onnx"),
    "onnxruntime-f32": lambda models, threads: engines.OnnxRuntime(models, threads, "f32.onnx"),
    "ctranslate2-int8": lambda models, threads: engines.CTranslate2(models, threads, "ctranslate2-int8"),
    "torch-int8": lambda models, threads: engines.Torch(models, threads, "int8"),
    "torch-f32": lambda models, threads: engines.Torch(models, threads, "f32"),
}


@dataclass(frozen=True)
class Entry:
    """A row of the comparison."""

    name: str
    title: str
    # Competes with octet's int8; the ratios count only these.
    int8: bool
    # One of IN_PYTHON, "rten", or "octet".
    engine: str
    # Added to the process's environment; {work} stands for the folder of run.sh.
    env: dict[str, str] = field(default_factory=dict)
    # More arguments of `octet bench`.
    flags: tuple[str, ...] = ()
    cells: tuple[str, ...] = workload.GRID
    orders: tuple[str, ...] = ("arrival", "sorted")
    # Without it the process is refused AMX; see amx.py.
    amx: bool = True


OCTET = Entry("octet", "octet int8", True, "octet", orders=("arrival",))

# In every round.
CONTENDERS = (
    OCTET,
    Entry("openvino-int8-f32", "OpenVINO int8, rest f32", True, "openvino-int8-f32"),
    Entry("openvino-int8-bf16", "OpenVINO int8, rest bf16", True, "openvino-int8-bf16"),
    Entry("openvino-int8-throughput", "OpenVINO int8, throughput hint", True, "openvino-int8-throughput", cells=()),
    Entry("onnxruntime-int8", "ONNX Runtime int8", True, "onnxruntime-int8"),
    Entry("ctranslate2-int8", "CTranslate2 int8", True, "ctranslate2-int8"),
    Entry("rten-int8", "rten int8", True, "rten"),
)

# In the first round only, on the stream as it arrives: slower than the contenders by a wide margin, or in f32.
OTHERS = (
    Entry("onnxruntime-int8-fused", "ONNX Runtime int8, fused first", True, "onnxruntime-int8-fused", orders=("arrival",)),
    Entry("torch-int8", "PyTorch dynamic int8", True, "torch-int8", orders=("arrival",)),
    Entry("openvino-bf16", "OpenVINO bf16", False, "openvino-bf16", orders=("arrival",)),
    Entry("openvino-f32", "OpenVINO f32", False, "openvino-f32", orders=("arrival",)),
    Entry("onnxruntime-f32", "ONNX Runtime f32", False, "onnxruntime-f32", orders=("arrival",)),
    Entry("torch-f32", "PyTorch f32", False, "torch-f32", orders=("arrival",)),
    # Its long cells and the stream take many seconds a run.
    Entry(
        "candle-f32",
        "candle f32 (octet --float)",
        False,
        "octet",
        flags=("--float",),
        cells=("1x16", "1x32", "1x128", "8x32", "8x128"),
        orders=(),
    ),
)


def onnxruntime_on(isa: str) -> Entry:
    """The copy of ONNX Runtime that takes the CPU for one with `isa` and no more; see avx2_onnxruntime.py."""
    name = "onnxruntime-int8"
    return Entry(name, "ONNX Runtime int8", True, name, env={"PYTHONPATH": f"{{work}}/onnxruntime-{isa}"})


# Its products saturate.
ONNXRUNTIME_AVX2 = replace(onnxruntime_on("avx2"), name="onnxruntime-int8-avx2", title="ONNX Runtime int8, AVX2 alone")


def without_avx512(isa: str) -> tuple[Entry, ...]:
    """All with AVX2 (`avx2`), or with AVX-VNNI as well (`avx_vnni`)."""
    one_dnn = {"avx2": "AVX2", "avx_vnni": "AVX2_VNNI"}[isa]
    openvino = "openvino-int8-f32"
    return (
        replace(OCTET, title=f"octet int8, {isa}", flags=("--set", f"engine.isa={isa}")),
        # A pass over the stream takes it most of a minute without VNNI.
        Entry(
            openvino,
            "OpenVINO int8, rest f32",
            True,
            openvino,
            env={"ONEDNN_MAX_CPU_ISA": one_dnn},
            orders=("arrival",) if isa == "avx_vnni" else (),
        ),
        onnxruntime_on(isa),
    )


# BERT-base's size. Cells of 128 tokens.
BASE_CELLS = ("1x128", "8x128")
BASE = tuple(
    replace(entry, cells=BASE_CELLS, orders=())
    for entry in (*CONTENDERS, *OTHERS)
    if entry.name
    in ("octet", "openvino-int8-f32", "openvino-int8-bf16", "onnxruntime-int8", "rten-int8", "ctranslate2-int8", "candle-f32")
)


def without_amx(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """The int8 engines of `entries` and octet's f32 path on AVX-512 VNNI."""
    isa = lambda entry: ("--set", "engine.isa=avx512_vnni") if entry.engine == "octet" else ()
    own = lambda entry: entry.int8 or entry.engine == "octet"
    return tuple(replace(entry, amx=False, flags=(*entry.flags, *isa(entry))) for entry in entries if own(entry))


@dataclass(frozen=True)
class Place:
    """Where things are; all paths absolute."""

    # Of run.sh: virtual environment, models, results.
    work: Path
    # The peers' models, from export.py.
    models: Path
    # octet's int8 model.
    octet_model: Path
    # The f32 checkpoint that all models come from.
    float_model: Path
    octet: Path
    rten: Path
    python: Path
