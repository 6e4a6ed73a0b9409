//! `octet train DST --encoder DIR --train FILE --dev FILE`

mod curves;
mod frozen;
mod recipe;
mod stored;
mod whole;

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::Args;
use serde_json::json;

use crate::checkpoint::{Existing, check_destination};

use super::machine::quoted;
use super::{Common, as_model, candle_threads, ensure_apart};
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
    recipe.sources().try_for_each(|source| ensure_apart(source, &args.destination))?;
    candle_threads::limit();
    match recipe.options.freeze_encoder {
        Some(true) => frozen::run(args, &recipe, common),
        _ => {
            check_run_dir(&args.run_dir(), &args.destination, &recipe)?;
            whole::run(args, &recipe, common)
        }
    }
}

/// Fails when the run's folder cannot be one, or what is written would replace what is read or written elsewhere.
fn check_run_dir(run_dir: &Path, destination: &Path, recipe: &Recipe) -> anyhow::Result<()> {
    let shown = run_dir.display();
    let file = run_dir.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir());
    if let Some(file) = file {
        bail!("{}: exists and is not a folder; choose another folder for the run with --run-dir", file.display());
    }
    let [run, model] = [run_dir, destination].map(|path| std::path::absolute(path).unwrap_or_default());
    let own = [run.join("model"), run.join("checkpoint")];
    ensure!(
        !run.starts_with(&model) && !own.iter().any(|own| model.starts_with(own)),
        "{} cannot be written, as the run's folder is {shown}; choose another folder for one of them (--run-dir)",
        destination.display()
    );
    let taken = recipe.sources().find(|source| ensure_apart(source, &run_dir.join("model")).is_err());
    if let Some(source) = taken {
        bail!(
            "{} is read, and the run would write {shown}/model; choose another folder for the run with --run-dir",
            source.display()
        );
    }
    Ok(())
}

/// Says what to do with a model that was trained from texts, and perhaps from float weights.
fn print_next(model: &Path, recipe: &Recipe, float: Option<&Path>) {
    let model = quoted(&as_model(model));
    let form = recipe.options.train.as_ref().and_then(|path| path.extension()).unwrap_or_default().to_string_lossy();
    let float = float.map_or(String::new(), |float| format!(" --float {}", quoted(&float.display().to_string())));
    println!("next, with texts in test.{form} that are neither in --train nor in --dev:");
    println!("  octet eval {model} --data test.{form}{}{float} --write", recipe.column_flags());
    println!("  octet serve --model {model}");
}

/// `id2label` and `label2id` of a `config.json`.
fn label_maps(labels: &[String]) -> [(String, serde_json::Value); 2] {
    let by_index: serde_json::Map<_, _> = labels.iter().enumerate().map(|(i, l)| (i.to_string(), json!(l))).collect();
    let by_label: serde_json::Map<_, _> = labels.iter().enumerate().map(|(i, l)| (l.clone(), json!(i))).collect();
    [("id2label".into(), by_index.into()), ("label2id".into(), by_label.into())]
}
