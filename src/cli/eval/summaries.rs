//! Summaries beside those that people wrote.

use serde_json::json;

use crate::cli::progress;
use crate::cli::section::Section;
use crate::cli::table::Table;
use crate::eval::interval::bootstrap;
use crate::eval::rouge::Rouge;
use crate::eval::summaries::{self, judge, lead};
use crate::pipelines::{Summarizer, SummaryOptions};

use super::report::{decimals, maybe_between, maybe_interval_json, percent};
use super::{Arena, Found, Measured};

/// F1 of ROUGE-1, ROUGE-2 and ROUGE-L.
fn f1(rouge: &Rouge) -> [f64; 3] {
    [rouge.rouge1.f1, rouge.rouge2.f1, rouge.rouge_l.f1]
}

fn mean(values: impl Iterator<Item = f64>, n: usize) -> f64 {
    values.sum::<f64>() / n.max(1) as f64
}

pub(super) fn compare(arena: &Arena<'_>, summarizers: &[&Summarizer]) -> anyhow::Result<Found> {
    let options = SummaryOptions { sentences: Some(arena.args.sentences), ..SummaryOptions::default() };
    let bar = progress::bar(arena.examples.len() * summarizers.len(), "summarize");
    let found = summaries::run(summarizers, arena.examples, &options, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let firsts: Vec<String> = arena.examples.iter().map(|e| lead(&e.text, arena.args.sentences)).collect();
    let lead_name = format!("first {} sentences", arena.args.sentences);

    let mut entries = Vec::new();
    for (index, own) in found.iter().enumerate() {
        entries.push((arena.name(index), judge(&own.summaries, arena.examples)?));
    }
    entries.push((lead_name.as_str(), judge(&firsts, arena.examples)?));
    let reference = entries[arena.reference].1.clone();
    let n = arena.examples.len();
    let mut table =
        Table::new(["model", "n", "ROUGE-1", "ROUGE-2", "ROUGE-L", "95 %", "against the reference", "95 %", "same"]);
    let (mut rows, mut results) = (Vec::new(), Vec::new());
    for (index, (name, scores)) in entries.iter().enumerate() {
        let [r1, r2, rl] = [0, 1, 2].map(|variant| mean(scores.iter().map(|s| f1(s)[variant]), n));
        let of = |drawn: &[usize]| Some(mean(drawn.iter().map(|i| scores[*i].rouge_l.f1), drawn.len()));
        let gain = |drawn: &[usize]| {
            let gains = drawn.iter().map(|i| scores[*i].rouge_l.f1 - reference[*i].rouge_l.f1);
            Some(mean(gains, drawn.len()))
        };
        let interval = bootstrap(n, of);
        let everything: Vec<usize> = (0..n).collect();
        let against = (index != arena.reference).then(|| (gain(&everything), bootstrap(n, gain)));
        let (difference, difference_interval) = against.unwrap_or_default();
        let same = (index != arena.reference).then(|| {
            let own = found.get(index).map_or(&firsts, |own| &own.summaries);
            let same = own.iter().zip(&found[arena.reference].summaries).filter(|(a, b)| a == b).count();
            same as f64 / n as f64
        });
        let mut cells = vec![name.to_string(), n.to_string()];
        cells.extend([r1, r2, rl].map(decimals));
        cells.extend([maybe_between(interval), difference.map_or("-".into(), |d| format!("{d:+.4}"))]);
        cells.extend([maybe_between(difference_interval), same.map_or("-".into(), percent)]);
        table.row(cells);
        rows.push(json!({
            "model": name,
            "n": n,
            "rouge1": r1,
            "rouge2": r2,
            "rouge_l": rl,
            "rouge_l_interval": maybe_interval_json(interval),
            "rouge_l_difference": difference,
            "rouge_l_difference_interval": maybe_interval_json(difference_interval),
            "same_summaries": same,
        }));
        if let Some(own) = found.get(index) {
            results.push(Measured {
                figures: vec![("rouge1", r1), ("rouge2", r2), ("rouge_l", rl)],
                main: Some((rl, interval)),
                seconds: own.seconds,
                texts: n,
                ..Measured::default()
            });
        }
    }
    let notes = vec![format!(
        "Mean F1 of ROUGE without stemming against the summary of the data; intervals by the bootstrap, of ROUGE-L. \
         Compared with {}. The first sentences of a text are no model; on news they are hard to beat.",
        arena.name(arena.reference)
    )];
    let sections = vec![Section { key: "rouge", title: "Summaries", table, rows, figures: Vec::new(), notes }];
    Ok(Found { sections, results, main: "ROUGE-L" })
}
