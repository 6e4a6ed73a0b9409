//! Sentence vectors of several models on the same texts.

use std::time::Instant;

use crate::pipelines::{EmbedOptions, Embedder, Pipeline, PipelineError};

use super::metrics::{cosine, quantile};
use super::{BATCH_TOKENS, TEXTS_AT_ONCE};

/// Most texts whose nearest others are looked for: the work grows with their square.
const MOST_NEIGHBOURS: usize = 4000;

/// Vectors of a set of texts.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    /// One per text, as the model gives them.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens the model read of each text, special tokens included.
    pub lengths: Vec<usize>,
    /// Texts that were longer than the model reads.
    pub truncated: usize,
    /// Wall time on one thread, tokenization included.
    pub seconds: f64,
}

/// Embeds every text; `progress` hears how many are done.
///
/// # Errors
/// The pipeline's, for the text it refuses.
pub fn embed(embedder: &Embedder, texts: &[String], progress: impl FnMut(usize)) -> Result<Vectors, PipelineError> {
    let found = embed_with_all(&[embedder], texts, progress).map_err(|(_, error)| error)?;
    Ok(found.into_iter().next().expect("one model gives one set"))
}

/// Embeds every text with every model, the models taking turns; `progress` hears how many runs are done, of texts times
/// models.
///
/// # Errors
/// The pipeline's, with the index of the text it refuses.
pub fn embed_with_all(
    embedders: &[&Embedder],
    texts: &[String],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Vectors>, (usize, PipelineError)> {
    let mut all = vec![Vectors::default(); embedders.len()];
    let mut done = 0;
    for (number, chunk) in texts.chunks(TEXTS_AT_ONCE).enumerate() {
        for (embedder, vectors) in embedders.iter().zip(&mut all) {
            let started = Instant::now();
            let answers = embedder.run(chunk.to_vec(), &EmbedOptions::default(), BATCH_TOKENS);
            let answers = answers.map_err(|e| (number * TEXTS_AT_ONCE + super::classification::index_of(&e), e))?;
            vectors.seconds += started.elapsed().as_secs_f64();
            for answer in answers {
                vectors.lengths.push(answer.tokens);
                vectors.truncated += usize::from(answer.truncated);
                vectors.vectors.push(answer.vector);
            }
            done += chunk.len();
            progress(done);
        }
    }
    Ok(all)
}

/// How close the vectors of a model are to those of a reference, such as its float original.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closeness {
    /// Mean cosine.
    pub mean_cosine: f64,
    /// The cosine that 1 % of the texts fall below.
    pub p1_cosine: f64,
    /// Share of texts whose nearest other text is the same.
    pub same_nearest: f64,
    /// How many texts that share is of: the first ones of a large set.
    pub neighbours: usize,
}

/// Compares vectors of the same texts.
///
/// # Panics
/// When they differ in number.
pub fn closeness(vectors: &[Vec<f32>], reference: &[Vec<f32>]) -> Closeness {
    assert_eq!(vectors.len(), reference.len(), "two models need the same texts to be compared");
    let mut cosines: Vec<f64> = vectors.iter().zip(reference).map(|(a, b)| cosine(a, b)).collect();
    let mean_cosine = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
    cosines.sort_by(f64::total_cmp);
    let neighbours = vectors.len().min(MOST_NEIGHBOURS);
    let found = nearest(&vectors[..neighbours]).into_iter().zip(nearest(&reference[..neighbours]));
    let same = found.filter(|(a, b)| a == b).count();
    let same_nearest = same as f64 / neighbours.max(1) as f64;
    Closeness { mean_cosine, p1_cosine: quantile(&cosines, 0.01), same_nearest, neighbours }
}

/// For each vector, which other one has the largest cosine; the first of equals.
fn nearest(vectors: &[Vec<f32>]) -> Vec<Option<usize>> {
    let unit = |v: &Vec<f32>| {
        let norm = v.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        v.iter().map(|x| (f64::from(*x) / norm) as f32).collect::<Vec<f32>>()
    };
    let units: Vec<_> = vectors.iter().map(unit).collect();
    let nearest_of = |i: usize| {
        let others = (0..units.len()).filter(|j| *j != i).map(|j| (j, dot(&units[i], &units[j])));
        others.fold(None, |best: Option<(usize, f32)>, other| match best {
            Some(best) if best.1 >= other.1 => Some(best),
            _ => Some(other),
        })
    };
    (0..units.len()).map(|i| nearest_of(i).map(|(j, _)| j)).collect()
}

/// Dot product in sixteen partial sums, which the compiler can vectorize.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.zip(b) {
        for (lane, (x, y)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + rest
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

    #[test]
    fn the_nearest_is_by_angle_and_the_first_of_equals() {
        let vectors = [vec![1.0f32; 20], vec![3.0; 20], vec![2.0; 20], vec![-1.0; 20]];
        assert_eq!(nearest(&vectors), [Some(1), Some(0), Some(0), Some(0)]);
        assert_eq!(nearest(&vectors[..1]), [None]);
    }
}
