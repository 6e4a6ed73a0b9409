//! Reads the settings from all their sources and reports everything that is wrong at once.

use std::fmt;
use std::path::{Path, PathBuf};

use super::value::{Allowed, Raw, Setting};
use super::{ModelSettings, Settings};

/// The settings file that is read when none is named and this one exists.
pub const DEFAULT_FILE: &str = "config/octet.toml";

/// Models that are served when none are named: folders in `engine.models_dir`.
const SHIPPED_MODELS: [&str; 2] = ["all-MiniLM-L6-v2", "sentiment"];

/// Variables with a name of their own, for everyday use.
const SHORT_NAMES: [(&str, &str); 6] = [
    ("OCTET_HOST", "server.host"),
    ("OCTET_PORT", "server.port"),
    ("OCTET_THREADS", "engine.threads"),
    ("OCTET_ISA", "engine.isa"),
    ("OCTET_MODELS_DIR", "engine.models_dir"),
    ("OCTET_MODELS", MODELS),
];

/// Names the settings file when no flag does.
const FILE_VARIABLE: &str = "OCTET_CONFIG";

/// Variables that are not settings: the settings file itself, the commit that an image is built from, and the switch of
/// the tests that write generated files.
const NOT_SETTINGS: [&str; 3] = [FILE_VARIABLE, "OCTET_COMMIT", "OCTET_BLESS"];

/// Start of the variables that tell the tests where their assets lie; not settings either.
const TEST_VARIABLES: &str = "OCTET_TEST_";

/// Key of the list of models.
const MODELS: &str = "models";

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    #[default]
    Default,
    /// The settings file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(key) => write!(f, "flag {key}"),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A value has the wrong type or is out of range.
    #[error("{key}: found {found}, allowed: {allowed} ({origin})")]
    BadValue {
        /// The setting.
        key: String,
        /// What was given.
        found: String,
        /// What may be given.
        allowed: String,
        /// Where it was given.
        origin: Origin,
    },
    /// No setting has this key.
    #[error("{key}: unknown setting{} ({origin})", .suggestion.as_ref().map_or(String::new(), |s| format!(", did you mean {s}?")))]
    UnknownKey {
        /// What was given.
        key: String,
        /// The setting whose name is closest, when one is close.
        suggestion: Option<String>,
        /// Where it was given.
        origin: Origin,
    },
    /// The settings file cannot be read or is not TOML.
    #[error("cannot read settings file {}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Settings {
    /// Defaults, then `file` (or the one that `OCTET_CONFIG` names, or [`DEFAULT_FILE`] when none is named and it
    /// exists), then the `OCTET_*` variables of `environment`, then `overrides` (flags as `key = value`); later ones
    /// win.
    ///
    /// The key `models` takes models as `path` or `id=path`, separated by commas; several such flags add up.
    ///
    /// # Errors
    /// Every problem there is, not only the first.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Settings, Vec<Problem>> {
        let mut loader = Loader { settings: Settings::default(), known: Settings::all(), problems: Vec::new() };
        let environment: Vec<_> = environment.into_iter().collect();
        let named = environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
        match file.or(named.map(|(_, value)| Path::new(value))) {
            Some(file) => loader.read_file(file),
            None if Path::new(DEFAULT_FILE).exists() => loader.read_file(Path::new(DEFAULT_FILE)),
            None => {}
        }
        loader.read_environment(environment);
        loader.read_flags(overrides);
        loader.finish()
    }
}

struct Loader {
    settings: Settings,
    known: Vec<Setting>,
    problems: Vec<Problem>,
}

impl Loader {
    fn read_file(&mut self, path: &Path) {
        let unreadable = |reason: String| Problem::File { path: path.to_path_buf(), reason };
        let table = std::fs::read_to_string(path)
            .map_err(|e| unreadable(e.to_string()))
            .and_then(|text| text.parse::<toml::Table>().map_err(|e| unreadable(e.message().to_string())));
        let table = match table {
            Ok(table) => table,
            Err(problem) => return self.problems.push(problem),
        };
        let origin = Origin::File(path.to_path_buf());
        for (name, value) in &table {
            match value {
                toml::Value::Array(models) if name == MODELS => self.read_models(models, &origin),
                toml::Value::Table(section) => {
                    section.iter().for_each(|(field, value)| {
                        self.set(&format!("{name}.{field}"), Raw::Toml(value), &origin);
                    });
                }
                value => self.set(name, Raw::Toml(value), &origin),
            }
        }
    }

    /// `[[models]]` tables with `path` and, optionally, `id`.
    fn read_models(&mut self, models: &[toml::Value], origin: &Origin) {
        let mut found = Vec::new();
        for (index, model) in models.iter().enumerate() {
            let table = model.as_table();
            let text = |name: &str| table.and_then(|t| t.get(name)).and_then(|v| v.as_str());
            let extra = table.and_then(|t| t.keys().find(|k| *k != "id" && *k != "path"));
            if let Some(key) = extra {
                let key = format!("{MODELS}[{index}].{key}");
                self.problems.push(Problem::UnknownKey { key, suggestion: None, origin: origin.clone() });
            }
            match text("path") {
                Some(path) => found.push(named_model(text("id"), path)),
                None => self.problems.push(Problem::BadValue {
                    key: format!("{MODELS}[{index}]"),
                    found: model.to_string(),
                    allowed: "a table with path = \"...\" and, if wanted, id = \"...\"".to_string(),
                    origin: origin.clone(),
                }),
            }
        }
        self.set_models(found, origin);
    }

    fn read_environment(&mut self, mut variables: Vec<(String, String)>) {
        variables.sort();
        for (name, value) in &variables {
            let not_ours = !name.starts_with("OCTET_") || name.starts_with(TEST_VARIABLES);
            if not_ours || NOT_SETTINGS.contains(&name.as_str()) || is_service_link(name, value) {
                continue;
            }
            let origin = Origin::Environment(name.clone());
            match self.key_of_variable(name) {
                Some(key) => self.set(&key, Raw::Text(value), &origin),
                None => {
                    let suggestion = closest(name, self.known.iter().map(|s| variable_of_key(&s.key)));
                    self.problems.push(Problem::UnknownKey { key: name.clone(), suggestion, origin });
                }
            }
        }
    }

    fn key_of_variable(&self, name: &str) -> Option<String> {
        let short = SHORT_NAMES.iter().find(|(short, _)| *short == name).map(|(_, key)| key.to_string());
        short.or_else(|| self.known.iter().find(|s| variable_of_key(&s.key) == name).map(|s| s.key.clone()))
    }

    fn read_flags(&mut self, overrides: &[(String, String)]) {
        let mut models = Vec::new();
        for (key, value) in overrides {
            let origin = Origin::Flag(key.clone());
            if key == MODELS {
                models.push(value.as_str());
            } else {
                self.set(key, Raw::Text(value), &origin);
            }
        }
        if !models.is_empty() {
            self.set(MODELS, Raw::Text(&models.join(",")), &Origin::Flag(MODELS.to_string()));
        }
    }

    fn set(&mut self, key: &str, raw: Raw<'_>, origin: &Origin) {
        if let (MODELS, Raw::Text(list)) = (key, raw) {
            let models = list.split(',').map(str::trim).filter(|m| !m.is_empty());
            let models = models.map(|m| match m.split_once('=') {
                Some((id, path)) => named_model(Some(id), path),
                None => named_model(None, m),
            });
            return self.set_models(models.collect(), origin);
        }
        let Some(setting) = self.known.iter().find(|s| s.key == key) else {
            let suggestion = closest(key, self.known.iter().map(|s| s.key.clone()));
            let problem = Problem::UnknownKey { key: key.to_string(), suggestion, origin: origin.clone() };
            return self.problems.push(problem);
        };
        if !self.settings.set(key, raw, origin) {
            let allowed = match setting.allowed {
                Allowed::Between(..) => format!("a whole number, {}", setting.allowed),
                Allowed::Share => format!("a number, {}", setting.allowed),
                allowed => allowed.to_string(),
            };
            self.problems.push(Problem::BadValue {
                key: key.to_string(),
                found: raw.to_string(),
                allowed,
                origin: origin.clone(),
            });
        }
    }

    fn set_models(&mut self, models: Vec<ModelSettings>, origin: &Origin) {
        for (index, model) in models.iter().enumerate() {
            let duplicate = models[..index].iter().any(|m| m.id == model.id);
            if duplicate || model.id.is_empty() || model.path.is_empty() {
                self.problems.push(Problem::BadValue {
                    key: MODELS.to_string(),
                    found: format!("{}={}", model.id, model.path),
                    allowed: "a path and a name that no other model has; write id=path to choose the name".to_string(),
                    origin: origin.clone(),
                });
            }
        }
        self.settings.models = models;
        self.settings.origins.insert(MODELS.to_string(), origin.clone());
    }

    /// Fills in the shipped models when none are named, and looks bare names up in the models folder.
    fn finish(mut self) -> Result<Settings, Vec<Problem>> {
        self.check_together();
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        if self.settings.models.is_empty() {
            self.settings.models = SHIPPED_MODELS.iter().map(|name| named_model(None, name)).collect();
        }
        let folder = Path::new(&self.settings.engine.models_dir);
        for model in &mut self.settings.models {
            if !model.path.contains('/') && model.path != "." && model.path != ".." {
                model.path = folder.join(&model.path).to_string_lossy().into_owned();
            }
        }
        Ok(self.settings)
    }

    /// Values that are allowed alone but not together.
    fn check_together(&mut self) {
        let (one, all) = (self.settings.server.max_body_bytes, self.settings.server.max_total_body_bytes);
        if all < one {
            let key = "server.max_total_body_bytes";
            self.problems.push(Problem::BadValue {
                key: key.to_string(),
                found: all.to_string(),
                allowed: format!("at least server.max_body_bytes ({one}), or no body of that size is ever accepted"),
                origin: self.settings.origin(key).clone(),
            });
        }
    }
}

/// A model called `id`, or else like the last part of its path.
fn named_model(id: Option<&str>, path: &str) -> ModelSettings {
    let path = path.trim();
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    ModelSettings { id: id.unwrap_or(last).trim().to_string(), path: path.to_string() }
}

/// `server.max_inputs` → `OCTET_SERVER_MAX_INPUTS`.
pub(super) fn variable_of_key(key: &str) -> String {
    format!("OCTET_{}", key.replace('.', "_").to_uppercase())
}

/// Kubernetes gives every pod the addresses of the services beside it; those of a service called "octet" look like
/// settings of ours (`OCTET_PORT=tcp://10.0.0.7:8080`, `OCTET_SERVICE_HOST`, `OCTET_PORT_8080_TCP_ADDR`).
fn is_service_link(name: &str, value: &str) -> bool {
    name.starts_with("OCTET_SERVICE_")
        || (name == "OCTET_PORT" && value.contains("://"))
        || name.strip_prefix("OCTET_PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The candidate that `found` was probably meant to be: at most a third of its letters differ.
fn closest(found: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let (distance, best) = candidates.map(|c| (edit_distance(found, &c), c)).min()?;
    (distance * 3 <= found.chars().count()).then_some(best)
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
