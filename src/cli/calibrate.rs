//! `octet calibrate MODEL --data FILE`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::architectures::ProblemType;
use crate::checkpoint::{DEFAULT_THRESHOLD, Fallback, QuantManifest, Reference, card, update_manifest};
use crate::data::{Example, read_with};
use crate::eval::EvalError;
use crate::eval::calibration::{Calibration, multi_label, single_label};
use crate::eval::classification::{self, Outputs, best};
use crate::eval::labels;
use crate::eval::multi_label::{Aim, Counts, fit_threshold};
use crate::pipelines::{Classifier, Loader, Precision, sigmoid_temperature, softmax_temperature};

use super::columns::{ColumnArgs, with_found};
use super::table::Table;
use super::{Common, kernels, model_folder, progress};

/// Make a classifier's scores honest: fit its temperature, and thresholds for several labels, on labelled texts.
///
/// The temperature divides the logits, so that a score of 0.8 is right in about 80
/// of 100 cases; which class is best does not change. Use texts that the model was
/// not trained on and is not tested on. With --write both are stored in the model's
/// quant.json and served, and so is what live traffic is compared with, which the
/// temperature changes:
///
///   octet calibrate models/my-model --data dev.jsonl --write
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CalibrateArgs {
    /// Model: a folder, or a hub id such as org/name
    model: String,
    /// Labelled texts: .jsonl, .csv or .tsv
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Choose each threshold for the best recall at this precision, 0 to 1, instead of for the best F1
    #[arg(long, value_name = "SHARE")]
    precision: Option<f64>,
    /// Of one class per text: the class for texts that no other class is likely enough for; fits from which probability
    /// on, for the best F1 of the answers, or with --precision for the most answers of which that share is right
    #[arg(long, value_name = "LABEL")]
    fallback: Option<String>,
    /// Store what was fitted in the model's folder
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    columns: ColumnArgs,
}

pub(super) fn run(args: CalibrateArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let precise = args.precision.unwrap_or(1.0);
    ensure!(precise > 0.0 && precise <= 1.0, "--precision is {precise}, must be above 0 and at most 1");
    let folder = model_folder(&args.model, &settings)?;
    if args.write && QuantManifest::read(&folder)?.is_none() {
        bail!("{}: no quant.json to --write into; `octet quantize` makes one", folder.display());
    }
    let examples = read_with(&args.data, &args.columns.columns(), usize::MAX)?;
    let model = Loader::new(kernels(&settings)?, Precision::Int8).load(&args.model, &folder)?;
    let Some(classifier) = model.classifier.and_then(Arc::into_inner) else {
        bail!("{}: does not classify; temperature and thresholds are for classifiers", args.model);
    };
    let fitted = match classifier.problem_type {
        ProblemType::SingleLabel if classifier.labels.len() > 1 => one_label(&args, classifier, &examples)?,
        ProblemType::MultiLabel if args.fallback.is_some() => {
            bail!("{}: gives several labels; --fallback is for one class per text", args.model)
        }
        ProblemType::MultiLabel => several_labels(&args, classifier, &examples)?,
        other => return Err(EvalError::ProblemType(other).into()),
    };
    if args.write {
        update_manifest(&folder, |manifest| {
            manifest.temperature = Some(fitted.temperature);
            manifest.thresholds = fitted.thresholds;
            manifest.fallback = fitted.fallback;
            manifest.reference = Some(fitted.reference);
        })?;
        card::write(&folder).context("cannot write the model card")?;
        println!(
            "stored in {}; scores that `octet eval --write` stored before are of the old temperature",
            folder.display()
        );
    }
    Ok(())
}

/// What is stored.
struct Fitted {
    temperature: f32,
    thresholds: BTreeMap<String, f32>,
    fallback: Option<Fallback>,
    /// What the model read and answers with that temperature: what live traffic is compared with.
    reference: Reference,
}

fn dataset(args: &CalibrateArgs) -> String {
    args.data.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Logits of the examples, `[examples][classes]`.
fn outputs(classifier: &Classifier, examples: &[Example]) -> anyhow::Result<Outputs> {
    let bar = progress::bar(examples.len(), "classify");
    let outputs = classification::run(&[classifier], examples, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    Ok(outputs.into_iter().next().expect("one classifier gives one set"))
}

/// A row of the table of temperatures.
fn row(table: &mut Table, what: &str, temperature: f32, accuracy: f64, calibration: &Calibration) {
    let figures = [accuracy, calibration.ece, calibration.nll, calibration.brier].map(|x| format!("{x:.4}"));
    table.row([what.to_string(), format!("{temperature:.4}")].into_iter().chain(figures));
}

fn one_label(args: &CalibrateArgs, mut classifier: Classifier, examples: &[Example]) -> anyhow::Result<Fitted> {
    let truths = labels::truths(examples, &classifier.labels, &args.model)?;
    ensure!(
        truths.iter().any(Option::is_some),
        "{}: no example has a label; see --label-column",
        with_found(&args.data, &args.columns.columns())
    );
    let wanted = args.fallback.as_ref().map(|label| fallback_class(label, &classifier)).transpose()?;
    // Without --fallback the stored one stays, and counts in all figures.
    if wanted.is_some() {
        classifier.fallback = None;
    }
    let outputs = outputs(&classifier, examples)?;
    let labelled: Vec<(&[f32], usize)> =
        outputs.logits.iter().zip(&truths).filter_map(|(row, truth)| Some((row.as_slice(), (*truth)?))).collect();
    let fitted = softmax_temperature(labelled.iter().copied());
    let mut table = Table::new(["temperature", "value", "accuracy", "ECE", "NLL", "Brier"]);
    for (what, temperature) in [("none", 1.0), ("stored", classifier.temperature), ("fitted", fitted)] {
        classifier.temperature = temperature;
        let activation = classifier.default_activation();
        let scores: Vec<Vec<f32>> =
            labelled.iter().map(|(logits, _)| classifier.activate(logits, activation)).collect();
        let rows: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
        let truths: Vec<usize> = labelled.iter().map(|(_, truth)| *truth).collect();
        let right = scores.iter().zip(&truths).filter(|(scores, truth)| best(scores) == **truth).count();
        let accuracy = right as f64 / truths.len() as f64;
        row(&mut table, what, temperature, accuracy, &single_label(&rows, &truths));
    }
    println!("{} labelled texts\n\n{table}", labelled.len());
    if let Some(class) = wanted {
        classifier.fallback = Some((class, fit_fallback(args, &mut classifier, class, &labelled)?));
    }
    let activation = classifier.default_activation();
    let choice = |logits: &Vec<f32>| {
        let scores = classifier.activate(logits, activation);
        (best(&scores), scores[best(&scores)])
    };
    let choices: Vec<_> = outputs.logits.iter().map(choice).collect();
    let reference = Reference::of(&dataset(args), classifier.labels.len(), &choices, &outputs.lengths);
    let fallback = classifier.fallback.map(|(class, threshold)| {
        let label = classifier.labels[class].clone();
        Fallback { label, threshold }
    });
    Ok(Fitted { temperature: fitted, thresholds: BTreeMap::new(), fallback, reference })
}

/// The class of this name, which there must be at least two others beside.
fn fallback_class(label: &str, classifier: &Classifier) -> anyhow::Result<usize> {
    let labels = &classifier.labels;
    ensure!(labels.len() >= 3, "--fallback needs at least three classes, the model has {}", labels.len());
    let class = labels.iter().position(|l| l == label);
    class.with_context(|| format!("--fallback is \"{label}\", expected one of {}", labels.join(", ")))
}

/// The probability from which the best of the other classes is taken; prints what that does.
fn fit_fallback(
    args: &CalibrateArgs,
    classifier: &mut Classifier,
    class: usize,
    labelled: &[(&[f32], usize)],
) -> anyhow::Result<f32> {
    let activation = classifier.default_activation();
    // The best class besides the fallback, its probability, and whether it is right.
    let answer = |(logits, truth): &(&[f32], usize)| {
        let mut scores = classifier.activate(logits, activation);
        scores[class] = 0.0;
        (scores[best(&scores)], best(&scores) == *truth)
    };
    let (scores, right): (Vec<f32>, Vec<bool>) = labelled.iter().map(answer).unzip();
    let aim = args.precision.map_or(Aim::F1, Aim::Precision);
    let found = fit_threshold(&scores, &right, aim)
        .context("no threshold reaches that --precision on these texts; lower it, or leave it out for the best F1")?;
    let mut table = Table::new(["fallback below", "answered", "of these right", "in scope, right"]);
    let in_scope = labelled.iter().filter(|(_, truth)| *truth != class).count();
    for threshold in [0.0, found.value] {
        classifier.fallback = Some((class, threshold));
        let answers = labelled.iter().map(|(logits, truth)| (best(&classifier.activate(logits, activation)), *truth));
        let answers: Vec<_> = answers.filter(|(answer, _)| *answer != class).collect();
        let right = answers.iter().filter(|(answer, truth)| answer == truth).count();
        let share = |n: usize, of: usize| format!("{:.4}", n as f64 / of.max(1) as f64);
        let cells = [share(answers.len(), labelled.len()), share(right, answers.len()), share(right, in_scope)];
        table.row([format!("{threshold:.4}")].into_iter().chain(cells));
    }
    println!("{table}\nA text that no class but \"{}\" is likely enough for gets that one.", classifier.labels[class]);
    Ok(found.value)
}

fn several_labels(args: &CalibrateArgs, mut classifier: Classifier, examples: &[Example]) -> anyhow::Result<Fitted> {
    let truths = labels::truth_sets(examples, &classifier.labels, &args.model)?;
    ensure!(
        truths.iter().any(Option::is_some),
        "{}: no example has labels; see --labels-column",
        with_found(&args.data, &args.columns.columns())
    );
    let outputs = outputs(&classifier, examples)?;
    let labelled: Vec<(&[f32], &[bool])> = outputs
        .logits
        .iter()
        .zip(&truths)
        .filter_map(|(row, truth)| Some((row.as_slice(), truth.as_deref()?)))
        .collect();
    let sets: Vec<&[bool]> = labelled.iter().map(|(_, truth)| *truth).collect();
    let fitted = sigmoid_temperature(labelled.iter().copied());
    let mut table = Table::new(["temperature", "value", "accuracy of labels", "ECE", "NLL", "Brier"]);
    let mut scores: Vec<Vec<f32>> = Vec::new();
    for (what, temperature) in [("none", 1.0), ("stored", classifier.temperature), ("fitted", fitted)] {
        classifier.temperature = temperature;
        let activation = classifier.default_activation();
        scores = labelled.iter().map(|(logits, _)| classifier.activate(logits, activation)).collect();
        let rows: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
        let pairs = scores.iter().flatten().zip(sets.iter().copied().flatten());
        let right = pairs.clone().filter(|(score, truth)| (**score >= DEFAULT_THRESHOLD) == **truth).count();
        let accuracy = right as f64 / pairs.count() as f64;
        row(&mut table, what, temperature, accuracy, &multi_label(&rows, &sets));
    }
    println!("{} labelled texts\n\n{table}", labelled.len());

    let aim = args.precision.map_or(Aim::F1, Aim::Precision);
    let mut table = Table::new(["label", "true", "threshold", "precision", "recall", "F1", "F1 at 0.5"]);
    let mut thresholds = BTreeMap::new();
    for (index, label) in classifier.labels.iter().enumerate() {
        let own: Vec<f32> = scores.iter().map(|row| row[index]).collect();
        let truth: Vec<bool> = sets.iter().map(|set| set[index]).collect();
        let usual = counts(&own, &truth, DEFAULT_THRESHOLD);
        let found = fit_threshold(&own, &truth, aim);
        let threshold = found.map_or(DEFAULT_THRESHOLD, |found| found.value);
        let now = found.map_or(usual, |found| found.counts);
        let shown = found.map_or("none found, 0.5".to_string(), |found| format!("{:.4}", found.value));
        let figures = [now.precision(), now.recall(), now.f1(), usual.f1()].map(|x| format!("{x:.4}"));
        table.row([label.clone(), (usual.hits + usual.misses).to_string(), shown].into_iter().chain(figures));
        thresholds.insert(label.clone(), threshold);
    }
    println!("{table}\nThresholds fit the texts that they were chosen on best; on others expect a little less.");
    let reference = Reference::of(&dataset(args), classifier.labels.len(), &[], &outputs.lengths);
    Ok(Fitted { temperature: fitted, thresholds, fallback: None, reference })
}

fn counts(scores: &[f32], truths: &[bool], threshold: f32) -> Counts {
    let mut counts = Counts::default();
    for (score, truth) in scores.iter().zip(truths) {
        match (*score >= threshold, *truth) {
            (true, true) => counts.hits += 1,
            (true, false) => counts.false_alarms += 1,
            (false, true) => counts.misses += 1,
            (false, false) => {}
        }
    }
    counts
}
