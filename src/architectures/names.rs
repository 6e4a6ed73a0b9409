//! Weight names by role, as Hugging Face has them on disk.

/// A matrix `[outputs, inputs]` and its bias `[outputs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearNames {
    /// Name of the weight.
    pub weight: String,
    /// Name of the bias.
    pub bias: String,
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
}

impl LinearNames {
    /// `{module}.weight` and `{module}.bias`.
    pub fn of(module: &str, outputs: usize, inputs: usize) -> Self {
        LinearNames { weight: format!("{module}.weight"), bias: format!("{module}.bias"), outputs, inputs }
    }
}

/// Gain and shift of a layer norm, `[hidden_size]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct NormNames {
    /// Name of the gain.
    pub weight: String,
    /// Name of the shift.
    pub bias: String,
}

impl NormNames {
    /// `{module}.weight` and `{module}.bias`, or the older `gamma` and `beta` when the file has those.
    pub fn of(module: &str, has: &dyn Fn(&str) -> bool) -> Self {
        let gamma = format!("{module}.gamma");
        if has(&gamma) {
            return NormNames { weight: gamma, bias: format!("{module}.beta") };
        }
        NormNames { weight: format!("{module}.weight"), bias: format!("{module}.bias") }
    }
}

/// An embedding table `[rows, hidden_size]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TableName {
    /// Name of the table.
    pub weight: String,
    /// Its rows.
    pub rows: usize,
}

/// The weights of one transformer block.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNames {
    /// `[heads * head_dim, hidden]`; as wide as `hidden` unless heads were pruned.
    pub query: LinearNames,
    /// `[heads * head_dim, hidden]`.
    pub key: LinearNames,
    /// `[heads * head_dim, hidden]`.
    pub value: LinearNames,
    /// `[hidden, heads * head_dim]`.
    pub attention_output: LinearNames,
    /// After the attention's residual.
    pub attention_norm: NormNames,
    /// `[intermediate, hidden]`.
    pub ffn_up: LinearNames,
    /// `[hidden, intermediate]`.
    pub ffn_down: LinearNames,
    /// After the feed-forward network's residual.
    pub output_norm: NormNames,
}

impl LayerNames {
    /// The six matrices of the block, in the order they run.
    pub fn linears(&self) -> [&LinearNames; 6] {
        [&self.query, &self.key, &self.value, &self.attention_output, &self.ffn_up, &self.ffn_down]
    }

    /// [`LayerNames::linears`], to be given other sizes.
    pub fn linears_mut(&mut self) -> [&mut LinearNames; 6] {
        let LayerNames { query, key, value, attention_output, ffn_up, ffn_down, .. } = self;
        [query, key, value, attention_output, ffn_up, ffn_down]
    }
}

/// The weights of a whole encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderNames {
    /// `[vocab_size, hidden]`.
    pub word_embeddings: TableName,
    /// `[max_positions, hidden]`.
    pub position_embeddings: TableName,
    /// `[type_vocab_size, hidden]`, in families that have it.
    pub token_type_embeddings: Option<TableName>,
    /// After the sum of the embeddings.
    pub embedding_norm: NormNames,
    /// From the input to the output.
    pub layers: Vec<LayerNames>,
}

impl EncoderNames {
    /// The embedding tables.
    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        [&self.word_embeddings, &self.position_embeddings].into_iter().chain(&self.token_type_embeddings)
    }
}
