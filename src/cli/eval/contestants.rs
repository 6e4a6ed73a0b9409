//! The models of a comparison: how they are named, and loading them.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::checkpoint::ModelDir;
use crate::cli::{machine, model_folder};
use crate::config::Settings;
use crate::kernels::Kernels;
use crate::pipelines::{Loader, Model, Precision};

use super::EvalArgs;

/// A model that takes part.
pub(super) struct Contestant {
    /// Its name in the tables.
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) model: Model,
    /// Whether it is the first model, or its folder in another precision: its scores may be stored there.
    pub(super) is_of_first: bool,
    /// Bytes of its weight files, the encoder's included.
    pub(super) file_bytes: u64,
    /// By how much loading it made the process grow in RAM, in bytes.
    pub(super) resident_growth: Option<u64>,
}

/// `[NAME=]MODEL[@f32]`.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    name: Option<String>,
    model: String,
    precision: Precision,
}

impl Spec {
    fn parse(text: &str) -> anyhow::Result<Self> {
        // A path may hold "=" after its first slash.
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) if !name.contains('/') => (Some(name.to_string()), rest),
            _ => (None, text),
        };
        ensure!(name.as_deref() != Some(""), "{text}: no name before \"=\"; expected NAME=MODEL");
        let (model, precision) = match rest.rsplit_once('@') {
            Some((model, "f32")) => (model, Precision::Float),
            Some((model, "int8")) => (model, Precision::Int8),
            Some((_, other)) if !other.contains('/') => {
                bail!("{text}: found \"@{other}\", expected @f32 or nothing after the model")
            }
            _ => (rest, Precision::Int8),
        };
        ensure!(!model.is_empty(), "{text}: names no model; expected [NAME=]MODEL[@f32]");
        Ok(Spec { name, model: model.to_string(), precision })
    }

    /// What it is called when nobody named it: the last part of its path.
    fn usual_name(&self) -> String {
        let last = Path::new(&self.model).file_name().map_or(self.model.clone(), |n| n.to_string_lossy().into_owned());
        match self.precision {
            Precision::Float => format!("{last}@f32"),
            _ => last,
        }
    }
}

/// Loads every model, and the float original of the first when --float names it. Each has an encoder of its own in
/// memory.
pub(super) fn load(args: &EvalArgs, settings: &Settings, kernels: Kernels) -> anyhow::Result<Vec<Contestant>> {
    let specs = args.models.iter().map(|text| Spec::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut contestants: Vec<Contestant> = Vec::new();
    let mut first: Option<PathBuf> = None;
    for (spec, text) in specs.iter().zip(&args.models) {
        let folder = model_folder(&spec.model, settings)?;
        let usual = spec.usual_name();
        let taken = specs.iter().filter(|other| other.name.is_none() && other.usual_name() == usual).count() > 1;
        let name = spec.name.clone().unwrap_or(if taken { text.clone() } else { usual });
        let first = first.get_or_insert_with(|| folder.clone());
        let is_of_first = *first == folder;
        let loader = Loader::new(kernels, spec.precision);
        contestants.push(load_one(name, folder, is_of_first, None, loader)?);
    }
    if let Some(dir) = &args.float {
        let loader = Loader::new(kernels, Precision::Float).with_encoder(dir).context("--float")?;
        let (name, folder) = (format!("{}@float", contestants[0].name), contestants[0].folder.clone());
        contestants.push(load_one(name, folder, true, Some(dir), loader)?);
    }
    for (index, contestant) in contestants.iter().enumerate() {
        let twice = contestants[..index].iter().any(|other| other.name == contestant.name);
        ensure!(!twice, "two models are called \"{0}\"; name one of them: OTHER={0}", contestant.name);
    }
    Ok(contestants)
}

/// `original`: the folder that takes the place of the folder's own encoder.
fn load_one(
    name: String,
    folder: PathBuf,
    is_of_first: bool,
    original: Option<&Path>,
    mut loader: Loader,
) -> anyhow::Result<Contestant> {
    let before = machine::resident_bytes();
    let model = loader.load(&name, &folder)?;
    let resident_growth = before.zip(machine::resident_bytes()).map(|(before, after)| after.saturating_sub(before));
    let file_bytes = match original {
        None => model.info.file_bytes,
        Some(original) => {
            let own = ModelDir::open(&folder)?;
            let head = if own.is_head_only() { own.weight_bytes() } else { 0 };
            head + ModelDir::open(original)?.weight_bytes()
        }
    };
    Ok(Contestant { name, folder, model, is_of_first, file_bytes, resident_growth })
}

/// The index of the model that the others are compared with.
pub(super) fn reference(args: &EvalArgs, contestants: &[Contestant]) -> anyhow::Result<usize> {
    match &args.reference {
        Some(name) => contestants.iter().position(|c| c.name == *name).with_context(|| {
            let names: Vec<_> = contestants.iter().map(|c| c.name.as_str()).collect();
            format!("--reference {name}: no such model; there are {}", names.join(", "))
        }),
        None if args.float.is_some() => Ok(contestants.len() - 1),
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_may_have_a_name_and_a_precision() {
        let parse = |text| {
            let spec = Spec::parse(text).unwrap();
            (spec.usual_name(), spec.name, spec.model, spec.precision)
        };
        let (int8, f32) = (Precision::Int8, Precision::Float);
        let found = |usual: &str, name: Option<&str>, model: &str, precision| {
            (usual.to_string(), name.map(str::to_string), model.to_string(), precision)
        };
        assert_eq!(parse("models/a"), found("a", None, "models/a", int8));
        assert_eq!(parse("org/a@f32"), found("a@f32", None, "org/a", f32));
        assert_eq!(parse("best=x/a@f32"), found("a@f32", Some("best"), "x/a", f32));
        assert_eq!(parse("./a=b@c/d"), found("d", None, "./a=b@c/d", int8));
        for (text, part) in [("a@f16", "@f32"), ("=a", "NAME=MODEL"), ("a=", "names no model")] {
            assert!(Spec::parse(text).unwrap_err().to_string().contains(part), "{text}");
        }
    }
}
