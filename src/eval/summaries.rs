//! Summaries beside those that people wrote.

use std::time::Instant;

use crate::data::Example;
use crate::pipelines::{Pipeline, Summarizer, SummaryOptions};
use crate::text::sentences::segment;

use super::classification::refused;
use super::rouge::{Rouge, rouge};
use super::{BATCH_TOKENS, EvalError};

/// Summaries of a set of texts.
#[derive(Clone, Debug, Default)]
pub struct Summaries {
    /// One per text.
    pub summaries: Vec<String>,
    /// Wall time on one thread.
    pub seconds: f64,
}

/// Summarizes every example with every model, the models taking turns; `progress` hears how many runs are done, of
/// examples times models.
///
/// # Errors
/// [`EvalError::Pipeline`] with the line of a text that a model refuses.
pub fn run(
    models: &[&Summarizer],
    examples: &[Example],
    options: &SummaryOptions,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Summaries>, EvalError> {
    let mut all = vec![Summaries::default(); models.len()];
    let mut done = 0;
    for example in examples {
        for (model, found) in models.iter().zip(&mut all) {
            let started = Instant::now();
            let answers = model.run(vec![example.text.clone()], options, BATCH_TOKENS);
            let answers = answers.map_err(|source| refused(std::slice::from_ref(example), source))?;
            found.seconds += started.elapsed().as_secs_f64();
            found.summaries.extend(answers.into_iter().map(|answer| answer.summary));
            done += 1;
            progress(done);
        }
    }
    Ok(all)
}

/// The first sentences of a text: the summary that is hard to beat on news.
pub fn lead(text: &str, sentences: usize) -> String {
    let found = segment(text, usize::MAX, str::len);
    found.into_iter().take(sentences).map(|s| &text[s.range]).collect::<Vec<_>>().join(" ")
}

/// ROUGE of each summary against the example's own.
///
/// # Errors
/// [`EvalError::Missing`] when an example has no summary.
pub fn judge(summaries: &[String], examples: &[Example]) -> Result<Vec<Rouge>, EvalError> {
    let one = |(example, summary): (&Example, &String)| {
        let reference = example.summary.as_ref().ok_or(EvalError::Missing("summary"))?;
        Ok(rouge(reference, summary))
    };
    examples.iter().zip(summaries).map(one).collect()
}
