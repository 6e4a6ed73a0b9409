//! The integer kernel in plain Rust.

use super::{Layout, Microkernel, Out, Strip};

/// Portable kernel, panels of 16 channels.
pub(crate) struct Scalar;

const NR: usize = 16;

impl Microkernel for Scalar {
    const LAYOUT: Layout = Layout { columns: NR, group: 4, step: 4 };

    unsafe fn strip<const M: usize>(strip: &Strip) {
        for j in (0..strip.columns).step_by(NR) {
            // SAFETY: the caller's promise about the strip covers each of its panels.
            unsafe { tile::<M>(&strip.skip_columns(j)) };
        }
    }
}

/// `M` rows of the first panel.
///
/// # Safety
/// As [`Microkernel::strip`].
unsafe fn tile<const M: usize>(strip: &Strip) {
    let depth = strip.depth;
    // SAFETY: one whole panel of `depth * NR` bytes, and `NR` sums, scales and biases, are readable.
    let (panel, minus_column_sum, column_scale, bias) = unsafe {
        (
            std::slice::from_raw_parts(strip.panels, depth * NR),
            &*strip.minus_column_sum.cast::<[i32; NR]>(),
            &*strip.column_scale.cast::<[f32; NR]>(),
            &*strip.bias.cast::<[f32; NR]>(),
        )
    };
    for i in 0..M {
        // SAFETY: `i < M` rows of `depth` bytes, zero points and scales are readable.
        let (row, zero_point, row_scale) = unsafe {
            (
                std::slice::from_raw_parts(strip.rows.add(i * depth), depth),
                *strip.zero_point.add(i),
                *strip.row_scale.add(i),
            )
        };
        let mut sums = minus_column_sum.map(|sum| sum.wrapping_mul(zero_point));
        for (a, group) in row.chunks_exact(4).zip(panel.chunks_exact(4 * NR)) {
            for (sum, w) in sums.iter_mut().zip(group.chunks_exact(4)) {
                for l in 0..4 {
                    *sum = sum.wrapping_add(i32::from(a[l]) * i32::from(w[l]));
                }
            }
        }
        let columns = strip.columns.min(NR);
        match strip.out {
            Out::Sums(out) => {
                // SAFETY: `columns` outputs of row `i` are writable.
                let out = unsafe { std::slice::from_raw_parts_mut(out.add(i * strip.out_stride), columns) };
                out.copy_from_slice(&sums[..columns]);
            }
            Out::Floats(out) => {
                // SAFETY: `columns` outputs of row `i` are writable.
                let out = unsafe { std::slice::from_raw_parts_mut(out.add(i * strip.out_stride), columns) };
                for (j, y) in out.iter_mut().enumerate() {
                    *y = (sums[j] as f32).mul_add(row_scale * column_scale[j], bias[j]);
                }
            }
        }
    }
}
