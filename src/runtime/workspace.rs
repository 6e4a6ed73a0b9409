//! Scratch memory of one thread.

use crate::kernels::{AttentionScratch, QuantizedRows};

/// Buffers that a forward pass reuses; they grow to the largest chunk seen and stay.
#[derive(Default)]
pub struct Workspace {
    /// Hidden states of the chunk in integers, `[tokens, hidden]`.
    pub(super) hidden_q: QuantizedRows,
    /// Queries, keys and values, `[tokens, 3 hidden]`.
    pub(super) qkv: Vec<f32>,
    /// Attention output, `[tokens, hidden]`.
    pub(super) context: Vec<f32>,
    /// Scores and the like.
    pub(super) attention: AttentionScratch,
    /// One block of rows in integers: the input of the next matrix.
    pub(super) block_q: QuantizedRows,
    /// One block of a projection's output, `[rows, hidden]`.
    pub(super) projected: Vec<f32>,
    /// One block inside the feed-forward network, `[rows, intermediate]`.
    pub(super) inner: Vec<f32>,
}

/// The first `len` values of a buffer that only ever grows.
pub(super) fn first(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
