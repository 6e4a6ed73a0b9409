//! Rows of an embedding table in int8, gathered as f32.

use super::isa::Kernels;
use super::lanes::{LaneKernel, Lanes, groups};
use super::microkernel::LINE;

/// Rows that are prefetched before they are needed. The rows of a table lie anywhere, so each would wait for memory.
const AHEAD: usize = 4;

/// Int8 rows `[rows, k]` with one scale each.
#[derive(Clone, Copy, Debug)]
pub struct Int8Rows<'a> {
    /// The integers, `[rows, k]`.
    pub values: &'a [i8],
    /// The distance between two integers of each row, `[rows]`.
    pub scale: &'a [f32],
    /// The row length.
    pub k: usize,
}

impl<'a> Int8Rows<'a> {
    /// # Panics
    /// When there is no such row.
    #[inline(always)]
    fn row(self, index: usize) -> &'a [i8] {
        &self.values[index * self.k..][..self.k]
    }
}

struct Gather<'a, I, const ADD: bool> {
    table: Int8Rows<'a>,
    indices: I,
    out: &'a mut [f32],
}

impl<I: Iterator<Item = usize> + Clone, const ADD: bool> LaneKernel for Gather<'_, I, ADD> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let (table, k) = (self.table, self.table.k);
        let prefetch = |index| table.row(index).iter().step_by(LINE).for_each(|line| V::prefetch(line));
        self.indices.clone().take(AHEAD).for_each(prefetch);
        let mut ahead = self.indices.clone().skip(AHEAD);
        for (index, out) in self.indices.zip(self.out.chunks_exact_mut(k)) {
            ahead.next().into_iter().for_each(prefetch);
            let (row, scale, out) = (table.row(index).as_ptr(), V::splat(table.scale[index]), out.as_mut_ptr());
            groups(
                k,
                #[inline(always)]
                // SAFETY: `count` values from `i` on are in both rows, which have `k`.
                |i, count| unsafe {
                    let x = V::load_first_i8(row.add(i), count).mul(scale);
                    let x = if ADD { V::load_first(out.add(i), count, 0.0).add(x) } else { x };
                    x.store_first(out.add(i), count);
                },
            );
        }
    }
}

impl Kernels {
    /// `out` `[indices, k]` = the rows of these indices, each times its scale; if `ADD`, added to what `out` holds, after
    /// they were rounded.
    ///
    /// # Panics
    /// When there is no row of an index, or `out` has not one row for each.
    pub fn gather<const ADD: bool>(
        self,
        table: Int8Rows<'_>,
        indices: impl ExactSizeIterator<Item = usize> + Clone,
        out: &mut [f32],
    ) {
        assert_eq!(out.len(), indices.len() * table.k, "gathering needs a row for each index");
        if table.k > 0 {
            self.run(Gather::<_, ADD> { table, indices, out });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference;
    use crate::kernels::testing::{EDGE_SIZES, GUARDS, Guarded, Random};

    #[test]
    fn gathered_rows_are_the_integers_times_their_scales_on_every_isa() {
        for k in EDGE_SIZES.into_iter().chain([312, 384]).filter(|&k| k > 0) {
            let mut random = Random::new(k as u64);
            let (values, scale) = (random.signed_bytes(7 * k), random.wild_floats(7));
            for guard in GUARDS {
                let values = Guarded::new(&values, guard);
                for indices in [&[][..], &[6], &[3, 0, 6, 6, 1, 2, 0]] {
                    let start = random.floats(indices.len() * k, 3.0);
                    let expected = reference::gather(&values, &scale, k, indices);
                    let sums: Vec<f32> = start.iter().zip(&expected).map(|(x, y)| x + y).collect();
                    for kernels in Kernels::available() {
                        let table = Int8Rows { values: &values, scale: &scale, k };
                        let mut out = Guarded::new(&start, guard);
                        kernels.gather::<true>(table, indices.iter().copied(), &mut out);
                        assert_eq!(bits(&out), bits(&sums), "sums, {} at k = {k}", kernels.isa());
                        kernels.gather::<false>(table, indices.iter().copied(), &mut out);
                        assert_eq!(bits(&out), bits(&expected), "{} at k = {k}", kernels.isa());
                    }
                }
            }
        }
    }

    /// The bits; all NaNs are one.
    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
    }

    #[test]
    #[should_panic]
    fn a_row_that_is_not_there_is_refused() {
        let table = Int8Rows { values: &[1, 2, 3, 4], scale: &[1.0, 1.0], k: 2 };
        Kernels::detect().gather::<false>(table, [2].into_iter(), &mut [0.0; 2]);
    }
}
