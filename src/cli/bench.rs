//! `octet bench MODEL`: one module for each section of the report.

mod cells;
mod grid;
mod http;
mod others;
mod peak;
mod products;
mod report;
mod stream;
mod texts;
mod tokenizer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::architectures::Encoder;
use crate::eval::rounds::Budget;
use crate::kernels::Kernels;
use crate::pipelines::{Loader, Model, Precision};

use super::{Common, kernels, machine, model_folder, threads};
use cells::Cell;
use others::CpuTime;
use peak::Peaks;
use report::Report;
use texts::Texts;

/// Measure the encoder's speed on this machine, against what its integer instructions can do at most.
///
/// The grid times one batch on all given threads together; the stream runs the
/// texts of --texts in their order, in batches of 32, each thread taking the next
/// batch. Nothing is padded.
///
///   octet bench
///   octet bench models/all-MiniLM-L6-v2 --texts texts.jsonl --html speed.html
///   octet bench --only grid --cells 1x16,8x128 --threads 1,2 --json
///   octet bench --set engine.isa=avx2 --threads 1
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct BenchArgs {
    /// Model: a folder, or a hub id such as org/name
    #[arg(default_value = "models/all-MiniLM-L6-v2")]
    model: String,
    /// Numbers of threads to measure with, e.g. 1,2; when left out 1 and engine.threads
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = thread_count)]
    threads: Vec<usize>,
    /// Sections to measure; when left out peak, products and grid, and with --texts also stream, tokenizer and http
    #[arg(long, value_name = "SECTION,...", value_delimiter = ',')]
    only: Vec<SectionName>,
    /// Cells of the grid, sequences x tokens of each, e.g. 1x16,8x128
    #[arg(long, value_name = "BxT,...", value_delimiter = ',')]
    cells: Vec<Cell>,
    /// Texts of the stream, the tokenizer and the grid: .jsonl, .csv or .tsv
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Run in f32 through candle instead of int8
    #[arg(long)]
    float: bool,
    /// Time for each row; a long one runs three times in any case
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Also write a page of figures and tables
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Times that a section measures all its rows one after the other: what disturbs the machine for a while disturbs a part
/// of the runs of a row, not all of them.
const PASSES: usize = 3;

/// What can be measured, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SectionName {
    /// The integer peak of this machine
    Peak,
    /// The model's int8 products alone, beside the peak of the same moment
    Products,
    /// One batch at a time, of equal sequences
    Grid,
    /// The texts in their order, in batches of 32
    Stream,
    /// The tokenizer beside the encoder
    Tokenizer,
    /// The whole server: latency, throughput, rising rates
    Http,
}

impl SectionName {
    /// Whether it measures what only an int8 model has, or is served with.
    fn needs_int8(self) -> bool {
        matches!(self, SectionName::Products | SectionName::Http)
    }

    /// As in `--only`.
    fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
    }
}

/// What all sections share.
struct Bench {
    model: Model,
    encoder: Arc<dyn Encoder>,
    kernels: Kernels,
    threads: Vec<usize>,
    /// Time for each row.
    duration: Duration,
    texts: Option<Texts>,
    peaks: Peaks,
}

pub(super) fn run(args: BenchArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let kernels = kernels(&settings)?;
    let folder = model_folder(&args.model, &settings)?;
    let sections = sections(&args)?;
    ensure!(
        !args.float || !sections.iter().any(|s| s.needs_int8()),
        "--only products and http need int8; remove --float"
    );
    args.html.as_deref().map(ensure_writable).transpose()?;
    let precision = if args.float { Precision::Float } else { Precision::Int8 };
    let model = Loader::new(kernels, precision).load(&args.model, &folder)?;
    let mut threads = if args.threads.is_empty() { vec![1, threads(&settings)] } else { args.threads };
    threads.sort_unstable();
    threads.dedup();
    let duration = Duration::from_secs_f64(args.seconds);
    let texts = args.texts.as_deref().map(|file| Texts::read(file, &model)).transpose()?;
    let peaks = Peaks::measure(kernels, &threads, duration);
    let bench = Bench { encoder: model.encoder().clone(), model, kernels, threads, duration, texts, peaks };

    let mut report = Report::new(&bench, &args.model, machine::describe(kernels));
    for section in sections {
        let began = CpuTime::now();
        let found = match section {
            SectionName::Peak => vec![bench.peaks.section()],
            SectionName::Products => vec![products::run(&bench)],
            SectionName::Grid => vec![grid::run(&bench, &args.cells)?],
            SectionName::Stream => vec![stream::run(&bench, bench.texts()?)],
            SectionName::Tokenizer => vec![tokenizer::run(&bench, bench.texts()?, &report)?],
            SectionName::Http => http::run(&bench, &args.model, common)?,
        };
        found.into_iter().for_each(|section| report.add(section));
        report.others(section.name(), began.and_then(|began| began.taken_by_others()));
    }
    if args.texts.is_none() && args.only.is_empty() {
        report.note("not measured: stream, tokenizer and http, which need --texts FILE");
    }
    if let Some(file) = &args.html {
        std::fs::write(file, report.page().html()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
    } else {
        print!("{report}");
    }
    Ok(())
}

impl Bench {
    /// How much of a row is measured in each of the [`PASSES`].
    fn budget(&self) -> Budget {
        Budget { duration: self.duration / PASSES as u32, at_least: 1, warm_up: true }
    }

    fn texts(&self) -> anyhow::Result<&Texts> {
        self.texts.as_ref().context("there are no texts; give --texts FILE (.jsonl, .csv or .tsv)")
    }
}

/// The sections that are asked for, or those that can run, in their order.
fn sections(args: &BenchArgs) -> anyhow::Result<Vec<SectionName>> {
    let of_texts = |s: &SectionName| matches!(s, SectionName::Stream | SectionName::Tokenizer | SectionName::Http);
    let all = SectionName::value_variants().iter().copied();
    if args.only.is_empty() {
        let can_run = |section: &SectionName| {
            !(args.float && section.needs_int8()) && (args.texts.is_some() || !of_texts(section))
        };
        return Ok(all.filter(can_run).collect());
    }
    let without = args.only.iter().find(|section| args.texts.is_none() && of_texts(section));
    ensure!(without.is_none(), "--only stream, tokenizer and http need texts; add --texts FILE (.jsonl, .csv or .tsv)");
    Ok(all.filter(|section| args.only.contains(section)).collect())
}

/// Opens the file once before anything is measured.
fn ensure_writable(file: &Path) -> anyhow::Result<()> {
    let opened = File::options().append(true).create(true).open(file);
    opened.map(drop).with_context(|| format!("--html: cannot write {}", file.display()))
}

fn thread_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1024).contains(n)).ok_or(format!("found \"{text}\", expected 1 to 1024 threads"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let allowed = |s: &f64| (0.0..=3600.0).contains(s);
    text.parse().ok().filter(allowed).ok_or(format!("found \"{text}\", expected 0 to 3600 seconds"))
}
