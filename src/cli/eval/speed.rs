//! What the models cost: time, disk and memory.

use std::time::Duration;

use serde_json::json;

use crate::cli::progress;
use crate::cli::section::Section;
use crate::cli::table::{Table, megabytes};
use crate::eval::classification::input;
use crate::eval::latency::{self, Latency};
use crate::pipelines::{
    Classifier, ClassifyOptions, EmbedOptions, Embedder, Pipeline, PipelineError, Summarizer, SummaryOptions,
};

use super::{Arena, Measured};

/// What the timing of single texts may take, over all models.
const LIMIT: Duration = Duration::from_secs(60);

type Run<'a> = latency::Run<'a, PipelineError>;

pub(super) fn of_classifiers(
    arena: &Arena<'_>,
    classifiers: &[&Classifier],
    results: &[Measured],
) -> anyhow::Result<Section> {
    section(arena, results, |index| {
        let (classifier, examples) = (classifiers[index], arena.examples);
        Box::new(move |i| classifier.run(vec![input(&examples[i])], &ClassifyOptions::default(), usize::MAX).map(drop))
    })
}

pub(super) fn of_embedders(
    arena: &Arena<'_>,
    embedders: &[&Embedder],
    results: &[Measured],
) -> anyhow::Result<Section> {
    section(arena, results, |index| {
        let (embedder, examples) = (embedders[index], arena.examples);
        Box::new(move |i| embedder.run(vec![examples[i].text.clone()], &EmbedOptions::default(), usize::MAX).map(drop))
    })
}

pub(super) fn of_summarizers(
    arena: &Arena<'_>,
    summarizers: &[&Summarizer],
    results: &[Measured],
) -> anyhow::Result<Section> {
    let options = SummaryOptions { sentences: Some(arena.args.sentences), ..SummaryOptions::default() };
    section(arena, results, |index| {
        let (summarizer, examples, options) = (summarizers[index], arena.examples, options.clone());
        Box::new(move |i| summarizer.run(vec![examples[i].text.clone()], &options, 4096).map(drop))
    })
}

/// Texts spread evenly over the data.
fn sample(texts: usize, wanted: usize) -> Vec<usize> {
    let count = wanted.min(texts);
    (0..count).map(|i| i * texts / count).collect()
}

fn section<'a>(arena: &'a Arena<'_>, results: &[Measured], run: impl Fn(usize) -> Run<'a>) -> anyhow::Result<Section> {
    let texts = sample(arena.examples.len(), arena.args.latency_texts);
    let mut runs: Vec<Run<'_>> = (0..arena.contestants.len())
        .map(|index| -> Run<'_> {
            let (mut run, texts) = (run(index), texts.clone());
            Box::new(move |i| run(texts[i]))
        })
        .collect();
    let bar = progress::bar(texts.len(), "time");
    let times = match texts.is_empty() {
        true => vec![Latency::default(); runs.len()],
        false => latency::measure(&mut runs, texts.len(), LIMIT, |done| bar.set_position(done as u64))?,
    };
    bar.finish_and_clear();
    let mut table = Table::new([
        "model",
        "texts/s",
        "tokens/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "on disk",
        "weights in memory",
        "grew in RAM",
    ]);
    let mut rows = Vec::new();
    for ((contestant, measured), times) in arena.contestants.iter().zip(results).zip(&times) {
        let info = &contestant.model.info;
        let weights: u64 = info.sizes.iter().map(|size| size.bytes).sum();
        let (texts_per_second, tokens_per_second) =
            (measured.texts as f64 / measured.seconds, measured.tokens() as f64 / measured.seconds);
        let ms = |seconds: f64| if times.texts == 0 { "-".into() } else { format!("{:.2}", 1e3 * seconds) };
        let tokens = if measured.lengths.is_empty() { "-".into() } else { format!("{tokens_per_second:.0}") };
        let mut cells = vec![contestant.name.clone(), format!("{texts_per_second:.0}"), tokens];
        cells.extend([
            ms(times.p50),
            ms(times.p90),
            ms(times.p99),
            megabytes(contestant.file_bytes),
            megabytes(weights),
        ]);
        cells.push(contestant.resident_growth.map_or("-".into(), megabytes));
        table.row(cells);
        let timed = (times.texts > 0).then_some(times);
        rows.push(json!({
            "model": contestant.name,
            "texts_per_second": texts_per_second,
            "tokens_per_second": (!measured.lengths.is_empty()).then_some(tokens_per_second),
            "latency_p50_seconds": timed.map(|t| t.p50),
            "latency_p90_seconds": timed.map(|t| t.p90),
            "latency_p99_seconds": timed.map(|t| t.p99),
            "latency_texts": times.texts,
            "truncated_texts": measured.truncated,
            "file_bytes": contestant.file_bytes,
            "weight_bytes": weights,
            "resident_growth_bytes": contestant.resident_growth,
            "load_seconds": info.load_seconds,
        }));
    }
    let timed = times.first().map_or(0, |t| t.texts);
    let mut notes = vec![
        format!(
            "One thread, tokenization included, the models taking turns: all texts in batches of up to 64, then \
             {timed} texts one by one."
        ),
        "On disk: the weight files, the encoder's included. In memory: the weights as they are held, and by how much \
         the process grew while loading them."
            .into(),
    ];
    for (contestant, measured) in arena.contestants.iter().zip(results).filter(|(_, m)| m.truncated > 0) {
        notes.push(format!("{} cut {} texts that were too long for it.", contestant.name, measured.truncated));
    }
    Ok(Section { key: "cost", title: "Speed and size", table, rows, figures: Vec::new(), notes })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_sample_is_spread_over_the_data() {
        assert_eq!(super::sample(10, 5), [0, 2, 4, 6, 8]);
        assert_eq!(super::sample(3, 5), [0, 1, 2]);
        assert_eq!(super::sample(3, 0), [] as [usize; 0]);
    }
}
