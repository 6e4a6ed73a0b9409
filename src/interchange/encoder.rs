//! An encoder whose weights were found by data flow → `config.json` and the names that its family gives them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::architectures::{self, Architecture, DenseActivation, LinearNames, NormNames};
use crate::checkpoint::ModelConfig;

use super::InterchangeError;
use super::flow::ConstantId;
use super::flow::roles::{Activation, Linear, Norm, Roles};
use super::tensors::{Array, Named};

/// What a graph holds.
pub(super) struct Encoder {
    pub roles: Roles,
    /// The constants that `roles` names.
    pub arrays: BTreeMap<ConstantId, Array>,
}

/// Tensors under the names of a family.
pub(super) struct Renamed(BTreeMap<String, Array>);

impl Named for Renamed {
    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn take(&mut self, name: &str) -> Result<Array, InterchangeError> {
        Ok(self.0.get(name).expect("the name was looked up before").clone())
    }
}

impl Encoder {
    /// A `config.json` made from what the graph says; `path` is for messages.
    ///
    /// # Errors
    /// When the graph does not say how many heads there are.
    pub(super) fn config(&self, path: &Path) -> Result<ModelConfig, InterchangeError> {
        let roles = &self.roles;
        let Some(head_width) = roles.head_width else {
            let reason = "the graph does not say how many attention heads there are; put the model's config.json beside \
                          it, or into the folder that --with names";
            return Err(InterchangeError::refused(path, reason));
        };
        let shape = |id: ConstantId| self.arrays[&id].shape();
        let hidden = shape(roles.word)[1];
        let first = &roles.layers[0];
        let family = match (roles.padding, roles.token_type) {
            (Some(_), _) => "roberta",
            (None, Some(_)) => "bert",
            (None, None) => "distilbert",
        };
        let activation = match roles.activation {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_new",
            Activation::Relu => "relu",
        };
        let (layers, heads, inner) = (roles.layers.len(), hidden / head_width, shape(first.ffn_up.weight)[0]);
        let mut raw = Map::new();
        let sizes = match family {
            "distilbert" => json!({
                "model_type": family, "dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": inner,
                "activation": activation,
            }),
            _ => json!({
                "model_type": family, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
                "intermediate_size": inner, "hidden_act": activation,
                "type_vocab_size": roles.token_type.map_or(0, |t| shape(t)[0]),
            }),
        };
        let more = json!({
            "vocab_size": shape(roles.word)[0], "max_position_embeddings": shape(roles.position)[0],
            // The shortest decimal that is this f32.
            "layer_norm_eps": roles.epsilon.to_string().parse::<f64>().unwrap_or(1e-12),
        });
        for part in [sizes, more] {
            raw.extend(part.as_object().expect("an object").clone());
        }
        if let Some(padding) = roles.padding {
            raw.insert("pad_token_id".into(), json!(padding));
        }
        if let Some(head) = roles.head {
            raw.insert("num_labels".into(), json!(shape(head.out.weight)[0]));
            // Transformers names the labels so.
            let labels: Map<String, Value> =
                (0..shape(head.out.weight)[0]).map(|i| (i.to_string(), json!(format!("LABEL_{i}")))).collect();
            raw.insert("id2label".into(), Value::Object(labels));
        }
        Ok(ModelConfig::from_map(raw, path)?)
    }

    /// Gives the weights the names of the family in `config`, whose other entries must agree with the graph.
    ///
    /// # Errors
    /// [`InterchangeError`] naming the entry that differs.
    pub(super) fn name(&self, config: &ModelConfig, path: &Path) -> Result<Renamed, InterchangeError> {
        let roles = &self.roles;
        // A model with a head has the prefix of its family before the names of the encoder; gamma and beta are old names.
        let has = |name: &str| roles.head.is_some() && !name.ends_with(".gamma");
        let architecture = architectures::describe(config, &has)
            .map_err(|source| InterchangeError::Architecture { path: path.to_path_buf(), source })?;
        self.compare(&architecture).map_err(|reason| InterchangeError::refused(path, reason))?;

        let mut named = BTreeMap::new();
        let mut put = |name: &str, id: ConstantId| named.insert(name.to_string(), self.arrays[&id].clone());
        let names = &architecture.encoder;
        put(&names.word_embeddings.weight, roles.word);
        put(&names.position_embeddings.weight, roles.position);
        if let (Some(table), Some(id)) = (&names.token_type_embeddings, roles.token_type) {
            put(&table.weight, id);
        }
        let mut norms: Vec<(&NormNames, Norm)> = vec![(&names.embedding_norm, roles.embedding_norm)];
        let mut linears: Vec<(&LinearNames, Linear)> = Vec::new();
        for (names, layer) in names.layers.iter().zip(&roles.layers) {
            norms.push((&names.attention_norm, layer.attention_norm));
            norms.push((&names.output_norm, layer.output_norm));
            linears.extend(names.linears().into_iter().zip(layer.linears()));
        }
        if let (Some(names), Some(head)) = (&architecture.head, roles.head) {
            linears.extend(names.layers.iter().map(|l| &l.names).zip([head.dense, head.out]));
        }
        for (names, norm) in norms {
            put(&names.weight, norm.gain);
            put(&names.bias, norm.shift);
        }
        for (names, linear) in linears {
            put(&names.weight, linear.weight);
            put(&names.bias, linear.bias);
        }
        Ok(Renamed(named))
    }

    /// Says where `config.json` and the graph differ in what no tensor's shape shows.
    fn compare(&self, architecture: &Architecture) -> Result<(), String> {
        let (roles, spec) = (&self.roles, &architecture.spec);
        let differs = |what: &str, graph: String, config: String| {
            Err(format!("the graph has {what} {graph}, config.json says {config}; give the config.json of this model"))
        };
        if roles.layers.len() != spec.num_layers() {
            return differs("layers:", roles.layers.len().to_string(), spec.num_layers().to_string());
        }
        if let Some(width) = roles.head_width.filter(|width| *width != spec.head_dim) {
            return differs("heads of width", width.to_string(), spec.head_dim.to_string());
        }
        if (roles.epsilon - spec.layer_norm_eps).abs() > 1e-3 * spec.layer_norm_eps {
            return differs("layer_norm_eps", roles.epsilon.to_string(), spec.layer_norm_eps.to_string());
        }
        let activation = match roles.activation {
            Activation::Gelu => architectures::Activation::Gelu,
            Activation::GeluTanh => architectures::Activation::GeluTanh,
            Activation::Relu => architectures::Activation::Relu,
        };
        if activation != spec.activation {
            return differs("the activation", format!("{activation:?}"), format!("{:?}", spec.activation));
        }
        let offset = roles.padding.map_or(0, |padding| padding + 1);
        if offset != spec.position_offset as i64 {
            return differs("positions from", offset.to_string(), spec.position_offset.to_string());
        }
        if roles.token_type.is_some() != architecture.encoder.token_type_embeddings.is_some() {
            let shown = |is: bool| if is { "token types" } else { "no token types" }.to_string();
            let config = shown(architecture.encoder.token_type_embeddings.is_some());
            return differs("", shown(roles.token_type.is_some()), config);
        }
        if let (Some(head), Some(spec)) = (roles.head, &architecture.head) {
            let expected = spec.layers[0].activation == Some(DenseActivation::Tanh);
            if expected != head.is_tanh {
                let shown = |is: bool| if is { "tanh" } else { "ReLU" }.to_string();
                return differs("a head with", shown(head.is_tanh), shown(expected));
            }
        }
        Ok(())
    }
}
