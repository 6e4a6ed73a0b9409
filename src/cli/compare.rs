//! What the commands share that compare with a float model: which one, on which texts.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

use crate::checkpoint::ModelDir;
use crate::config::Settings;
use crate::data::{Columns, sample_with};
use crate::kernels::Kernels;
use crate::kernels::affine::Scheme;
use crate::pipelines::{ClassifyInput, Loader, Precision};
use crate::quantize::observers::ObserverKind;
use crate::quantize::{
    CalibrateOptions, Calibration, Forms, Judge, Original, Recipe, Rounding, Workbench, parse_scheme,
};

use super::columns::TextColumnArgs;
use super::{model_folder, progress};

/// A float model, texts, and the forms that its layers are tried in.
#[derive(Args)]
pub(super) struct Compared {
    /// Float model: a folder, or a hub id such as org/name
    pub(super) source: String,
    /// Texts to compare answers on: .jsonl, .csv or .tsv; labels are not needed
    #[arg(long, value_name = "FILE")]
    pub(super) data: PathBuf,
    /// Folder of a classification head on this encoder; its labels are then compared instead of sentence vectors
    #[arg(long, value_name = "DIR")]
    pub(super) head: Option<PathBuf>,
    /// Most texts, evenly spaced over the file
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(super) texts: usize,
    /// Forms that layers are tried in, separated by commas
    #[arg(
        long,
        value_name = "SCHEMES",
        default_value = "float,int8,int4-group32,int4,ternary,binary",
        value_delimiter = ','
    )]
    forms: Vec<String>,
    #[command(flatten)]
    columns: TextColumnArgs,
}

impl Compared {
    /// The folder of the float model.
    pub(super) fn folder(&self, settings: &Settings) -> anyhow::Result<PathBuf> {
        model_folder(&self.source, settings)
    }

    /// What the float model says to at most `count` texts.
    pub(super) fn judge(&self, original: &Original, kernels: (Kernels, usize), count: usize) -> anyhow::Result<Judge> {
        judge(original, self.head.as_deref(), &sample(&self.data, &self.columns.columns(), count)?, kernels)
    }

    /// The forms that `--forms` names.
    pub(super) fn forms(&self) -> anyhow::Result<Vec<Option<Scheme>>> {
        self.forms.iter().map(|name| parse_scheme(name).map_err(anyhow::Error::msg).context("--forms")).collect()
    }
}

/// At most `count` texts or pairs of texts of a file, evenly spaced over it.
pub(super) fn sample(path: &Path, columns: &Columns, count: usize) -> anyhow::Result<Vec<ClassifyInput>> {
    anyhow::ensure!(count > 0, "no texts are asked for; give at least one");
    let mut texts = Vec::new();
    sample_with(path, columns, count, |e| texts.push(ClassifyInput { text: e.text, text_pair: e.text_pair }))?;
    Ok(texts)
}

/// What the float model, under its own head or that of another folder, says to the texts.
pub(super) fn judge(
    original: &Original,
    head: Option<&Path>,
    texts: &[ClassifyInput],
    (kernels, threads): (Kernels, usize),
) -> anyhow::Result<Judge> {
    let folder = original.folder();
    let mut loader = Loader::new(kernels, Precision::Float);
    if let Some(head) = head {
        // The head of another encoder would give classes, and they would mean nothing.
        ensure!(
            ModelDir::open(head)?.is_head_only(),
            "{}: has an encoder of its own; --head takes a head that was trained alone (octet train --freeze-encoder)",
            head.display()
        );
        loader = loader.with_encoder(folder)?;
    }
    let model = loader.load("float", head.unwrap_or(folder));
    let model = model.with_context(|| format!("the float model of {}", folder.display()))?;
    let bar = progress::bar(0, "float model");
    let judge = Judge::new(&model, &original.encoder, texts, threads, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(judge)
}

/// Every form of every layer, each measured alone on the judge's texts, and what was seen there to enter the layers.
pub(super) fn workbench<'a>(
    original: &'a Original<'a>,
    judge: &Judge,
    forms: &Forms,
    rounding: Rounding,
    kernels: (Kernels, usize),
) -> anyhow::Result<(Workbench<'a>, Calibration)> {
    let base = Recipe { rounding, ..Recipe::default() };
    let calibration = calibrated(original, judge, &base, ObserverKind::default())?;
    let bar = progress::bar(original.modules.len(), "one at a time");
    let told = |done: usize| bar.set_position(done as u64);
    let bench = Workbench::new(original, judge, forms, &base, Some(&calibration), kernels, told)?;
    bar.finish_and_clear();
    Ok((bench, calibration))
}

/// What enters the layers of the float model on the judge's texts, as `recipe` needs it.
pub(super) fn calibrated(
    original: &Original,
    judge: &Judge,
    recipe: &Recipe,
    observer: ObserverKind,
) -> anyhow::Result<Calibration> {
    let bar = progress::bar(judge.len(), "calibrate");
    let options = CalibrateOptions { observer, moments: recipe.rounding == Rounding::Gptq };
    let smoothing = original.smoothing(recipe)?;
    let told = |done: usize| bar.set_position(done as u64);
    let calibration = Calibration::run(&original.encoder, judge.batches(), options, &smoothing, told)?;
    bar.finish_and_clear();
    Ok(calibration)
}
