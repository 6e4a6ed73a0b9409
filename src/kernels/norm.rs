//! Layer norm (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>), fused with the residual sum before it and the
//! quantization after it.

use super::isa::Kernels;
use super::lanes::{LaneKernel, Lanes, groups};
use super::quantize::{Plain, ROWS, Range, Smoothing, quantize_group};
use super::rows::{QuantizedRows, RowsMut, row_count};

/// Parameters of a layer norm over rows of `gamma.len()` values.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Factor of each channel, `[k]`.
    pub gamma: &'a [f32],
    /// Added to each channel, `[k]`.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm<'_> {
    /// The row length.
    ///
    /// # Panics
    /// When `gamma` and `beta` differ in length.
    fn k(&self) -> usize {
        assert_eq!(self.gamma.len(), self.beta.len(), "layer norm needs gamma and beta of one length");
        self.gamma.len()
    }
}

/// Sums of 16 lanes that take turns, so that neither waits for the one before.
const SUMS: usize = 2;

/// A sum over a row: groups of 16 go to the two sums in turn, the sums are added, and then their lanes as [`Lanes::sum`]
/// says.
#[inline(always)]
fn sum_of_row<V: Lanes>(k: usize, mut group: impl FnMut(usize, usize, V) -> V) -> f32 {
    let mut sums = [V::splat(0.0); SUMS];
    groups(
        k,
        #[inline(always)]
        |i, count| sums = [sums[1], group(i, count, sums[0])],
    );
    sums[0].add(sums[1]).sum()
}

/// `row += x` when there is an `x`; gives the mean of the row.
#[inline(always)]
fn add_and_mean<V: Lanes>(x: Option<&[f32]>, row: &mut [f32]) -> f32 {
    let k = row.len();
    assert!(x.is_none_or(|x| x.len() == k));
    let at = row.as_mut_ptr();
    let sum = sum_of_row::<V>(
        k,
        #[inline(always)]
        // SAFETY: `count` values from `i` on are in both slices, which have `k` values (asserted above).
        |i, count, sum| unsafe {
            let mut v = V::load_first(at.add(i), count, 0.0);
            if let Some(x) = x {
                v = v.add(V::load_first(x.as_ptr().add(i), count, 0.0));
                v.store_first(at.add(i), count);
            }
            sum.add(v)
        },
    );
    sum / k as f32
}

/// The mean of the squared differences to `mean`.
#[inline(always)]
fn variance<V: Lanes>(row: &[f32], mean: f32) -> f32 {
    let at = row.as_ptr();
    let sum = sum_of_row::<V>(
        row.len(),
        #[inline(always)]
        |i, count, sum| {
            // SAFETY: `count` values from `i` on are in the row. The lanes after its end are mean - mean = 0.
            let d = unsafe { V::load_first(at.add(i), count, mean) }.sub(V::splat(mean));
            d.mul_add(d, sum)
        },
    );
    sum / row.len() as f32
}

/// `row = (row * inverse - mean * inverse) * gamma + beta`; gives the range of the result, smoothed.
#[inline(always)]
fn scale_and_shift<V: Lanes>(
    norm: &LayerNorm<'_>,
    smoothing: impl Smoothing,
    mean: f32,
    inverse: f32,
    row: &mut [f32],
) -> Range<V> {
    let k = row.len();
    assert!(norm.gamma.len() == k && norm.beta.len() == k);
    assert!(smoothing.fits(k), "smoothing needs one factor per channel");
    let (at, gamma, beta) = (row.as_mut_ptr(), norm.gamma.as_ptr(), norm.beta.as_ptr());
    let (inverse, shift) = (V::splat(inverse), V::splat(-mean * inverse));
    let mut range = Range::new();
    groups(
        k,
        #[inline(always)]
        // SAFETY: `count` values from `i` on are in all three slices, which have `k` values and which the smoothing fits
        // (asserted above). The lanes after their end become 0, as their gamma and beta are.
        |i, count| unsafe {
            let d = V::load_first(at.add(i), count, mean).mul_add(inverse, shift);
            let y = d.mul_add(V::load_first(gamma.add(i), count, 0.0), V::load_first(beta.add(i), count, 0.0));
            y.store_first(at.add(i), count);
            range.include(smoothing.apply(y, i, count));
        },
    );
    range
}

struct Normalize<'a, S> {
    norm: LayerNorm<'a>,
    x: Option<&'a [f32]>,
    hidden: &'a mut [f32],
    smoothing: S,
    out: Option<RowsMut<'a>>,
}

impl<S: Smoothing> LaneKernel for Normalize<'_, S> {
    /// Each step runs over a few rows before the next one, so that no row waits for the sums across its lanes.
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let k = self.norm.gamma.len();
        for (group, rows) in self.hidden.chunks_mut(ROWS * k).enumerate() {
            let (first, count) = (group * ROWS, rows.len() / k);
            let (mut means, mut inverses, mut ranges) = ([0.0; ROWS], [0.0; ROWS], [Range::<V>::new(); ROWS]);
            for (i, row) in rows.chunks_exact_mut(k).enumerate() {
                means[i] = add_and_mean::<V>(self.x.map(|x| &x[(first + i) * k..][..k]), row);
            }
            for (i, row) in rows.chunks_exact(k).enumerate() {
                inverses[i] = 1.0 / (variance::<V>(row, means[i]) + self.norm.eps).sqrt();
            }
            for (i, row) in rows.chunks_exact_mut(k).enumerate() {
                ranges[i] = scale_and_shift(&self.norm, self.smoothing, means[i], inverses[i], row);
            }
            if let Some(out) = &mut self.out {
                quantize_group(rows, k, self.smoothing, &ranges[..count], first, out);
            }
        }
    }
}

impl Kernels {
    fn normalize(
        self,
        norm: LayerNorm<'_>,
        x: Option<&[f32]>,
        hidden: &mut [f32],
        smoothing: Option<&[f32]>,
        out: Option<&mut QuantizedRows>,
    ) {
        let k = norm.k();
        let m = row_count(hidden.len(), k);
        if let Some(x) = x {
            assert_eq!(x.len(), hidden.len(), "layer norm adds x to rows of another size");
        }
        let out = out.map(|out| out.rows_mut(m, k));
        match smoothing {
            _ if k == 0 => {}
            None => self.run(Normalize { norm, x, hidden, smoothing: Plain, out }),
            Some(smoothing) => self.run(Normalize { norm, x, hidden, smoothing, out }),
        }
    }

    /// Layer norm of rows `x` `[m, k]`, in place.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn layer_norm(self, norm: LayerNorm<'_>, x: &mut [f32]) {
        self.normalize(norm, None, x, None, None);
    }

    /// [`Kernels::layer_norm`], also giving the rows quantized: as they are, or multiplied by `smoothing` `[k]`, channel by
    /// channel, before that.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn layer_norm_quantize(
        self,
        norm: LayerNorm<'_>,
        x: &mut [f32],
        smoothing: Option<&[f32]>,
        out: &mut QuantizedRows,
    ) {
        self.normalize(norm, None, x, smoothing, Some(out));
    }

    /// The step after each half of a post-norm block, in place: `hidden = norm(hidden + x)`, rows `[m, k]`.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn add_layer_norm(self, norm: LayerNorm<'_>, x: &[f32], hidden: &mut [f32]) {
        self.normalize(norm, Some(x), hidden, None, None);
    }

    /// [`Kernels::add_layer_norm`], also giving the rows quantized, as [`Kernels::layer_norm_quantize`] does.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn add_layer_norm_quantize(
        self,
        norm: LayerNorm<'_>,
        x: &[f32],
        hidden: &mut [f32],
        smoothing: Option<&[f32]>,
        out: &mut QuantizedRows,
    ) {
        self.normalize(norm, Some(x), hidden, smoothing, Some(out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference;
    use crate::kernels::testing::{EDGE_SIZES, GUARDS, Guarded, Random, same_on_every_isa};

    /// `gamma`, `beta`, `x` and `hidden` for rows of `k`.
    fn inputs(m: usize, k: usize, scale: f32) -> [Vec<f32>; 4] {
        let mut random = Random::new((m * 1000 + k) as u64);
        [random.floats(k, 2.0), random.floats(k, 1.0), random.floats(m * k, scale), random.floats(m * k, scale)]
    }

    /// Factors of `k` channels, some powers of two and some not.
    fn factors(k: usize) -> Vec<f32> {
        (0..k).map(|l| [0.25, 1.0, 3.7, 0.013, 32.0][l % 5]).collect()
    }

    #[test]
    fn layer_norm_is_close_to_the_reference() {
        for k in EDGE_SIZES.into_iter().chain([384, 768]).filter(|&k| k > 1) {
            for scale in [1.0, 100.0] {
                let [gamma, beta, x, hidden] = inputs(3, k, scale);
                let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-5 };
                for kernels in Kernels::available() {
                    let mut out = hidden.clone();
                    kernels.add_layer_norm(norm, &x, &mut out);
                    for ((out, x), hidden) in out.chunks(k).zip(x.chunks(k)).zip(hidden.chunks(k)) {
                        let sums: Vec<f64> = x.iter().zip(hidden).map(|(x, h)| f64::from(x + h)).collect();
                        for (&y, exact) in out.iter().zip(reference::layer_norm(&sums, &gamma, &beta, 1e-5)) {
                            assert!((f64::from(y) - exact).abs() <= 1e-5, "{} {k}: {y} for {exact}", kernels.isa());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn layer_norm_is_the_same_bits_on_every_isa() {
        for k in EDGE_SIZES.into_iter().chain([384, 1021]).filter(|&k| k > 0) {
            let [gamma, beta, x, hidden] = inputs(2, k, 5.0);
            let wild = Random::new(3).wild_floats(2 * k);
            let smoothing = factors(k);
            let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
            for x in [&x, &wild] {
                for smoothing in [None, Some(&smoothing[..])] {
                    same_on_every_isa(("add_layer_norm_quantize", k), |kernels| {
                        let (mut out, mut rows) = (hidden.clone(), QuantizedRows::new());
                        kernels.add_layer_norm_quantize(norm, x, &mut out, smoothing, &mut rows);
                        out.extend(rows.scale());
                        out.extend((0..2).flat_map(|i| rows.row(i).iter().map(|&q| f32::from(q))));
                        out
                    });
                }
                same_on_every_isa(("layer_norm", k), |kernels| {
                    let mut out = x.clone();
                    kernels.layer_norm(norm, &mut out);
                    out
                });
            }
        }
    }

    #[test]
    fn the_fused_steps_are_the_single_ones_after_each_other() {
        for k in [1, 15, 16, 17, 384] {
            let [gamma, beta, x, hidden] = inputs(5, k, 2.0);
            let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
            let smoothing = factors(k);
            for (kernels, smoothing) in
                Kernels::available().into_iter().flat_map(|kernels| [None, Some(&smoothing[..])].map(|s| (kernels, s)))
            {
                let (mut fused, mut fused_rows) = (hidden.clone(), QuantizedRows::new());
                kernels.add_layer_norm_quantize(norm, &x, &mut fused, smoothing, &mut fused_rows);
                let mut single: Vec<f32> = hidden.iter().zip(&x).map(|(h, x)| h + x).collect();
                kernels.layer_norm(norm, &mut single);
                assert_eq!(fused, single, "what is added to does not see the smoothing");
                let mut alone_rows = QuantizedRows::new();
                match smoothing {
                    None => kernels.quantize_rows(&single, k, &mut alone_rows),
                    Some(smoothing) => {
                        kernels.smooth_quantize_rows(smoothing, &single, &mut alone_rows);
                        let factors = smoothing.iter().cycle();
                        single.iter_mut().zip(factors).for_each(|(x, f)| *x *= f);
                    }
                }
                let mut rows = QuantizedRows::new();
                kernels.quantize_rows(&single, k, &mut rows);
                for found in [fused_rows, alone_rows] {
                    assert!((0..5).all(|i| found.row(i) == rows.row(i)), "{} at k = {k}", kernels.isa());
                    assert_eq!((found.scale(), found.zero_point()), (rows.scale(), rows.zero_point()));
                }
            }
        }
    }

    #[test]
    fn layer_norm_stays_inside_its_slices() {
        for k in EDGE_SIZES.into_iter().filter(|&k| k > 0) {
            for guard in GUARDS {
                let [gamma, beta, x, hidden] = inputs(2, k, 1.0).map(|values| Guarded::new(&values, guard));
                let (mut hidden, smoothing) = (hidden, Guarded::new(&factors(k), guard));
                let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
                for kernels in Kernels::available() {
                    kernels.add_layer_norm(norm, &x, &mut hidden);
                    kernels.layer_norm(norm, &mut hidden);
                    kernels.layer_norm_quantize(norm, &mut hidden, Some(&smoothing), &mut QuantizedRows::new());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "rows of another size")]
    fn a_residual_of_another_size_is_refused() {
        let norm = LayerNorm { gamma: &[1.0; 4], beta: &[0.0; 4], eps: 0.0 };
        Kernels::detect().add_layer_norm(norm, &[0.0; 4], &mut [0.0; 8]);
    }
}
