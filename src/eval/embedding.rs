//! Sentence vectors of two executors on the same texts.

use std::time::Instant;

use crate::pipelines::{EmbedOptions, Embedder, Pipeline, PipelineError};

use super::metrics::{cosine, quantile};

const TEXTS_AT_ONCE: usize = 64;
const BATCH_TOKENS: usize = 4096;

/// Vectors of a set of texts.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    /// One per text, as the model gives them.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens the model read.
    pub tokens: usize,
    /// Wall time on one thread, tokenization included.
    pub seconds: f64,
}

/// Embeds every text; `progress` hears how many are done.
///
/// # Errors
/// The pipeline's, for the text it refuses.
pub fn embed(embedder: &Embedder, texts: &[String], mut progress: impl FnMut(usize)) -> Result<Vectors, PipelineError> {
    let mut all = Vectors::default();
    for chunk in texts.chunks(TEXTS_AT_ONCE) {
        let started = Instant::now();
        let answers = embedder.run(chunk.to_vec(), &EmbedOptions::default(), BATCH_TOKENS)?;
        all.seconds += started.elapsed().as_secs_f64();
        for answer in answers {
            all.tokens += answer.tokens;
            all.vectors.push(answer.vector);
        }
        progress(all.vectors.len());
    }
    Ok(all)
}

/// How close the vectors of a model are to those of its float original.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closeness {
    /// Mean cosine.
    pub mean_cosine: f64,
    /// The cosine that 1 % of the texts fall below.
    pub p1_cosine: f64,
    /// Share of texts whose nearest other text is the same.
    pub same_nearest: f64,
}

/// Compares vectors of the same texts.
///
/// # Panics
/// When they differ in number.
pub fn closeness(vectors: &[Vec<f32>], reference: &[Vec<f32>]) -> Closeness {
    assert_eq!(vectors.len(), reference.len(), "two models need the same texts to be compared");
    let mut cosines: Vec<f64> = vectors.iter().zip(reference).map(|(a, b)| cosine(a, b)).collect();
    let count = cosines.len().max(1) as f64;
    let mean_cosine = cosines.iter().sum::<f64>() / count;
    cosines.sort_by(f64::total_cmp);
    let same = nearest(vectors).into_iter().zip(nearest(reference)).filter(|(a, b)| a == b).count();
    Closeness { mean_cosine, p1_cosine: quantile(&cosines, 0.01), same_nearest: same as f64 / count }
}

/// For each vector, which other one has the largest cosine.
fn nearest(vectors: &[Vec<f32>]) -> Vec<Option<usize>> {
    let others = |i: usize| (0..vectors.len()).filter(move |j| *j != i);
    let closer = |i: usize, a: &usize, b: &usize| {
        cosine(&vectors[i], &vectors[*a]).total_cmp(&cosine(&vectors[i], &vectors[*b])).then(b.cmp(a))
    };
    (0..vectors.len()).map(|i| others(i).max_by(|a, b| closer(i, a, b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_vectors_are_as_close_as_can_be_and_a_swap_is_seen() {
        let a = vec![vec![1.0, 0.0], vec![0.9, 0.1], vec![0.0, 1.0]];
        let same = closeness(&a, &a);
        assert!((same.mean_cosine - 1.0).abs() < 1e-9 && same.same_nearest == 1.0);
        let b = vec![vec![1.0, 0.0], vec![0.1, 0.9], vec![0.0, 1.0]];
        let moved = closeness(&b, &a);
        assert!(moved.mean_cosine < 0.8 && moved.same_nearest < 1.0);
    }
}
