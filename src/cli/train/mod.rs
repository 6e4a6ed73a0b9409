//! `octet train DST --encoder DIR --train FILE --dev FILE`

mod curves;
mod frozen;
mod recipe;
mod stored;
mod whole;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::checkpoint::{Existing, check_destination};

use super::{Common, candle_threads};
use recipe::{Options, Recipe};

/// Train a classifier, or a model that gives a number, from labelled texts.
///
/// The whole encoder is trained with a new head on it, and the best epoch becomes
/// an int8 folder that serves at once. The encoder's folder must be float. The
/// texts need "text" and "label" (or "labels", or "rating"):
///
///   octet train models/my-model --encoder path/to/float-encoder --train train.csv --dev dev.csv
///
/// With --freeze-encoder only the head is trained, on an encoder of any kind, in a
/// minute. Every flag below can also stand in a TOML file, with _ for -; the run's
/// folder keeps the file that makes the same model again.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct TrainArgs {
    /// Folder to write; with --freeze-encoder it must lie beside the encoder's
    destination: PathBuf,
    /// TOML file with flags; those on the command line win
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Folder for checkpoints, curves and the recipe; runs/NAME when left out
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Go on from the last checkpoint of the run's folder
    #[arg(long, conflicts_with = "force")]
    resume: bool,
    /// Replace DESTINATION if it is a model folder, and forget an earlier run's checkpoints
    #[arg(long)]
    force: bool,
}

impl TrainArgs {
    fn existing(&self) -> Existing {
        if self.force || self.resume { Existing::Replace } else { Existing::Refuse }
    }

    fn run_dir(&self) -> PathBuf {
        let name = self.destination.file_name().unwrap_or_default();
        self.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(name))
    }
}

pub(super) fn run(args: &TrainArgs, common: &Common) -> anyhow::Result<()> {
    let recipe = Recipe::resolve(&args.options, args.recipe.as_deref())?;
    // Asked now, as training takes long.
    check_destination(&args.destination, args.existing())?;
    candle_threads::limit();
    match recipe.options.freeze_encoder {
        Some(true) => frozen::run(args, &recipe, common),
        _ => whole::run(args, &recipe, common),
    }
}

/// `id2label` and `label2id` of a `config.json`.
fn label_maps(labels: &[String]) -> [(String, serde_json::Value); 2] {
    let by_index: serde_json::Map<_, _> = labels.iter().enumerate().map(|(i, l)| (i.to_string(), json!(l))).collect();
    let by_label: serde_json::Map<_, _> = labels.iter().enumerate().map(|(i, l)| (l.clone(), json!(i))).collect();
    [("id2label".into(), by_index.into()), ("label2id".into(), by_label.into())]
}
