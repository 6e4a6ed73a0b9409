use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::*;
use crate::kernels::affine::quantize_weight_s8;
use crate::kernels::arena::Arena;
use crate::kernels::microkernel::avx_vnni::Avx512Vnni256;
use crate::kernels::pack::{MAX_K, pack_panels};
use crate::kernels::reference;
use crate::kernels::testing::{GUARDS, Guarded, Random};

/// A matrix product with random scales and biases.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    q: Vec<u8>,
    zero_point: Vec<i32>,
    row_scale: Vec<f32>,
    weight: Vec<i8>,
    column_scale: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn random(m: usize, n: usize, k: usize, seed: u64) -> Case {
        let mut random = Random::new(seed);
        Case {
            m,
            n,
            k,
            q: random.bytes(m * k),
            zero_point: random.bytes(m).into_iter().map(i32::from).collect(),
            row_scale: random.floats(m, 0.1),
            weight: random.signed_bytes(n * k),
            column_scale: random.floats(n, 0.01),
            bias: random.floats(n, 3.0),
        }
    }

    /// The largest products there are, and both ends of the zero points.
    fn extreme(m: usize, n: usize, k: usize) -> Case {
        let mut case = Case::random(m, n, k, 7);
        case.q.fill(255);
        for (i, z) in case.zero_point.iter_mut().enumerate() {
            *z = if i % 2 == 0 { 0 } else { 255 };
        }
        for (j, row) in case.weight.chunks_mut(k.max(1)).enumerate() {
            row.fill([-127, 127, -128][j % 3]);
        }
        case
    }

    fn sums(&self) -> Vec<i32> {
        reference::gemm_i32(&self.q, &self.zero_point, &self.weight, self.n, self.k)
    }

    fn floats(&self) -> Vec<f32> {
        reference::scale_sums(&self.sums(), &self.row_scale, &self.column_scale, &self.bias)
    }

    fn rows(&self) -> QuantizedRows {
        QuantizedRows::from_parts(&self.q, &self.row_scale, &self.zero_point, self.k)
    }

    fn pack(&self, kernels: Kernels) -> PackedWeights {
        PackedWeights::pack(kernels, &self.weight, &self.column_scale, Some(&self.bias), self.n, self.k)
    }

    /// Compares both products on every kernel this CPU can run with the reference.
    fn check(&self) {
        let (sums, floats) = (self.sums(), bits(&self.floats()));
        let shape = (self.m, self.n, self.k);
        for kernels in Kernels::available() {
            let (rows, mut packed) = (self.rows(), self.pack(kernels));
            let mut out = vec![i32::MIN; self.m * self.n];
            kernels.gemm_i32(&rows, &packed, &mut out);
            assert_eq!(out, sums, "sums of {} at {shape:?}", kernels.gemm_name());
            packed.move_to(&Arena::new(PackedWeights::panel_bytes(kernels, self.n, self.k)));
            assert!(packed.is_in_arena(), "an arena of its size has room");
            let mut out = vec![f32::NAN; self.m * self.n];
            kernels.gemm(&rows, &packed, &mut out);
            assert_eq!(bits(&out), floats, "floats of {} at {shape:?}", kernels.gemm_name());
        }
        if has_evex_256() {
            let padded = Padded::new(self, Avx512Vnni256::LAYOUT);
            let mut out = vec![i32::MIN; self.m * self.n];
            // SAFETY: the CPU has AVX-512 VL and VNNI.
            unsafe { product::<Avx512Vnni256>(padded.rows(), padded.panels(), Output::Sums(&mut out), self.n) };
            assert_eq!(out, sums, "sums of {EVEX_256} at {shape:?}");
            let mut out = vec![f32::NAN; self.m * self.n];
            // SAFETY: as above.
            unsafe { product::<Avx512Vnni256>(padded.rows(), padded.panels(), Output::Floats(&mut out), self.n) };
            assert_eq!(bits(&out), floats, "floats of {EVEX_256} at {shape:?}");
        }
    }
}

/// The inputs of a product as the kernels read them, padded.
struct Padded {
    stride: usize,
    depth: usize,
    n: usize,
    bytes: Vec<u8>,
    row_scale: Vec<f32>,
    zero_point: Vec<i32>,
    weights: Vec<i8>,
    column_scale: Vec<f32>,
    bias: Vec<f32>,
    minus_column_sum: Vec<i32>,
}

impl Padded {
    fn new(case: &Case, layout: Layout) -> Padded {
        let (n, k, stride) = (case.n, case.k, case.k.next_multiple_of(4));
        let padded_n = n.next_multiple_of(layout.columns);
        let mut bytes = vec![0xaa; case.m * stride + SPARE_BYTES];
        for i in 0..case.m {
            bytes[i * stride..][..k].copy_from_slice(&case.q[i * k..][..k]);
        }
        let pad = |values: &[f32]| values.iter().copied().chain(std::iter::repeat(0.0)).take(padded_n).collect();
        let minus_column_sum = (0..padded_n)
            .map(|j| if j < n { -case.weight[j * k..][..k].iter().map(|&w| i32::from(w)).sum::<i32>() } else { 0 })
            .collect();
        Padded {
            stride,
            depth: k.next_multiple_of(layout.step),
            n,
            bytes,
            row_scale: case.row_scale.clone(),
            zero_point: case.zero_point.clone(),
            weights: pack_panels(&case.weight, n, k, layout).as_slice().to_vec(),
            column_scale: pad(&case.column_scale),
            bias: pad(&case.bias),
            minus_column_sum,
        }
    }

    fn rows(&self) -> Rows<'_> {
        Rows { bytes: &self.bytes, stride: self.stride, scale: &self.row_scale, zero_point: &self.zero_point }
    }

    fn panels(&self) -> Panels<'_> {
        Panels {
            weights: &self.weights,
            depth: self.depth,
            scale: &self.column_scale,
            bias: &self.bias,
            minus_column_sum: &self.minus_column_sum,
            n: self.n,
        }
    }
}

/// The 256-bit `vpdpbusd` kernel in its EVEX coding, which only tests use.
const EVEX_256: &str = "x86_64-u8i8i32-avx512vnni-256 (test twin of x86_64-u8i8i32-avxvnni)";

fn has_evex_256() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn says_which_kernels_ran() {
    for kernels in Kernels::available() {
        println!("tested: {}", kernels.gemm_name());
    }
    for isa in Isa::ALL {
        if let Err(error) = Kernels::for_isa(isa) {
            println!("not tested as such: {error}");
        }
    }
    println!("{}: {EVEX_256}", if has_evex_256() { "tested" } else { "not tested" });
}

#[test]
fn sums_and_floats_are_bit_equal_to_the_reference_at_every_edge() {
    for m in [0, 1, 2, 3, 5, 6, 7, 13] {
        for n in [0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 130] {
            for k in [0, 1, 3, 4, 5, 15, 16, 18, 33] {
                Case::random(m, n, k, (m * 10_000 + n * 100 + k) as u64).check();
                Case::extreme(m, n, k).check();
            }
        }
    }
}

#[test]
fn tiles_of_any_height_and_panels_of_any_number_are_bit_equal_to_the_reference() {
    for m in [15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 97] {
        for (n, k) in [(16, 64), (31, 63), (64, 65), (65, 128), (100, 130), (150, 192)] {
            Case::random(m, n, k, (m * 10_000 + n * 100 + k) as u64).check();
            Case::extreme(m, n, k).check();
        }
    }
}

#[test]
fn long_rows_are_exact_up_to_the_longest_allowed() {
    for k in [4095, 4096, 4097, 8200, MAX_K] {
        Case::random(3, 3, k, k as u64).check();
        Case::extreme(3, 3, k).check();
    }
}

#[test]
fn many_rows_cross_row_blocks() {
    Case::random(100, 80, 4100, 3).check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_and_floats_are_bit_equal_to_the_reference(
        m in 0usize..70, n in 0usize..150, k in 0usize..200, seed in any::<u64>(),
    ) {
        Case::random(m, n, k, seed).check();
    }
}

#[test]
fn no_kernel_touches_memory_outside_its_slices() {
    fn check<K: Product>(name: &str) {
        for m in [1, 2, 5, 6, 7, 13, 17, 49] {
            for (n, k) in
                [(1, 1), (8, 4), (15, 5), (16, 16), (17, 18), (63, 33), (64, 64), (65, 4), (130, 7), (81, 129)]
            {
                let case = Case::random(m, n, k, 5);
                let padded = Padded::new(&case, K::layout());
                for guard in GUARDS {
                    let bytes = Guarded::new(&padded.bytes, guard);
                    let row_scale = Guarded::new(&padded.row_scale, guard);
                    let zero_point = Guarded::new(&padded.zero_point, guard);
                    let weights = Guarded::new(&padded.weights, guard);
                    let column_scale = Guarded::new(&padded.column_scale, guard);
                    let bias = Guarded::new(&padded.bias, guard);
                    let minus_column_sum = Guarded::new(&padded.minus_column_sum, guard);
                    let rows =
                        Rows { bytes: &bytes, stride: padded.stride, scale: &row_scale, zero_point: &zero_point };
                    let panels = Panels {
                        weights: &weights,
                        depth: padded.depth,
                        scale: &column_scale,
                        bias: &bias,
                        minus_column_sum: &minus_column_sum,
                        n,
                    };
                    let mut sums = Guarded::new(&vec![0i32; m * n], guard);
                    let mut floats = Guarded::new(&vec![0f32; m * n], guard);
                    let wide = n + 3;
                    let mut apart = Guarded::new(&vec![-1f32; (m * wide).saturating_sub(3)], guard);
                    // SAFETY: `check` is called for kernels the CPU has.
                    unsafe {
                        product::<K>(rows, panels, Output::Sums(&mut sums), n);
                        product::<K>(rows, panels, Output::Floats(&mut floats), n);
                        product::<K>(rows, panels, Output::Floats(&mut apart), wide);
                    }
                    for (i, row) in apart.chunks(wide).enumerate() {
                        assert_eq!(bits(&row[..n]), bits(&floats[i * n..][..n]), "{name}, rows apart");
                        assert!(row[n..].iter().all(|x| *x == -1.0), "{name} wrote between rows");
                    }
                    assert_eq!(*sums, case.sums(), "{name} at {:?} {guard:?}", (m, n, k));
                    assert_eq!(bits(&floats), bits(&case.floats()), "{name} at {:?} {guard:?}", (m, n, k));
                }
            }
        }
        println!("ran between guard pages: {name}");
    }
    for kernels in Kernels::available() {
        match kernels.isa() {
            Isa::Scalar => check::<scalar::Scalar>(kernels.gemm_name()),
            Isa::Avx2 => check::<avx2::Avx2>(kernels.gemm_name()),
            Isa::AvxVnni => check::<avx_vnni::AvxVnni>(kernels.gemm_name()),
            Isa::Avx512Vnni => check::<avx512_vnni::Avx512Vnni>(kernels.gemm_name()),
            Isa::AmxInt8 => check::<amx_int8::AmxInt8>(kernels.gemm_name()),
        }
    }
    if has_evex_256() {
        check::<Avx512Vnni256>(EVEX_256);
    }
}

/// rten-gemm 0.27 multiplies without zero points here: given one per row, it is wrong from the second full tile of
/// 8 rows on. Ours with zero points is theirs minus the zero point times the column sum.
#[test]
fn sums_agree_with_rten_gemm() {
    use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
    use rten_tensor::NdTensorView;

    let gemm = GemmExecutor::<u8, i8, i32>::default();
    for (m, n, k) in [(1, 1, 1), (6, 64, 384), (17, 50, 33), (33, 384, 100)] {
        let mut case = Case::random(m, n, k, 11);
        if gemm.may_saturate() {
            case.q.iter_mut().for_each(|q| *q /= 2);
        }
        let mut theirs = vec![0i32; m * n];
        let a = NdTensorView::from_data([m, k], case.q.as_slice());
        let b = NdTensorView::from_data([n, k], case.weight.as_slice());
        let (a, b) = (GemmInputA::Unpacked(a), GemmInputB::Unpacked(b.transposed()));
        gemm.gemm(&mut theirs, a, b, GemmOptions::default()).unwrap();
        for (at, sum) in theirs.iter_mut().enumerate() {
            let column_sum: i32 = case.weight[at % n * k..][..k].iter().map(|&w| i32::from(w)).sum();
            *sum -= case.zero_point[at / n] * column_sum;
        }
        for kernels in Kernels::available() {
            let mut ours = vec![0i32; m * n];
            kernels.gemm_i32(&case.rows(), &case.pack(kernels), &mut ours);
            assert!(ours == theirs, "{} and {} differ at {:?}", kernels.gemm_name(), gemm.kernel_name(), (m, n, k));
        }
    }
}

#[test]
fn gemm_approximates_the_float_product() {
    let (m, n, k) = (3, 21, 37);
    let mut random = Random::new(1);
    let (x, weight, bias) = (random.floats(m * k, 2.0), random.floats(n * k, 0.6), random.floats(n, 1.0));
    let (q, scale) = quantize_weight_s8(&weight, n, k);
    for kernels in Kernels::available() {
        let packed = PackedWeights::pack(kernels, &q, &scale, Some(&bias), n, k);
        let mut rows = QuantizedRows::new();
        kernels.quantize_rows(&x, k, &mut rows);
        let mut out = vec![0.0; m * n];
        kernels.gemm(&rows, &packed, &mut out);
        for (at, &y) in out.iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let exact: f32 = (0..k).map(|l| x[i * k + l] * weight[j * k + l]).sum::<f32>() + bias[j];
            assert!((y - exact).abs() < 0.1, "[{i}, {j}]: {y} for {exact}");
        }
    }
}

#[test]
fn columns_of_a_product_are_those_of_the_whole() {
    for (m, n, k) in [(1, 64, 64), (5, 130, 70), (17, 200, 384), (33, 256, 31)] {
        let case = Case::random(m, n, k, 11);
        for kernels in Kernels::available() {
            let (rows, packed) = (case.rows(), case.pack(kernels));
            let mut parts = vec![0.0; m * n];
            for start in (0..n).step_by(2 * COLUMN_BLOCK) {
                let columns = start..(start + 2 * COLUMN_BLOCK).min(n);
                kernels.gemm_columns(&rows, &packed, columns, &mut parts[start..], n);
            }
            assert_eq!(bits(&parts), bits(&case.floats()), "{} at {:?}", kernels.gemm_name(), (m, n, k));
            kernels.gemm_columns(&rows, &packed, COLUMN_BLOCK..COLUMN_BLOCK, &mut [], 0);
        }
    }
}

#[test]
fn a_missing_bias_is_zero() {
    let case = Case::random(2, 3, 4, 1);
    let kernels = Kernels::detect();
    let packed = PackedWeights::pack(kernels, &case.weight, &case.column_scale, None, 3, 4);
    let mut out = vec![0.0; 6];
    kernels.gemm(&case.rows(), &packed, &mut out);
    let expected = reference::scale_sums(&case.sums(), &case.row_scale, &case.column_scale, &[0.0; 3]);
    assert_eq!(bits(&out), bits(&expected));
}

/// The message of the panic in `f`.
fn panic_message(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("this should have panicked");
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap()
}

#[test]
fn weights_packed_for_another_instruction_set_are_a_named_panic() {
    let case = Case::random(2, 3, 4, 1);
    let available = Kernels::available();
    for (packer, runner) in available.iter().zip(available.iter().skip(1)) {
        let packed = case.pack(*packer);
        let message = panic_message(|| runner.gemm(&case.rows(), &packed, &mut [0.0; 6]));
        assert!(message.contains(packer.isa().name()) && message.contains(runner.isa().name()), "{message}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_panics() {
    let case = Case::random(2, 3, 4, 1);
    let kernels = Kernels::detect();
    let packed = case.pack(kernels);
    let message = panic_message(|| kernels.gemm(&case.rows(), &packed, &mut [0.0; 5]));
    assert!(message.contains("m * n"), "{message}");
    let message = panic_message(|| kernels.gemm(&Case::random(2, 3, 5, 1).rows(), &packed, &mut [0.0; 6]));
    assert!(message.contains("differ in k"), "{message}");
    let message = panic_message(|| kernels.gemm_columns(&case.rows(), &packed, 1..3, &mut [0.0; 4], 2));
    assert!(message.contains("within a block"), "{message}");
    let message = panic_message(|| kernels.gemm_columns(&case.rows(), &packed, 0..4, &mut [0.0; 8], 4));
    assert!(message.contains("0..4 of 3"), "{message}");
    let message = panic_message(|| {
        PackedWeights::pack(kernels, &vec![0; MAX_K + 1], &[1.0], None, 1, MAX_K + 1);
    });
    assert!(message.contains("65537"), "{message}");
}
