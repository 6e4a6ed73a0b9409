//! Classifiers that give several labels.

use anyhow::ensure;
use serde_json::json;

use crate::checkpoint::DEFAULT_THRESHOLD;
use crate::cli::columns::with_found;
use crate::cli::progress;
use crate::cli::section::Section;
use crate::cli::table::Table;
use crate::eval::calibration::{Calibration, multi_label};
use crate::eval::classification::{self, spread};
use crate::eval::interval::wilson;
use crate::eval::labels;
use crate::eval::multi_label::MultiLabel;
use crate::eval::paired::Paired;
use crate::pipelines::Classifier;

use super::changes::{self, Change};
use super::report::{between, decimals, interval_json};
use super::{Arena, Found, Measured};

struct Run {
    judged: MultiLabel,
    calibration: Calibration,
    /// `[examples][all labels]`.
    given: Vec<Vec<bool>>,
}

/// Which labels a classifier gives: those whose scores reach their thresholds.
fn given(classifier: &Classifier, scores: &[f32]) -> Vec<bool> {
    let threshold = |class: usize| classifier.thresholds.get(class).copied().unwrap_or(DEFAULT_THRESHOLD);
    scores.iter().enumerate().map(|(class, score)| *score >= threshold(class)).collect()
}

pub(super) fn compare(arena: &Arena<'_>, classifiers: &[&Classifier]) -> anyhow::Result<Found> {
    let own_labels: Vec<&[String]> = classifiers.iter().map(|c| c.labels.as_slice()).collect();
    let (all, places) = labels::union(&own_labels);
    for (index, own) in own_labels.iter().enumerate() {
        labels::truth_sets(arena.examples, own, arena.name(index))?;
    }
    let truths = labels::truth_sets(arena.examples, &all, arena.name(0))?;
    ensure!(
        truths.iter().any(Option::is_some),
        "{}: no example has labels; see --labels-column",
        with_found(&arena.args.data, &arena.args.columns.columns())
    );
    let bar = progress::bar(arena.examples.len() * classifiers.len(), "classify");
    let outputs = classification::run(classifiers, arena.examples, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();

    let (mut runs, mut results) = (Vec::new(), Vec::new());
    for (index, classifier) in classifiers.iter().enumerate() {
        let own = outputs[index].scores(classifier);
        let own_given: Vec<Vec<f32>> =
            own.iter().map(|row| given(classifier, row).into_iter().map(as_score).collect()).collect();
        let scores = spread(&own, &places[index], all.len());
        let given: Vec<Vec<bool>> = spread(&own_given, &places[index], all.len())
            .into_iter()
            .map(|row| row.into_iter().map(|x| x > 0.0).collect())
            .collect();
        let labelled = || truths.iter().enumerate().filter_map(|(i, truth)| Some((i, truth.as_deref()?)));
        let judged = MultiLabel::count(all.len(), labelled().map(|(i, truth)| (given[i].as_slice(), truth)));
        let (rows, sets): (Vec<&[f32]>, Vec<&[bool]>) =
            labelled().map(|(i, truth)| (scores[i].as_slice(), truth)).unzip();
        let calibration = multi_label(&rows, &sets);
        let (exact, n) = (judged.exact_texts(), judged.exact.len() as u64);
        results.push(Measured {
            figures: vec![
                ("subset_accuracy", exact as f64 / n as f64),
                ("f1_micro", judged.micro_f1()),
                ("f1_macro", judged.macro_f1()),
                ("ece", calibration.ece),
                ("nll", calibration.nll),
                ("brier", calibration.brier),
            ],
            main: Some((exact as f64 / n as f64, Some(wilson(exact, n)))),
            ..Measured::of_outputs(&outputs[index])
        });
        runs.push(Run { judged, calibration, given });
    }
    let mut sections = vec![overall(arena, &runs), by_label(arena, &runs, &all)];
    if runs.len() > 1 {
        let changes: Vec<_> = arena.others().map(|i| change(i, &runs[i], &runs[arena.reference])).collect();
        changes.iter().for_each(|change| change.tell(arena, &mut results[change.model]));
        let right = "; right means exactly the true labels";
        let words = changes::Words { accuracy: "Subset accuracy", answer: "labels", right };
        sections.push(changes::section(arena, &changes, &words));
    }
    Ok(Found { sections, results, main: "subset accuracy" })
}

fn as_score(given: bool) -> f32 {
    f32::from(u8::from(given))
}

fn overall(arena: &Arena<'_>, runs: &[Run]) -> Section {
    let mut table =
        Table::new(["model", "n", "subset accuracy", "95 %", "F1 micro", "F1 macro", "ECE", "NLL", "Brier"]);
    let mut rows = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let (exact, n) = (run.judged.exact_texts(), run.judged.exact.len() as u64);
        let (share, interval) = (exact as f64 / n as f64, wilson(exact, n));
        let mut cells = vec![arena.name(index).to_string(), n.to_string(), decimals(share), between(interval)];
        let calibration = &run.calibration;
        let figures =
            [run.judged.micro_f1(), run.judged.macro_f1(), calibration.ece, calibration.nll, calibration.brier];
        cells.extend(figures.map(decimals));
        table.row(cells);
        rows.push(json!({
            "model": arena.name(index),
            "n": n,
            "subset_accuracy": share,
            "subset_accuracy_interval": interval_json(interval),
            "f1_micro": run.judged.micro_f1(),
            "f1_macro": run.judged.macro_f1(),
            "ece": calibration.ece,
            "nll": calibration.nll,
            "brier": calibration.brier,
        }));
    }
    let notes = vec![
        "Subset accuracy: texts that got exactly their labels. A label is given from its threshold on (`octet \
         calibrate`), which is 0.5 where none was fitted. ECE, NLL, Brier: over every label of every text."
            .into(),
    ];
    Section { key: "accuracy", title: "Accuracy", table, rows, figures: Vec::new(), notes }
}

fn by_label(arena: &Arena<'_>, runs: &[Run], all: &[String]) -> Section {
    let mut table = Table::new(["label", "model", "true", "precision", "recall", "F1"]);
    let mut rows = Vec::new();
    for (label, name) in all.iter().enumerate() {
        for (index, run) in runs.iter().enumerate() {
            let counts = run.judged.labels[label];
            let figures = [counts.precision(), counts.recall(), counts.f1()];
            let cells = [name.clone(), arena.name(index).to_string(), (counts.hits + counts.misses).to_string()];
            table.row(cells.into_iter().chain(figures.map(decimals)));
            rows.push(json!({
                "label": name,
                "model": arena.name(index),
                "true": counts.hits + counts.misses,
                "precision": counts.precision(),
                "recall": counts.recall(),
                "f1": counts.f1(),
            }));
        }
    }
    Section { key: "labels", title: "By label", table, rows, figures: Vec::new(), notes: Vec::new() }
}

/// How one classifier differs from the reference; right means exactly the true labels.
fn change(model: usize, run: &Run, reference: &Run) -> Change {
    let paired = Paired::count(reference.judged.exact.iter().copied().zip(run.judged.exact.iter().copied()));
    let same = run.given.iter().zip(&reference.given).filter(|(a, b)| a == b).count() as u64;
    Change { model, paired, same, texts: run.given.len() as u64, margins: Vec::new() }
}
