//! `config.json`: a model's family, sizes and labels.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::file::is_plain_name;
use super::{CheckpointError, QuantizationConfig};

/// How token vectors become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The mean over tokens.
    Mean,
    /// The largest value over tokens, per dimension.
    Max,
}

/// What the outputs of a classification head mean (`problem_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// `regression`
    Regression,
    /// `single_label_classification`
    SingleLabel,
    /// `multi_label_classification`
    MultiLabel,
}

/// The `octet` object of `config.json`: a head that `octet train` made, on this folder's encoder or a sibling's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OctetConfig {
    /// Name of the folder beside this one that holds the encoder and the tokenizer; absent when this one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// [`super::ModelDir::digest`] of that folder: the head was trained on these weights and fits no others. Present
    /// when `encoder` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_sha256: Option<String>,
    /// What lies between the encoder and the head's weights, and what comes out.
    pub head: HeadConfig,
}

/// What lies between an encoder and the weights of a head of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// First step of the head.
    pub pooling: Pooling,
    /// Name of a number that the head gives beside the classes, as its last output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Sizes of one block. Blocks are alike unless some were pruned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// The attention heads that it has, by their number before pruning, in rising order; at least one.
    pub heads: Vec<usize>,
    /// Width of its feed-forward network, at least 1.
    pub intermediate_size: usize,
}

/// A `config.json` whose values were checked. Names are those of BERT, whatever the family calls them in the file.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `bert`, `distilbert`, `roberta`, ...
    pub model_type: String,
    /// Class names of the reference implementation, such as `BertForSequenceClassification`.
    pub architectures: Vec<String>,
    /// Width of the residual stream, 1..=8192.
    pub hidden_size: usize,
    /// Number of blocks, 1..=48.
    pub num_hidden_layers: usize,
    /// Attention heads per block before any were pruned; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward networks before neurons were pruned, 1..=65536.
    pub intermediate_size: usize,
    /// What each block has, `[num_hidden_layers]`.
    pub layers: Vec<LayerConfig>,
    /// Rows of the word embedding table, 1..=1,000,000.
    pub vocab_size: usize,
    /// Rows of the position table, 1..=65536.
    pub max_position_embeddings: usize,
    /// Rows of the token-type table, 0..=64; 0 when the family has none.
    pub type_vocab_size: usize,
    /// Feed-forward activation as the file names it.
    pub hidden_act: String,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f32,
    /// Id of the padding token; RoBERTa counts positions from here.
    pub pad_token_id: usize,
    /// Class names in the order of the head's outputs. Without `id2label`: `LABEL_0`, ... for `num_labels` (2 by
    /// default, as in Transformers), also when the model has no classification head.
    pub labels: Vec<String>,
    /// What the head's outputs mean, when the file says so.
    pub problem_type: Option<ProblemType>,
    /// `quantization_config`: how the weights are stored, when they are quantized.
    pub quantization: Option<QuantizationConfig>,
    /// Our own extension, when present.
    pub octet: Option<OctetConfig>,
    /// Everything in the file, as it is.
    pub raw: Map<String, Value>,
}

impl ModelConfig {
    /// Checks the content of a `config.json`; `path` is where it was read, for error messages.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the key, what was found and what is allowed.
    pub fn parse(content: &[u8], path: &Path) -> Result<Self, CheckpointError> {
        Self::from_map(parse_object(content, path)?, path)
    }

    /// What this family calls the number of blocks in its file.
    pub fn layers_key(&self) -> &'static str {
        KeyNames::of(&self.model_type).num_hidden_layers
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Writes the number of blocks and what each has into the JSON object of a `config.json`; nothing about heads and
    /// neurons when all are there.
    pub fn write_layers(&self, layers: &[LayerConfig], raw: &mut Map<String, Value>) {
        for key in [PRUNED_HEADS, INTERMEDIATE_SIZES] {
            raw.shift_remove(key);
        }
        raw.insert(self.layers_key().into(), layers.len().into());
        let missing = |layer: &LayerConfig| -> Vec<usize> {
            (0..self.num_attention_heads).filter(|head| !layer.heads.contains(head)).collect()
        };
        let pruned = layers.iter().map(missing).enumerate().filter(|(_, heads)| !heads.is_empty());
        let pruned: Map<String, Value> = pruned.map(|(layer, heads)| (layer.to_string(), heads.into())).collect();
        if !pruned.is_empty() {
            raw.insert(PRUNED_HEADS.into(), pruned.into());
        }
        if layers.iter().any(|layer| layer.intermediate_size != self.intermediate_size) {
            let sizes: Vec<usize> = layers.iter().map(|layer| layer.intermediate_size).collect();
            raw.insert(INTERMEDIATE_SIZES.into(), sizes.into());
        }
    }

    /// [`ModelConfig::parse`] for JSON that is already parsed.
    ///
    /// # Errors
    /// As [`ModelConfig::parse`].
    pub fn from_map(raw: Map<String, Value>, path: &Path) -> Result<Self, CheckpointError> {
        let file = Fields { raw: &raw, path };
        let model_type = file.required_string("model_type")?;
        let names = KeyNames::of(&model_type);
        if let Some(found) = file.string("position_embedding_type")?.filter(|p| p != "absolute") {
            return Err(file.bad("position_embedding_type", format!("\"{found}\""), "\"absolute\"".into()));
        }
        let hidden_size = file.integer(names.hidden_size, 1..=8192, None)?;
        let num_attention_heads = file.integer(names.num_attention_heads, 1..=1024, None)?;
        if !hidden_size.is_multiple_of(num_attention_heads) {
            let allowed = format!("a divisor of \"{}\" ({hidden_size})", names.hidden_size);
            return Err(file.bad(names.num_attention_heads, num_attention_heads.to_string(), allowed));
        }
        let vocab_size = file.integer("vocab_size", 1..=1_000_000, None)?;
        let num_hidden_layers = file.integer(names.num_hidden_layers, 1..=48, None)?;
        let intermediate_size = file.integer(names.intermediate_size, 1..=65_536, None)?;
        let heads = file.heads(num_hidden_layers, num_attention_heads)?;
        let inner = file.intermediate_sizes(num_hidden_layers, intermediate_size)?;
        let layers = heads.into_iter().zip(inner);
        Ok(ModelConfig {
            architectures: file.strings("architectures")?,
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            intermediate_size,
            layers: layers.map(|(heads, intermediate_size)| LayerConfig { heads, intermediate_size }).collect(),
            vocab_size,
            max_position_embeddings: file.integer("max_position_embeddings", 1..=65_536, None)?,
            type_vocab_size: file.integer("type_vocab_size", 0..=64, Some(names.default_type_vocab_size))?,
            hidden_act: file.string(names.hidden_act)?.unwrap_or_else(|| "gelu".into()),
            layer_norm_eps: file.positive_float("layer_norm_eps", 1e-12)?,
            pad_token_id: file.integer("pad_token_id", 0..=vocab_size - 1, Some(names.default_pad_token_id))?,
            labels: file.labels()?,
            problem_type: file.problem_type()?,
            quantization: match file.get("quantization_config") {
                Some(value) => Some(QuantizationConfig::from_json(value, path)?),
                None => None,
            },
            octet: match file.get("octet") {
                Some(value) => Some(octet_config(value, path)?),
                None => None,
            },
            model_type,
            raw,
        })
    }
}

/// Parses a file that must hold one JSON object.
///
/// # Errors
/// [`CheckpointError::Invalid`] when it does not.
pub(super) fn parse_object(content: &[u8], path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    match serde_json::from_slice(content) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(CheckpointError::invalid(path, "not a JSON object")),
        Err(e) => Err(CheckpointError::invalid(path, format!("not valid JSON: {e}"))),
    }
}

/// The `octet` object, wherever it stands.
///
/// # Errors
/// [`CheckpointError::Value`] when it is not complete or names something other than a sibling folder.
pub(super) fn octet_config(value: &Value, path: &Path) -> Result<OctetConfig, CheckpointError> {
    let bad = |key: &str, found: String, allowed: &str| CheckpointError::Value {
        path: path.to_path_buf(),
        key: key.into(),
        found,
        allowed: allowed.into(),
    };
    let octet: OctetConfig = serde_json::from_value(value.clone()).map_err(|e| {
        let allowed = "{\"encoder\": folder name, \"encoder_sha256\": hex, \"head\": {\"pooling\": cls, mean or max, \"value\": name}}";
        bad("octet", format!("not usable ({e})"), allowed)
    })?;
    let (encoder, digest) = match (&octet.encoder, &octet.encoder_sha256) {
        (None, None) => return Ok(octet),
        (encoder, digest) => (encoder.as_deref().unwrap_or_default(), digest.as_deref().unwrap_or_default()),
    };
    if !is_plain_name(encoder) {
        let allowed = "the name of a folder beside this one: letters, digits, - and _";
        return Err(bad("octet.encoder", format!("{encoder:?}"), allowed));
    }
    if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad("octet.encoder_sha256", format!("{digest:?}"), "64 hexadecimal digits"));
    }
    Ok(octet)
}

/// What a family calls the sizes in `config.json`, and what its reference implementation assumes when they are absent.
struct KeyNames {
    hidden_size: &'static str,
    num_hidden_layers: &'static str,
    num_attention_heads: &'static str,
    intermediate_size: &'static str,
    hidden_act: &'static str,
    default_type_vocab_size: usize,
    default_pad_token_id: usize,
}

impl KeyNames {
    /// The only place that knows family-specific keys; from `configuration_<family>.py` of Transformers.
    fn of(model_type: &str) -> Self {
        let bert = KeyNames {
            hidden_size: "hidden_size",
            num_hidden_layers: "num_hidden_layers",
            num_attention_heads: "num_attention_heads",
            intermediate_size: "intermediate_size",
            hidden_act: "hidden_act",
            default_type_vocab_size: 2,
            default_pad_token_id: 0,
        };
        match model_type {
            "distilbert" => KeyNames {
                hidden_size: "dim",
                num_hidden_layers: "n_layers",
                num_attention_heads: "n_heads",
                intermediate_size: "hidden_dim",
                hidden_act: "activation",
                default_type_vocab_size: 0,
                default_pad_token_id: 0,
            },
            "roberta" | "xlm-roberta" | "camembert" => KeyNames { default_pad_token_id: 1, ..bert },
            _ => bert,
        }
    }
}

/// Typed, checked access to the keys of one JSON object. `null` counts as absent, as Transformers writes it.
struct Fields<'a> {
    raw: &'a Map<String, Value>,
    path: &'a Path,
}

/// `{layer: [heads]}`: heads that are gone, as Transformers up to version 4 writes and reads them.
const PRUNED_HEADS: &str = "pruned_heads";
/// `[width of each layer's feed-forward network]`: a key of Octet, for which no tool has one.
const INTERMEDIATE_SIZES: &str = "intermediate_sizes";

/// Most classes a head may have.
const MAX_LABELS: usize = 10_000;

impl Fields<'_> {
    fn bad(&self, key: &str, found: String, allowed: String) -> CheckpointError {
        CheckpointError::Value { path: PathBuf::from(self.path), key: key.into(), found, allowed }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|v| !v.is_null())
    }

    fn integer(
        &self,
        key: &str,
        allowed: std::ops::RangeInclusive<usize>,
        default: Option<usize>,
    ) -> Result<usize, CheckpointError> {
        let expected = || format!("a whole number from {} to {}", allowed.start(), allowed.end());
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.bad(key, "missing".into(), expected())),
            (Some(value), _) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if allowed.contains(&n) => Ok(n),
                _ => Err(self.bad(key, shown(value), expected())),
            },
        }
    }

    fn positive_float(&self, key: &str, default: f32) -> Result<f32, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_f64().map(|v| v as f32) {
            Some(v) if v > 0.0 && v <= 1.0 => Ok(v),
            _ => Err(self.bad(key, shown(value), "a number above 0 and at most 1".into())),
        }
    }

    fn string(&self, key: &str) -> Result<Option<String>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(value) => Err(self.bad(key, shown(value), "a string".into())),
        }
    }

    fn required_string(&self, key: &str) -> Result<String, CheckpointError> {
        self.string(key)?.ok_or_else(|| self.bad(key, "missing".into(), "a string".into()))
    }

    fn strings(&self, key: &str) -> Result<Vec<String>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list = value.as_array().and_then(|a| a.iter().map(|v| v.as_str().map(String::from)).collect());
        list.ok_or_else(|| self.bad(key, shown(value), "a list of strings".into()))
    }

    fn problem_type(&self) -> Result<Option<ProblemType>, CheckpointError> {
        match self.string("problem_type")?.as_deref() {
            None => Ok(None),
            Some("regression") => Ok(Some(ProblemType::Regression)),
            Some("single_label_classification") => Ok(Some(ProblemType::SingleLabel)),
            Some("multi_label_classification") => Ok(Some(ProblemType::MultiLabel)),
            Some(found) => {
                let allowed = "regression, single_label_classification or multi_label_classification";
                Err(self.bad("problem_type", format!("\"{found}\""), allowed.into()))
            }
        }
    }

    /// The heads of each block that are not among its `pruned_heads`.
    fn heads(&self, layers: usize, heads: usize) -> Result<Vec<Vec<usize>>, CheckpointError> {
        let mut left = vec![(0..heads).collect::<Vec<_>>(); layers];
        let Some(value) = self.get(PRUNED_HEADS) else { return Ok(left) };
        for (layer, pruned) in self.object(PRUNED_HEADS, value)? {
            let numbers = pruned.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
            match (layer.parse().ok().and_then(|layer: usize| left.get_mut(layer)), numbers) {
                (Some(left), Some(numbers)) if numbers.iter().all(|head| *head < heads as u64) => {
                    left.retain(|head| !numbers.contains(&(*head as u64)));
                }
                _ => {
                    let (last, allowed) = (layers - 1, format!("lists of heads from 0 to {}", heads - 1));
                    let found = format!("{{\"{layer}\": {}}}", shown(pruned));
                    return Err(self.bad(PRUNED_HEADS, found, format!("for layers from 0 to {last} {allowed}")));
                }
            }
        }
        match left.iter().position(Vec::is_empty) {
            Some(layer) => {
                let found = format!("all heads of layer {layer}");
                Err(self.bad(PRUNED_HEADS, found, "lists that leave each layer at least one head".into()))
            }
            None => Ok(left),
        }
    }

    /// The width of each block's feed-forward network.
    fn intermediate_sizes(&self, layers: usize, widest: usize) -> Result<Vec<usize>, CheckpointError> {
        let Some(value) = self.get(INTERMEDIATE_SIZES) else { return Ok(vec![widest; layers]) };
        let size = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=widest).contains(n));
        let sizes: Option<Vec<usize>> = value.as_array().and_then(|list| list.iter().map(size).collect());
        sizes.filter(|sizes| sizes.len() == layers).ok_or_else(|| {
            let allowed = format!("a list of {layers} whole numbers from 1 to {widest}, one for each layer");
            self.bad(INTERMEDIATE_SIZES, shown(value), allowed)
        })
    }

    /// Class names from `id2label`, or from `label2id`, or numbered.
    fn labels(&self) -> Result<Vec<String>, CheckpointError> {
        let (key, pairs) = if let Some(value) = self.get("id2label") {
            let map = self.object("id2label", value)?;
            ("id2label", map.iter().map(|(id, label)| (id.parse().ok(), label.as_str())).collect::<Vec<_>>())
        } else if let Some(value) = self.get("label2id") {
            let map = self.object("label2id", value)?;
            let index = |id: &Value| id.as_u64().and_then(|n| usize::try_from(n).ok());
            ("label2id", map.iter().map(|(label, id)| (index(id), Some(label.as_str()))).collect())
        } else {
            let count = self.integer("num_labels", 1..=MAX_LABELS, Some(2))?;
            return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
        };
        let expected = || format!("labels for 0 to n - 1, each once, n from 1 to {MAX_LABELS}");
        if pairs.is_empty() || pairs.len() > MAX_LABELS {
            return Err(self.bad(key, format!("an object of {} labels", pairs.len()), expected()));
        }
        let mut labels = vec![None; pairs.len()];
        for (id, label) in pairs {
            match (id.and_then(|id: usize| labels.get_mut(id)), label) {
                (Some(slot @ None), Some(label)) => *slot = Some(label.to_string()),
                _ => return Err(self.bad(key, "an object with other indices".into(), expected())),
            }
        }
        let labels: Vec<String> = labels.into_iter().flatten().collect();
        let stated = self.integer("num_labels", 1..=MAX_LABELS, Some(labels.len()))?;
        if stated != labels.len() {
            return Err(self.bad("num_labels", stated.to_string(), format!("{}, as in \"{key}\"", labels.len())));
        }
        Ok(labels)
    }

    fn object<'v>(&self, key: &str, value: &'v Value) -> Result<&'v Map<String, Value>, CheckpointError> {
        value.as_object().ok_or_else(|| self.bad(key, shown(value), "an object".into()))
    }
}

/// A JSON value as it appears in an error message, cut when it is long.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
