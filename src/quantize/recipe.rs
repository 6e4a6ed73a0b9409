//! A recipe: how each layer of a model is quantized, as a small TOML file.
//!
//! ```toml
//! scheme = "w8a8-dynamic"         # the name in reports and metrics
//! weights = "int4-group32"        # linear layers; the long form is a table
//! activations = "dynamic"         # their inputs
//! rounding = "gptq"               # nearest, search or gptq
//! bias_correction = true
//! smoothing = 0.5                 # strength, 0 to 1
//!
//! [embeddings]                    # tables, in the long form
//! kind = "int8"
//! symmetric = true
//! granularity = "channel"
//!
//! [[layer]]                       # exceptions by name, later ones win
//! match = "*attention*"
//! weights = "int8"
//!
//! [layers]                        # the same in one line
//! "encoder.layer.5.output.dense" = "float"
//! ```

use std::fmt;

use regex::Regex;
use serde_json::json;
use toml::{Table, Value};

use crate::checkpoint::{self, InputConfig};
use crate::kernels::affine::{Granularity, Levels, Scheme};

use super::{Module, Rounding};

/// The recipes that come with Octet, by name: the files of `config/recipes`.
pub const RECIPES: [(&str, &str); 10] = [
    ("w8a8", include_str!("../../config/recipes/w8a8.toml")),
    ("w8a8-smooth", include_str!("../../config/recipes/w8a8-smooth.toml")),
    ("w8a8-words4", include_str!("../../config/recipes/w8a8-words4.toml")),
    ("w8a8-static", include_str!("../../config/recipes/w8a8-static.toml")),
    ("w4a8", include_str!("../../config/recipes/w4a8.toml")),
    ("w4a8-group32", include_str!("../../config/recipes/w4a8-group32.toml")),
    ("mixed", include_str!("../../config/recipes/mixed.toml")),
    ("ternary", include_str!("../../config/recipes/ternary.toml")),
    ("binary", include_str!("../../config/recipes/binary.toml")),
    ("float", include_str!("../../config/recipes/float.toml")),
];

/// Longest name of a scheme: it is a label of metrics.
const MAX_NAME: usize = 64;

/// How each layer of a model is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Name of the whole, for reports and metrics: lower-case letters, digits and dashes.
    pub scheme: String,
    /// Linear layers; `None` keeps them in float.
    pub weights: Option<Scheme>,
    /// Embedding tables; `None` keeps them in float.
    pub embeddings: Option<Scheme>,
    /// Inputs of quantized linear layers; `None` keeps them in float.
    pub activations: Option<InputConfig>,
    /// How weights are rounded; what needs calibration texts is done as well as it can be without them.
    pub rounding: Rounding,
    /// Whether biases take up the mean error of their layer, which needs calibration texts.
    pub bias_correction: bool,
    /// Strength of smoothing, 0 to 1: which share of the difficulty of what enters the matrices moves to their
    /// weights; none for inputs that are rounded as they are.
    pub smoothing: Option<f64>,
    /// Exceptions, in order: the last one that matches a layer holds.
    pub layers: Vec<LayerRule>,
}

/// An exception for some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRule {
    /// A name of modules in which `*` stands for any text, or `re:` and a regular expression for the start of a name.
    pub pattern: String,
    /// Their weights, when they differ from the rest; the inner `None` is float.
    pub weights: Option<Option<Scheme>>,
    /// Their inputs, when they differ from the rest; the inner `None` is float.
    pub activations: Option<Option<InputConfig>>,
}

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
#[error("recipe {origin}: {reason}")]
pub struct RecipeError {
    origin: String,
    reason: String,
}

impl RecipeError {
    fn new(origin: &str, reason: impl Into<String>) -> Self {
        RecipeError { origin: origin.into(), reason: reason.into() }
    }
}

impl Default for Recipe {
    /// `w8a8`.
    fn default() -> Self {
        Recipe::named("w8a8").expect("the default is one of the shipped recipes")
    }
}

impl Recipe {
    /// One of [`RECIPES`].
    ///
    /// # Errors
    /// [`RecipeError`] listing the names there are.
    pub fn named(name: &str) -> Result<Self, RecipeError> {
        let found = RECIPES.iter().find(|(known, _)| *known == name);
        let names = || RECIPES.map(|(name, _)| name).join(", ");
        let (_, text) =
            found.ok_or_else(|| RecipeError::new(name, format!("no such recipe; shipped are {}", names())))?;
        Self::parse(text, name)
    }

    /// Reads the text of a recipe; `origin` is for messages.
    ///
    /// # Errors
    /// [`RecipeError`] naming the key, what was found and what is allowed.
    pub fn parse(text: &str, origin: &str) -> Result<Self, RecipeError> {
        let table: Table = text.parse().map_err(|e| RecipeError::new(origin, format!("not TOML: {e}")))?;
        read_recipe(&table).map_err(|reason| RecipeError::new(origin, reason))
    }

    /// Appends an exception, `PATTERN=SCHEME`, such as `*attention*=int8`; the scheme is written as in a recipe's
    /// `[layers]`.
    ///
    /// # Errors
    /// [`RecipeError`] when there is no `=`, or the scheme is none.
    pub fn add_layer(&mut self, rule: &str) -> Result<(), RecipeError> {
        let origin = format!("layer \"{rule}\"");
        let Some((pattern, scheme)) = rule.split_once('=') else {
            return Err(RecipeError::new(&origin, "expected PATTERN=SCHEME, such as *attention*=int8"));
        };
        let rule = one_line(pattern.trim(), scheme.trim()).map_err(|reason| RecipeError::new(&origin, reason))?;
        self.layers.push(rule);
        Ok(())
    }

    /// How a linear layer is quantized: its weights and its inputs. Inputs of float weights are float.
    pub fn linear(&self, module: &str) -> (Option<Scheme>, Option<InputConfig>) {
        let (mut weights, mut inputs) = (self.weights, self.activations);
        for rule in self.layers.iter().filter(|rule| rule.matches(module)) {
            weights = rule.weights.unwrap_or(weights);
            inputs = rule.activations.unwrap_or(inputs);
        }
        (weights, inputs.filter(|_| weights.is_some()))
    }

    /// Whether a linear layer is smoothed: its weights and inputs are integers.
    pub fn smooths(&self, module: &str) -> bool {
        self.smoothing.is_some() && matches!(self.linear(module), (Some(_), Some(_)))
    }

    /// How an embedding table is quantized.
    pub fn table(&self, module: &str) -> Option<Scheme> {
        let rules = self.layers.iter().filter(|rule| rule.matches(module));
        rules.filter_map(|rule| rule.weights).next_back().unwrap_or(self.embeddings)
    }

    /// The exceptions that mean none of these modules: mostly typing errors, or names of another family.
    pub fn unmatched<'a>(&'a self, modules: &'a [Module]) -> impl Iterator<Item = &'a str> {
        let unused = |rule: &&LayerRule| !modules.iter().any(|module| rule.matches(&module.name));
        self.layers.iter().filter(unused).map(|rule| rule.pattern.as_str())
    }

    /// The recipe as JSON, for the record; [`Recipe::parse`] of the same keys in TOML gives it back.
    pub fn to_json(&self) -> serde_json::Value {
        let inputs = |inputs: Option<InputConfig>| json!(inputs.map_or("float".into(), input_name));
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|rule| {
                let mut layer = json!({"match": rule.pattern});
                if let Some(weights) = rule.weights {
                    layer["weights"] = json!(scheme_name(weights));
                }
                if let Some(activations) = rule.activations {
                    layer["activations"] = inputs(activations);
                }
                layer
            })
            .collect();
        let mut recipe = json!({
            "scheme": self.scheme,
            "weights": scheme_name(self.weights),
            "embeddings": scheme_name(self.embeddings),
            "activations": inputs(self.activations),
        });
        if self.rounding != Rounding::default() {
            recipe["rounding"] = json!(self.rounding.name());
        }
        if self.bias_correction {
            recipe["bias_correction"] = json!(true);
        }
        if let Some(strength) = self.smoothing {
            recipe["smoothing"] = json!(strength);
        }
        if !layers.is_empty() {
            recipe["layer"] = json!(layers);
        }
        recipe
    }

    /// The recipe in words, for `quant.json` and the model card; `float` are the modules that are not quantized.
    pub fn in_words(&self, float: &[String]) -> checkpoint::Recipe {
        let scheme = |scheme: Option<Scheme>, per: &str| match scheme {
            Some(scheme) => scheme.to_string().replace("per channel", per),
            None => "float".into(),
        };
        let exceptions = match self.layers.len() {
            0 => String::new(),
            count => format!(", {count} exception(s)"),
        };
        let rounding = match self.rounding {
            Rounding::Nearest => String::new(),
            other => format!(", rounded by {}", other.name()),
        };
        let bias = if self.bias_correction { ", biases corrected" } else { "" };
        let symmetry = |symmetric: bool| if symmetric { "symmetric" } else { "asymmetric" };
        let activations = match self.activations {
            None => "float".into(),
            Some(InputConfig { dynamic: true, symmetric }) => {
                format!("uint8 {} per token, dynamic", symmetry(symmetric))
            }
            Some(InputConfig { dynamic: false, symmetric }) => {
                format!("uint8 {} per layer, static", symmetry(symmetric))
            }
        };
        checkpoint::Recipe {
            scheme: self.scheme.clone(),
            weights: format!("{}{rounding}{bias}{exceptions}", scheme(self.weights, "per channel")),
            embeddings: scheme(self.embeddings, "per row"),
            activations: match (self.smoothing, self.weights, self.activations) {
                (Some(strength), Some(_), Some(_)) => {
                    format!("{activations}, smoothed with strength {strength}")
                }
                _ => activations,
            },
            ignore: float.to_vec(),
        }
    }

    /// The recipe as a TOML file.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(&self.to_json()).expect("a recipe has string keys and no nulls")
    }
}

impl LayerRule {
    /// Whether a module is meant.
    pub fn matches(&self, module: &str) -> bool {
        match self.pattern.strip_prefix("re:") {
            Some(pattern) => anchored(pattern).is_ok_and(|pattern| pattern.is_match(module)),
            None => matches_glob(&self.pattern, module),
        }
    }
}

fn anchored(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})"))
}

/// Whether `text` is `pattern` with some text for each `*`.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(start) else { return false };
    (0..=text.len()).filter(|&at| text.is_char_boundary(at)).any(|at| matches_glob(rest, &text[at..]))
}

/// The short name of a scheme, such as `int4-group32`, `int8-asymmetric-tensor`, `ternary`, or `float`; what
/// [`parse_scheme`] reads. A scale per channel and symmetry are not said.
pub fn scheme_name(scheme: Option<Scheme>) -> String {
    let Some(scheme) = scheme else { return "float".into() };
    let asymmetric = if scheme.symmetric { "" } else { "-asymmetric" };
    let granularity = match scheme.granularity {
        Granularity::Channel => String::new(),
        Granularity::Tensor => "-tensor".into(),
        Granularity::Group(size) => format!("-group{size}"),
    };
    format!("{}{asymmetric}{granularity}", scheme.levels.name())
}

/// Reads [`scheme_name`]; `Ok(None)` is float.
///
/// # Errors
/// What was found and what is allowed.
pub fn parse_scheme(text: &str) -> Result<Option<Scheme>, String> {
    const ALLOWED: &str = "float, int8, int4, ternary or binary, with -asymmetric (int8, int4) and -tensor or -groupN \
                           behind it, such as int4-group32";
    if text == "float" {
        return Ok(None);
    }
    let refused = || format!("found \"{text}\", allowed are {ALLOWED}");
    let mut parts = text.split('-').peekable();
    let kind = parts.next().unwrap_or_default();
    let levels = Levels::ALL.into_iter().find(|levels| levels.name() == kind).ok_or_else(refused)?;
    let symmetric = parts.next_if_eq(&"asymmetric").is_none();
    let granularity = match parts.next() {
        None => Granularity::Channel,
        Some("tensor") => Granularity::Tensor,
        Some(group) => {
            let size = group.strip_prefix("group").and_then(|size| size.parse().ok()).filter(|&size| size > 0);
            Granularity::Group(size.ok_or_else(refused)?)
        }
    };
    if parts.next().is_some() || !(symmetric || levels.may_be_asymmetric()) {
        return Err(refused());
    }
    Ok(Some(Scheme { levels, symmetric, granularity }))
}

/// A strength of smoothing, as it is.
///
/// # Errors
/// When it is not in 0 to 1.
pub fn smoothing_strength(strength: f64) -> Result<f64, String> {
    match (0.0..=1.0).contains(&strength) {
        true => Ok(strength),
        false => Err(format!("found {strength}, allowed is a strength from 0 to 1, such as 0.5")),
    }
}

fn input_name(inputs: InputConfig) -> String {
    let range = if inputs.dynamic { "dynamic" } else { "static" };
    format!("{range}{}", if inputs.symmetric { "-symmetric" } else { "" })
}

fn parse_inputs(text: &str) -> Result<Option<InputConfig>, String> {
    let (range, symmetric) = match text.strip_suffix("-symmetric") {
        Some(range) => (range, true),
        None => (text, false),
    };
    match range {
        "dynamic" => Ok(Some(InputConfig { dynamic: true, symmetric })),
        "static" => Ok(Some(InputConfig { dynamic: false, symmetric })),
        "float" if !symmetric => Ok(None),
        _ => Err(format!("found \"{text}\", allowed are dynamic, static (both also with -symmetric) and float")),
    }
}

fn read_recipe(table: &Table) -> Result<Recipe, String> {
    only_keys(
        table,
        "",
        &[
            "scheme",
            "weights",
            "embeddings",
            "activations",
            "rounding",
            "bias_correction",
            "smoothing",
            "layer",
            "layers",
        ],
    )?;
    let scheme = text(table, "", "scheme")?.ok_or("\"scheme\" is missing; it names the recipe in reports")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if scheme.is_empty() || scheme.len() > MAX_NAME || !scheme.chars().all(plain) {
        return Err(format!(
            "\"scheme\" is \"{scheme}\", allowed are 1 to {MAX_NAME} lower-case letters, digits and dashes"
        ));
    }
    let weights = table.get("weights").map(|value| read_scheme(value, "weights")).transpose()?;
    let weights = weights.ok_or("\"weights\" is missing; it says how linear layers are quantized, such as \"int8\"")?;
    let embeddings = table.get("embeddings").map(|value| read_scheme(value, "embeddings")).transpose()?;
    let activations = table.get("activations").map(|value| read_inputs(value, "activations")).transpose()?;
    let rounding = text(table, "", "rounding")?.map(|name| name.parse().map_err(|e| format!("\"rounding\": {e}")));
    let bias_correction = match table.get("bias_correction") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| wrong("bias_correction", value, "true or false"))?,
    };
    let smoothing = table.get("smoothing").map(|value| {
        let strength = value.as_float().or(value.as_integer().map(|n| n as f64));
        let strength = strength.ok_or_else(|| wrong("smoothing", value, "a number from 0 to 1"))?;
        smoothing_strength(strength).map_err(|e| format!("\"smoothing\": {e}"))
    });
    let mut layers = Vec::new();
    for (i, layer) in array(table, "layer")?.iter().enumerate() {
        layers.push(read_layer(layer, &format!("layer[{i}]"))?);
    }
    if let Some(lines) = table.get("layers") {
        let lines = lines.as_table().ok_or_else(|| wrong("layers", lines, "a table of pattern = \"scheme\""))?;
        for (pattern, scheme) in lines {
            let key = format!("layers.\"{pattern}\"");
            let scheme = scheme.as_str().ok_or_else(|| wrong(&key, scheme, "the name of a scheme"))?;
            layers.push(one_line(pattern, scheme)?);
        }
    }
    Ok(Recipe {
        scheme: scheme.into(),
        weights,
        embeddings: embeddings.unwrap_or(Some(Scheme::INT8)),
        activations: activations.unwrap_or(Some(InputConfig::DYNAMIC)),
        rounding: rounding.transpose()?.unwrap_or_default(),
        bias_correction,
        smoothing: smoothing.transpose()?,
        layers,
    })
}

fn read_layer(layer: &Value, key: &str) -> Result<LayerRule, String> {
    let layer = layer.as_table().ok_or_else(|| wrong(key, layer, "a table with match and weights"))?;
    only_keys(layer, key, &["match", "weights", "activations"])?;
    let pattern = text(layer, key, "match")?.ok_or_else(|| format!("\"{key}.match\" is missing"))?;
    let weights = layer.get("weights").map(|value| read_scheme(value, &format!("{key}.weights"))).transpose()?;
    let activations = layer.get("activations").map(|value| read_inputs(value, &format!("{key}.activations")));
    rule(pattern, weights, activations.transpose()?)
}

fn one_line(pattern: &str, scheme: &str) -> Result<LayerRule, String> {
    rule(pattern, Some(parse_scheme(scheme)?), None)
}

fn rule(
    pattern: &str,
    weights: Option<Option<Scheme>>,
    activations: Option<Option<InputConfig>>,
) -> Result<LayerRule, String> {
    if let Some(Err(e)) = pattern.strip_prefix("re:").map(anchored) {
        return Err(format!("\"{pattern}\" is no regular expression: {e}"));
    }
    Ok(LayerRule { pattern: pattern.into(), weights, activations })
}

/// A scheme by its short name, or as a table.
fn read_scheme(value: &Value, key: &str) -> Result<Option<Scheme>, String> {
    let table = match value {
        Value::String(name) => return parse_scheme(name).map_err(|e| format!("\"{key}\": {e}")),
        Value::Table(table) => table,
        other => return Err(wrong(key, other, "the name of a scheme, or a table with kind")),
    };
    only_keys(table, key, &["kind", "symmetric", "granularity", "group_size"])?;
    let kind = text(table, key, "kind")?.ok_or_else(|| format!("\"{key}.kind\" is missing, such as \"int8\""))?;
    let mut name = kind.to_string();
    let symmetric = match table.get("symmetric") {
        None => true,
        Some(value) => value.as_bool().ok_or_else(|| wrong(&format!("{key}.symmetric"), value, "true or false"))?,
    };
    if !symmetric {
        name += "-asymmetric";
    }
    let size = match table.get("group_size") {
        None => None,
        Some(value) => {
            let size = value.as_integer().filter(|size| *size > 0);
            Some(size.ok_or_else(|| wrong(&format!("{key}.group_size"), value, "a positive number"))?)
        }
    };
    match (text(table, key, "granularity")?.unwrap_or("channel"), size) {
        ("channel", None) => {}
        ("tensor", None) => name += "-tensor",
        ("group", Some(size)) => name += &format!("-group{size}"),
        ("group", None) => return Err(format!("\"{key}.group_size\" is missing, such as 32")),
        ("channel" | "tensor", Some(_)) => return Err(format!("\"{key}.group_size\" needs granularity \"group\"")),
        (found, _) => return Err(format!("\"{key}.granularity\" is \"{found}\", allowed are channel, tensor, group")),
    }
    parse_scheme(&name).map_err(|e| format!("\"{key}\": {e}"))
}

/// Inputs by their short name, or as a table.
fn read_inputs(value: &Value, key: &str) -> Result<Option<InputConfig>, String> {
    let table = match value {
        Value::String(name) => return parse_inputs(name).map_err(|e| format!("\"{key}\": {e}")),
        Value::Table(table) => table,
        other => return Err(wrong(key, other, "dynamic, static or float, or a table with kind")),
    };
    only_keys(table, key, &["kind", "symmetric"])?;
    let kind = text(table, key, "kind")?.ok_or_else(|| format!("\"{key}.kind\" is missing, such as \"dynamic\""))?;
    let symmetric = match table.get("symmetric") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| wrong(&format!("{key}.symmetric"), value, "true or false"))?,
    };
    let name = format!("{kind}{}", if symmetric { "-symmetric" } else { "" });
    parse_inputs(&name).map_err(|e| format!("\"{key}\": {e}"))
}

fn only_keys(table: &Table, at: &str, allowed: &[&str]) -> Result<(), String> {
    match table.keys().find(|key| !allowed.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let at = if at.is_empty() { String::new() } else { format!("{at}.") };
            Err(format!("\"{at}{key}\" is unknown, allowed are {}", allowed.join(", ")))
        }
    }
}

fn text<'a>(table: &'a Table, at: &str, key: &str) -> Result<Option<&'a str>, String> {
    let at = if at.is_empty() { String::new() } else { format!("{at}.") };
    let Some(value) = table.get(key) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| wrong(&format!("{at}{key}"), value, "a text in quotes"))
}

fn array<'a>(table: &'a Table, key: &str) -> Result<&'a [Value], String> {
    let Some(value) = table.get(key) else { return Ok(&[]) };
    value.as_array().map(Vec::as_slice).ok_or_else(|| wrong(key, value, "tables in double brackets, [[layer]]"))
}

fn wrong(key: &str, found: &Value, allowed: &str) -> String {
    format!("\"{key}\" is {found}, expected {allowed}")
}

impl fmt::Display for Recipe {
    /// Its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scheme)
    }
}

#[cfg(test)]
mod tests;
