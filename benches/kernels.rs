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
use octet::kernels::affine::quantize_weight_s8;
use octet::kernels::{Activation, AttentionScratch, Int8Rows, Isa, Kernels, LayerNorm, PackedWeights, QuantizedRows};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

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

/// Products of MiniLM-L6's sizes; a rate of 1 Gelem/s is 1 GMAC/s. `quantize+` includes quantizing the activations,
/// as candle's product does; rten-gemm's gives i32 without scales or zero points.
fn gemm(c: &mut Criterion) {
    let theirs = GemmExecutor::<u8, i8, i32>::default();
    for (n, k) in [(384, 384), (1152, 384), (1536, 384), (384, 1536)] {
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
    let mut group = c.benchmark_group("rows");
    for kernels in vector_kernels() {
        let isa = kernels.isa();
        let mut quantized = QuantizedRows::new();
        group.throughput(Throughput::Elements((m * inner) as u64));
        let x = values(m * inner);
        group
            .bench_function(format!("quantize/{isa}"), |b| b.iter(|| kernels.quantize_rows(&x, inner, &mut quantized)));
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            // On a copy each time: of its own results, again and again, GELU makes subnormal numbers, a hundred times
            // slower.
            group.bench_function(format!("{activation:?}/{isa}"), |b| {
                b.iter_batched_ref(|| x.clone(), |y| kernels.activate(activation, y), BatchSize::LargeInput);
            });
            group.bench_function(format!("{activation:?}+quantize/{isa}"), |b| {
                b.iter(|| kernels.activate_quantize(activation, &x, inner, None, &mut quantized));
            });
        }
        group.throughput(Throughput::Elements((m * hidden) as u64));
        let (gamma, beta) = (values(hidden), values(hidden));
        let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
        let x = values(m * hidden);
        let mut stream = x.clone();
        // Rows from all over a table of the size of a word table.
        let (words, scale): (Vec<i8>, _) = ((0..30_000 * hidden).map(|i| i as i8).collect(), values(30_000));
        let table = Int8Rows { values: &words, scale: &scale, k: hidden };
        group.bench_function(format!("gather/{isa}"), |b| {
            let mut first = 0;
            b.iter(|| {
                first += 7_919;
                kernels.gather::<false>(table, (0..m).map(|i| (first + i * 6_007) % 30_000), &mut stream);
            });
        });
        group.bench_function(format!("add+layer_norm/{isa}"), |b| {
            b.iter(|| kernels.add_layer_norm(norm, &x, &mut stream));
        });
        group.bench_function(format!("add+layer_norm+quantize/{isa}"), |b| {
            b.iter(|| kernels.add_layer_norm_quantize(norm, &x, &mut stream, None, &mut quantized));
        });
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
    targets = gemm, gemm_cold, rows, attention
}
criterion_main!(kernels);
