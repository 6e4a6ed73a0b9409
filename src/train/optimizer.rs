//! AdamW (Loshchilov & Hutter 2019): Adam with decoupled weight decay, after clipping by the global norm.

use std::cell::RefCell;

use candle_core::{CpuStorage, Error, InplaceOp2, Layout, Result, Tensor, Var};
use rayon::prelude::*;

/// Values that one task of the pool works on; sums are added part by part, so that they do not depend on threads.
const VALUES_AT_ONCE: usize = 1 << 15;

/// The moments of every variable.
pub struct AdamW {
    /// Decay of the first moment.
    beta1: f64,
    /// Decay of the second moment.
    beta2: f64,
    /// Added to the root of the second moment.
    eps: f64,
    steps: i32,
    moments: Vec<Moments>,
}

/// First and second moment of one variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean of the gradient, as long as the variable.
    pub first: Vec<f32>,
    /// Mean of its square, as long as the variable.
    pub second: Vec<f32>,
}

/// The gradient of one variable.
pub enum Gradient<'a> {
    /// Of every value; shaped as the variable.
    Whole(&'a Tensor),
    /// Of some rows of a table, in rising order, `[rows, width]`; that of the others is 0. Rows whose gradient was
    /// always 0 are not touched: with moments of 0 and no decay, Adam leaves them as they are.
    Rows(&'a [u32], &'a Tensor),
}

/// One variable in one step.
pub struct Step<'a> {
    /// What is changed.
    pub variable: &'a Var,
    /// Where it goes up.
    pub gradient: Gradient<'a>,
    /// Step size.
    pub learning_rate: f64,
    /// Decay per step, as a share of the learning rate; 0 for tables with [`Gradient::Rows`].
    pub weight_decay: f64,
    /// Whether a value that is 0 stays 0: it was pruned.
    pub keep_zeros: bool,
}

impl AdamW {
    /// Moments of 0 for variables with these numbers of values; betas 0.9 and 0.999, eps 1e-8, as in PyTorch.
    pub fn new(sizes: impl Iterator<Item = usize>) -> Self {
        let moments = sizes.map(|n| Moments { first: vec![0.0; n], second: vec![0.0; n] }).collect();
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, steps: 0, moments }
    }

    /// Steps taken, and the moments of every variable.
    pub fn state(&self) -> (i32, &[Moments]) {
        (self.steps, &self.moments)
    }

    /// Goes on from what [`AdamW::state`] gave.
    pub fn set_state(&mut self, steps: i32, moments: Vec<Moments>) {
        (self.steps, self.moments) = (steps, moments);
    }

    /// Changes every variable by its gradient, all gradients together shortened to a norm of `clip`. Returns the norm
    /// before that; when it is not finite, nothing is changed.
    ///
    /// # Errors
    /// When a gradient is not f32 or has another shape.
    ///
    /// # Panics
    /// When there are more steps than variables.
    pub fn step(&mut self, steps: &[Step], clip: f64) -> Result<f64> {
        assert_eq!(steps.len(), self.moments.len(), "one step for each variable");
        let squares = steps.iter().map(|step| match &step.gradient {
            Gradient::Whole(gradient) | Gradient::Rows(_, gradient) => square(gradient),
        });
        let norm = squares.sum::<Result<f64>>()?.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let scale = if norm > clip { clip / norm } else { 1.0 };
        let corrections = [1.0 - self.beta1.powi(self.steps), 1.0 - self.beta2.powi(self.steps)];
        for (step, moments) in steps.iter().zip(&mut self.moments) {
            let rule = Rule {
                beta1: self.beta1 as f32,
                beta2: self.beta2 as f32,
                scale: scale as f32,
                // lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
                step: (step.learning_rate / corrections[0]) as f32,
                root: (1.0 / corrections[1].sqrt()) as f32,
                eps: self.eps as f32,
                keep: (1.0 - step.learning_rate * step.weight_decay) as f32,
                keep_zeros: step.keep_zeros,
            };
            let (gradient, rows) = match step.gradient {
                Gradient::Whole(gradient) => (gradient, None),
                Gradient::Rows(rows, gradient) => (gradient, Some((rows, step.variable.dim(1)?))),
            };
            let update = Update { rule, rows, moments: RefCell::new(moments) };
            step.variable.as_tensor().inplace_op2(&gradient.contiguous()?, &update)?;
        }
        Ok(norm)
    }
}

/// Sum of squares, in f64.
fn square(gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.contiguous()?;
    let (storage, layout) = gradient.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        return Err(Error::Msg("adamw: runs on the CPU only".into()));
    };
    let values = &storage.as_slice::<f32>()?[layout.start_offset()..][..layout.shape().elem_count()];
    let parts = values.par_chunks(VALUES_AT_ONCE).map(|part| {
        pulp::Arch::new().dispatch(|| {
            let mut lanes = [0f64; 8];
            let chunks = part.chunks_exact(8);
            let rest: f64 = chunks.remainder().iter().map(|x| f64::from(*x).powi(2)).sum();
            for chunk in chunks {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(*x) * f64::from(*x);
                }
            }
            lanes.iter().sum::<f64>() + rest
        })
    });
    Ok(parts.collect::<Vec<f64>>().iter().sum())
}

/// What happens to each value: `w = keep w - step m / (root sqrt(v) + eps)`, with moments of the scaled gradient.
#[derive(Clone, Copy)]
struct Rule {
    beta1: f32,
    beta2: f32,
    scale: f32,
    step: f32,
    root: f32,
    eps: f32,
    keep: f32,
    keep_zeros: bool,
}

/// One variable's change, in place.
struct Update<'a> {
    rule: Rule,
    /// Rows that have a gradient, and the width of a row.
    rows: Option<(&'a [u32], usize)>,
    moments: RefCell<&'a mut Moments>,
}

impl Rule {
    #[inline(always)]
    fn apply(self, w: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let g = g * self.scale;
        *m = self.beta1 * *m + (1.0 - self.beta1) * g;
        *v = self.beta2 * *v + (1.0 - self.beta2) * (g * g);
        let moved = *w * self.keep - self.step * *m / (v.sqrt() * self.root + self.eps);
        *w = if self.keep_zeros && *w == 0.0 { 0.0 } else { moved };
    }

    fn whole(self, w: &mut [f32], moments: &mut Moments, g: &[f32]) {
        let at_once = VALUES_AT_ONCE;
        let parts = w.par_chunks_mut(at_once).zip(moments.first.par_chunks_mut(at_once));
        let parts = parts.zip(moments.second.par_chunks_mut(at_once)).zip(g.par_chunks(at_once));
        parts.for_each(|(((w, m), v), g)| {
            pulp::Arch::new().dispatch(|| {
                for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
                    self.apply(w, m, v, *g);
                }
            });
        });
    }

    fn some_rows(self, w: &mut [f32], moments: &mut Moments, g: &[f32], rows: &[u32], width: usize) {
        let mut place = vec![usize::MAX; w.len() / width];
        rows.iter().enumerate().for_each(|(index, row)| place[*row as usize] = index);
        let parts = w.par_chunks_mut(width).zip(moments.first.par_chunks_mut(width));
        let parts = parts.zip(moments.second.par_chunks_mut(width)).zip(place);
        parts.with_min_len(64).for_each(|(((w, m), v), place)| {
            pulp::Arch::new().dispatch(|| {
                if place != usize::MAX {
                    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(&g[place * width..][..width]) {
                        self.apply(w, m, v, *g);
                    }
                } else if v.iter().any(|v| *v != 0.0) || m.iter().any(|m| *m != 0.0) {
                    for ((w, m), v) in w.iter_mut().zip(m).zip(v) {
                        self.apply(w, m, v, 0.0);
                    }
                }
            });
        });
    }
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, w: &mut CpuStorage, w_layout: &Layout, g: &CpuStorage, g_layout: &Layout) -> Result<()> {
        let CpuStorage::F32(w) = w else { return Err(Error::Msg("adamw: variables are f32".into())) };
        let part = |layout: &Layout| {
            layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: "adamw" }).map(|(start, end)| start..end)
        };
        let (w, g) = (&mut w[part(w_layout)?], &g.as_slice::<f32>()?[part(g_layout)?]);
        let mut moments = self.moments.borrow_mut();
        let fits = match self.rows {
            None => g.len() == w.len(),
            Some((rows, width)) => g.len() == rows.len() * width,
        };
        if !fits || moments.first.len() != w.len() {
            let (values, gradient) = (w.len(), g.len());
            return Err(Error::Msg(format!("adamw: {values} values have a gradient of {gradient}")));
        }
        match self.rows {
            None => self.rule.whole(w, &mut moments, g),
            Some((rows, width)) => self.rule.some_rows(w, &mut moments, g, rows, width),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn values(var: &Var) -> Vec<f32> {
        var.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// From PyTorch 2.15: `torch.optim.AdamW([w], lr=0.1, weight_decay=0.1)` with `w = [1, -2, 3]` and gradients
    /// `[0.5, -1, 0]`, then `[-0.25, 0.5, 1]`.
    #[test]
    fn steps_equal_pytorch() {
        let var = Var::new(&[1.0f32, -2.0, 3.0], &Device::Cpu).unwrap();
        let mut optimizer = AdamW::new([3].into_iter());
        let expected = [[0.89f32, -1.88, 2.97], [0.854_466_4, -1.834_566_2, 2.865_886_2]];
        for (gradient, expected) in [[0.5f32, -1.0, 0.0], [-0.25, 0.5, 1.0]].into_iter().zip(expected) {
            let gradient = Tensor::new(&gradient, &Device::Cpu).unwrap();
            let gradient = Gradient::Whole(&gradient);
            let step = Step { variable: &var, gradient, learning_rate: 0.1, weight_decay: 0.1, keep_zeros: false };
            optimizer.step(&[step], 100.0).unwrap();
            for (found, expected) in values(&var).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
            }
        }
    }

    #[test]
    fn a_pruned_value_stays_zero_and_the_others_move() {
        let var = Var::new(&[1.0f32, 0.0, -0.0], &Device::Cpu).unwrap();
        let gradient = Tensor::new(&[0.5f32, -1.0, 1.0], &Device::Cpu).unwrap();
        let mut optimizer = AdamW::new([3].into_iter());
        for keep_zeros in [true, false] {
            let gradient = Gradient::Whole(&gradient);
            let step = Step { variable: &var, gradient, learning_rate: 0.1, weight_decay: 0.0, keep_zeros };
            optimizer.step(&[step], 100.0).unwrap();
            assert_eq!(values(&var)[1..].iter().all(|w| *w == 0.0), keep_zeros);
        }
        assert!(values(&var)[0] < 1.0);
    }

    #[test]
    fn gradients_are_clipped_together_and_a_bad_one_changes_nothing() {
        let vars = [Var::new(&[0.0f32], &Device::Cpu).unwrap(), Var::new(&[0.0f32], &Device::Cpu).unwrap()];
        let run = |optimizer: &mut AdamW, gradients: [f32; 2]| {
            let gradients = gradients.map(|g| Tensor::new(&[g], &Device::Cpu).unwrap());
            let step = |(variable, g)| {
                let gradient = Gradient::Whole(g);
                Step { variable, gradient, learning_rate: 0.1, weight_decay: 0.0, keep_zeros: false }
            };
            let steps: Vec<_> = vars.iter().zip(&gradients).map(step).collect();
            optimizer.step(&steps, 1.0).unwrap()
        };
        let mut optimizer = AdamW::new([1, 1].into_iter());
        assert!((run(&mut optimizer, [3.0, 4.0]) - 5.0).abs() < 1e-6);
        let (_, moments) = optimizer.state();
        assert!((moments[0].first[0] - 0.1 * 0.6).abs() < 1e-7 && (moments[1].first[0] - 0.1 * 0.8).abs() < 1e-7);
        let before = [values(&vars[0]), values(&vars[1])];
        assert!(run(&mut optimizer, [f32::NAN, 1.0]).is_nan());
        assert_eq!(before, [values(&vars[0]), values(&vars[1])]);
        assert_eq!(optimizer.state().0, 1);
    }

    #[test]
    fn rows_of_a_table_move_as_with_a_gradient_of_the_whole_table() {
        let start: Vec<f32> = (0..12).map(|i| i as f32 / 10.0).collect();
        let table = || Var::from_slice(&start, (4, 3), &Device::Cpu).unwrap();
        let (whole, some) = (table(), table());
        let (mut a, mut b) = (AdamW::new([12].into_iter()), AdamW::new([12].into_iter()));
        // Row 2 has a gradient in the first step only and goes on moving; row 3 never has one.
        for rows in [vec![0u32, 2], vec![0, 1], vec![1]] {
            let gradient: Vec<f32> = (0..rows.len() * 3).map(|i| (i as f32 - 1.5) * 0.3).collect();
            let mut dense = vec![0f32; 12];
            for (index, row) in rows.iter().enumerate() {
                dense[*row as usize * 3..][..3].copy_from_slice(&gradient[index * 3..][..3]);
            }
            let dense = Tensor::from_vec(dense, (4, 3), &Device::Cpu).unwrap();
            let sparse = Tensor::from_vec(gradient, (rows.len(), 3), &Device::Cpu).unwrap();
            let step = |variable, gradient| Step {
                variable,
                gradient,
                learning_rate: 0.01,
                weight_decay: 0.0,
                keep_zeros: false,
            };
            a.step(&[step(&whole, Gradient::Whole(&dense))], 1.0).unwrap();
            b.step(&[step(&some, Gradient::Rows(&rows, &sparse))], 1.0).unwrap();
        }
        assert_eq!(values(&whole), values(&some));
        assert_eq!(values(&some)[9..], start[9..]);
        assert_ne!(values(&some)[6..9], start[6..9]);
    }
}
