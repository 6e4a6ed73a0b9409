//! The `quantization_config` of `config.json`, in the convention of compressed-tensors
//! (`src/compressed_tensors/quantization/quant_config.py` and `quant_args.py` of that project).

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::CheckpointError;
use super::model_config::shown;

/// Which layers of a folder are stored as int8, and how their inputs are quantized when it runs.
///
/// Octet reads and writes one scheme: weights in s8, symmetric, with one scale per output channel (or per table row, or
/// for the whole tensor), and, for linear layers, activations in 8 bits, dynamic, with one scale per token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// Module classes stored as int8, in the order of the groups: `Linear`, `Embedding`.
    pub targets: Vec<String>,
    /// Module names kept in float although their class is a target.
    pub ignore: Vec<String>,
    /// Whether the folder was made for inputs of linear layers that are quantized without a zero point. It is kept for
    /// the programs that read it; Octet's executor always uses a zero point, which loses less.
    pub symmetric_activations: bool,
}

#[derive(Serialize, Deserialize)]
struct Group {
    targets: Vec<String>,
    weights: Option<Scheme>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_activations: Option<Scheme>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_activations: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct Scheme {
    num_bits: u32,
    #[serde(rename = "type")]
    kind: String,
    symmetric: bool,
    strategy: String,
    #[serde(default)]
    dynamic: Value,
}

impl QuantizationConfig {
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
            Some(found) if allowed.contains(&found) => Ok(()),
            Some(found) => Err(unsupported(format!("{key} \"{found}\""), &allowed.join(", "))),
            None => Err(unsupported(format!("no {key}"), &allowed.join(", "))),
        };
        only("quant_method", &["compressed-tensors"])?;
        only("format", &["int-quantized"])?;
        if field("quantization_status").is_some() {
            only("quantization_status", &["compressed"])?;
        }
        for key in ["sparsity_config", "kv_cache_scheme"] {
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
        let ignore = match field("ignore") {
            None => Vec::new(),
            Some(list) => serde_json::from_value(list.clone())
                .map_err(|_| malformed("ignore", shown(list), "a list of module names"))?,
        };
        let groups = field("config_groups").and_then(Value::as_object).filter(|g| !g.is_empty());
        let groups = groups.ok_or_else(|| malformed("config_groups", "missing".into(), "an object of groups"))?;
        let mut config = QuantizationConfig { targets: Vec::new(), ignore, symmetric_activations: false };
        for (name, group) in groups {
            let key = format!("config_groups.{name}");
            let group: Group = serde_json::from_value(group.clone())
                .map_err(|e| malformed(&key, format!("not usable ({e})"), "targets and weights"))?;
            config.add_group(&group).map_err(|(found, supported)| unsupported(format!("{key}: {found}"), supported))?;
        }
        Ok(config)
    }

    /// Adds one group, or says what is wrong with it and what is supported.
    fn add_group(&mut self, group: &Group) -> Result<(), (String, &'static str)> {
        const WEIGHTS: &str = "weights of 8 bits, int, symmetric, static, strategy channel or tensor";
        const INPUTS: &str = "input_activations of 8 bits, int, dynamic, strategy token";
        let weights = group.weights.as_ref().ok_or_else(|| ("no weights".to_string(), WEIGHTS))?;
        let is_static = matches!(weights.dynamic, Value::Bool(false) | Value::Null);
        if !weights.is_8_bit_int()
            || !weights.symmetric
            || !is_static
            || !["channel", "tensor"].contains(&weights.strategy.as_str())
        {
            return Err((format!("weights of {}", weights.shown()), WEIGHTS));
        }
        if let Some(inputs) = &group.input_activations {
            if !inputs.is_8_bit_int() || inputs.dynamic != Value::Bool(true) || inputs.strategy != "token" {
                return Err((format!("input_activations of {}", inputs.shown()), INPUTS));
            }
            self.symmetric_activations |= inputs.symmetric;
        }
        if group.output_activations.is_some() {
            return Err(("output_activations".into(), "none"));
        }
        for target in &group.targets {
            if !["Linear", "Embedding"].contains(&target.as_str()) {
                return Err((format!("target \"{target}\""), "targets Linear and Embedding"));
            }
            if !self.targets.contains(target) {
                self.targets.push(target.clone());
            }
        }
        Ok(())
    }

    /// The object as compressed-tensors and vLLM read it: one group per target class.
    pub fn to_json(&self) -> Value {
        let mut groups = Map::new();
        for (i, target) in self.targets.iter().enumerate() {
            let linear = target == "Linear";
            let scheme = |symmetric, strategy: &str, dynamic: bool| Scheme {
                num_bits: 8,
                kind: "int".into(),
                symmetric,
                strategy: strategy.into(),
                dynamic: Value::Bool(dynamic),
            };
            let group = Group {
                targets: vec![target.clone()],
                weights: Some(scheme(true, "channel", false)),
                input_activations: linear.then(|| scheme(self.symmetric_activations, "token", true)),
                output_activations: None,
            };
            groups.insert(format!("group_{i}"), json!(group));
        }
        json!({
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "quantization_status": "compressed",
            "ignore": self.ignore,
            "config_groups": groups,
        })
    }
}

impl Scheme {
    fn is_8_bit_int(&self) -> bool {
        self.num_bits == 8 && self.kind == "int"
    }

    fn shown(&self) -> String {
        let symmetric = if self.symmetric { "symmetric" } else { "asymmetric" };
        let dynamic = if self.dynamic == Value::Bool(true) { "dynamic" } else { "static" };
        format!("{} bits, {}, {symmetric}, {dynamic}, strategy {}", self.num_bits, self.kind, self.strategy)
    }
}
