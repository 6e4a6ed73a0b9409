//! The files that sentence-transformers puts beside a model: what happens to the encoder's output.

use std::path::Path;

use serde_json::Value;

use super::CheckpointError;
use super::file::{is_plain_name, read_in};
use super::model_config::{Pooling, parse_object, shown};

const MAX_BYTES: u64 = 1 << 20;

/// What a sentence-transformers folder does after the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentenceTransformerConfig {
    /// How token vectors become one vector.
    pub pooling: Pooling,
    /// Whether the vector is divided by its length.
    pub normalize: bool,
    /// Tokens kept of a text, special tokens included, when the folder says so.
    pub max_seq_length: Option<usize>,
}

/// Reads `modules.json` and the files it leads to; `None` when the folder has no `modules.json`.
///
/// # Errors
/// [`CheckpointError`] when a file is malformed or asks for a step that Octet does not have.
pub(super) fn read(folder: &Path) -> Result<Option<SentenceTransformerConfig>, CheckpointError> {
    let Some(modules) = read_modules(folder)? else { return Ok(None) };
    refuse_default_prompt(folder)?;
    Ok(Some(SentenceTransformerConfig {
        pooling: read_pooling(folder, &modules.pooling_config)?,
        normalize: modules.normalize,
        max_seq_length: read_max_seq_length(folder)?,
    }))
}

/// Names of the sentence-transformers files that a folder may have, relative to it.
///
/// # Errors
/// As [`read`], for `modules.json`.
pub(super) fn file_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let Some(modules) = read_modules(folder)? else { return Ok(Vec::new()) };
    let fixed = ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"];
    Ok(fixed.map(String::from).into_iter().chain([modules.pooling_config]).collect())
}

/// What `modules.json` says.
struct Modules {
    /// `1_Pooling/config.json`
    pooling_config: String,
    normalize: bool,
}

fn read_modules(folder: &Path) -> Result<Option<Modules>, CheckpointError> {
    let path = folder.join("modules.json");
    let Some(content) = read_in(folder, "modules.json", MAX_BYTES)? else { return Ok(None) };
    let modules: Vec<Value> = serde_json::from_slice(&content)
        .map_err(|e| CheckpointError::invalid(&path, format!("not a list of modules: {e}")))?;
    let unsupported = |found: String| CheckpointError::Unsupported {
        path: path.clone(),
        found,
        supported: "Transformer, then Pooling, then at most one Normalize".into(),
    };
    let mut steps = Vec::new();
    for module in &modules {
        let field = |key: &str| module.get(key).and_then(Value::as_str);
        let (Some(kind), Some(place)) = (field("type"), field("path")) else {
            return Err(CheckpointError::invalid(&path, "a module without \"type\" and \"path\""));
        };
        steps.push((kind.rsplit('.').next().unwrap_or(kind), place));
    }
    let (place, normalize) = match steps[..] {
        [("Transformer", ""), ("Pooling", place)] => (place, false),
        [("Transformer", ""), ("Pooling", place), ("Normalize", _)] => (place, true),
        _ => {
            let list: Vec<String> = steps.iter().map(|(kind, place)| format!("{kind} in \"{place}\"")).collect();
            return Err(unsupported(format!("the list of modules [{}]", list.join(", "))));
        }
    };
    if !is_plain_name(place) {
        return Err(unsupported(format!("the module path {place:?}")));
    }
    Ok(Some(Modules { pooling_config: format!("{place}/config.json"), normalize }))
}

/// The one mode that `1_Pooling/config.json` turns on.
fn read_pooling(folder: &Path, name: &str) -> Result<Pooling, CheckpointError> {
    let path = folder.join(name);
    let content = read_in(folder, name, MAX_BYTES)?
        .ok_or_else(|| CheckpointError::Missing { path: path.clone(), hint: "modules.json names it".into() })?;
    let config = parse_object(&content, &path)?;
    let mut on: Vec<&str> = config
        .iter()
        .filter_map(|(key, value)| key.strip_prefix("pooling_mode_").filter(|_| *value == Value::Bool(true)))
        .collect();
    on.extend(config.get("pooling_mode").and_then(Value::as_str));
    match on[..] {
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        _ => {
            let found = if on.is_empty() { "no pooling mode".into() } else { format!("pooling {}", on.join(" with ")) };
            Err(CheckpointError::Unsupported {
                path,
                found,
                supported: "one of cls_token, mean_tokens, max_tokens".into(),
            })
        }
    }
}

fn read_max_seq_length(folder: &Path) -> Result<Option<usize>, CheckpointError> {
    const NAME: &str = "sentence_bert_config.json";
    let path = folder.join(NAME);
    let Some(content) = read_in(folder, NAME, MAX_BYTES)? else { return Ok(None) };
    let config = parse_object(&content, &path)?;
    if config.get("do_lower_case") == Some(&Value::Bool(true)) {
        return Err(CheckpointError::Unsupported {
            path,
            found: "\"do_lower_case\": true".into(),
            supported: "false; let the normalizer in tokenizer.json lower the case".into(),
        });
    }
    match config.get("max_seq_length") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(n @ 1..=65_536) => Ok(Some(n as usize)),
            _ => Err(CheckpointError::Value {
                path,
                key: "max_seq_length".into(),
                found: shown(value),
                allowed: "a whole number from 1 to 65536".into(),
            }),
        },
    }
}

/// A prompt that would be put before every text. Prompts that a caller has to name are fine: they are the caller's text.
fn refuse_default_prompt(folder: &Path) -> Result<(), CheckpointError> {
    const NAME: &str = "config_sentence_transformers.json";
    let path = folder.join(NAME);
    let Some(content) = read_in(folder, NAME, MAX_BYTES)? else { return Ok(()) };
    let config = parse_object(&content, &path)?;
    let Some(name) = config.get("default_prompt_name").filter(|name| !name.is_null()) else { return Ok(()) };
    let prompt = name.as_str().and_then(|name| config.get("prompts")?.get(name)?.as_str());
    if prompt == Some("") {
        return Ok(());
    }
    Err(CheckpointError::Unsupported {
        path,
        found: format!("\"default_prompt_name\" {}", shown(name)),
        supported: "null; put the prompt before each text in the request".into(),
    })
}
