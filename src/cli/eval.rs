//! `octet eval MODEL --data FILE`

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use crate::checkpoint::{Score, card, update_manifest};
use crate::data::{Example, read_examples};
use crate::eval::classification::{Evaluation, agreement, evaluate};
use crate::eval::embedding::{closeness, embed};
use crate::eval::metrics::{Confusion, quantile};
use crate::pipelines::{Classifier, Embedder, Loader, Model, Precision};

use super::table::Table;
use super::{Common, kernels, machine, model_folder, progress};

/// Measure accuracy, agreement with f32 and speed, and store them with the model.
///
/// A classifier needs labels; a sentence encoder needs only texts and a float original to be compared with. With
/// --write the figures go into the folder's quant.json and model card, and `octet serve` exports them as metrics:
///
///   octet eval models/sentiment --data test.jsonl --float path/to/float-encoder --write
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct EvalArgs {
    /// Model: a folder, or a hub id such as org/name
    model: String,
    /// Texts, with labels for a classifier: .jsonl, .csv or .tsv
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Name of the data set in the scores; the file's name when left out
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Folder with the float weights that the encoder was quantized from
    #[arg(long, value_name = "DIR")]
    float: Option<PathBuf>,
    /// Store the scores in the model's folder
    #[arg(long)]
    write: bool,
}

pub(super) fn run(args: EvalArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let kernels = kernels(&settings)?;
    let folder = model_folder(&args.model, &settings)?;
    let examples = read_examples(&args.data)?;
    let model = Loader::new(kernels, Precision::Int8).load(&args.model, &folder)?;
    let float = match &args.float {
        Some(dir) => Some(Loader::new(kernels, Precision::Float).with_encoder(dir)?.load(&args.model, &folder)?),
        None => None,
    };
    let figures = match (&model.classifier, &model.embedder) {
        (Some(classifier), _) => classify(classifier, float.as_ref(), &examples)?,
        (None, Some(embedder)) => compare(embedder, float.as_ref(), &examples)?,
        (None, None) => bail!("{}: neither classifies nor embeds", args.model),
    };
    if args.write {
        let machine = format!("{}, one thread; f32 through candle", machine::describe(kernels));
        let scores = stored(&args, figures, examples.len(), machine)?;
        update_manifest(&folder, |manifest| {
            manifest.scores.retain(|s| !scores.iter().any(|n| n.dataset == s.dataset));
            manifest.scores.extend(scores.clone());
        })?;
        card::write(&folder).context("cannot write the model card")?;
        println!("stored in {}", folder.display());
    }
    Ok(())
}

/// (metric, precision, value)
type Figure = (&'static str, &'static str, f64);

fn classify(classifier: &Classifier, float: Option<&Model>, examples: &[Example]) -> anyhow::Result<Vec<Figure>> {
    let run = |classifier: &Classifier, what| -> anyhow::Result<Evaluation> {
        let bar = progress::bar(examples.len(), what);
        let found = evaluate(classifier, examples, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        Ok(found)
    };
    let int8 = run(classifier, "int8")?;
    let mut figures = scores("int8", &int8, examples.len());
    let float = float.and_then(|m| m.classifier.as_ref()).map(|c| run(c, "f32")).transpose()?;
    if let Some(float) = &float {
        figures.extend(scores("f32", float, examples.len()));
        let found = agreement(&int8.scores, &float.scores);
        figures.push(("agreement_f32", "int8", found.share));
        let mut margins: Vec<f64> = found.flip_margins.iter().map(|m| f64::from(*m)).collect();
        margins.sort_by(f64::total_cmp);
        let (count, all) = (margins.len(), examples.len());
        println!(
            "int8 and f32 choose the same class for {:.2} % ({count} of {all} differ); where they differ, f32's best two \
             scores are apart by {:.3} in the median, {:.3} at most\n",
            100.0 * found.share,
            quantile(&margins, 0.5),
            quantile(&margins, 1.0),
        );
    }
    let mut table = Table::new(["source", "n", "accuracy", "F1 macro", "F1 weighted"]);
    let mut row = |name: &str, c: &Confusion| {
        let figures = [c.accuracy(), c.macro_f1(), c.weighted_f1()].map(|x| format!("{x:.4}"));
        table.row([vec![name.to_string(), c.total().to_string()], figures.to_vec()].concat());
    };
    int8.by_source.iter().for_each(|(source, confusion)| row(source, confusion));
    row("all, int8", &int8.confusion);
    float.iter().for_each(|f| row("all, f32", &f.confusion));
    println!("{table}");
    print_figures(&figures);
    Ok(figures)
}

fn scores(precision: &'static str, found: &Evaluation, texts: usize) -> Vec<Figure> {
    vec![
        ("accuracy", precision, found.confusion.accuracy()),
        ("f1_macro", precision, found.confusion.macro_f1()),
        ("f1_weighted", precision, found.confusion.weighted_f1()),
        ("sentences_per_second", precision, texts as f64 / found.seconds),
        ("tokens_per_second", precision, found.tokens as f64 / found.seconds),
    ]
}

fn compare(embedder: &Embedder, float: Option<&Model>, examples: &[Example]) -> anyhow::Result<Vec<Figure>> {
    let texts: Vec<String> = examples.iter().map(|e| e.text.clone()).collect();
    let mut figures = Vec::new();
    let mut run = |embedder: &Embedder, precision: &'static str| -> anyhow::Result<Vec<Vec<f32>>> {
        let bar = progress::bar(texts.len(), precision);
        let found = embed(embedder, &texts, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        figures.push(("sentences_per_second", precision, texts.len() as f64 / found.seconds));
        figures.push(("tokens_per_second", precision, found.tokens as f64 / found.seconds));
        Ok(found.vectors)
    };
    let int8 = run(embedder, "int8")?;
    if let Some(float) = float.and_then(|m| m.embedder.as_ref()) {
        let found = closeness(&int8, &run(float, "f32")?);
        figures.push(("cosine_f32", "int8", found.mean_cosine));
        figures.push(("cosine_f32_p1", "int8", found.p1_cosine));
        figures.push(("same_nearest_f32", "int8", found.same_nearest));
    }
    print_figures(&figures);
    Ok(figures)
}

fn print_figures(figures: &[Figure]) {
    let mut table = Table::new(["metric", "precision", "value"]);
    for (metric, precision, value) in figures {
        let digits = if *value >= 10.0 { 0 } else { 4 };
        table.row([metric.to_string(), precision.to_string(), format!("{value:.digits$}")]);
    }
    println!("{table}");
}

/// The figures as they are stored: each with the data set, its size, the command, the machine and the day.
fn stored(args: &EvalArgs, figures: Vec<Figure>, count: usize, machine: String) -> anyhow::Result<Vec<Score>> {
    let dataset = match &args.dataset {
        Some(name) => name.clone(),
        None => args.data.file_stem().context("--data names no file")?.to_string_lossy().into_owned(),
    };
    let command = std::iter::once("octet".to_string()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ");
    let score = |(metric, precision, value): Figure| Score {
        dataset: dataset.clone(),
        metric: metric.into(),
        precision: precision.into(),
        value,
        n: count as u64,
        command: command.clone(),
        machine: machine.clone(),
        date: Some(machine::today()),
    };
    Ok(figures.into_iter().map(score).collect())
}
