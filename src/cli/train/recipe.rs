//! What a run is made of, from flags and from a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::architectures::Pooling;
use crate::data::{Columns, Field};
use crate::train::FineTuneSettings;

use super::super::columns::with_names;
use super::super::machine::quoted;

/// The flags of a run, which are also the keys of a recipe.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Options {
    /// Folder of the encoder
    #[arg(long, value_name = "DIR")]
    pub encoder: Option<PathBuf>,
    /// Texts to learn from: .jsonl, .csv or .tsv with "text" and "label", "labels" or "rating"
    #[arg(long, value_name = "FILE")]
    pub train: Option<PathBuf>,
    /// Texts that choose the epoch and the temperature
    #[arg(long, value_name = "FILE")]
    pub dev: Option<PathBuf>,
    /// Column or key with the text [default: text, sentence, input, sentence1]
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    /// Column or key with the second text of a pair [default: text_pair, sentence2]
    #[arg(long, value_name = "NAME")]
    pub pair_column: Option<String>,
    /// Column or key with the class [default: label]
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Column or key with several classes: a list, or names with | between them [default: labels]
    #[arg(long, value_name = "NAME")]
    pub labels_column: Option<String>,
    /// Column or key with the number to learn [default: rating, score]
    #[arg(long, value_name = "NAME")]
    pub rating_column: Option<String>,
    /// Classes in the order of the outputs; in order of name when left out
    #[arg(long, value_delimiter = ',', value_name = "A,B,...")]
    pub labels: Option<Vec<String>>,
    /// Learn the "rating" too, and give it under this name beside the classes
    #[arg(long, value_name = "NAME", conflicts_with = "regression")]
    pub value: Option<String>,
    /// Learn only the "rating", and give it under this name
    #[arg(long, value_name = "NAME")]
    pub regression: Option<String>,
    /// Train only a head
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub freeze_encoder: Option<bool>,
    /// Train for the integers: forward passes see the rounding that serving does
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub quantization_aware: Option<bool>,
    /// How each layer is stored: a recipe of octet quantize, by name (w8a8, w4a8, ternary, ...) or a TOML file [default: w8a8]
    #[arg(long, value_name = "NAME|FILE")]
    pub scheme_recipe: Option<String>,
    /// Learn the scales of matrices and static inputs too; needs --quantization-aware [default: true with a scheme recipe]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub learned_scales: Option<bool>,
    /// Layers of the encoder that are kept, from 0; all when left out
    #[arg(long, value_delimiter = ',', value_name = "0,2,...")]
    pub layers: Option<Vec<usize>>,
    /// Float model folders of the same task to learn from too: the model/ of earlier runs
    #[arg(long, value_delimiter = ',', value_name = "DIR,...")]
    pub teacher: Option<Vec<PathBuf>>,
    /// How much the teacher counts beside the labels, 0 to 1 [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub teacher_weight: Option<f64>,
    /// How much the teacher's hidden states count beside its outputs [default: 1]
    #[arg(long, value_name = "WEIGHT")]
    pub hidden_weight: Option<f64>,
    /// Share of the attention heads to take out while training, the least important first [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub prune_heads: Option<f64>,
    /// Share of the feed-forward neurons to take out while training [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub prune_ffn: Option<f64>,
    /// Share of the encoder's single weights to set to 0 while training; int8 products get no faster by it [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub prune_magnitude: Option<f64>,
    /// Share of the steps after which pruning begins [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub prune_start: Option<f64>,
    /// Share of the steps after which pruning is done; epochs count from then on [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub prune_end: Option<f64>,
    /// How much the relations between tokens (MiniLMv2) count beside the teacher's outputs; for any width [default: 0]
    #[arg(long, value_name = "WEIGHT")]
    pub relation_weight: Option<f64>,
    /// Heads that vectors are cut into for relations; must divide both widths [default: 0, those of the teacher]
    #[arg(long, value_name = "N")]
    pub relation_heads: Option<usize>,
    /// Layer whose relations are compared, as a share of the depth [default: 1, the last one]
    #[arg(long, value_name = "SHARE")]
    pub relation_depth: Option<f64>,
    /// How token vectors become one: cls or mean; the encoder's own when left out
    #[arg(long, value_parser = pooling, value_name = "POOLING")]
    pub pooling: Option<Pooling>,
    /// Passes over the training texts [default: 3, a head alone: 12]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Texts per step [default: 32, a head alone: 64]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Largest step size of the encoder, or of a head alone [default: 5e-5, a head alone: 1e-3]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Largest step size of the head on an encoder that is trained [default: 5e-4]
    #[arg(long, value_name = "RATE")]
    pub head_learning_rate: Option<f64>,
    /// Largest share by which a step changes a learned scale [default: 1e-3]
    #[arg(long, value_name = "RATE")]
    pub scale_learning_rate: Option<f64>,
    /// Share of the steps in which the step size rises [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub warmup: Option<f64>,
    /// Decay of matrices per step, as a share of the step size [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    pub weight_decay: Option<f64>,
    /// Largest length of a step's gradient [default: 1]
    #[arg(long, value_name = "NORM")]
    pub clip: Option<f64>,
    /// Share of values that a training step drops [default: 0.1, a head alone: 0.3]
    #[arg(long, value_name = "SHARE")]
    pub dropout: Option<f64>,
    /// Share of the target that all classes get [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub label_smoothing: Option<f64>,
    /// How much the number counts beside the classes [default: 1]
    #[arg(long, value_name = "WEIGHT")]
    pub value_weight: Option<f64>,
    /// Epochs without a better dev score that end the run [default: 2]
    #[arg(long, value_name = "N")]
    pub patience: Option<usize>,
    /// Texts are cut to this many tokens while training [default: 128]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Round the factors of the encoder's products to bf16: faster; needs a CPU with AMX [default: false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub bf16: Option<bool>,
    /// Seed of everything random [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Where the texts came from, for the model card
    #[arg(long, value_name = "TEXT")]
    pub source_id: Option<String>,
    /// SPDX name of the result's licence, for the model card
    #[arg(long, value_name = "SPDX")]
    pub license: Option<String>,
}

/// Keys that mean something only when the encoder is trained.
const WHOLE_ONLY: [&str; 28] = [
    "relation_weight",
    "relation_heads",
    "relation_depth",
    "quantization_aware",
    "scheme_recipe",
    "learned_scales",
    "scale_learning_rate",
    "layers",
    "teacher",
    "teacher_weight",
    "hidden_weight",
    "prune_heads",
    "prune_ffn",
    "prune_magnitude",
    "prune_start",
    "prune_end",
    "value",
    "regression",
    "pooling",
    "head_learning_rate",
    "warmup",
    "weight_decay",
    "clip",
    "label_smoothing",
    "value_weight",
    "patience",
    "max_tokens",
    "bf16",
];

/// Flags that mean something only beside a teacher.
const TEACHER_ONLY: [&str; 5] =
    ["teacher_weight", "hidden_weight", "relation_weight", "relation_heads", "relation_depth"];

fn pooling(text: &str) -> Result<Pooling, String> {
    match text {
        "cls" => Ok(Pooling::Cls),
        "mean" => Ok(Pooling::Mean),
        other => Err(format!("found {other}, expected cls or mean")),
    }
}

/// A run's options, and the numbers of fine-tuning with their defaults.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recipe {
    pub options: Options,
    pub settings: FineTuneSettings,
}

impl Recipe {
    /// Flags over the keys of a file over defaults.
    ///
    /// # Errors
    /// When the file cannot be read, has a key that no flag has, or a value of another kind.
    pub fn resolve(flags: &Options, file: Option<&Path>) -> anyhow::Result<Self> {
        let mut table = Table::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            table = toml::from_str::<Options>(&text)
                .map(|options| Table::try_from(options).expect("options are a table"))
                .with_context(|| format!("{}: not a recipe; its keys are the flags of octet train", path.display()))?;
        }
        let flags = Table::try_from(flags).expect("options are a table");
        table.extend(flags.clone());
        let options: Options = table.clone().try_into().context("the flags and the recipe do not fit together")?;
        if options.freeze_encoder == Some(true)
            && let Some(key) = WHOLE_ONLY.into_iter().find(|key| table.contains_key(*key))
        {
            bail!("--{} means nothing with --freeze-encoder; leave one out", key.replace('_', "-"));
        }
        // A run's recipe has them all, with their defaults.
        if options.teacher.is_none()
            && let Some(key) = TEACHER_ONLY.into_iter().find(|key| flags.contains_key(*key))
        {
            bail!("--{} means nothing without --teacher; give the model/ of an earlier run", key.replace('_', "-"));
        }
        ensure!(
            options.value.is_none() || options.regression.is_none(),
            "value and regression exclude each other: the former gives a number beside classes, the latter alone"
        );
        let mut settings = Table::try_from(FineTuneSettings::default()).expect("settings are a table");
        for (key, value) in &mut settings {
            if let Some(given) = table.get(key) {
                *value = given.clone();
            }
        }
        let settings: FineTuneSettings = settings.try_into().context("the flags and the recipe do not fit together")?;
        if options.freeze_encoder != Some(true) {
            settings.check().map_err(anyhow::Error::msg)?;
        }
        Ok(Recipe { options, settings })
    }

    /// The file that gives this recipe again.
    pub fn to_toml(&self) -> String {
        let mut table = Table::try_from(&self.options).expect("options are a table");
        table.extend(Table::try_from(&self.settings).expect("settings are a table"));
        // In the order of the flags, whatever was given.
        let all: Options = table.try_into().expect("every setting has a flag");
        toml::to_string(&all).expect("options can be written")
    }

    /// Fails unless this is the recipe in a file, that of a run to be taken up; what only names the model may differ.
    pub fn ensure_goes_on(&self, begun: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(begun).with_context(|| format!("cannot read {}", begun.display()))?;
        let parse = |text: &str| text.parse::<Table>().with_context(|| format!("{} is no recipe", begun.display()));
        let (was, is) = (parse(&text)?, parse(&self.to_toml())?);
        let named = |key: &&String| !["license", "source_id"].contains(&key.as_str());
        let other = was.keys().chain(is.keys()).filter(named).find(|key| was.get(*key) != is.get(*key));
        if let Some(key) = other {
            let [was, is] = [&was, &is].map(|of| of.get(key).map_or("nothing".into(), |value| value.to_string()));
            bail!(
                "{} has {key} = {was}, this run {is}; --resume goes on with the same, --force begins anew",
                begun.display()
            );
        }
        Ok(())
    }

    /// Where texts, and what they should give, stand in the data files.
    pub fn columns(&self) -> Columns {
        with_names(Columns::default(), self.named_columns().map(|(field, _, name)| (field, name)))
    }

    /// The flags of columns as they were given, for another command that reads such a file.
    pub fn column_flags(&self) -> String {
        let given = self.named_columns().into_iter().filter_map(|(_, flag, name)| Some((flag, name.as_ref()?)));
        given.map(|(flag, name)| format!(" {flag} {}", quoted(name))).collect()
    }

    fn named_columns(&self) -> [(Field, &'static str, &Option<String>); 5] {
        let options = &self.options;
        [
            (Field::Text, "--text-column", &options.text_column),
            (Field::TextPair, "--pair-column", &options.pair_column),
            (Field::Label, "--label-column", &options.label_column),
            (Field::Labels, "--labels-column", &options.labels_column),
            (Field::Rating, "--rating-column", &options.rating_column),
        ]
    }

    /// Everything that is read and must not be overwritten.
    pub fn sources(&self) -> impl Iterator<Item = &Path> {
        let options = &self.options;
        let given = [&options.encoder, &options.train, &options.dev].into_iter().flatten();
        given.chain(options.teacher.iter().flatten()).map(PathBuf::as_path)
    }

    /// A path that must be given.
    pub fn path<'a>(&self, path: &'a Option<PathBuf>, flag: &str) -> anyhow::Result<&'a Path> {
        path.as_deref().with_context(|| format!("--{flag} is missing; give it as a flag or in the recipe"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = file("encoder = \"a\"\nepochs = 7\nseed = 4\nlabels = [\"x\", \"y\"]\n");
        let flags = Options { epochs: Some(9), ..Options::default() };
        let found = Recipe::resolve(&flags, Some(file.path())).unwrap();
        assert_eq!((found.settings.epochs, found.settings.seed, found.settings.batch_size), (9, 4, 32));
        assert_eq!(found.options.encoder.as_deref(), Some(Path::new("a")));
        assert_eq!(found.options.labels, Some(vec!["x".to_string(), "y".into()]));
    }

    #[test]
    fn a_recipe_that_was_written_gives_the_same_run() {
        let flags = Options {
            encoder: Some("models/a".into()),
            value: Some("valence".into()),
            pooling: Some(Pooling::Mean),
            learning_rate: Some(3.3e-5),
            dropout: Some(0.15),
            ..Options::default()
        };
        let first = Recipe::resolve(&flags, None).unwrap();
        let file = file(&first.to_toml());
        let again = Recipe::resolve(&Options::default(), Some(file.path())).unwrap();
        assert_eq!(again.settings, first.settings);
        assert_eq!(again.to_toml(), first.to_toml());
    }

    #[test]
    fn unknown_keys_and_flags_without_meaning_are_refused() {
        let error = format!("{:#}", Recipe::resolve(&Options::default(), Some(file("epoch = 3").path())).unwrap_err());
        assert!(error.contains("not a recipe") && error.contains("epoch"), "{error}");
        let frozen = Options { freeze_encoder: Some(true), warmup: Some(0.1), ..Options::default() };
        let alone = Options { relation_weight: Some(1.0), ..Options::default() };
        for (flags, told) in [
            (frozen, "--warmup means nothing with --freeze-encoder"),
            (alone, "--relation-weight means nothing without --teacher"),
        ] {
            let error = Recipe::resolve(&flags, None).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn columns_are_named_for_training_and_for_the_next_command() {
        let (text_column, label_column) = (Some("my review".into()), Some("stars".into()));
        let flags = Options { text_column, label_column, ..Options::default() };
        let recipe = Recipe::resolve(&flags, None).unwrap();
        assert_eq!(recipe.column_flags(), " --text-column 'my review' --label-column stars");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, "my review,stars\nfine,5\n").unwrap();
        let read = crate::data::read_with(&path, &recipe.columns(), usize::MAX).unwrap();
        assert_eq!((read[0].text.as_str(), read[0].label.as_ref().unwrap().to_string()), ("fine", "5".to_string()));
    }

    #[test]
    fn every_setting_of_fine_tuning_has_a_flag() {
        let settings = Table::try_from(FineTuneSettings::default()).unwrap();
        let text = toml::to_string(&settings).unwrap();
        toml::from_str::<Options>(&text).unwrap();
    }
}
