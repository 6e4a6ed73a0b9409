//! Layer norm (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>), fused with the residual sum before it and the
//! quantization after it.

use super::isa::Kernels;
use super::lanes::{LANES, LaneKernel, Lanes};
use super::quantize::{QuantizedRows, Range, RowsMut, quantize_row, row_count};

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

/// `row = norm(row + x)`; without `x`, `row = norm(row)`. Gives the range of the result.
///
/// Two passes: the mean, then the variance of the differences, both summed as [`Lanes::sum`] says.
#[inline(always)]
fn normalize_row<V: Lanes>(norm: &LayerNorm<'_>, x: Option<&[f32]>, row: &mut [f32]) -> Range<V> {
    let k = row.len();
    assert!(norm.gamma.len() == k && norm.beta.len() == k && x.is_none_or(|x| x.len() == k));
    let (count, tail) = (k / LANES * LANES, k % LANES);
    let at = row.as_mut_ptr();
    let (gamma, beta) = (norm.gamma.as_ptr(), norm.beta.as_ptr());
    let mut sum = V::splat(0.0);
    for i in (0..count).step_by(LANES) {
        // SAFETY: `i + 16 <= count <= k`, the length of all four slices (asserted above).
        let mut v = unsafe { V::load(at.add(i)) };
        if let Some(x) = x {
            // SAFETY: as above.
            unsafe {
                v = v.add(V::load(x.as_ptr().add(i)));
                v.store(at.add(i));
            }
        }
        sum = sum.add(v);
    }
    if tail > 0 {
        // SAFETY: `count + tail` is `k`, the length of all four slices.
        let mut v = unsafe { V::load_first(at.add(count), tail, 0.0) };
        if let Some(x) = x {
            // SAFETY: as above.
            unsafe {
                v = v.add(V::load_first(x.as_ptr().add(count), tail, 0.0));
                v.store_first(at.add(count), tail);
            }
        }
        sum = sum.add(v);
    }
    let mean = sum.sum() / k as f32;
    let mean_lanes = V::splat(mean);
    let mut squares = V::splat(0.0);
    for i in (0..count).step_by(LANES) {
        // SAFETY: `i + 16 <= count <= k`.
        let d = unsafe { V::load(at.add(i)) }.sub(mean_lanes);
        squares = d.mul_add(d, squares);
    }
    if tail > 0 {
        // SAFETY: `count + tail` is `k`. The other lanes are mean - mean = 0.
        let d = unsafe { V::load_first(at.add(count), tail, mean) }.sub(mean_lanes);
        squares = d.mul_add(d, squares);
    }
    let inverse = V::splat(1.0 / (squares.sum() / k as f32 + norm.eps).sqrt());
    let mut range = Range::new();
    for i in (0..count).step_by(LANES) {
        // SAFETY: `i + 16 <= count <= k`, the length of all four slices.
        unsafe {
            let d = V::load(at.add(i)).sub(mean_lanes).mul(inverse);
            let y = d.mul_add(V::load(gamma.add(i)), V::load(beta.add(i)));
            y.store(at.add(i));
            range.include(y);
        }
    }
    if tail > 0 {
        // SAFETY: `count + tail` is `k`, the length of all four slices. The other lanes are 0.
        unsafe {
            let d = V::load_first(at.add(count), tail, mean).sub(mean_lanes).mul(inverse);
            let gamma = V::load_first(gamma.add(count), tail, 0.0);
            let y = d.mul_add(gamma, V::load_first(beta.add(count), tail, 0.0));
            y.store_first(at.add(count), tail);
            range.include(y);
        }
    }
    range
}

struct Normalize<'a> {
    norm: LayerNorm<'a>,
    x: Option<&'a [f32]>,
    hidden: &'a mut [f32],
    out: Option<RowsMut<'a>>,
}

impl LaneKernel for Normalize<'_> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let k = self.norm.gamma.len();
        for (i, row) in self.hidden.chunks_exact_mut(k).enumerate() {
            let x = self.x.map(|x| &x[i * k..][..k]);
            let range = normalize_row::<V>(&self.norm, x, row);
            if let Some(out) = &mut self.out {
                quantize_row(row, range, i, out);
            }
        }
    }
}

impl Kernels {
    fn normalize(self, norm: LayerNorm<'_>, x: Option<&[f32]>, hidden: &mut [f32], out: Option<&mut QuantizedRows>) {
        let k = norm.k();
        let m = row_count(hidden.len(), k);
        if let Some(x) = x {
            assert_eq!(x.len(), hidden.len(), "layer norm adds x to rows of another size");
        }
        let out = out.map(|out| out.rows_mut(m, k));
        if k > 0 {
            self.run(Normalize { norm, x, hidden, out });
        }
    }

    /// Layer norm of rows `x` `[m, k]`, in place.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn layer_norm(self, norm: LayerNorm<'_>, x: &mut [f32]) {
        self.normalize(norm, None, x, None);
    }

    /// [`Kernels::layer_norm`], also giving the rows quantized.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn layer_norm_quantize(self, norm: LayerNorm<'_>, x: &mut [f32], out: &mut QuantizedRows) {
        self.normalize(norm, None, x, Some(out));
    }

    /// The step after each half of a post-norm block, in place: `hidden = norm(hidden + x)`, rows `[m, k]`.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn add_layer_norm(self, norm: LayerNorm<'_>, x: &[f32], hidden: &mut [f32]) {
        self.normalize(norm, Some(x), hidden, None);
    }

    /// [`Kernels::add_layer_norm`], also giving the rows quantized.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn add_layer_norm_quantize(self, norm: LayerNorm<'_>, x: &[f32], hidden: &mut [f32], out: &mut QuantizedRows) {
        self.normalize(norm, Some(x), hidden, Some(out));
    }
}
