//! What each weight of a BERT-family encoder is for, read off the data flow from an output back to the ids.

use super::{ConstantId, Flow, Id, Side, Value};

/// Weight `[outputs, inputs]` and bias `[outputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::interchange) struct Linear {
    pub weight: ConstantId,
    pub bias: ConstantId,
}

/// Gain and shift of a layer norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::interchange) struct Norm {
    pub gain: ConstantId,
    pub shift: ConstantId,
}

/// The weights of one block, in the order of `architectures::LayerNames`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::interchange) struct Layer {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub attention_output: Linear,
    pub attention_norm: Norm,
    pub ffn_up: Linear,
    pub ffn_down: Linear,
    pub output_norm: Norm,
}

/// Activation of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::interchange) enum Activation {
    Gelu,
    GeluTanh,
    Relu,
}

/// A classification head on the first token: a dense layer, an activation, and the layer that gives the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::interchange) struct Head {
    pub dense: Linear,
    /// tanh, as BERT and RoBERTa have it, or else ReLU, as DistilBERT has it.
    pub is_tanh: bool,
    pub out: Linear,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::interchange) struct Roles {
    pub word: ConstantId,
    pub position: ConstantId,
    pub token_type: Option<ConstantId>,
    /// RoBERTa's padding id: positions are counted from the number after it.
    pub padding: Option<i64>,
    pub embedding_norm: Norm,
    pub layers: Vec<Layer>,
    pub epsilon: f32,
    pub activation: Activation,
    /// Width of an attention head, when the graph says it.
    pub head_width: Option<usize>,
    pub head: Option<Head>,
}

impl Roles {
    /// The constants that have a role.
    pub(in crate::interchange) fn constants(&self) -> Vec<ConstantId> {
        let mut ids = vec![self.word, self.position];
        ids.extend(self.token_type);
        let mut linears: Vec<Linear> = self.head.iter().flat_map(|h| [h.dense, h.out]).collect();
        let mut norms = vec![self.embedding_norm];
        for layer in &self.layers {
            linears.extend(layer.linears());
            norms.extend([layer.attention_norm, layer.output_norm]);
        }
        ids.extend(linears.iter().flat_map(|l| [l.weight, l.bias]));
        ids.extend(norms.iter().flat_map(|n| [n.gain, n.shift]));
        ids
    }
}

impl Layer {
    /// The six matrices in the order of `architectures::LayerNames::linears`.
    pub(in crate::interchange) fn linears(&self) -> [Linear; 6] {
        [self.query, self.key, self.value, self.attention_output, self.ffn_up, self.ffn_down]
    }
}

/// Walks back from the output; `name` says what a node is called.
struct Walk<'f, 'a> {
    flow: &'f Flow<'a>,
    name: &'f dyn Fn(usize) -> String,
    epsilon: Option<u32>,
    activation: Option<Activation>,
    head_width: Option<usize>,
}

/// Finds the encoder, and the head when there is one, that `output` is computed by.
///
/// # Errors
/// Names the node that a BERT-family encoder does not have.
pub(in crate::interchange) fn find(
    flow: &Flow<'_>,
    output: Id,
    name: &dyn Fn(usize) -> String,
) -> Result<Roles, String> {
    let mut walk = Walk { flow, name, epsilon: None, activation: None, head_width: None };
    let (hidden, head) = walk.head(output)?;
    let (embedded, layers) = walk.layers(hidden)?;
    let (embedding_norm, sum) = walk.norm(embedded)?;
    let tables = walk.tables(sum)?;
    Ok(Roles {
        word: tables.word,
        position: tables.position,
        token_type: tables.token_type,
        padding: tables.padding,
        embedding_norm,
        layers,
        epsilon: f32::from_bits(walk.epsilon.expect("a norm was found")),
        activation: walk.activation.ok_or("a model without layers")?,
        head_width: walk.head_width,
        head,
    })
}

struct Tables {
    word: ConstantId,
    position: ConstantId,
    token_type: Option<ConstantId>,
    padding: Option<i64>,
}

impl Walk<'_, '_> {
    /// What was found where something else belongs.
    fn unexpected<T>(&self, id: Id, expected: &str) -> Result<T, String> {
        let node = (self.name)(self.flow.node_of(id));
        match self.flow.get(id) {
            Value::Unknown(_) => Err(format!("{node} is not supported; expected {expected}")),
            value => {
                let shown = format!("{value:?}");
                let kind = shown.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                Err(format!("{node} gives {kind}; expected {expected}, as in a BERT-family encoder"))
            }
        }
    }

    fn linear(&self, id: Id, expected: &str) -> Result<(Linear, Id), String> {
        match *self.flow.get(id) {
            Value::Linear { input, weight, bias: Some(bias) } => Ok((Linear { weight, bias }, input)),
            _ => self.unexpected(id, &format!("{expected} with a bias")),
        }
    }

    fn norm(&mut self, id: Id) -> Result<(Norm, Id), String> {
        match *self.flow.get(id) {
            Value::Norm { input, gain: Some(gain), shift: Some(shift), epsilon } => {
                if *self.epsilon.get_or_insert(epsilon) != epsilon {
                    return self.unexpected(id, "layer norms with one epsilon");
                }
                Ok((Norm { gain, shift }, input))
            }
            _ => self.unexpected(id, "a layer norm with gain and shift"),
        }
    }

    fn sum(&self, id: Id, expected: &str) -> Result<[Id; 2], String> {
        match *self.flow.get(id) {
            Value::Sum(a, b) => Ok([a, b]),
            _ => self.unexpected(id, expected),
        }
    }

    /// The last hidden states, and the head after them.
    fn head(&self, output: Id) -> Result<(Id, Option<Head>), String> {
        if let Value::Norm { .. } = self.flow.get(output) {
            return Ok((output, None));
        }
        let (out, activated) = self.linear(output, "last hidden states, or the last layer of a classification head")?;
        let (dense, is_tanh) = match *self.flow.get(activated) {
            Value::Tanh(dense) => (dense, true),
            Value::Relu(dense) => (dense, false),
            _ => return self.unexpected(activated, "tanh or ReLU in a classification head"),
        };
        let (dense, first) = self.linear(dense, "the first layer of a classification head")?;
        match *self.flow.get(first) {
            Value::First(hidden) => Ok((hidden, Some(Head { dense, is_tanh, out }))),
            _ => self.unexpected(first, "the first token, which a classification head reads"),
        }
    }

    /// Blocks from the last to the first; gives what enters the first, and the blocks in order.
    fn layers(&mut self, last: Id) -> Result<(Id, Vec<Layer>), String> {
        let (mut hidden, mut layers) = (last, Vec::new());
        loop {
            let Value::Norm { input, .. } = *self.flow.get(hidden) else {
                return self.unexpected(hidden, "a layer norm");
            };
            if self.is_embeddings(input) {
                layers.reverse();
                return Ok((hidden, layers));
            }
            let (layer, before) = self.layer(hidden)?;
            layers.push(layer);
            hidden = before;
        }
    }

    fn is_embeddings(&self, id: Id) -> bool {
        match *self.flow.get(id) {
            Value::Sum(a, b) => self.is_embeddings_part(a) && self.is_embeddings_part(b),
            _ => false,
        }
    }

    fn is_embeddings_part(&self, id: Id) -> bool {
        match *self.flow.get(id) {
            Value::Lookup { .. } => true,
            Value::Sum(a, b) => {
                matches!((self.flow.get(a), self.flow.get(b)), (Value::Lookup { .. }, Value::Lookup { .. }))
            }
            _ => false,
        }
    }

    /// `norm(h + ffn(h))` with `h = norm(x + attention(x))`; gives the block and `x`.
    fn layer(&mut self, id: Id) -> Result<(Layer, Id), String> {
        let (output_norm, sum) = self.norm(id)?;
        let parts = self.sum(sum, "a residual connection")?;
        let find_ffn = |down: Id| match *self.flow.get(down) {
            Value::Linear { input, .. } => match *self.flow.get(input) {
                Value::Gelu(up) => Some((up, Activation::Gelu)),
                Value::GeluTanh(up) => Some((up, Activation::GeluTanh)),
                Value::Relu(up) => Some((up, Activation::Relu)),
                _ => None,
            },
            _ => None,
        };
        let (down, middle, (up, activation)) = match parts.map(find_ffn) {
            [Some(found), _] => (parts[0], parts[1], found),
            [None, Some(found)] => (parts[1], parts[0], found),
            [None, None] => {
                let likely = parts.into_iter().find(|p| matches!(self.flow.get(*p), Value::Linear { .. }));
                let at = likely.map_or(parts[0], |p| match *self.flow.get(p) {
                    Value::Linear { input, .. } => input,
                    _ => p,
                });
                return self.unexpected(at, "GELU, its tanh form, or ReLU in a feed-forward network");
            }
        };
        if *self.activation.get_or_insert(activation) != activation {
            return self.unexpected(down, "one activation in all feed-forward networks");
        }
        let (ffn_down, _) = self.linear(down, "the second layer of a feed-forward network")?;
        let (ffn_up, before_up) = self.linear(up, "the first layer of a feed-forward network")?;
        if before_up != middle {
            return self.unexpected(sum, "a residual connection around the feed-forward network");
        }
        let (attention_norm, sum) = self.norm(middle)?;
        let parts = self.sum(sum, "a residual connection")?;
        let output = parts.into_iter().find_map(|projected| match *self.flow.get(projected) {
            Value::Linear { input, .. } => self.attention(input).transpose().map(|found| (projected, found)),
            _ => None,
        });
        let Some((projected, found)) = output else {
            return self.unexpected(sum, "a residual connection around attention");
        };
        let found = found?;
        let (attention_output, _) = self.linear(projected, "the output projection of attention")?;
        let before = if parts[0] == projected { parts[1] } else { parts[0] };
        let source = |id: Id, what: &str| match self.linear(id, what)? {
            (linear, input) if input == before => Ok(linear),
            _ => self.unexpected(id, "queries, keys and values of the sequence itself"),
        };
        let layer = Layer {
            query: source(found.query, "the query projection")?,
            key: source(found.key, "the key projection")?,
            value: source(found.value, "the value projection")?,
            attention_output,
            attention_norm,
            ffn_up,
            ffn_down,
            output_norm,
        };
        if let Some(scale) = found.scale {
            let width = (1.0 / (scale * scale)).round();
            if !(1.0..=8192.0).contains(&width) || (scale * width.sqrt() - 1.0).abs() > 2e-3 {
                return self.unexpected(projected, &format!("scores times 1 / sqrt(head width), not {scale}"));
            }
            if *self.head_width.get_or_insert(width as usize) != width as usize {
                return self.unexpected(projected, "heads of one width in all layers");
            }
        }
        Ok((layer, before))
    }

    /// Query, key and value projections of softmax attention, if `id` is its result.
    fn attention(&self, id: Id) -> Result<Option<Attention>, String> {
        match *self.flow.get(id) {
            Value::Attention { query, key, value, heads, scale } => {
                let scale = match scale {
                    Some(bits) => f32::from_bits(bits),
                    None => {
                        let Value::Linear { weight, .. } = *self.flow.get(query) else {
                            return self.unexpected(query, "the query projection");
                        };
                        let outputs = self.flow.constants[weight].shape()[0];
                        if !outputs.is_multiple_of(heads) {
                            return self
                                .unexpected(id, &format!("a number of heads that divides {outputs}, not {heads}"));
                        }
                        1.0 / ((outputs / heads) as f32).sqrt()
                    }
                };
                Ok(Some(Attention { query, key, value, scale: Some(scale) }))
            }
            Value::Product(weights, value) => {
                let Value::Softmax(mut scores) = *self.flow.get(weights) else { return Ok(None) };
                let (mut scale, mut known) = (1.0, true);
                let mut strip = |mut id: Id| loop {
                    match *self.flow.get(id) {
                        Value::Masked(inner) => id = inner,
                        Value::Scaled(inner, factor) => (id, scale) = (inner, scale * f32::from_bits(factor)),
                        Value::ScaledByShape(inner) => (id, known) = (inner, false),
                        _ => return id,
                    }
                };
                scores = strip(scores);
                let Value::Product(query, key) = *self.flow.get(scores) else {
                    return self.unexpected(scores, "products of queries and keys");
                };
                let (query, key) = (strip(query), strip(key));
                Ok(Some(Attention { query, key, value, scale: known.then_some(scale) }))
            }
            _ => Ok(None),
        }
    }

    /// Which of the tables that are summed up is which.
    fn tables(&self, sum: Id) -> Result<Tables, String> {
        let mut lookups: Vec<(ConstantId, Side)> = Vec::new();
        let mut stack = vec![sum];
        while let Some(id) = stack.pop() {
            match self.flow.get(id) {
                Value::Sum(a, b) => stack.extend([*a, *b]),
                Value::Lookup { table, index } => lookups.push((*table, *index)),
                _ => return self.unexpected(id, "a sum of embedding tables"),
            }
        }
        let rows = |table: ConstantId| self.flow.constants[table].shape()[0];
        let positions: Vec<_> = lookups.iter().filter(|(_, i)| i.sums_up || (i.counts && i.inputs == 0)).collect();
        let [(position, index)] = positions[..] else {
            return self.unexpected(sum, "one table that is looked up by position");
        };
        let mut others: Vec<_> = lookups.iter().filter(|(table, _)| table != position).collect();
        // Token types are few; words are read by an input.
        others.sort_by_key(|(table, index)| (index.inputs == 0, std::cmp::Reverse(rows(*table))));
        let (word, token_type) = match others[..] {
            [(word, index)] if index.inputs.count_ones() == 1 => (*word, None),
            [(word, index), (types, other)]
                if index.inputs.count_ones() == 1 && rows(*types) <= 64 && other.inputs & index.inputs == 0 =>
            {
                (*word, Some(*types))
            }
            _ => return self.unexpected(sum, "tables of words, positions and at most 64 token types"),
        };
        let padding = match (index.sums_up, index.compared) {
            (false, _) => None,
            (true, Some(id)) => Some(id),
            (true, None) => return self.unexpected(sum, "positions that are counted past a padding id"),
        };
        Ok(Tables { word, position: *position, token_type, padding })
    }
}

struct Attention {
    query: Id,
    key: Id,
    value: Id,
    /// Factor on the scores, when it is a number.
    scale: Option<f32>,
}
