//! Classifiers that choose one label.

use anyhow::ensure;
use serde_json::json;

use crate::cli::columns::with_found;
use crate::cli::progress;
use crate::cli::section::Section;
use crate::cli::table::Table;
use crate::eval::classification::{self, Evaluation, agreement, best, evaluate, spread};
use crate::eval::correlation::{pearson, spearman};
use crate::eval::interval::wilson;
use crate::eval::labels;
use crate::eval::metrics::Confusion;
use crate::eval::paired::Paired;
use crate::pipelines::Classifier;
use crate::plot::{HeatMap, IntervalRow, Intervals, LineSeries, Lines};

use super::changes::{self, Change};
use super::report::{between, decimals, interval_json, maybe};
use super::{Arena, Found, Measured, valence};

/// Characters of a text that the list of flips shows.
const SHOWN_CHARACTERS: usize = 160;

/// What one classifier made of the examples.
struct Run {
    evaluation: Evaluation,
    /// `[examples][all classes]`.
    scores: Vec<Vec<f32>>,
    /// Where the scores lie on the scale of the labels, for labels that have one.
    expected: Option<Vec<f64>>,
    /// The number that the model gives beside the classes, and its name.
    value: Option<(String, Vec<f64>)>,
    measured: Measured,
}

pub(super) fn compare(arena: &Arena<'_>, classifiers: &[&Classifier]) -> anyhow::Result<Found> {
    let examples = arena.examples;
    let own_labels: Vec<&[String]> = classifiers.iter().map(|c| c.labels.as_slice()).collect();
    let (all, places) = labels::union(&own_labels);
    let truths = labels::truths(examples, &all, arena.name(0))?;
    for (index, own) in own_labels.iter().enumerate() {
        // A label that another model has and this one has not.
        let unknown = truths.iter().flatten().any(|truth| !places[index].contains(truth));
        if unknown {
            labels::truths(examples, own, &format!("{} (see --skip-labels)", arena.name(index)))?;
        }
    }
    let with_ratings = examples.iter().any(|e| e.rating.is_some());
    ensure!(
        truths.iter().any(Option::is_some) || (arena.args.valence && with_ratings),
        "{}: no example has a label; accuracy needs a column \"label\" (--label-column), agreement alone needs labels too",
        with_found(&arena.args.data, &arena.args.columns.columns())
    );
    let bar = progress::bar(examples.len() * classifiers.len(), "classify");
    let outputs = classification::run(classifiers, examples, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();

    let scale = labels::scale(&all);
    let runs: Vec<Run> = (0..classifiers.len())
        .map(|index| {
            let own = outputs[index].scores(classifiers[index]);
            let scores = spread(&own, &places[index], all.len());
            let evaluation = evaluate(&scores, &truths, examples);
            let expected = scale.as_ref().map(|s| scores.iter().map(|row| labels::expected_value(row, s)).collect());
            let values = outputs[index].values.iter().map(|x| f64::from(*x)).collect();
            let value = classifiers[index].value.clone().map(|name| (name, values));
            let (table, calibration) = (&evaluation.confusion, &evaluation.calibration);
            let labelled = table.total() > 0;
            let figures = vec![
                ("accuracy", table.accuracy()),
                ("f1_macro", table.macro_f1()),
                ("f1_weighted", table.weighted_f1()),
                ("mcc", table.mcc()),
                ("ece", calibration.ece),
                ("nll", calibration.nll),
                ("brier", calibration.brier),
            ];
            let measured = Measured {
                figures: if labelled { figures } else { Vec::new() },
                main: labelled.then(|| (table.accuracy(), Some(wilson(table.right(), table.total())))),
                choices: own.iter().map(|scores| (best(scores), scores[best(scores)])).collect(),
                ..Measured::of_outputs(&outputs[index])
            };
            Run { evaluation, scores, expected, value, measured }
        })
        .collect();
    let mut sections = Vec::new();
    if runs[0].measured.main.is_some() {
        sections.push(accuracy(arena, &runs));
        sections.extend(sources(arena, &runs));
    }
    if with_ratings && let Some(section) = ratings(arena, &runs) {
        sections.push(section);
    }
    if arena.args.valence {
        let expected: Option<Vec<&[f64]>> = runs.iter().map(|run| run.expected.as_deref()).collect();
        sections.push(valence::section(arena, expected, &numbers(arena, &runs))?);
    }
    let mut changes = Vec::new();
    let mut flips = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        if index != arena.reference {
            changes.push(change(index, run, &runs[arena.reference], &truths));
            flips.extend(flipped(arena, index, run, &runs[arena.reference], &truths, &all));
        }
    }
    if !changes.is_empty() {
        let words = changes::Words { accuracy: "Accuracy", answer: "class", right: "" };
        sections.push(changes::section(arena, &changes, &words));
    }
    sections.extend(flips);
    if runs[0].measured.main.is_some() {
        sections.push(reliability(arena, &runs));
        sections.push(confusion(arena, &runs, &all));
    }
    let mut results: Vec<Measured> = runs.into_iter().map(|run| run.measured).collect();
    changes.iter().for_each(|change| change.tell(arena, &mut results[change.model]));
    Ok(Found { sections, results, main: "accuracy" })
}

fn accuracy(arena: &Arena<'_>, runs: &[Run]) -> Section {
    let mut table =
        Table::new(["model", "n", "accuracy", "95 %", "F1 macro", "F1 weighted", "MCC", "ECE", "NLL", "Brier"]);
    let (mut rows, mut dots) = (Vec::new(), Vec::new());
    for (index, run) in runs.iter().enumerate() {
        let (counts, calibration) = (&run.evaluation.confusion, &run.evaluation.calibration);
        let interval = wilson(counts.right(), counts.total());
        let mut cells = vec![arena.name(index).to_string(), counts.total().to_string(), decimals(counts.accuracy())];
        cells.push(between(interval));
        let figures = [counts.macro_f1(), counts.weighted_f1(), counts.mcc()];
        cells.extend(figures.into_iter().chain([calibration.ece, calibration.nll, calibration.brier]).map(decimals));
        table.row(cells);
        rows.push(json!({
            "model": arena.name(index),
            "n": counts.total(),
            "accuracy": counts.accuracy(),
            "accuracy_interval": interval_json(interval),
            "f1_macro": counts.macro_f1(),
            "f1_weighted": counts.weighted_f1(),
            "mcc": counts.mcc(),
            "ece": calibration.ece,
            "nll": calibration.nll,
            "brier": calibration.brier,
        }));
        let (name, value) = (arena.name(index).to_string(), counts.accuracy());
        let [value, low, high] = [value, interval.low, interval.high].map(|x| 100.0 * x);
        dots.push(IntervalRow { name, series: index, value, low, high });
    }
    Section {
        key: "accuracy",
        title: "Accuracy",
        table,
        rows,
        figures: vec![Intervals { title: "Accuracy in %, with 95 % intervals".into(), rows: dots, limit: None }.svg()],
        notes: vec![
            "95 %: Wilson's interval of the accuracy. It is about texts like these, and wide; whether two models \
             differ on the same texts is in the part on what changed."
                .into(),
            "ECE: expected calibration error in 15 bins; NLL, Brier: of the scores against the truth; lower is better."
                .into(),
        ],
    }
}

/// By source, when there is more than one.
fn sources(arena: &Arena<'_>, runs: &[Run]) -> Option<Section> {
    let names: Vec<&String> = runs[0].evaluation.by_source.keys().collect();
    if names.len() < 2 {
        return None;
    }
    let mut table = Table::new(["source", "model", "n", "accuracy", "95 %", "F1 macro", "F1 weighted", "MCC"]);
    let mut rows = Vec::new();
    for source in names {
        for (index, run) in runs.iter().enumerate() {
            let counts: &Confusion = &run.evaluation.by_source[source];
            let interval = wilson(counts.right(), counts.total());
            let figures = [counts.macro_f1(), counts.weighted_f1(), counts.mcc()];
            let mut cells = vec![source.clone(), arena.name(index).to_string(), counts.total().to_string()];
            cells.extend([decimals(counts.accuracy()), between(interval)]);
            cells.extend(figures.map(decimals));
            table.row(cells);
            rows.push(json!({
                "source": source,
                "model": arena.name(index),
                "n": counts.total(),
                "accuracy": counts.accuracy(),
                "accuracy_interval": interval_json(interval),
                "f1_macro": counts.macro_f1(),
                "f1_weighted": counts.weighted_f1(),
                "mcc": counts.mcc(),
            }));
        }
    }
    Some(Section { key: "sources", title: "By source", table, rows, figures: Vec::new(), notes: Vec::new() })
}

/// The numbers that models give beside their classes, each with the names of both.
fn numbers<'a>(arena: &Arena<'_>, runs: &'a [Run]) -> Vec<(String, &'a [f64])> {
    let one = |(index, run): (usize, &'a Run)| {
        let (name, values) = run.value.as_ref()?;
        Some((format!("{}, its {name}", arena.name(index)), values.as_slice()))
    };
    runs.iter().enumerate().filter_map(one).collect()
}

/// How the scores follow the numbers that people gave, for labels that lie on a scale.
fn ratings(arena: &Arena<'_>, runs: &[Run]) -> Option<Section> {
    let mut table = Table::new(["model", "n", "Pearson", "Spearman"]);
    let mut rows = Vec::new();
    let expected =
        runs.iter().enumerate().filter_map(|(index, run)| Some((arena.name(index), run.expected.as_deref()?)));
    let numbers = numbers(arena, runs);
    for (name, values) in expected.chain(numbers.iter().map(|(name, values)| (name.as_str(), *values))) {
        let rated = arena.examples.iter().zip(values).filter_map(|(e, value)| Some((*value, e.rating?)));
        let (values, ratings): (Vec<f64>, Vec<f64>) = rated.unzip();
        let (r, rho) = (pearson(&values, &ratings), spearman(&values, &ratings));
        table.row([name.to_string(), values.len().to_string(), maybe(r), maybe(rho)]);
        rows.push(json!({"model": name, "n": values.len(), "pearson": r, "spearman": rho}));
    }
    if rows.is_empty() {
        return None;
    }
    let notes = vec![
        "The value that the scores expect on the scale of the labels (negative -1, neutral 0, positive 1; or the \
         number that a label begins with) beside the rating; and the number that a model gives beside its classes."
            .into(),
    ];
    Some(Section { key: "ratings", title: "Scores and ratings", table, rows, figures: Vec::new(), notes })
}

/// How one classifier differs from the reference.
fn change(model: usize, run: &Run, reference: &Run, truths: &[Option<usize>]) -> Change {
    let predicted = run.evaluation.predicted.iter().zip(&reference.evaluation.predicted);
    let same = predicted.clone().filter(|(a, b)| a == b).count() as u64;
    let right = predicted.zip(truths).filter_map(|((a, b), truth)| Some((*b == (*truth)?, *a == (*truth)?)));
    let mut margins: Vec<f64> =
        agreement(&run.scores, &reference.scores).flip_margins.iter().map(|m| f64::from(*m)).collect();
    margins.sort_by(f64::total_cmp);
    Change { model, paired: Paired::count(right), same, texts: truths.len() as u64, margins }
}

/// The texts that one classifier answers differently from the reference, mistakes first.
fn flipped(
    arena: &Arena<'_>,
    index: usize,
    run: &Run,
    reference: &Run,
    truths: &[Option<usize>],
    all: &[String],
) -> Option<Section> {
    let (own, other) = (&run.evaluation.predicted, &reference.evaluation.predicted);
    let mut differing: Vec<usize> = (0..own.len()).filter(|i| own[*i] != other[*i]).collect();
    differing.sort_by_key(|i| match truths[*i] {
        Some(truth) if truth == other[*i] => 0,
        Some(truth) if truth == own[*i] => 1,
        _ => 2,
    });
    if arena.args.flips == 0 || differing.is_empty() {
        return None;
    }
    let mut table = Table::new(["text", "line", "truth", "reference", "score", "model", "score"]);
    let mut rows = Vec::new();
    for i in differing.into_iter().take(arena.args.flips) {
        let example = &arena.examples[i];
        let truth = truths[i].map_or("-", |truth| &all[truth]);
        let scores = [reference, run].map(|r| r.scores[i][best(&r.scores[i])]);
        let text: String = example.text.chars().take(SHOWN_CHARACTERS).map(|c| if c < ' ' { ' ' } else { c }).collect();
        let (from, to) = (&all[other[i]], &all[own[i]]);
        let mut cells = vec![text, example.line.to_string(), truth.to_string()];
        cells.extend([from.clone(), format!("{:.3}", scores[0]), to.clone(), format!("{:.3}", scores[1])]);
        table.row(cells);
        rows.push(json!({
            "model": arena.name(index),
            "line": example.line,
            "text": example.text,
            "truth": truths[i].map(|truth| &all[truth]),
            "reference": from,
            "reference_score": scores[0],
            "answer": to,
            "score": scores[1],
        }));
    }
    let notes = vec![format!(
        "{} against {}: first what became wrong, then what became right, then what stayed wrong.",
        arena.name(index),
        arena.name(arena.reference)
    )];
    Some(Section { key: "flips", title: "Texts with another class", table, rows, figures: Vec::new(), notes })
}

/// Whether a score of 0.8 is right in 80 of 100 cases.
fn reliability(arena: &Arena<'_>, runs: &[Run]) -> Section {
    let (mut series, mut rows) = (Vec::new(), Vec::new());
    for (index, run) in runs.iter().enumerate() {
        let bins = run.evaluation.calibration.bins.iter().filter(|bin| bin.count > 0);
        let points = bins.clone().map(|bin| (bin.confidence, bin.accuracy)).collect();
        series.push(LineSeries { name: arena.name(index).to_string(), points });
        rows.extend(bins.map(|bin| {
            json!({
                "model": arena.name(index),
                "confidence": bin.confidence,
                "accuracy": bin.accuracy,
                "count": bin.count,
            })
        }));
    }
    // Last, so that the models have the colours that they have in the other figures.
    series.push(LineSeries { name: "honest".into(), points: vec![(0.0, 0.0), (1.0, 1.0)] });
    let lines = Lines {
        title: "Reliability: share of right answers by confidence, in 15 bins".into(),
        x_label: "confidence".into(),
        series,
        ..Lines::default()
    };
    let notes = vec![
        "Below the straight line a model claims more than it keeps; `octet calibrate` mends that. Bins with few texts \
         scatter."
            .into(),
    ];
    Section {
        key: "reliability",
        title: "Calibration",
        table: counts(runs, arena),
        rows,
        figures: vec![lines.svg()],
        notes,
    }
}

fn counts(runs: &[Run], arena: &Arena<'_>) -> Table {
    let mut table = Table::new(["model", "confidence", "accuracy", "texts"]);
    for (index, run) in runs.iter().enumerate() {
        for bin in run.evaluation.calibration.bins.iter().filter(|bin| bin.count > 0) {
            let figures = [format!("{:.3}", bin.confidence), format!("{:.3}", bin.accuracy), bin.count.to_string()];
            table.row(std::iter::once(arena.name(index).to_string()).chain(figures));
        }
    }
    table
}

fn confusion(arena: &Arena<'_>, runs: &[Run], all: &[String]) -> Section {
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    let mut table = Table::new(["truth", "model", "answers"]);
    for (index, run) in runs.iter().enumerate() {
        let counts = &run.evaluation.confusion;
        let row = |truth: usize| (0..all.len()).map(|said| counts.count(truth, said)).collect::<Vec<u64>>();
        let matrix: Vec<Vec<u64>> = (0..all.len()).map(row).collect();
        for (truth, row) in matrix.iter().enumerate().filter(|(_, row)| row.iter().any(|count| *count > 0)) {
            let said: Vec<String> = row.iter().zip(all).map(|(count, label)| format!("{label} {count}")).collect();
            table.row([all[truth].clone(), arena.name(index).to_string(), said.join(", ")]);
        }
        rows.push(json!({"model": arena.name(index), "labels": all, "counts": &matrix}));
        let title = format!("{}: truth (rows) and answer (columns)", arena.name(index));
        figures.push(HeatMap { title, rows: all.to_vec(), columns: all.to_vec(), counts: matrix }.svg());
    }
    Section { key: "confusion", title: "Confusion", table, rows, figures, notes: Vec::new() }
}
