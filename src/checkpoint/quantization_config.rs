//! The `quantization_config` of `config.json`, in the convention of compressed-tensors
//! (`src/compressed_tensors/quantization/quant_config.py` and `quant_args.py` of that project).

use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::kernels::affine::{Granularity, Levels, Scheme};

use super::CheckpointError;
use super::model_config::shown;

/// int8, a byte each.
const INT_QUANTIZED: &str = "int-quantized";
/// An older name of the same.
const NAIVE_QUANTIZED: &str = "naive-quantized";
/// int4 and ternary, in 32-bit words.
const PACK_QUANTIZED: &str = "pack-quantized";
/// Binary, a bit each. compressed-tensors has no such format: its one-bit integers are -1 and 0
/// (`docs/decisions/0009-binary-weights.md`).
const BINARY: &str = "octet-binary";
/// Nothing is quantized.
const DENSE: &str = "dense";
/// Some modules are smoothed, and each is packed as its levels are elsewhere. compressed-tensors has no place for the
/// factors, and would ignore them (`docs/decisions/0015-smoothing.md`).
const SMOOTHED: &str = "octet-smoothed";
/// Each group names its own format.
const MIXED: &str = "mixed-precision";

/// Memory that a pattern of a stranger may take when it is compiled.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Which modules of a folder are stored as integers, how, and how their inputs are quantized when it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// Modules that are quantized alike; without groups, all is float.
    pub groups: Vec<QuantizationGroup>,
    /// Modules kept in float although a group targets them: names, `re:` patterns, or classes.
    pub ignore: Vec<String>,
    /// Names of the modules with integers whose inputs are multiplied by factors before they are rounded: those of
    /// [`QuantizedWeights::smoothing`](crate::kernels::affine::QuantizedWeights::smoothing).
    pub smoothed: Vec<String>,
}

/// Modules that are quantized alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizationGroup {
    /// Names, patterns (`re:` and a regular expression that matches from the start of a name), or the classes `Linear`
    /// and `Embedding`. A name goes before a pattern, a pattern before a class.
    pub targets: Vec<String>,
    /// Their weights.
    pub weights: Scheme,
    /// Their inputs; `None` for those that stay float, as of embedding tables.
    pub inputs: Option<InputConfig>,
}

/// How inputs of linear layers are quantized, to 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputConfig {
    /// One range per token while it runs, or one range per module, stored beside its weight as `input_scale` and
    /// `input_zero_point`.
    pub dynamic: bool,
    /// Whether the folder was made for inputs without a zero point. For dynamic inputs it is kept for the programs that
    /// read it; Octet then always uses a zero point, which loses less.
    pub symmetric: bool,
}

impl InputConfig {
    /// One range per token, with a zero point.
    pub const DYNAMIC: InputConfig = InputConfig { dynamic: true, symmetric: false };
}

#[derive(Serialize, Deserialize)]
struct Group {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    targets: Vec<String>,
    weights: Option<Args>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_activations: Option<Args>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_activations: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct Args {
    num_bits: u32,
    #[serde(rename = "type")]
    kind: String,
    symmetric: bool,
    strategy: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_size: Option<usize>,
    #[serde(default)]
    dynamic: Value,
    #[serde(default, skip_serializing)]
    actorder: Value,
}

/// What is wrong, and what is supported.
type Refusal = (String, &'static str);

impl QuantizationConfig {
    /// Symmetric int8 linear layers and tables, a scale per row, inputs dynamic; what `octet quantize` writes unless
    /// told otherwise. `ignore` stays float.
    pub fn int8(ignore: Vec<String>) -> Self {
        let group =
            |target: &str, inputs| QuantizationGroup { targets: vec![target.into()], weights: Scheme::INT8, inputs };
        let groups = vec![group("Linear", Some(InputConfig::DYNAMIC)), group("Embedding", None)];
        QuantizationConfig { groups, ignore, smoothed: Vec::new() }
    }

    /// A short name for how linear layers run, such as `w8a8-dynamic` or `w4a16`; `mixed` when they differ.
    pub fn name(&self) -> String {
        let embeds = |group: &QuantizationGroup| group.targets.iter().all(|target| target == "Embedding");
        let mut names = self.groups.iter().filter(|group| !embeds(group)).map(|group| {
            let inputs = match group.inputs {
                None => "a16",
                Some(InputConfig { dynamic: true, .. }) => "a8-dynamic",
                Some(InputConfig { dynamic: false, .. }) => "a8-static",
            };
            format!("w{}{inputs}", group.weights.levels.bits())
        });
        match (names.next(), names.next()) {
            (None, _) => "float".into(),
            (Some(only), None) => only,
            (Some(first), Some(second)) if first == second && names.all(|name| name == first) => first,
            _ => "mixed".into(),
        }
    }

    /// The group of a module, by its name: the name of its weight without `.weight`; `None` when it is float.
    pub fn group_of(&self, module: &str) -> Option<&QuantizationGroup> {
        if self.ignore.iter().any(|target| rank(target, module).is_some()) {
            return None;
        }
        let best = |group: &QuantizationGroup| group.targets.iter().filter_map(|t| rank(t, module)).min();
        self.groups.iter().filter_map(|group| Some((best(group)?, group))).min_by_key(|(rank, _)| *rank).map(|g| g.1)
    }

    /// Reads the `quantization_config` object of the `config.json` at `path`.
    ///
    /// # Errors
    /// [`CheckpointError::Unsupported`] naming the scheme and what is supported; [`CheckpointError::Value`] when the
    /// object is malformed.
    pub fn from_json(value: &Value, path: &Path) -> Result<Self, CheckpointError> {
        let field = |key: &str| value.get(key).filter(|v| !v.is_null());
        let unsupported = |found: String, supported: &str| CheckpointError::Unsupported {
            path: path.to_path_buf(),
            found: format!("quantization_config with {found}"),
            supported: supported.into(),
        };
        let only = |key: &str, allowed: &[&str]| match field(key).and_then(Value::as_str) {
            Some(found) if allowed.contains(&found) => Ok(found.to_string()),
            Some(found) => Err(unsupported(format!("{key} \"{found}\""), &allowed.join(", "))),
            None => Err(unsupported(format!("no {key}"), &allowed.join(", "))),
        };
        only("quant_method", &["compressed-tensors"])?;
        let format = only("format", &[INT_QUANTIZED, NAIVE_QUANTIZED, PACK_QUANTIZED, BINARY, SMOOTHED, MIXED, DENSE])?;
        if field("quantization_status").is_some() {
            only("quantization_status", &["compressed"])?;
        }
        for key in ["sparsity_config", "kv_cache_scheme", "transform_config", "moe_sparsity_config"] {
            if let Some(found) = field(key).filter(|v| v.as_object().is_none_or(|o| !o.is_empty())) {
                return Err(unsupported(format!("{key} {}", shown(found)), "none"));
            }
        }
        let malformed = |key: &str, found: String, allowed: &str| CheckpointError::Value {
            path: path.to_path_buf(),
            key: format!("quantization_config.{key}"),
            found,
            allowed: allowed.into(),
        };
        let names = |key: &str| -> Result<Vec<String>, CheckpointError> {
            let names = field(key).map(|list| serde_json::from_value(list.clone()));
            names.unwrap_or(Ok(Vec::new())).map_err(|_| malformed(key, shown(&value[key]), "a list of module names"))
        };
        let (ignore, smoothed) = (names("ignore")?, names("smoothed")?);
        if smoothed.is_empty() == (format == SMOOTHED) {
            let found = format!("{} modules in format \"{format}\"", smoothed.len());
            return Err(malformed("smoothed", found, &format!("some in \"{SMOOTHED}\", none in others")));
        }
        for target in &ignore {
            check_pattern(target).map_err(|(found, supported)| unsupported(format!("ignore: {found}"), supported))?;
        }
        let groups = field("config_groups").and_then(Value::as_object).filter(|g| !g.is_empty() || format == DENSE);
        let groups = groups.ok_or_else(|| malformed("config_groups", "missing".into(), "an object of groups"))?;
        let mut config = QuantizationConfig { groups: Vec::new(), ignore, smoothed };
        for (name, group) in groups {
            let key = format!("config_groups.{name}");
            let group: Group = serde_json::from_value(group.clone())
                .map_err(|e| malformed(&key, format!("not usable ({e})"), "targets and weights"))?;
            let group = group.read(&format);
            config.groups.push(group.map_err(|(found, supported)| unsupported(format!("{key}: {found}"), supported))?);
        }
        Ok(config)
    }

    /// The object as compressed-tensors and vLLM read it; with smoothed modules, one that they refuse.
    pub fn to_json(&self) -> Value {
        let format_of = |group: &QuantizationGroup| match self.smoothed.as_slice() {
            [] => format_of(group.weights.levels),
            _ => SMOOTHED,
        };
        let first = self.groups.first().map_or(DENSE, format_of);
        let same = self.groups.iter().all(|group| format_of(group) == first);
        let mut groups = Map::new();
        for (i, group) in self.groups.iter().enumerate() {
            let group = Group {
                // Also where the whole has the same one: compressed-tensors takes a group without for weights of 8 bits
                // when its inputs have 8.
                format: Some(format_of(group).into()),
                targets: group.targets.clone(),
                weights: Some(Args::of_weights(group.weights)),
                input_activations: group.inputs.map(Args::of_inputs),
                output_activations: None,
            };
            groups.insert(format!("group_{i}"), json!(group));
        }
        let mut config = json!({
            "quant_method": "compressed-tensors",
            "format": if same { first } else { MIXED },
            "quantization_status": "compressed",
            "ignore": self.ignore,
            "config_groups": groups,
        });
        if !self.smoothed.is_empty() {
            config["smoothed"] = json!(self.smoothed);
        }
        config
    }
}

impl Group {
    /// Checks a group of a file with this format, or says what is wrong with it and what is supported.
    fn read(&self, format: &str) -> Result<QuantizationGroup, Refusal> {
        let weights = self.weights.as_ref().ok_or_else(|| ("no weights".to_string(), WEIGHTS))?.weights()?;
        let format = match self.format.as_deref() {
            Some(own) if format == MIXED => own,
            Some(own) if own != format => return Err((format!("format \"{own}\""), "the format of the whole file")),
            _ => format,
        };
        let format = if format == NAIVE_QUANTIZED { INT_QUANTIZED } else { format };
        if ![MIXED, SMOOTHED].contains(&format) && format != format_of(weights.levels) {
            return Err((format!("{} in format \"{format}\"", weights.levels.name()), FORMATS));
        }
        let inputs = self.input_activations.as_ref().map(Args::inputs).transpose()?;
        if self.output_activations.is_some() {
            return Err(("output_activations".into(), "none"));
        }
        for target in &self.targets {
            check_pattern(target)?;
            let is_class =
                !target.starts_with("re:") && !target.contains('.') && target.starts_with(char::is_uppercase);
            if is_class && !CLASSES.contains(&target.as_str()) {
                return Err((format!("target \"{target}\""), "targets Linear, Embedding, names and re: patterns"));
            }
        }
        Ok(QuantizationGroup { targets: self.targets.clone(), weights, inputs })
    }
}

const CLASSES: [&str; 2] = ["Linear", "Embedding"];
const FORMATS: &str =
    "int8 in int-quantized, int4 and ternary (2 bits) in pack-quantized, binary (1 bit) in octet-binary";
const WEIGHTS: &str = "weights of 8 or 4 bits, or of 2 or 1 and symmetric, int, static, strategy channel, tensor or \
                       group, without actorder group";
const INPUTS: &str = "input_activations of 8 bits, int, dynamic with strategy token, or static with strategy tensor";

impl Args {
    fn of_weights(scheme: Scheme) -> Self {
        let (strategy, group_size) = match scheme.granularity {
            Granularity::Tensor => ("tensor", None),
            Granularity::Channel => ("channel", None),
            Granularity::Group(size) => ("group", Some(size)),
        };
        Args {
            num_bits: scheme.levels.bits(),
            kind: "int".into(),
            symmetric: scheme.symmetric,
            strategy: strategy.into(),
            group_size,
            dynamic: Value::Bool(false),
            actorder: Value::Null,
        }
    }

    fn of_inputs(inputs: InputConfig) -> Self {
        Args {
            num_bits: 8,
            kind: "int".into(),
            symmetric: inputs.symmetric,
            strategy: if inputs.dynamic { "token" } else { "tensor" }.into(),
            group_size: None,
            dynamic: Value::Bool(inputs.dynamic),
            actorder: Value::Null,
        }
    }

    fn weights(&self) -> Result<Scheme, Refusal> {
        let refused = || (format!("weights of {}", self.shown()), WEIGHTS);
        let levels = Levels::ALL.into_iter().find(|levels| levels.bits() == self.num_bits).ok_or_else(refused)?;
        let granularity = match (self.strategy.as_str(), self.group_size) {
            ("tensor", _) => Granularity::Tensor,
            ("channel", _) => Granularity::Channel,
            ("group", Some(size)) if size > 0 => Granularity::Group(size),
            _ => return Err(refused()),
        };
        let is_static = matches!(self.dynamic, Value::Bool(false) | Value::Null);
        let reordered = !matches!(&self.actorder, Value::Null | Value::Bool(false)) && self.actorder != "static";
        let reordered = reordered && self.actorder != "weight";
        if self.kind != "int" || !is_static || reordered || !(self.symmetric || levels.may_be_asymmetric()) {
            return Err(refused());
        }
        Ok(Scheme { levels, symmetric: self.symmetric, granularity })
    }

    fn inputs(&self) -> Result<InputConfig, Refusal> {
        let dynamic = match (&self.dynamic, self.strategy.as_str()) {
            (Value::Bool(true), "token") => Some(true),
            (Value::Bool(false) | Value::Null, "tensor") => Some(false),
            _ => None,
        };
        match dynamic {
            Some(dynamic) if self.num_bits == 8 && self.kind == "int" => {
                Ok(InputConfig { dynamic, symmetric: self.symmetric })
            }
            _ => Err((format!("input_activations of {}", self.shown()), INPUTS)),
        }
    }

    fn shown(&self) -> String {
        let symmetric = if self.symmetric { "symmetric" } else { "asymmetric" };
        let dynamic = if self.dynamic == Value::Bool(true) { "dynamic" } else { "static" };
        let order = match &self.actorder {
            Value::Null => String::new(),
            order => format!(", actorder {}", shown(order)),
        };
        format!("{} bits, {}, {symmetric}, {dynamic}, strategy {}{order}", self.num_bits, self.kind, self.strategy)
    }
}

fn format_of(levels: Levels) -> &'static str {
    match levels {
        Levels::Int8 => INT_QUANTIZED,
        Levels::Int4 | Levels::Ternary => PACK_QUANTIZED,
        Levels::Binary => BINARY,
    }
}

/// How closely a target names a module: 0 by its name, 1 by a pattern, 2 by its class.
fn rank(target: &str, module: &str) -> Option<u8> {
    match target.strip_prefix("re:") {
        Some(pattern) => compile(pattern).ok().filter(|pattern| pattern.is_match(module)).map(|_| 1),
        None if target == module => Some(0),
        None => (target == class_of(module)).then_some(2),
    }
}

/// Class of a module by its name. Transformers calls every embedding table of its encoders `..._embeddings`.
fn class_of(module: &str) -> &'static str {
    if module.ends_with("embeddings") { "Embedding" } else { "Linear" }
}

fn check_pattern(target: &str) -> Result<(), Refusal> {
    match target.strip_prefix("re:").map(compile) {
        Some(Err(_)) => Err((format!("target \"{target}\""), "regular expressions without look-around, up to 1 MiB")),
        _ => Ok(()),
    }
}

/// A pattern that matches from the start of a name, as Python's `re.match`.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{pattern})")).size_limit(MAX_PATTERN_BYTES).build()
}
