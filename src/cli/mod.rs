//! The subcommands: each reads its arguments, composes library calls and prints what they found.
//!
//! Only this folder reads the command line and the environment.

mod bench;
mod calibrate;
mod candle_threads;
mod columns;
mod compare;
mod eval;
mod export;
mod gate;
mod healthcheck;
mod import;
mod inspect;
mod machine;
mod progress;
mod quantize;
mod section;
mod sensitivity;
mod serve;
mod shadow;
mod table;
mod train;
mod tune;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::checkpoint::hub::{self, HubSettings};
use crate::config::{IsaChoice, Origin, Settings};
use crate::kernels::{Isa, Kernels};

/// Serve int8 NLP models on ordinary CPUs: classification, summaries and embeddings over HTTP.
///
/// Start with `octet serve`: it needs no arguments and no download. Then
/// `curl localhost:8080/v1/classify -d '{"input": "I love it"}'`.
#[derive(Parser)]
#[command(name = "octet", version, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Args)]
struct Common {
    /// Settings file; config/octet.toml is read when it exists and none is named
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting by its key, e.g. --set engine.threads=2; wins over file and environment
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
}

// The documentation of each is on its arguments.
#[derive(Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Quantize(quantize::QuantizeArgs),
    Sensitivity(sensitivity::SensitivityArgs),
    Tune(tune::TuneArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Eval(eval::EvalArgs),
    Calibrate(calibrate::CalibrateArgs),
    Bench(bench::BenchArgs),
    Train(Box<train::TrainArgs>),
    Inspect(inspect::InspectArgs),
    Healthcheck(healthcheck::HealthcheckArgs),
}

/// Parses the command line and runs the subcommand.
///
/// # Errors
/// Whatever the subcommand could not do, as a chain from what was wanted to why it failed.
pub fn run() -> anyhow::Result<()> {
    let Cli { common, command } = Cli::parse();
    match command {
        Command::Serve(args) => serve::run(args, &common),
        Command::Quantize(args) => quantize::run(args, &common),
        Command::Sensitivity(args) => sensitivity::run(args, &common),
        Command::Tune(args) => tune::run(args, &common),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args, &common),
        Command::Eval(args) => eval::run(args, &common),
        Command::Calibrate(args) => calibrate::run(args, &common),
        Command::Bench(args) => bench::run(args, &common),
        Command::Train(args) => train::run(&args, &common),
        Command::Inspect(args) => inspect::run(args, &common),
        Command::Healthcheck(args) => healthcheck::run(args, &common),
    }
}

/// An error and its causes on one line; a cause that the message before it ends with already is not said again.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        match text.is_empty() {
            true => text = cause,
            false if text.ends_with(&cause) => {}
            false => text = format!("{text}: {cause}"),
        }
    }
    text
}

impl Common {
    /// Defaults, file, environment, flags, and then `flags` of the subcommand's own.
    fn settings(&self, flags: Vec<(String, String)>) -> anyhow::Result<Settings> {
        let overrides: Vec<_> = self.overrides.iter().cloned().chain(flags).collect();
        Settings::load(self.config.as_deref(), std::env::vars(), &overrides).map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(|p| format!("\n  {p}")).collect();
            anyhow::anyhow!("the settings have {} problem(s):{}", problems.len(), lines.concat())
        })
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(k, v)| (k.trim().to_string(), v.trim().to_string()));
    pair.ok_or_else(|| format!("found \"{text}\", expected key=value, e.g. engine.threads=2"))
}

/// The kernels that the settings ask for.
fn kernels(settings: &Settings) -> anyhow::Result<Kernels> {
    let isa = match settings.engine.isa {
        IsaChoice::Auto => return Ok(Kernels::detect()),
        IsaChoice::Scalar => Isa::Scalar,
        IsaChoice::Avx2 => Isa::Avx2,
        IsaChoice::AvxVnni => Isa::AvxVnni,
        IsaChoice::Avx512Vnni => Isa::Avx512Vnni,
        IsaChoice::AmxInt8 => Isa::AmxInt8,
    };
    Kernels::for_isa(isa).context("engine.isa (OCTET_ISA)")
}

/// A folder as it is, the folder of that name in `engine.models_dir`, or the cached or downloaded folder of a hub id.
fn model_folder(model: &str, settings: &Settings) -> anyhow::Result<PathBuf> {
    let models_dir = Path::new(&settings.engine.models_dir);
    let named = models_dir.join(model);
    if let Some(folder) = [Path::new(model), &named].into_iter().find(|folder| folder.is_dir()) {
        return Ok(folder.to_path_buf());
    }
    // A name in models_dir and a path are never taken for a hub id: nothing must be fetched because of a typing error.
    if let Ok(name) = Path::new(model).strip_prefix(models_dir) {
        let here = if name.is_dir() {
            format!("; the one that is here is called ./{}", name.display())
        } else {
            String::new()
        };
        bail!("no folder \"{}\" in \"{}\" (engine.models_dir){here}", name.display(), models_dir.display());
    }
    if !model.contains('/') || model.starts_with(['.', '/']) {
        bail!("{model}: no such folder; give a model folder, or a hub id such as org/name");
    }
    let bar = progress::download();
    let folder = hub::resolve_with_progress(model, &hub_settings(settings), &mut |p| {
        bar.set_length(p.total.unwrap_or(p.received));
        bar.set_position(p.received);
        bar.set_message(p.file.to_string());
    });
    bar.finish_and_clear();
    folder.with_context(|| format!("model {model}"))
}

/// A folder as `--model` takes it, which looks a name without a path up in `engine.models_dir`.
fn as_model(folder: &Path) -> String {
    let text = folder.display().to_string();
    if text.contains('/') { text } else { format!("./{text}") }
}

/// Refuses a destination that is, holds or lies in a folder that is read: replacing it would destroy the source.
fn ensure_apart(source: &Path, destination: &Path) -> anyhow::Result<()> {
    let Ok(read) = source.canonicalize() else { return Ok(()) };
    let (written, source) = (destination.display(), source.display());
    let holds = destination.canonicalize().is_ok_and(|target| read.starts_with(target));
    ensure!(!holds, "{written} would replace {source}; write to another folder");
    // What is not there yet lies where its nearest folder that is there lies.
    let absolute = std::path::absolute(destination).unwrap_or_default();
    let lies_in =
        absolute.ancestors().find_map(|a| a.canonicalize().ok()).is_some_and(|found| found.starts_with(&read));
    ensure!(!lies_in, "{written} lies in {source}, which is read; write to another folder");
    Ok(())
}

/// What Hugging Face's own variables say, unless our settings say otherwise.
fn hub_settings(settings: &Settings) -> HubSettings {
    let mut hub = HubSettings::from_lookup(|name| std::env::var(name).ok());
    let ours = |key: &str| *settings.origin(key) != Origin::Default;
    if ours("hub.endpoint") {
        hub.endpoint = settings.hub.endpoint.clone();
    }
    if ours("hub.offline") {
        hub.offline = settings.hub.offline;
    }
    if ours("hub.cache_dir") && !settings.hub.cache_dir.is_empty() {
        hub.cache_dir = PathBuf::from(&settings.hub.cache_dir);
    }
    hub
}

/// Compute threads that the settings ask for.
fn threads(settings: &Settings) -> usize {
    match settings.engine.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_neither_around_nor_within_what_is_read() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let apart = |destination: &Path| ensure_apart(&source, destination);
        assert!(apart(&scratch.path().join("other")).is_ok(), "a sibling that is not there yet");
        for taken in [source.clone(), scratch.path().to_path_buf(), source.join("new"), source.join("new/er")] {
            assert!(apart(&taken).unwrap_err().to_string().contains("another folder"), "{}", taken.display());
        }
    }

    #[test]
    fn what_is_said_to_be_served_next_can_be_served() {
        for (folder, said) in [("new", "./new"), ("./new", "./new"), ("models/new", "models/new"), ("/new", "/new")] {
            assert_eq!(as_model(Path::new(folder)), said);
        }
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let error = anyhow::anyhow!("no such file").context("cannot read a.csv: no such file").context("--data");
        assert_eq!(chain(&error), "--data: cannot read a.csv: no such file");
    }
}
