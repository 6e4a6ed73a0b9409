//! How the tokens of a sequence relate to each other, compared between two models: what MiniLMv2 distils (Wang et al.
//! 2021, <https://arxiv.org/abs/2012.15828>, section 3.1).

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::attention::{add_scaled, products};
use super::{exp_of_negative, values, vectorized, with_values};

/// Relations of queries, of keys or of values: per sequence and head `R = softmax(A A^T / sqrt(d))`, with `A`
/// `[tokens, d]` the head's share of the vectors. Both models have as many heads, whatever their widths.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Where each sequence starts, and the total: `[sequences + 1]`.
    pub starts: Arc<[usize]>,
    /// Heads; divides both widths.
    pub heads: usize,
}

/// The vectors of one head of one sequence.
struct Vectors {
    /// `[tokens, d]`.
    rows: Vec<f32>,
    /// `[d, stride]`: transposed, rows filled up with zeros.
    columns: Vec<f32>,
    tokens: usize,
    d: usize,
    stride: usize,
}

impl Vectors {
    /// Head number `head` of the rows `from..to` of a matrix that is `width` wide.
    fn of(matrix: &[f32], (from, to): (usize, usize), width: usize, (head, heads): (usize, usize)) -> Self {
        let (tokens, d) = (to - from, width / heads);
        let stride = tokens.next_multiple_of(16);
        let row = |token: usize| &matrix[(from + token) * width + head * d..][..d];
        let rows: Vec<f32> = (0..tokens).flat_map(row).copied().collect();
        let mut columns = vec![0.0; d * stride];
        for (token, row) in rows.chunks_exact(d).enumerate() {
            row.iter().enumerate().for_each(|(column, x)| columns[column * stride + token] = *x);
        }
        Vectors { rows, columns, tokens, d, stride }
    }

    fn row(&self, token: usize) -> &[f32] {
        &self.rows[token * self.d..][..self.d]
    }

    /// Row `token` of `R` in `weights`, and its logarithm in `logs`, `[stride]` each.
    #[inline(always)]
    fn relation(&self, token: usize, weights: &mut [f32], logs: &mut [f32]) {
        products(self.row(token), &self.columns, self.stride, logs);
        let scale = (self.d as f32).sqrt().recip();
        let (logs, weights) = (&mut logs[..self.tokens], &mut weights[..self.tokens]);
        let largest = logs.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        logs.iter_mut().for_each(|x| *x = (*x - largest) * scale);
        weights.iter_mut().zip(logs.iter()).for_each(|(w, x)| *w = exp_of_negative(*x));
        let total: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= total);
        logs.iter_mut().for_each(|x| *x -= total.ln());
    }
}

impl Relation {
    /// `KL(R of the teacher || R of the student)`, mean over tokens and heads; a scalar, from the vectors of both,
    /// `[tokens, width]` each with a width of its own. The teacher gets no gradient.
    ///
    /// # Errors
    /// When the tokens differ, or the heads do not divide a width.
    pub fn divergence(self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        student.contiguous()?.apply_op2(&teacher.detach().contiguous()?, self)
    }

    fn widths(&self, student: &Shape, teacher: &Shape) -> Result<[usize; 2]> {
        let ((tokens, ours), (of_teacher, theirs)) = (student.dims2()?, teacher.dims2()?);
        let whole = |width: usize| self.heads > 0 && width.is_multiple_of(self.heads);
        if tokens != of_teacher || !whole(ours) || !whole(theirs) {
            let message = format!(
                "relation: {tokens} vectors of {ours} beside {of_teacher} of {theirs}, in {} heads (--relation-heads); \
                 the heads must divide both widths",
                self.heads
            );
            return Err(Error::Msg(message));
        }
        Ok([ours, theirs])
    }

    /// Runs `run` for each token of each head of a sequence, with the vectors of the student, the token's number, and the
    /// rows of both relations: the student's weights and logarithms, and the teacher's.
    #[inline(always)]
    fn each(
        &self,
        sequence: (usize, usize),
        [student, teacher]: [&[f32]; 2],
        [ours, theirs]: [usize; 2],
        mut run: impl FnMut(usize, &Vectors, usize, [&[f32]; 4]),
    ) {
        for head in 0..self.heads {
            let [student, teacher] = [(student, ours), (teacher, theirs)]
                .map(|(matrix, width)| Vectors::of(matrix, sequence, width, (head, self.heads)));
            let mut rows: [Vec<f32>; 4] = std::array::from_fn(|_| vec![0.0; student.stride]);
            for token in 0..student.tokens {
                let [weights, logs, wanted, wanted_logs] = &mut rows;
                student.relation(token, weights, logs);
                teacher.relation(token, wanted, wanted_logs);
                run(head, &student, token, rows.each_ref().map(|row| &row[..student.tokens]));
            }
        }
    }

    fn sequences(&self) -> Vec<(usize, usize)> {
        self.starts.windows(2).map(|w| (w[0], w[1])).collect()
    }
}

impl CustomOp2 for Relation {
    fn name(&self) -> &'static str {
        "relation"
    }

    fn cpu_fwd(
        &self,
        s: &CpuStorage,
        s_layout: &Layout,
        t: &CpuStorage,
        t_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let widths = self.widths(s_layout.shape(), t_layout.shape())?;
        let matrices = [values(s, s_layout, self.name())?, values(t, t_layout, self.name())?];
        let sums = self.sequences().into_par_iter().map(|sequence| {
            vectorized(|| {
                let mut sum = 0.0f64;
                self.each(sequence, matrices, widths, |_, _, _, [_, logs, wanted, wanted_logs]| {
                    let terms = wanted.iter().zip(wanted_logs).zip(logs);
                    sum += f64::from(terms.map(|((p, log_p), log_q)| p * (log_p - log_q)).sum::<f32>());
                });
                sum
            })
        });
        let sum: f64 = sums.collect::<Vec<_>>().iter().sum();
        let mean = sum / (self.heads * s_layout.shape().dims2()?.0) as f64;
        Ok((CpuStorage::F32(vec![mean as f32]), Shape::from(())))
    }

    /// With `q` the student's row of token `i` and `p` the teacher's, the score of token `j` has the gradient `q_j - p_j`,
    /// and reaches the vectors of both tokens.
    fn bwd(
        &self,
        student: &Tensor,
        teacher: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let widths = self.widths(student.shape(), teacher.shape())?;
        let (tokens, width) = student.dims2()?;
        let dx = with_values([student, teacher, gradient], self.name(), |[student, teacher, dy]| {
            let d = width / self.heads;
            let scale = dy[0] / (self.heads * tokens) as f32 / (d as f32).sqrt();
            let parts = self.sequences().into_par_iter().map(|(from, to)| {
                let mut dx = vec![0.0; (to - from) * width];
                vectorized(|| {
                    self.each(
                        (from, to),
                        [student, teacher],
                        widths,
                        |head, vectors, token, [weights, _, wanted, _]| {
                            let place = |token: usize| token * width + head * d;
                            for (other, (q, p)) in weights.iter().zip(wanted).enumerate() {
                                let dscore = scale * (q - p);
                                add_scaled(&mut dx[place(token)..][..d], dscore, vectors.row(other));
                                add_scaled(&mut dx[place(other)..][..d], dscore, vectors.row(token));
                            }
                        },
                    );
                });
                dx
            });
            parts.collect::<Vec<_>>().concat()
        })?;
        Ok((Some(Tensor::from_vec(dx, (tokens, width), student.device())?), None))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn wave(count: usize, speed: f64) -> Vec<f32> {
        (0..count).map(|i| (speed * i as f64 + 0.3).cos() as f32).collect()
    }

    fn relation(heads: usize) -> Relation {
        Relation { starts: [0, 2, 5].into(), heads }
    }

    /// From PyTorch 2.15 in f64: `kl_div(log_softmax(S S^T / sqrt(3)), log_softmax(T T^T / sqrt(4)), reduction="sum",
    /// log_target=True)` per sequence and head, over 10; the length of the gradient of `S` and its product with a wave.
    #[test]
    fn divergence_and_gradient_equal_those_of_pytorch() {
        let student = Var::from_vec(wave(30, 1.7), (5, 6), &Device::Cpu).unwrap();
        let teacher = Tensor::from_vec(wave(40, 0.9), (5, 8), &Device::Cpu).unwrap();
        let loss = relation(2).divergence(&student, &teacher).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - 0.161_041_46).abs() < 1e-6, "{loss}");
        let gradients = (loss * 3.0).unwrap().backward().unwrap();
        let g: Vec<f32> = gradients.get(&student).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let length = g.iter().map(|g| g * g).sum::<f32>().sqrt();
        let product: f32 = g.iter().zip(wave(30, 0.7)).map(|(g, w)| g * w).sum();
        assert!((length / 3.0 - 0.195_417_75).abs() < 1e-6 && (product / 3.0 - 0.045_855_39).abs() < 1e-6, "{g:?}");
    }

    #[test]
    fn equal_relations_are_no_distance_apart_whatever_the_width() {
        let x = Tensor::from_vec(wave(30, 1.7), (5, 6), &Device::Cpu).unwrap();
        assert!(relation(3).divergence(&x, &x).unwrap().to_scalar::<f32>().unwrap().abs() < 1e-7);
        // Twice as wide with every vector repeated: products double, and the root of the width grows by the root of 2.
        let wide = Tensor::cat(&[&x, &x], 1).unwrap().affine(0.5f64.sqrt().sqrt(), 0.0).unwrap();
        assert!(relation(1).divergence(&wide, &x).unwrap().to_scalar::<f32>().unwrap().abs() < 1e-6);
    }

    #[test]
    fn heads_that_do_not_divide_a_width_are_refused() {
        let (student, teacher) = (Tensor::from_vec(wave(30, 1.7), (5, 6), &Device::Cpu), wave(40, 0.9));
        let teacher = Tensor::from_vec(teacher, (5, 8), &Device::Cpu).unwrap();
        let error = relation(4).divergence(&student.unwrap(), &teacher).unwrap_err().to_string();
        assert!(error.contains("5 vectors of 6 beside 5 of 8, in 4 heads"), "{error}");
    }
}
