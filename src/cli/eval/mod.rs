//! `octet eval MODEL... --data FILE`

mod changes;
mod classes;
mod contestants;
mod label_sets;
mod numbers;
mod report;
mod speed;
mod summaries;
mod valence;
mod vectors;

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::architectures::ProblemType;
use crate::checkpoint::{QuantManifest, Reference, Score, card, update_manifest};
use crate::data::{Example, read_with};
use crate::eval::classification::Outputs;
use crate::eval::embedding::Vectors;
use crate::eval::interval::Interval;
use crate::eval::labels;

use super::columns::ColumnArgs;
use super::section::Section;
use super::{Common, gate, kernels, machine};
use contestants::Contestant;
use report::Report;

/// Compare models on labelled texts: accuracy with intervals, what changed, calibration, speed and size.
///
/// A model is a folder or a hub id; MODEL@f32 runs it in f32, NAME=MODEL gives it a
/// name in the tables. The first one, or the one of --reference, is what the others
/// are compared with:
///
///   octet eval models/sentiment models/sentiment@f32 --data test.jsonl --html report.html
///
/// With --float the first model also runs on the weights that it was quantized
/// from, and that is the reference. With --write the figures of the first model,
/// and the labels, confidence and lengths that its live traffic is compared with,
/// go into its quant.json and model card, and `octet serve` exports them:
///
///   octet eval models/sentiment --data test.jsonl --float path/to/float-model --write
///
/// What is measured follows the head and the data: classes (accuracy, F1, MCC,
/// calibration), several labels, numbers (Pearson, Spearman), sentence vectors
/// (cosine, neighbours; Spearman for rated pairs), summaries (ROUGE).
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct EvalArgs {
    /// Models: [NAME=]MODEL[@f32], where MODEL is a folder, or a hub id such as org/name
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Texts, with what people said about them: .jsonl, .csv or .tsv
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Name of the data set in the scores; the file's name when left out
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Folder with the float weights that the first model's encoder was quantized from: one more model, and the
    /// reference
    #[arg(long, value_name = "DIR")]
    float: Option<PathBuf>,
    /// Which model the others are compared with, by its name in the tables
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
    /// Only the first examples of the file
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Leave out examples with these labels, such as those that a model does not know
    #[arg(long, value_delimiter = ',', value_name = "A,B,...")]
    skip_labels: Vec<String>,
    /// List so many texts of each model that were answered differently from the reference
    #[arg(long, value_name = "N", default_value_t = 0)]
    flips: usize,
    /// Judge as VADER's paper does: the truth is the sign of the mean rating, a score from -1 to 1 is an answer
    #[arg(long)]
    valence: bool,
    /// With --valence: a column with scores from -1 to 1 of another program, which competes; may be repeated
    #[arg(long, value_name = "NAME", requires = "valence")]
    score_column: Vec<String>,
    /// Sentences of each summary
    #[arg(long, value_name = "N", default_value_t = crate::pipelines::DEFAULT_SENTENCES)]
    sentences: usize,
    /// How many texts are timed one by one; 0 for none
    #[arg(long, value_name = "N", default_value_t = 300)]
    latency_texts: usize,
    /// Write everything that was found as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write tables and figures as one page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Store the scores in the first model's folder, and what live traffic is compared with
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    columns: ColumnArgs,
}

/// What is compared, and on what.
struct Arena<'a> {
    contestants: &'a [Contestant],
    /// Index of the contestant that the others are compared with.
    reference: usize,
    examples: &'a [Example],
    args: &'a EvalArgs,
}

/// What one kind of measurement found.
struct Found {
    sections: Vec<Section>,
    /// By contestant.
    results: Vec<Measured>,
    /// Which figure [`Measured::main`] is, for the chart of quality against size.
    main: &'static str,
}

/// What was found for one contestant.
#[derive(Default)]
struct Measured {
    /// Name of a metric, and its value.
    figures: Vec<(&'static str, f64)>,
    /// The most telling one, and its interval.
    main: Option<(f64, Option<Interval>)>,
    /// Wall time of all texts in batches on one thread.
    seconds: f64,
    /// Texts in that time, and the tokens of each where they are counted.
    texts: usize,
    lengths: Vec<usize>,
    /// Of a model that chooses one label: the index and the score of its choice for each text.
    choices: Vec<(usize, f32)>,
    /// Texts that were longer than the model reads.
    truncated: usize,
}

impl Measured {
    fn of_outputs(outputs: &Outputs) -> Self {
        let (texts, lengths) = (outputs.lengths.len(), outputs.lengths.clone());
        Measured { seconds: outputs.seconds, texts, lengths, truncated: outputs.truncated, ..Measured::default() }
    }

    fn of_vectors(vectors: &Vectors) -> Self {
        let (texts, lengths) = (vectors.lengths.len(), vectors.lengths.clone());
        Measured { seconds: vectors.seconds, texts, lengths, truncated: vectors.truncated, ..Measured::default() }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

impl Arena<'_> {
    /// The contestants but the reference.
    fn others(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.contestants.len()).filter(|index| *index != self.reference)
    }

    fn name(&self, index: usize) -> &str {
        &self.contestants[index].name
    }

    /// A part of every contestant's model, which all of them must have.
    fn parts<'a, T>(
        &'a self,
        part: impl Fn(&'a Contestant) -> Option<&'a T>,
        what: &str,
    ) -> anyhow::Result<Vec<&'a T>> {
        let one = |c: &'a Contestant| {
            part(c).with_context(|| format!("{} {what}, as the first model does; compare models of one kind", c.name))
        };
        self.contestants.iter().map(one).collect()
    }

    fn measure(&self) -> anyhow::Result<Found> {
        let first = &self.contestants[0].model;
        if let Some(classifier) = &first.classifier {
            let classifiers = self.parts(|c| c.model.classifier.as_deref(), "does not classify")?;
            let kind = |c: &crate::pipelines::Classifier| match c.labels.len() {
                1 => ProblemType::Regression,
                _ => c.problem_type,
            };
            let expected = kind(classifier);
            if let Some(odd) = classifiers.iter().position(|c| kind(c) != expected) {
                let (name, odd) = (self.name(odd), kind(classifiers[odd]));
                bail!("{name} has a {odd:?} head, the first model a {expected:?} head; compare models of one kind");
            }
            let mut found = match expected {
                ProblemType::SingleLabel => classes::compare(self, &classifiers)?,
                ProblemType::MultiLabel => label_sets::compare(self, &classifiers)?,
                ProblemType::Regression => numbers::compare(self, &classifiers)?,
            };
            found.sections.push(speed::of_classifiers(self, &classifiers, &found.results)?);
            return Ok(found);
        }
        if self.examples.iter().any(|e| e.summary.is_some()) {
            let summarizers = self.parts(|c| c.model.summarizer.as_deref(), "does not summarize")?;
            let mut found = summaries::compare(self, &summarizers)?;
            found.sections.push(speed::of_summarizers(self, &summarizers, &found.results)?);
            return Ok(found);
        }
        let embedders = self.parts(|c| c.model.embedder.as_deref(), "does not embed")?;
        let mut found = vectors::compare(self, &embedders)?;
        found.sections.push(speed::of_embedders(self, &embedders, &found.results)?);
        Ok(found)
    }
}

pub(super) fn run(args: EvalArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let kernels = kernels(&settings)?;
    let mut columns = args.columns.columns();
    columns.scores = args.score_column.clone();
    let mut examples = read_with(&args.data, &columns, args.limit)?;
    if !args.skip_labels.is_empty() {
        let skipped = |e: &Example| {
            e.label.as_ref().is_some_and(|label| labels::find(&label.to_string(), &args.skip_labels).is_some())
        };
        examples.retain(|e| !skipped(e));
        ensure!(!examples.is_empty(), "--skip-labels leaves no example of {}", args.data.display());
    }
    let contestants = contestants::load(&args, &settings, kernels)?;
    if args.write && QuantManifest::read(&contestants[0].folder)?.is_none() {
        bail!("{}: no quant.json to --write into; `octet quantize` makes one", contestants[0].folder.display());
    }
    let reference = contestants::reference(&args, &contestants)?;
    let arena = Arena { contestants: &contestants, reference, examples: &examples, args: &args };
    let found = arena.measure()?;
    let report = Report::new(&arena, dataset(&args)?, machine::describe(kernels), found);
    print!("{report}");
    if let Some(path) = &args.json {
        let content = serde_json::to_string_pretty(&report.json()).context("the report is not JSON")? + "\n";
        std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.html {
        std::fs::write(path, report.page().html()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("\n{}: open it in a browser", path.display());
    }
    if args.write {
        let folder = &contestants[0].folder;
        let scores = stored(&arena, &report);
        update_manifest(folder, |manifest| {
            manifest.scores.retain(|s| !scores.iter().any(|n| n.dataset == s.dataset));
            manifest.scores.extend(scores.clone());
            manifest.reference = read_and_answered(&contestants[0], &report);
        })?;
        card::write(folder).context("cannot write the model card")?;
        println!("\nstored in {}", folder.display());
        let scores = QuantManifest::read(folder)?.map(|manifest| manifest.scores).unwrap_or_default();
        if let Some(warning) = gate::forecast(&scores, &gate::bound(&settings)) {
            println!("warning: {warning}");
        }
    }
    Ok(())
}

fn dataset(args: &EvalArgs) -> anyhow::Result<String> {
    match &args.dataset {
        Some(name) => Ok(name.clone()),
        None => Ok(args.data.file_stem().context("--data names no file")?.to_string_lossy().into_owned()),
    }
}

/// What the first model read and answered: what its live traffic is compared with. None where tokens were not counted.
fn read_and_answered(first: &Contestant, report: &Report) -> Option<Reference> {
    let measured = &report.results[0];
    let classes = first.model.info.labels.len();
    (!measured.lengths.is_empty())
        .then(|| Reference::of(&report.dataset, classes, &measured.choices, &measured.lengths))
}

/// The figures of the first model, in every precision it ran in, as they are stored: each with the data set, its size,
/// the command, the machine and the day.
fn stored(arena: &Arena<'_>, report: &Report) -> Vec<Score> {
    let mut scores: Vec<Score> = Vec::new();
    for (contestant, measured) in arena.contestants.iter().zip(&report.results).filter(|(c, _)| c.is_of_first) {
        let precision = &contestant.model.info.precision;
        // The float original says more than int8 weights widened to f32.
        scores.retain(|s| s.precision != *precision);
        scores.extend(measured.figures.iter().map(|(metric, value)| Score {
            dataset: report.dataset.clone(),
            metric: (*metric).into(),
            precision: precision.clone(),
            value: *value,
            n: arena.examples.len() as u64,
            command: machine::command(),
            machine: format!("{}, one thread; f32 through candle", report.machine),
            date: Some(report.date.clone()),
        }));
    }
    scores
}
