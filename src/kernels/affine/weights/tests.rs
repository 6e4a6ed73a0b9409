use proptest::prelude::*;

use super::*;

const SYMMETRIC_AND_NOT: [(Levels, bool); 6] = [
    (Levels::Int8, true),
    (Levels::Int8, false),
    (Levels::Int4, true),
    (Levels::Int4, false),
    (Levels::Ternary, true),
    (Levels::Binary, true),
];

fn scheme() -> impl Strategy<Value = Scheme> {
    let granularity = prop_oneof![
        Just(Granularity::Tensor),
        Just(Granularity::Channel),
        prop_oneof![Just(1), Just(4), Just(8)].prop_map(Granularity::Group)
    ];
    (prop::sample::select(SYMMETRIC_AND_NOT.to_vec()), granularity)
        .prop_map(|((levels, symmetric), granularity)| Scheme { levels, symmetric, granularity })
}

/// Weights `[rows, columns]` of very different magnitudes.
fn matrix() -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
    let weight = prop_oneof![
        4 => -1.0f32..1.0,
        1 => -1e-3f32..1e-3,
        1 => -300.0f32..300.0,
        1 => Just(0.0f32),
    ];
    (1usize..5, 1usize..5).prop_flat_map(move |(rows, eighths)| {
        let columns = 8 * eighths;
        (Just(rows), Just(columns), prop::collection::vec(weight.clone(), rows * columns))
    })
}

/// The weights of each group, and their scale and zero point.
fn groups<'a>(q: &'a QuantizedWeights, weights: &'a [f32]) -> impl Iterator<Item = (&'a [f32], &'a [i8], f32, i32)> {
    let size = q.group_len();
    let zero = |g: usize| q.zero_point.get(g).map_or(0, |&z| i32::from(z));
    let parts = weights.chunks(size).zip(q.values.chunks(size)).enumerate();
    parts.map(move |(g, (w, values))| (w, values, q.scale[g], zero(g)))
}

proptest! {
    #[test]
    fn shapes_and_ranges_are_those_of_the_scheme((rows, columns, w) in matrix(), scheme in scheme()) {
        let q = quantize_weights(&w, rows, columns, scheme);
        let (min, max) = scheme.range();
        prop_assert!(q.values.iter().all(|&v| (min..=max).contains(&i32::from(v))));
        prop_assert!(q.scale.iter().all(|s| s.is_finite() && *s > 0.0));
        let scales = match scheme.granularity {
            Granularity::Tensor => 1,
            Granularity::Channel => rows,
            Granularity::Group(size) => rows * columns / size,
        };
        prop_assert_eq!(q.scale.len(), scales);
        prop_assert_eq!(q.zero_point.len(), if scheme.symmetric { 0 } else { scales });
        prop_assert!(scheme.levels != Levels::Binary || !q.values.contains(&0));
        prop_assert!(q.zero_point.iter().all(|&z| (min..=max).contains(&i32::from(z))));
    }

    #[test]
    fn uniform_levels_are_within_half_a_step((rows, columns, w) in matrix(), scheme in scheme()) {
        prop_assume!(scheme.levels.may_be_asymmetric());
        let q = quantize_weights(&w, rows, columns, scheme);
        for (weights, values, scale, zero) in groups(&q, &w) {
            for (&w, &v) in weights.iter().zip(values) {
                let back = (i32::from(v) - zero) as f32 * scale;
                // Half a step; an end of an asymmetric range may lie half a step outside, as its zero point is rounded.
                let allowed = if scheme.symmetric { 0.5001 } else { 1.0001 };
                prop_assert!((back - w).abs() <= allowed * scale, "{w} became {back} with step {scale}");
                prop_assert!(w != 0.0 || back == 0.0, "0 became {back}");
            }
        }
    }

    #[test]
    fn ternary_scale_and_threshold_are_as_defined((rows, columns, w) in matrix(), scheme in scheme()) {
        let scheme = Scheme::symmetric(Levels::Ternary, scheme.granularity);
        let q = quantize_weights(&w, rows, columns, scheme);
        for (weights, values, scale, _) in groups(&q, &w) {
            let threshold = 0.7 * weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len() as f64;
            let above: Vec<f64> = weights.iter().map(|w| f64::from(w.abs())).filter(|w| *w > threshold).collect();
            for (&w, &v) in weights.iter().zip(values) {
                let expected = if f64::from(w.abs()) > threshold { w.signum() } else { 0.0 };
                prop_assert_eq!(f32::from(v), expected);
            }
            let mean = above.iter().sum::<f64>() / above.len().max(1) as f64;
            prop_assert!(above.is_empty() || (f64::from(scale) / mean - 1.0).abs() < 1e-6, "{scale} for {mean}");
        }
    }

    /// No other scale for the same signs has a smaller error (Rastegari et al. 2016, equation 6); the same holds for
    /// ternary weights and their threshold (Li & Liu 2016, equation 4).
    #[test]
    fn coarse_scales_are_the_best_for_their_integers(
        (rows, columns, w) in matrix(), scheme in scheme(), factor in 0.5f32..1.5
    ) {
        prop_assume!(!scheme.levels.may_be_asymmetric());
        let q = quantize_weights(&w, rows, columns, scheme);
        let mut other = q.clone();
        other.scale.iter_mut().for_each(|s| *s = (*s * factor).max(f32::MIN_POSITIVE));
        prop_assert!(mse(&w, &q.dequantize()) <= mse(&w, &other.dequantize()) * (1.0 + 1e-5));
    }

    #[test]
    fn finer_groups_never_clip_more((rows, columns, w) in matrix(), levels in prop::sample::select(vec![
        Levels::Int4, Levels::Int8,
    ])) {
        // The largest possible error is half of the largest step, and a part's range is within the whole's.
        let largest_step = |granularity| {
            let q = quantize_weights(&w, rows, columns, Scheme::symmetric(levels, granularity));
            groups(&q, &w).filter(|(w, ..)| w.iter().any(|w| *w != 0.0)).map(|(_, _, s, _)| s).fold(0.0, f32::max)
        };
        let [tensor, channel, group] = [Granularity::Tensor, Granularity::Channel, Granularity::Group(8)].map(largest_step);
        prop_assert!(tensor >= channel && channel >= group);
    }

    #[test]
    fn dequantized_weights_quantize_to_themselves((rows, columns, w) in matrix(), scheme in scheme()) {
        prop_assume!(scheme.symmetric && scheme.levels != Levels::Ternary);
        let q = quantize_weights(&w, rows, columns, scheme);
        let again = quantize_weights(&q.dequantize(), rows, columns, scheme);
        let close = again.scale.iter().zip(&q.scale).all(|(a, b)| (a / b - 1.0).abs() < 1e-5);
        let zero = q.values.iter().all(|&v| v == 0);
        prop_assert!(zero || again.values == q.values);
        prop_assert!(zero || scheme.levels == Levels::Binary || close || q.scale.contains(&1.0));
    }
}

#[test]
fn known_groups_have_known_integers() {
    let of = |levels, symmetric, weights: &[f32]| {
        let scheme = Scheme { levels, symmetric, granularity: Granularity::Channel };
        let q = quantize_weights(weights, 1, weights.len(), scheme);
        (q.values, q.scale[0], q.zero_point.first().copied())
    };
    // Halves go to even.
    assert_eq!(of(Levels::Int4, true, &[7.0, 0.5, 1.5, 2.5, -7.0]), (vec![7, 0, 2, 2, -7], 1.0, None));
    assert_eq!(of(Levels::Int4, false, &[0.0, 15.0, 0.5, 1.5, 7.0]), (vec![-8, 7, -8, -6, -1], 1.0, Some(-8)));
    assert_eq!(of(Levels::Int8, false, &[-55.0, 200.0, 0.0]), (vec![-128, 127, -73], 1.0, Some(-73)));
    // All above zero: the range is widened to include it.
    assert_eq!(of(Levels::Int8, false, &[255.0, 254.0]), (vec![127, 126], 1.0, Some(-128)));
    // Mean 2, threshold 1.4: mean of 3 and 4.
    assert_eq!(of(Levels::Ternary, true, &[3.0, -4.0, 1.0, -0.0]), (vec![1, -1, 0, 0], 3.5, None));
    assert_eq!(of(Levels::Binary, true, &[3.0, -4.0, 1.0, -0.0]), (vec![1, -1, 1, 1], 2.0, None));
}

#[test]
fn groups_without_a_range_stay_zero() {
    for (levels, symmetric) in SYMMETRIC_AND_NOT {
        let scheme = Scheme { levels, symmetric, granularity: Granularity::Group(2) };
        let q = quantize_weights(&[0.0, -0.0, 1e-42, 0.0], 1, 4, scheme);
        assert!(q.dequantize().iter().all(|w| w.abs() <= f32::MIN_POSITIVE), "{scheme}: {:?}", q.dequantize());
        assert!(q.scale.iter().all(|s| *s > 0.0));
    }
}

#[test]
fn files_take_what_they_should() {
    let w = vec![0.5f32; 6 * 64];
    let bytes =
        |levels, symmetric, granularity| quantize_weights(&w, 6, 64, Scheme { levels, symmetric, granularity }).bytes();
    assert_eq!(bytes(Levels::Int8, true, Granularity::Channel), 6 * 64 + 6 * 4);
    assert_eq!(bytes(Levels::Int8, false, Granularity::Tensor), 6 * 64 + 4 + 1);
    assert_eq!(bytes(Levels::Int4, true, Granularity::Channel), 6 * 32 + 8 + 6 * 4);
    assert_eq!(bytes(Levels::Int4, false, Granularity::Group(32)), 6 * 32 + 8 + 12 * 4 + 2 * 4);
    assert_eq!(bytes(Levels::Ternary, true, Granularity::Channel), 6 * 16 + 8 + 6 * 4);
    assert_eq!(bytes(Levels::Binary, true, Granularity::Tensor), 6 * 8 + 8 + 4);
}

/// Signal to noise of Gaussian rows of 768, within 1 dB of what theory and simulation say: int8 42.4, int4 17.2, in
/// groups of 128 18.3 and of 32 20.2, ternary 7.2, binary 4.4.
#[test]
fn gaussian_rows_keep_the_expected_signal() {
    let mut random = crate::kernels::testing::Random::new(5);
    let mut gauss = || (0..12).map(|_| random.unit()).sum::<f32>() / 2.0;
    let w: Vec<f32> = (0..64 * 768).map(|_| gauss()).collect();
    let db = |levels, granularity| {
        let q = quantize_weights(&w, 64, 768, Scheme::symmetric(levels, granularity));
        sqnr_db(&w, &q.dequantize()).unwrap()
    };
    for (levels, granularity, expected) in [
        (Levels::Int8, Granularity::Channel, 42.4),
        (Levels::Int4, Granularity::Channel, 17.2),
        (Levels::Int4, Granularity::Group(128), 18.3),
        (Levels::Int4, Granularity::Group(32), 20.2),
        (Levels::Ternary, Granularity::Channel, 7.2),
        (Levels::Binary, Granularity::Channel, 4.4),
    ] {
        let found = db(levels, granularity);
        assert!((found - expected).abs() < 1.0, "{levels:?} {granularity}: {found} dB");
    }
}

#[test]
#[should_panic(expected = "does not fit rows of 30 weights")]
fn groups_that_do_not_divide_a_row_are_refused() {
    quantize_weights(&[0.0; 60], 2, 30, Scheme::symmetric(Levels::Int4, Granularity::Group(32)));
}

#[test]
fn only_integers_have_zero_points() {
    let asymmetric = |levels| Scheme { levels, symmetric: false, granularity: Granularity::Channel };
    assert_eq!(asymmetric(Levels::Ternary).groups(8), None);
    assert_eq!(asymmetric(Levels::Binary).groups(8), None);
    assert_eq!(asymmetric(Levels::Int4).groups(8), Some(1));
}
