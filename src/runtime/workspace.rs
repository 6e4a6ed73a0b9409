//! Scratch memory of one thread.

use crate::kernels::{AlignedVec, AttentionScratch, QuantizedRows, RowRange};

use super::matrix::MatrixScratch;

/// Buffers that a forward pass reuses; they grow to the largest chunk seen and stay.
#[derive(Default)]
pub struct Workspace {
    /// Hidden states of the chunk, `[tokens, hidden]`.
    pub(super) hidden: AlignedVec<f32>,
    /// Queries, keys and values of a block, `[tokens, 3 heads * head_dim]`.
    pub(super) qkv: AlignedVec<f32>,
    /// Attention output, `[tokens, heads * head_dim]`.
    pub(super) context: AlignedVec<f32>,
    /// Scores and the like.
    pub(super) attention: AttentionScratch,
    /// One block of rows in integers: the input of the next matrix.
    pub(super) block_q: QuantizedRows,
    /// One block of a projection's output, `[rows, hidden]`.
    pub(super) projected: AlignedVec<f32>,
    /// One block inside the feed-forward network, `[rows, intermediate]`.
    pub(super) inner: AlignedVec<f32>,
    /// Ranges of rows of which a team's member has a part.
    pub(super) ranges: Vec<RowRange>,
    /// What products need that are not one int8 product.
    pub(super) matrix: MatrixScratch,
}

/// The buffer as `len` values, grown when it is too small.
pub(super) fn sized(buffer: &mut AlignedVec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len);
    buffer.as_mut_slice()
}
