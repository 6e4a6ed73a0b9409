//! Word statistics of the sentences of one text: tf-idf with the text as its own corpus.

use std::collections::HashMap;

use crate::text::words;

/// Shortest term, in letters: shorter ones are mostly articles and prepositions.
const MIN_TERM_LETTERS: usize = 3;

/// One sentence as weights of terms, of length 1 (or all zero): term id and weight, ids ascending.
pub(super) type TermVector = Vec<(usize, f32)>;

/// tf-idf vectors of `sentences`: how often a term is in the sentence, times `H(n) - H(df)`.
///
/// Terms are words of at least three letters, and single characters of scripts without spaces. `df` of the `n`
/// sentences have the term, and `H` is the harmonic number: `H(n) - H(df)` is `ln(n / df)` to within `1 / (2 df)`, and
/// needs additions and divisions only, so that every machine computes the same bits.
pub(super) fn tf_idf<'a>(sentences: impl Iterator<Item = &'a str>) -> Vec<TermVector> {
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut sentences_with = Vec::new();
    let counts: Vec<TermVector> = sentences
        .map(|sentence| {
            let mut terms: Vec<usize> = Vec::new();
            for term in words::terms(sentence).into_iter().filter(|term| is_telling(term)) {
                let next = ids.len();
                terms.push(*ids.entry(term).or_insert(next));
            }
            terms.sort_unstable();
            sentences_with.resize(ids.len(), 0);
            let runs = terms.chunk_by(|a, b| a == b);
            runs.map(|run| {
                sentences_with[run[0]] += 1;
                (run[0], run.len() as f32)
            })
            .collect()
        })
        .collect();
    let harmonic = harmonic_numbers(counts.len());
    let weight = |(id, count): &(usize, f32)| {
        let rarity = harmonic[counts.len()] - harmonic[sentences_with[*id]];
        (*id, count * rarity as f32)
    };
    counts.iter().map(|counts| to_unit_length(counts.iter().map(weight).collect())).collect()
}

/// Whether a term takes part: letters only, and enough of them.
fn is_telling(term: &str) -> bool {
    term.chars().all(char::is_alphabetic)
        && (term.chars().nth(MIN_TERM_LETTERS - 1).is_some() || term.chars().all(words::is_unspaced))
}

/// Cosine of each vector with the mean of all.
pub(super) fn cosines_with_mean(vectors: &[TermVector]) -> Vec<f64> {
    let terms = vectors.iter().filter_map(|v| v.last()).map(|(id, _)| id + 1).max().unwrap_or(0);
    let mut sum = vec![0.0f64; terms];
    for (id, weight) in vectors.iter().flatten() {
        sum[*id] += f64::from(*weight);
    }
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    let dot = |vector: &TermVector| vector.iter().map(|(id, weight)| sum[*id] * f64::from(*weight)).sum::<f64>();
    vectors.iter().map(|vector| dot(vector) / norm).collect()
}

/// `H(0)` to `H(n)`: sums of `1 / k`.
fn harmonic_numbers(n: usize) -> Vec<f64> {
    let mut sums = Vec::with_capacity(n + 1);
    let mut sum = 0.0;
    sums.push(sum);
    for k in 1..=n {
        sum += 1.0 / k as f64;
        sums.push(sum);
    }
    sums
}

fn to_unit_length(mut vector: TermVector) -> TermVector {
    let norm = vector.iter().map(|(_, x)| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|(_, x)| *x /= norm);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_terms_weigh_more_and_vectors_have_length_one() {
        let vectors = tf_idf(["The cat sat", "the dog sat", "THE end of it 2", "..."].into_iter());
        // Ids in order of appearance: the 0, cat 1, sat 2, dog 3, end 4.
        let [(0, the), (1, cat), (2, sat)] = vectors[0][..] else { panic!("{:?}", vectors[0]) };
        assert!(cat > sat && sat > the, "{cat} {sat} {the}");
        // In 1 and 3 of 4 sentences: H(4) - H(1) and H(4) - H(3).
        let (rare, common) = (1.0 / 2.0 + 1.0 / 3.0 + 1.0 / 4.0, 1.0 / 4.0);
        assert!((cat / the - rare / common).abs() < 1e-5);
        assert_eq!(vectors[2].iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 4]);
        for vector in &vectors[..3] {
            assert!((vector.iter().map(|(_, x)| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
        }
        assert!(vectors[3].is_empty());
        assert_eq!(tf_idf(["天气很好", "天气不好"].into_iter())[0].len(), 4);
    }

    #[test]
    fn sentences_that_share_terms_are_closest_to_the_mean() {
        let vectors = tf_idf(["red green blue", "red green", "black white", ""].into_iter());
        let cosines = cosines_with_mean(&vectors);
        assert!(cosines[1] > cosines[2] && cosines[0] > cosines[2], "{cosines:?}");
        assert_eq!(cosines[3], 0.0);
        assert!(cosines_with_mean(&[]).is_empty());
    }
}
