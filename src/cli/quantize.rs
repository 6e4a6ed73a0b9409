//! `octet quantize SRC DST`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use crate::checkpoint::{Existing, ModelDir, Score, card, check_destination, update_manifest};
use crate::config::Settings;
use crate::quantize::observers::ObserverKind;
use crate::quantize::report::Report;
use crate::quantize::{
    Answers, Calibration, Form, Judge, Original, Passed, QuantizeOptions, Recipe, Rounding, quantize,
    smoothing_strength,
};

use super::columns::TextColumnArgs;
use super::compare::{calibrated, judge, sample};
use super::gate::bound;
use super::table::{Table, megabytes};
use super::{Common, as_model, ensure_apart, kernels, machine, model_folder, progress, threads};

/// Make a smaller and faster model folder from a float one.
///
/// By default weights and embedding tables become int8 with one scale per row, and
/// activations are quantized at run time, one scale per token, so no data is
/// needed. The result is an ordinary model folder:
///
///   octet quantize path/to/float-model models/my-model
///   octet serve --model models/my-model
///
/// A recipe chooses other schemes, for all layers or for some: one of the shipped
/// ones (w8a8, w8a8-static, w4a8, ...) or a file. With texts, ranges and rounding
/// can look at what enters the layers, and the model is written only if its answers
/// agree with those of the float model (quality.min_agreement, quality.on_failure):
///
///   octet quantize path/to/float-model models/small --recipe w4a8-group32 --rounding gptq --calibrate texts.jsonl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct QuantizeArgs {
    /// Float model: a folder, or a hub id such as org/name
    source: String,
    /// Folder to write
    destination: PathBuf,
    /// Where the source came from, for the model card; SOURCE when left out
    #[arg(long, value_name = "TEXT")]
    source_id: Option<String>,
    /// SPDX name of the source's licence, for the model card
    #[arg(long, value_name = "SPDX")]
    license: Option<String>,
    /// Replace DESTINATION if it is a model folder
    #[arg(long)]
    force: bool,
    /// Scheme of each layer: a shipped recipe or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "w8a8")]
    recipe: String,
    /// Another scheme for some layers, such as "*output.dense=float"; may be given several times, the last one wins
    #[arg(long = "layer", value_name = "PATTERN=SCHEME")]
    layers: Vec<String>,
    /// Texts to see activations on: .jsonl, .csv or .tsv; labels are not needed
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// Who chooses the ranges of static inputs: minmax, ema, percentile, mse, or entropy
    #[arg(long, value_name = "NAME", default_value = "mse", requires = "calibrate")]
    observer: ObserverKind,
    /// Most texts to calibrate on, evenly spaced over the file
    #[arg(long, value_name = "N", default_value_t = 300)]
    samples: usize,
    /// How weights are rounded: nearest, search, or gptq (needs --calibrate) [default: the recipe's]
    #[arg(long, value_name = "NAME")]
    rounding: Option<Rounding>,
    /// Let biases take up the mean error of their layer
    #[arg(long, requires = "calibrate")]
    bias_correction: bool,
    /// Divide what enters the matrices by factors per channel, where that brings them closer to float: the strength, 0
    /// to 1, such as 0.5
    #[arg(long, value_name = "STRENGTH", allow_negative_numbers = true)]
    smoothing: Option<f64>,
    /// Texts to compare answers with the float model's on; those of --calibrate when left out
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Folder of a classification head on this encoder; its labels are then compared instead of sentence vectors
    #[arg(long, value_name = "DIR")]
    head: Option<PathBuf>,
    /// Write what quantization did as one HTML page
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    columns: TextColumnArgs,
}

pub(super) fn run(args: QuantizeArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let folder = model_folder(&args.source, &settings)?;
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    ensure_apart(&folder, &args.destination)?;
    check_destination(&args.destination, existing)?;
    let source = ModelDir::open(&folder)?;
    let recipe = recipe(&args)?;
    let looks = args.calibrate.is_some() || args.data.is_some() || args.report.is_some();
    let looked = looks.then(|| look(&args, &settings, &source, &recipe)).transpose()?;
    let made = looked.as_ref().map(Looked::made).unwrap_or_default();
    let options = QuantizeOptions {
        source_id: args.source_id.clone().unwrap_or(args.source.clone()),
        license: args.license.clone(),
        existing,
        recipe,
        made,
    };
    let bar = progress::bar(0, "quantize");
    let written = quantize(&source, &args.destination, &options, |name, total| {
        bar.set_length(total as u64);
        bar.set_message(name.to_string());
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    if let Some(looked) = looked.as_ref().filter(|_| args.head.is_none()) {
        let scores = looked.scores(&args, machine::describe(kernels(&settings)?));
        update_manifest(&args.destination, |manifest| manifest.scores.extend(scores))?;
    }
    card::write(&args.destination).context("cannot write the model card")?;

    let mut table = Table::new(["tensor", "SQNR dB", "cosine", "max error"]);
    for layer in &written.layers {
        let sqnr = layer.sqnr_db.map_or("exact".to_string(), |db| format!("{db:.1}"));
        table.row([layer.name.clone(), sqnr, format!("{:.6}", layer.cosine), format!("{:.5}", layer.max_abs)]);
    }
    println!("{table}");
    if !written.left_out.is_empty() {
        println!("not used by this architecture, left out: {}", written.left_out.join(", "));
    }
    for pattern in &written.unmatched {
        eprintln!(
            "warning: no layer is called \"{pattern}\", so this exception does nothing; the table has their names"
        );
    }
    let ratio = written.f32_bytes as f64 / written.bytes as f64;
    let (before, after, name) = (megabytes(written.f32_bytes), megabytes(written.bytes), args.destination.display());
    println!("{name}: {before} in f32, {after} in {} ({ratio:.2} times smaller)", options.recipe);
    if let Some(looked) = &looked {
        looked.tell();
        if let Some(file) = &args.report {
            let page = looked.report(&args, &options.recipe)?.page();
            std::fs::write(file, page.html()).with_context(|| format!("cannot write {}", file.display()))?;
            println!("{}: what quantization did, with figures", file.display());
        }
    }
    let model = as_model(&args.destination);
    println!("next: octet eval {model} --data labelled.jsonl, octet serve --model {model}");
    Ok(())
}

/// A shipped recipe by its name, or that of a TOML file.
pub(super) fn read_recipe(name: &str) -> anyhow::Result<Recipe> {
    let file = Path::new(name);
    Ok(match file.extension() {
        Some(extension) if extension == "toml" => {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            Recipe::parse(&text, name)?
        }
        _ => Recipe::named(name)?,
    })
}

/// The recipe of the arguments.
fn recipe(args: &QuantizeArgs) -> anyhow::Result<Recipe> {
    let mut recipe = read_recipe(&args.recipe)?;
    args.layers.iter().try_for_each(|rule| recipe.add_layer(rule))?;
    recipe.rounding = args.rounding.unwrap_or(recipe.rounding);
    recipe.bias_correction |= args.bias_correction;
    if let Some(strength) = args.smoothing {
        recipe.smoothing = Some(smoothing_strength(strength).map_err(anyhow::Error::msg).context("--smoothing")?);
    }
    if args.calibrate.is_none() && (recipe.rounding == Rounding::Gptq || recipe.bias_correction) {
        bail!("GPTQ and bias correction look at what enters the layers; give texts with --calibrate");
    }
    Ok(recipe)
}

/// What was found with the float model in memory.
struct Looked<'a> {
    original: Original<'a>,
    forms: Vec<Form>,
    calibration: Option<Calibration>,
    /// Present when there were texts to compare on.
    compared: Option<(Judge, Passed)>,
    min_agreement: f64,
}

/// Loads the float model, sees what enters its layers, makes every layer, and sends the result through the gate.
fn look<'a>(
    args: &QuantizeArgs,
    settings: &Settings,
    source: &'a ModelDir,
    recipe: &Recipe,
) -> anyhow::Result<Looked<'a>> {
    let (kernels, threads) = (kernels(settings)?, threads(settings));
    let original = Original::load(source)?;
    let head = args.head.as_deref();
    let columns = args.columns.columns();
    let judged =
        |file: &Path, count: usize| judge(&original, head, &sample(file, &columns, count)?, (kernels, threads));
    let seen = args.calibrate.as_deref().map(|file| judged(file, args.samples)).transpose()?;
    let calibration = seen.as_ref().map(|seen| calibrated(&original, seen, recipe, args.observer)).transpose()?;
    let bar = progress::bar(original.modules.len(), "round");
    let mut forms = original.forms(recipe, calibration.as_ref(), |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();

    let texts = settings.quality.max_texts;
    let judge = match &args.data {
        Some(file) => Some(judged(file, texts)?),
        None => seen,
    };
    let bound = bound(settings);
    let compared = match judge {
        None => None,
        Some(judge) => {
            let bar = progress::bar(0, "compare");
            let passed = bound.pass(&original, &judge, &mut forms, (kernels, threads), |what| bar.set_message(what))?;
            bar.finish_and_clear();
            Some((judge, passed))
        }
    };
    Ok(Looked { original, forms, calibration, compared, min_agreement: bound.min_agreement })
}

impl Looked<'_> {
    /// The layers by module.
    fn made(&self) -> BTreeMap<String, Form> {
        let names = self.original.modules.iter().map(|module| module.name.clone());
        names.zip(self.forms.iter().cloned()).collect()
    }

    /// The agreement, for `quant.json`: `octet serve` looks at it.
    fn scores(&self, args: &QuantizeArgs, machine: String) -> Option<Score> {
        let (judge, passed) = self.compared.as_ref()?;
        let file = args.data.as_ref().or(args.calibrate.as_ref())?;
        Some(Score {
            dataset: file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            metric: if judge.answers() == Answers::Vectors { "cosine_f32" } else { "agreement_f32" }.into(),
            precision: "int8".into(),
            value: passed.verdict.agreement,
            n: judge.len() as u64,
            command: machine::command(),
            machine,
            date: Some(machine::today()),
        })
    }

    /// How it came through the gate.
    fn tell(&self) {
        let Some((judge, passed)) = &self.compared else { return };
        let verdict = &passed.verdict;
        println!(
            "agreement with the float model: {:.4} on {} texts (bound {}); outputs: cosine {:.5}, SQNR {}",
            verdict.agreement,
            judge.len(),
            self.min_agreement,
            verdict.cosine,
            verdict.sqnr_db.map_or("exact".into(), |db| format!("{db:.1} dB")),
        );
        if !passed.holds {
            println!("warning: below quality.min_agreement; it was written because quality.on_failure is warn");
        }
        if !passed.fallen_back.is_empty() {
            println!("stayed float to keep the bound: {}", passed.fallen_back.join(", "));
        }
    }

    fn report(&self, args: &QuantizeArgs, recipe: &Recipe) -> anyhow::Result<Report> {
        let words = recipe.in_words(&[]);
        let forms = self.original.modules.iter().zip(&self.forms);
        Ok(Report {
            model: args.destination.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            recipe: format!(
                "{}: matrices {}; tables {}; activations {}",
                words.scheme, words.weights, words.embeddings, words.activations
            ),
            modules: forms.map(|(module, form)| self.original.stored(module, form)).collect(),
            float_bytes: self.original.float_bytes(),
            inputs: self.calibration.as_ref().map(Calibration::entering).unwrap_or_default(),
            verdict: self.compared.as_ref().map(|(judge, passed)| (passed.verdict, judge.answers(), judge.len())),
            min_agreement: Some(self.min_agreement),
            ..Report::default()
        })
    }
}
