//! The protocol of the human-rated corpora: tweets, film and product reviews, newspaper editorials (Hutto & Gilbert,
//! VADER, ICWSM 2014).
//!
//! The paper does not state its rule for the truth; the one here gives its figures for individual humans again: the
//! truth is the sign of the mean rating, exactly 0 being neutral, and F1 is averaged with the frequencies of the
//! classes. A program that gives a score in -1..1 says positive from 0.05 on and negative from -0.05 down.

use super::correlation::pearson;
use super::metrics::Confusion;

/// Scores nearer to 0 than this are neutral (VADER's documentation).
const NEUTRAL: f64 = 0.05;
/// Ratings, and numbers that models learned from them, lie between this and its opposite.
pub const LARGEST_RATING: f64 = 4.0;
/// The corpora in the order of the paper's tables, by the names that `sentences.py` gives them.
pub const CORPORA: [&str; 4] = ["tweets", "movie", "amazon", "nyt"];

/// One figure per corpus, in the order of [`CORPORA`]; none where the paper has none.
pub type ByCorpus = [Option<f64>; 4];

/// A row of the paper's tables 4 and 5: name, weighted F1 and Pearson's r, on the whole corpora.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Who or what rated.
    pub name: &'static str,
    /// Weighted F1 over three classes.
    pub f1: ByCorpus,
    /// Correlation with the mean rating.
    pub r: ByCorpus,
}

const NONE: ByCorpus = [None; 4];

/// What the paper prints. The last three learned from the same corpora.
pub const PUBLISHED: [Published; 8] = [
    row("individual humans", [0.84, 0.92, 0.85, 0.65], [Some(0.888), Some(0.899), Some(0.911), Some(0.745)]),
    row("VADER", [0.96, 0.61, 0.63, 0.55], [Some(0.881), Some(0.451), Some(0.565), Some(0.492)]),
    row("Hu-Liu04", [0.77, 0.59, 0.62, 0.52], NONE),
    row("SentiWordNet", [0.67, 0.57, 0.57, 0.52], NONE),
    row("LIWC", [0.63, 0.31, 0.36, 0.21], NONE),
    row("naive Bayes (same corpus)", [0.84, 0.75, 0.61, 0.49], NONE),
    row("maximum entropy (same corpus)", [0.83, 0.75, 0.60, 0.50], NONE),
    Published { name: "SVM (same corpus)", f1: [Some(0.83), None, Some(0.58), None], r: NONE },
];

const fn row(name: &'static str, f1: [f64; 4], r: ByCorpus) -> Published {
    Published { name, f1: [Some(f1[0]), Some(f1[1]), Some(f1[2]), Some(f1[3])], r }
}

/// The class of a rating: negative, neutral or positive as 0, 1 or 2, by its sign alone.
pub fn sign(rating: f64) -> usize {
    if rating < 0.0 {
        0
    } else if rating > 0.0 {
        2
    } else {
        1
    }
}

/// The class of a score in -1..1.
fn class(score: f64) -> usize {
    sign(if score.abs() < NEUTRAL { 0.0 } else { score })
}

/// Whether the signs of single ratings or scores agree with the truth, and how they correlate with the mean rating.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// (truth, said) over negative, neutral and positive.
    pub confusion: Confusion,
    /// Pearson's correlation with the mean rating; none without spread.
    pub r: Option<f64>,
}

/// Scores in -1..1, one beside each mean rating.
pub fn of_scores(scores: &[f64], ratings: &[f64]) -> Agreement {
    let mut confusion = Confusion::new(3);
    scores.iter().zip(ratings).for_each(|(score, rating)| confusion.add(sign(*rating), class(*score)));
    Agreement { confusion, r: pearson(scores, ratings) }
}

/// The ratings of single people, those of one text together. Each rating is an answer by its sign, and their mean is
/// the truth; the correlation is over all single ratings.
pub fn of_raters<'a>(texts: impl Iterator<Item = &'a [f64]>) -> Agreement {
    let (mut confusion, mut single, mut means) = (Confusion::new(3), Vec::new(), Vec::new());
    for ratings in texts {
        let mean = ratings.iter().sum::<f64>() / ratings.len().max(1) as f64;
        for rating in ratings {
            confusion.add(sign(mean), sign(*rating));
            single.push(*rating);
            means.push(mean);
        }
    }
    Agreement { confusion, r: pearson(&single, &means) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_near_zero_are_neutral_and_ratings_are_not() {
        assert_eq!([-0.05, -0.04, 0.0, 0.049, 0.05].map(class), [0, 1, 1, 1, 2]);
        assert_eq!([-0.01, 0.0, 0.01].map(sign), [0, 1, 2]);
    }

    /// By hand: of four texts two are right; positive has F1 2/3 with two truths, negative 2/3 with one, neutral 0.
    #[test]
    fn programs_and_people_are_judged_alike() {
        let found = of_scores(&[0.9, 0.0, -0.8, -0.2], &[2.0, 1.0, -3.0, 0.0]);
        assert!((found.confusion.weighted_f1() - (2.0 * 2.0 / 3.0 + 2.0 / 3.0) / 4.0).abs() < 1e-12);
        assert!(found.r.unwrap() > 0.9);
        let people = of_raters([[1.0, 0.0, 2.0].as_slice(), [-1.0].as_slice()].into_iter());
        assert_eq!((people.confusion.total(), people.confusion.right()), (4, 3));
    }
}
