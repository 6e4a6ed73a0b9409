//! Every kernel on every instruction set this CPU has, beside rten-gemm and candle's quantized product.
//!
//! One thread on one core, for numbers that compare:
//!
//! `RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 taskset -c 1 cargo bench --bench kernels -- gemm/`

use std::hint::black_box;
use std::time::Duration;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use octet::kernels::affine::{Granularity, Levels, QParams, Scheme, quantize_weight_s8, quantize_weights};
use octet::kernels::{
    Activation, AttentionScratch, COLUMN_BLOCK, Factor, FloatWeights, GroupedScratch, GroupedWeights, Int8Rows, Isa,
    Kernels, LayerNorm, PackedWeights, QuantizedRows, RowRange, float_gemm,
};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

/// Outputs and inputs of the products of MiniLM-L6 and of BERT-base.
const PRODUCTS: [(usize, usize); 8] =
    [(384, 384), (1152, 384), (1536, 384), (384, 1536), (768, 768), (2304, 768), (3072, 768), (768, 3072)];
/// Those of their feed-forward networks.
const FFN_PRODUCTS: [(usize, usize); 4] = [(1536, 384), (384, 1536), (3072, 768), (768, 3072)];
/// Weights with more than one scale per output channel, or a zero point.
const GROUPED: [(&str, Scheme); 3] = [
    ("int8 in groups of 64", Scheme::symmetric(Levels::Int8, Granularity::Group(64))),
    ("int4 in groups of 32", Scheme::symmetric(Levels::Int4, Granularity::Group(32))),
    ("int8 with zero points", Scheme { levels: Levels::Int8, symmetric: false, granularity: Granularity::Channel }),
];
/// Weights that together fit no cache of a core's share.
const COLD_BYTES: usize = 128 << 20;

/// Values from -1 to 1 in a fixed irregular order.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// The kernels worth timing: scalar code is there to be right.
fn vector_kernels() -> impl Iterator<Item = Kernels> {
    Kernels::available().into_iter().filter(|kernels| kernels.isa() != Isa::Scalar)
}

/// Int8 products; a rate of 1 Gelem/s is 1 GMAC/s. `quantize+` includes quantizing the activations,
/// as candle's product does; rten-gemm's gives i32 without scales or zero points.
fn gemm(c: &mut Criterion) {
    let theirs = GemmExecutor::<u8, i8, i32>::default();
    for (n, k) in PRODUCTS {
        let weight = values(n * k);
        let (q, scale) = quantize_weight_s8(&weight, n, k);
        let bias = values(n);
        let weight_view = NdTensorView::from_data([n, k], q.as_slice());
        let their_weight = theirs.prepack_b(weight_view.transposed());
        let candle_weight = Tensor::from_slice(&weight, (n, k), &Device::Cpu).unwrap();
        let candle_weight = QTensor::quantize(&candle_weight, GgmlDType::Q8_0).unwrap();
        let candle = QMatMul::from_qtensor(candle_weight).unwrap();
        let mut group = c.benchmark_group(format!("gemm/{n}x{k}"));
        for m in [16, 32, 128, 512] {
            group.throughput(Throughput::Elements((m * n * k) as u64));
            let x = values(m * k);
            let mut rows = QuantizedRows::new();
            let mut out = vec![0f32; m * n];
            for kernels in vector_kernels() {
                let packed = PackedWeights::pack(kernels, &q, &scale, Some(&bias), n, k);
                kernels.quantize_rows(&x, k, &mut rows);
                group.bench_function(BenchmarkId::new(kernels.gemm_name(), m), |b| {
                    b.iter(|| kernels.gemm(&rows, &packed, &mut out));
                });
                group.bench_function(BenchmarkId::new(format!("quantize+{}", kernels.gemm_name()), m), |b| {
                    b.iter(|| {
                        kernels.quantize_rows(&x, k, &mut rows);
                        kernels.gemm(&rows, &packed, &mut out);
                    });
                });
            }
            let bytes: Vec<u8> = (0..m).flat_map(|i| rows.row(i)).copied().collect();
            let mut sums = vec![0i32; m * n];
            group.bench_function(BenchmarkId::new(format!("rten {}", theirs.kernel_name()), m), |b| {
                b.iter(|| {
                    let a = GemmInputA::Unpacked(NdTensorView::from_data([m, k], bytes.as_slice()));
                    theirs.gemm(&mut sums, a, GemmInputB::Packed(&their_weight), GemmOptions::default()).unwrap();
                });
            });
            let tensor = Tensor::from_slice(&x, (m, k), &Device::Cpu).unwrap();
            group.bench_function(BenchmarkId::new("candle QMatMul Q8_0", m), |b| {
                b.iter(|| black_box(candle.forward(&tensor).unwrap()));
            });
        }
        group.finish();
    }
}

/// All other products: of weights in groups, of some columns, in f32 for float layers, and those of training.
fn other_products(c: &mut Criterion) {
    for (n, k) in FFN_PRODUCTS {
        let (weight, bias) = (values(n * k), values(n));
        let (q, scale) = quantize_weight_s8(&weight, n, k);
        let float = FloatWeights::pack(&weight, &bias, n, k);
        let columns = n / 2 / COLUMN_BLOCK * COLUMN_BLOCK;
        let mut group = c.benchmark_group(format!("other products/{n}x{k}"));
        for m in [16, 128] {
            let macs = Throughput::Elements((m * n * k) as u64);
            let (x, mut rows, mut out) = (values(m * k), QuantizedRows::new(), vec![0f32; m * n]);
            let name = |product: &str, kernels: Kernels| BenchmarkId::new(format!("{product}/{}", kernels.isa()), m);
            for kernels in vector_kernels() {
                kernels.quantize_rows(&x, k, &mut rows);
                group.throughput(macs.clone());
                for (scheme_name, scheme) in GROUPED {
                    let weights = GroupedWeights::pack(kernels, &quantize_weights(&weight, n, k, scheme), &bias);
                    let mut scratch = GroupedScratch::default();
                    group.bench_function(name(scheme_name, kernels), |b| {
                        b.iter(|| kernels.gemm_grouped(&rows, &weights, &mut scratch, &mut out));
                    });
                }
                group.bench_function(name("f32", kernels), |b| b.iter(|| kernels.gemm_f32(&x, &float, &mut out)));
                if kernels.has_bf16() {
                    let factors = || (Factor::stored(&x), Factor::transposed(&weight));
                    group.bench_function(name("bf16, training", kernels), |b| {
                        b.iter(|| kernels.gemm_bf16(&mut out, factors().0, factors().1, (m, n, k)));
                    });
                }
                let packed = PackedWeights::pack(kernels, &q, &scale, Some(&bias), n, k);
                group.throughput(Throughput::Elements((m * columns * k) as u64));
                group.bench_function(name("half of the columns", kernels), |b| {
                    b.iter(|| kernels.gemm_columns(&rows, &packed, columns..2 * columns, &mut out, n));
                });
            }
            group.throughput(macs);
            group.bench_function(BenchmarkId::new("f32, training", m), |b| {
                b.iter(|| float_gemm(&mut out, Factor::stored(&x), Factor::transposed(&weight), (m, n, k)));
            });
        }
        group.finish();
    }
}

/// Products whose weights are not in any cache, as for the first request after a pause: each takes the next of many
/// copies.
fn gemm_cold(c: &mut Criterion) {
    for (n, k) in [(1536, 384), (384, 1536)] {
        let (q, scale) = quantize_weight_s8(&values(n * k), n, k);
        let copies = COLD_BYTES.div_ceil(n * k);
        let mut group = c.benchmark_group(format!("gemm cold/{n}x{k}"));
        for kernels in vector_kernels() {
            let pack = || PackedWeights::pack(kernels, &q, &scale, None, n, k);
            let packed: Vec<_> = (0..copies).map(|_| pack()).collect();
            let mut next = packed.iter().cycle();
            for m in [16, 32, 128] {
                group.throughput(Throughput::Elements((m * n * k) as u64));
                let mut rows = QuantizedRows::new();
                kernels.quantize_rows(&values(m * k), k, &mut rows);
                let mut out = vec![0f32; m * n];
                group.bench_function(BenchmarkId::new(kernels.gemm_name(), m), |b| {
                    b.iter(|| kernels.gemm(&rows, next.next().unwrap(), &mut out));
                });
            }
        }
        group.finish();
    }
}

/// Steps on rows of 48 tokens, as the encoder takes them; a rate is elements a second.
fn rows(c: &mut Criterion) {
    let (m, hidden, inner) = (48, 384, 1536);
    let static_range = QParams::for_range_u8(-1.0, 1.0);
    let mut group = c.benchmark_group("rows");
    for kernels in vector_kernels() {
        let isa = kernels.isa();
        let (x, factors) = (values(m * inner), values(inner));
        let (mut quantized, mut ranges) = (QuantizedRows::new(), Vec::<RowRange>::new());
        group.throughput(Throughput::Elements((m * inner) as u64));
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            // On a copy each time: of its own results, again and again, GELU makes subnormal numbers, a hundred times
            // slower.
            group.bench_function(format!("{activation:?}/{isa}"), |b| {
                b.iter_batched_ref(|| x.clone(), |y| kernels.activate(activation, y), BatchSize::LargeInput);
            });
        }
        let mut bench = |step: &str, work: &mut dyn FnMut()| {
            group.bench_function(format!("{step}/{isa}"), |b| b.iter(&mut *work));
        };
        bench("quantize", &mut || kernels.quantize_rows(&x, inner, &mut quantized));
        bench("quantize smoothed", &mut || kernels.smooth_quantize_rows(&factors, &x, &mut quantized));
        bench("quantize static", &mut || kernels.quantize_rows_static(&x, inner, static_range, &mut quantized));
        bench("quantize static smoothed", &mut || {
            kernels.smooth_quantize_rows_static(&factors, &x, static_range, &mut quantized)
        });
        bench("ranges", &mut || kernels.row_ranges(&x, m, inner, None, &mut ranges));
        bench("quantize within ranges", &mut || {
            kernels.quantize_rows_within(&x, inner, None, &ranges, &mut quantized);
        });
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            for (name, smoothing) in [("", None), (" smoothed", Some(factors.as_slice()))] {
                bench(&format!("{activation:?}+quantize{name}"), &mut || {
                    kernels.activate_quantize(activation, &x, inner, smoothing, &mut quantized);
                });
            }
        }

        group.throughput(Throughput::Elements((m * hidden) as u64));
        let (gamma, beta, factors) = (values(hidden), values(hidden), values(hidden));
        let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
        let x = values(m * hidden);
        let mut stream = x.clone();
        // Rows from all over a table of the size of a word table.
        let (words, scale): (Vec<i8>, _) = ((0..30_000 * hidden).map(|i| i as i8).collect(), values(30_000));
        let (table, mut first) = (Int8Rows { values: &words, scale: &scale, k: hidden }, 0);
        let mut bench = |step: &str, work: &mut dyn FnMut()| {
            group.bench_function(format!("{step}/{isa}"), |b| b.iter(&mut *work));
        };
        bench("gather", &mut || {
            first += 7_919;
            kernels.gather::<false>(table, (0..m).map(|i| (first + i * 6_007) % 30_000), &mut stream);
        });
        bench("gather and add", &mut || kernels.gather::<true>(table, 0..m, &mut stream));
        bench("layer_norm", &mut || kernels.layer_norm(norm, &mut stream));
        bench("layer_norm+quantize", &mut || kernels.layer_norm_quantize(norm, &mut stream, None, &mut quantized));
        bench("add+layer_norm", &mut || kernels.add_layer_norm(norm, &x, &mut stream));
        for (name, smoothing) in [("", None), (" smoothed", Some(factors.as_slice()))] {
            bench(&format!("add+layer_norm+quantize{name}"), &mut || {
                kernels.add_layer_norm_quantize(norm, &x, &mut stream, smoothing, &mut quantized);
            });
        }
    }
    group.finish();
}

/// All 12 heads of one sequence; a rate of 1 Gelem/s is 1 GMAC/s over both products.
fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for head_dim in [32, 64] {
        for tokens in [16, 32, 128, 512] {
            let (heads, width) = (12, 12 * head_dim);
            let qkv = values(tokens * 3 * width);
            let mut out = vec![0f32; tokens * width];
            let mut scratch = AttentionScratch::new();
            group.throughput(Throughput::Elements((2 * tokens * tokens * width) as u64));
            for kernels in vector_kernels() {
                group.bench_function(BenchmarkId::new(format!("{}/12x{head_dim}", kernels.isa()), tokens), |b| {
                    b.iter(|| kernels.attention(&qkv, &[&qkv], heads, head_dim, &mut scratch, &mut out));
                });
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400));
    targets = gemm, other_products, gemm_cold, rows, attention
}
criterion_main!(kernels);
