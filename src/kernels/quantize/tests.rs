use super::*;
use crate::kernels::affine::{quantize_row_u8, quantize_row_u8_static};
use crate::kernels::testing::{EDGE_SIZES, GUARDS, Guarded, Random};

/// Scale bits, zero point and integers of each row; all NaNs are one.
fn parts(rows: &QuantizedRows) -> Vec<(u32, i32, Vec<u8>)> {
    let bits = |scale: f32| if scale.is_nan() { f32::NAN.to_bits() } else { scale.to_bits() };
    (0..rows.rows()).map(|i| (bits(rows.scale()[i]), rows.zero_point()[i], rows.row(i).to_vec())).collect()
}

fn rows_to_quantize(k: usize) -> Vec<f32> {
    let mut random = Random::new(k as u64 + 1);
    let mut x = random.floats(2 * k, 3.0);
    x.extend(random.wild_floats(k));
    x.extend(random.floats(k, 1.0).iter().map(|x| x + 2.0)); // all above zero
    x.extend(random.floats(k, 1.0).iter().map(|x| x - 2.0)); // all below zero
    x.extend(vec![0.0; k]);
    x.extend((0..k).map(|l| l as f32 - 2.5)); // halves
    x.extend(random.floats(k, 3e38));
    x.extend((0..k).map(|l| if l + 1 == k { f32::NAN } else { 1.0 }));
    x.extend((0..k).map(|l| if l == k / 2 { f32::INFINITY } else { 1.0 }));
    x
}

#[test]
fn quantized_rows_are_what_the_definition_says_on_every_isa() {
    for k in EDGE_SIZES.into_iter().chain([384, 1537]).filter(|&k| k > 0) {
        let x = rows_to_quantize(k);
        let mut expected = QuantizedRows::new();
        let (mut q, mut scale, mut zero_point) = (vec![0u8; x.len()], vec![], vec![]);
        for (row, q) in x.chunks(k).zip(q.chunks_mut(k)) {
            let params = quantize_row_u8(row, q);
            scale.push(params.scale);
            zero_point.push(params.zero_point);
        }
        expected.clone_from(&QuantizedRows::from_parts(&q, &scale, &zero_point, k));
        for kernels in Kernels::available() {
            let mut rows = QuantizedRows::new();
            kernels.quantize_rows(&x, k, &mut rows);
            assert_eq!(parts(&rows), parts(&expected), "{} at k = {k}", kernels.isa());
        }
    }
}

#[test]
fn parts_of_rows_quantized_within_the_ranges_of_the_whole_are_parts_of_the_whole() {
    for k in EDGE_SIZES.into_iter().chain([384]).filter(|&k| k > 0) {
        let x = rows_to_quantize(k);
        let m = x.len() / k;
        let factors: Vec<f32> = Random::new(9).floats(k, 4.0).iter().map(|f| f.abs() + 0.1).collect();
        for (kernels, smoothing) in
            Kernels::available().into_iter().flat_map(|kernels| [(kernels, None), (kernels, Some(&factors))])
        {
            let of_columns = |columns: std::ops::Range<usize>| smoothing.map(|factors: &Vec<f32>| &factors[columns]);
            let mut whole = QuantizedRows::new();
            match smoothing {
                None => kernels.quantize_rows(&x, k, &mut whole),
                Some(factors) => kernels.smooth_quantize_rows(factors, &x, &mut whole),
            }
            let cuts = [0..k / 3, k / 3..k / 3, k / 3..k];
            let columns = cuts.clone().map(|cut| x.chunks(k).flat_map(|row| &row[cut.clone()]).copied().collect());
            let columns: [Vec<f32>; 3] = columns;
            let (mut ranges, mut own) = (vec![RowRange::default(); m], Vec::new());
            for (columns, cut) in columns.iter().zip(&cuts) {
                kernels.row_ranges(columns, m, cut.len(), of_columns(cut.clone()), &mut own);
                ranges.iter_mut().zip(&own).for_each(|(all, own)| *all = all.union(*own));
            }
            let mut parts_of_rows = [QuantizedRows::new(), QuantizedRows::new(), QuantizedRows::new()];
            for ((columns, cut), part) in columns.iter().zip(&cuts).zip(&mut parts_of_rows) {
                kernels.quantize_rows_within(columns, cut.len(), of_columns(cut.clone()), &ranges, part);
            }
            let mut joined = QuantizedRows::with_capacity(1, 7);
            joined.join_columns(parts_of_rows.iter());
            assert_eq!(parts(&joined), parts(&whole), "{} at k = {k}", kernels.isa());
            if smoothing.is_some() {
                continue;
            }
            let halves = [&x[..m / 2 * k], &x[m / 2 * k..]].map(|rows| {
                let mut half = QuantizedRows::new();
                kernels.quantize_rows(rows, k, &mut half);
                half
            });
            joined.join_rows(halves.iter());
            assert_eq!(parts(&joined), parts(&whole), "{} at k = {k}", kernels.isa());
        }
    }
}

#[test]
fn static_rows_are_what_the_definition_says_on_every_isa() {
    let all = [(0.02, 120), (1e-30, 0), (1e30, 255), (f32::MIN_POSITIVE, 7)];
    for (k, (scale, zero_point)) in [1, 16, 70, 385].into_iter().flat_map(|k| all.map(|params| (k, params))) {
        let (x, params) = (rows_to_quantize(k), QParams { scale, zero_point });
        for kernels in Kernels::available() {
            let mut rows = QuantizedRows::new();
            kernels.quantize_rows_static(&x, k, params, &mut rows);
            for (row, found) in x.chunks(k).zip(parts(&rows)) {
                let mut q = vec![0u8; k];
                let params = quantize_row_u8_static(row, params, &mut q);
                let scale = if params.scale.is_nan() { f32::NAN } else { params.scale };
                assert_eq!(found, (scale.to_bits(), params.zero_point, q), "{} at k = {k}", kernels.isa());
            }
        }
    }
}

#[test]
fn smoothed_rows_are_the_rows_of_what_was_multiplied_on_every_isa() {
    let params = QParams { scale: 0.02, zero_point: 120 };
    for k in EDGE_SIZES.into_iter().chain([384, 1537]).filter(|&k| k > 0) {
        let x = rows_to_quantize(k);
        for guard in GUARDS {
            let smoothing: Vec<f32> = (0..k).map(|l| [0.25, 1.0, 3.7, 0.013, 32.0][l % 5]).collect();
            let multiplied: Vec<f32> = x.iter().zip(smoothing.iter().cycle()).map(|(x, f)| x * f).collect();
            let (x, smoothing) = (Guarded::new(&x, guard), Guarded::new(&smoothing, guard));
            for kernels in Kernels::available() {
                let (mut rows, mut expected) = (QuantizedRows::new(), QuantizedRows::new());
                kernels.smooth_quantize_rows(&smoothing, &x, &mut rows);
                kernels.quantize_rows(&multiplied, k, &mut expected);
                assert_eq!(parts(&rows), parts(&expected), "{} at k = {k}", kernels.isa());
                kernels.smooth_quantize_rows_static(&smoothing, &x, params, &mut rows);
                kernels.quantize_rows_static(&multiplied, k, params, &mut expected);
                assert_eq!(parts(&rows), parts(&expected), "static, {} at k = {k}", kernels.isa());
            }
        }
    }
}

#[test]
#[should_panic(expected = "one factor per channel")]
fn smoothing_of_another_width_is_refused() {
    let norm = crate::kernels::LayerNorm { gamma: &[1.0; 4], beta: &[0.0; 4], eps: 0.0 };
    Kernels::detect().layer_norm_quantize(norm, &mut [0.0; 4], Some(&[1.0; 3]), &mut QuantizedRows::new());
}

#[test]
fn a_reused_buffer_gives_the_same_rows_and_zero_padding() {
    let kernels = Kernels::detect();
    let mut reused = QuantizedRows::with_capacity(3, 100);
    for k in [100, 7, 33, 5, 64, 1] {
        let x = rows_to_quantize(k);
        kernels.quantize_rows(&x, k, &mut reused);
        let mut fresh = QuantizedRows::new();
        kernels.quantize_rows(&x, k, &mut fresh);
        assert_eq!(parts(&reused), parts(&fresh));
        let (rows, depth) = (reused.as_rows(), k.next_multiple_of(4));
        assert!(rows.bytes.chunks(depth).take(reused.rows()).all(|row| row[k..].iter().all(|&q| q == 0)));
    }
    kernels.quantize_rows(&[], 5, &mut reused);
    assert_eq!(reused.rows(), 0);
}

#[test]
fn activate_quantize_is_activate_then_quantize() {
    for k in EDGE_SIZES.into_iter().chain([1536]).filter(|&k| k > 0) {
        let factors: Vec<f32> = Random::new(5).floats(k, 4.0).iter().map(|f| f.abs() + 0.1).collect();
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            for kernels in Kernels::available() {
                let mut x = rows_to_quantize(k);
                let (mut rows_one, mut rows_two) = (QuantizedRows::new(), QuantizedRows::new());
                let (mut smooth_one, mut smooth_two) = (QuantizedRows::new(), QuantizedRows::new());
                kernels.activate_quantize(activation, &x, k, None, &mut rows_one);
                kernels.activate_quantize(activation, &x, k, Some(&factors), &mut smooth_one);
                kernels.activate(activation, &mut x);
                kernels.quantize_rows(&x, k, &mut rows_two);
                kernels.smooth_quantize_rows(&factors, &x, &mut smooth_two);
                assert_eq!(parts(&rows_one), parts(&rows_two), "{activation:?} on {} at {k}", kernels.isa());
                assert_eq!(parts(&smooth_one), parts(&smooth_two), "{activation:?} on {} at {k}", kernels.isa());
            }
        }
    }
}

#[test]
fn quantization_stays_inside_its_slices() {
    for k in EDGE_SIZES.into_iter().filter(|&k| k > 0) {
        let stride = k.next_multiple_of(4);
        for (guard, m) in GUARDS.into_iter().flat_map(|guard| [(guard, 1), (guard, ROWS + 1)]) {
            for kernels in Kernels::available() {
                let x = Guarded::new(&vec![1.5f32; m * k], guard);
                let mut bytes = Guarded::new(&vec![0u8; m * stride], guard);
                let mut scale = Guarded::new(&vec![0f32; m], guard);
                let mut zero_point = Guarded::new(&vec![0i32; m], guard);
                let out = RowsMut { bytes: &mut bytes, scale: &mut scale, zero_point: &mut zero_point, stride };
                kernels.run(QuantizeRows { x: &x, k, smoothing: Plain, out });
                let out = RowsMut { bytes: &mut bytes, scale: &mut scale, zero_point: &mut zero_point, stride };
                let mut ranges = vec![RowRange::default(); m];
                kernels.run(RowRanges { x: &x, smoothing: Plain, ranges: &mut ranges });
                kernels.run(QuantizeRowsWithin { x: &x, k, smoothing: Plain, ranges: &ranges, out });
                let out = RowsMut { bytes: &mut bytes, scale: &mut scale, zero_point: &mut zero_point, stride };
                let mut activated = Guarded::new(&vec![0f32; ACTIVATED_ROWS * k], guard);
                let (activation, activated) = (Activation::Gelu, &mut activated[..]);
                kernels.run(ActivateQuantize { activation, x: &x, k, smoothing: Plain, activated, out });
            }
        }
    }
}

#[test]
#[should_panic(expected = "no whole number of rows of 4")]
fn a_broken_row_is_refused() {
    Kernels::detect().quantize_rows(&[0.0; 6], 4, &mut QuantizedRows::new());
}
