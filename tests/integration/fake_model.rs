//! Small models made in memory: a tokenizer of a few words and an encoder that follows orders in the text.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use octet::architectures::{
    Activation, Encoder, EncoderSpec, EncoderWorkspace, LayerSpec, Pooling, ProblemType, RaggedBatch,
};
use octet::kernels::Kernels;
use octet::pipelines::{Classifier, Dense, Embedder, Head, Model, ModelInfo, SequenceModel, Summarizer};
use octet::text::Tokenizer;

/// Token ids of the words that the encoder obeys.
const BAD: u32 = 4;
const FINE: u32 = 5;
const PANIC: u32 = 6;
const NAN: u32 = 7;
const SLOW: u32 = 8;
const WORDS: [&str; 9] = ["[UNK]", "[CLS]", "[SEP]", "good", "bad", "fine", "panic", "nan", "slow"];

/// Longest input of the models here, in tokens.
pub const MAX_TOKENS: usize = 16;
const WIDTH: usize = 4;

/// Holds every batch with the word "slow" back while it is shut.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
}

#[derive(Default)]
struct GateState {
    shut: bool,
    /// Batches that are held back.
    waiting: usize,
}

impl Gate {
    pub fn shut(&self) {
        self.state().shut = true;
    }

    pub fn open(&self) {
        self.state().shut = false;
        self.opened.notify_all();
    }

    /// Whether a batch is held back now.
    pub fn is_waited_at(&self) -> bool {
        self.state().waiting > 0
    }

    fn pass(&self) {
        let mut state = self.state();
        state.waiting += 1;
        state = self.opened.wait_while(state, |state| state.shut).expect("no test panics with the gate");
        state.waiting -= 1;
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().expect("no test panics with the gate")
    }
}

/// Hidden states that depend on the token id alone. "panic" panics, "nan" gives NaN, "slow" waits at the gate.
struct ObedientEncoder {
    spec: EncoderSpec,
    gate: Arc<Gate>,
    /// One that others are compared with: it sees "bad" otherwise, panics at "fine", and waits at the gate with
    /// everything.
    is_original: bool,
}

impl Encoder for ObedientEncoder {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn precision(&self) -> &'static str {
        "int8"
    }

    fn workspace(&self) -> EncoderWorkspace {
        Box::new(())
    }

    fn forward(&self, batch: &RaggedBatch, _: &mut EncoderWorkspace, out: &mut Vec<f32>) {
        let has = |id: u32| batch.ids.contains(&id);
        if self.is_original || has(SLOW) {
            self.gate.pass();
        }
        let told = has(PANIC) || (self.is_original && has(FINE));
        assert!(!told, "told to panic");
        out.clear();
        for id in &batch.ids {
            let x = if self.is_original && *id == BAD { -7.0 } else { *id as f32 };
            let row = if *id == NAN { [f32::NAN; WIDTH] } else { [x, 4.0 - x, (x * 0.7).sin(), 0.25] };
            out.extend_from_slice(&row);
        }
    }
}

/// A classifier called `sentiment`, and `org/vectors`, which embeds and summarizes; and the gate of both.
pub fn models() -> (Vec<Arc<Model>>, Arc<Gate>) {
    make(false)
}

/// Models to compare those of [`models`] with: they differ at "bad" and panic at "fine"; and their gate.
pub fn originals() -> (Vec<Arc<Model>>, Arc<Gate>) {
    make(true)
}

fn make(is_original: bool) -> (Vec<Arc<Model>>, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let tokenizer = Arc::new(tokenizer());
    let spec = EncoderSpec {
        family: "bert".into(),
        vocab_size: WORDS.len(),
        hidden_size: WIDTH,
        head_dim: WIDTH,
        layers: vec![LayerSpec { num_heads: 1, intermediate_size: WIDTH }],
        max_positions: MAX_TOKENS,
        position_offset: 0,
        type_vocab_size: 2,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-12,
    };
    let encoder: Arc<dyn Encoder> = Arc::new(ObedientEncoder { spec, gate: gate.clone(), is_original });
    let weight = [0.5, -0.5, 1.0, 0.0, -0.5, 0.5, 0.0, 1.0, 0.1, 0.1, -1.0, 0.0];
    let layers = vec![Dense::new(Kernels::detect(), &weight, &[0.0, 0.1, -0.1], None)];
    let labels: Vec<String> = ["negative", "neutral", "positive"].map(String::from).into();
    let classifier = Classifier {
        model: SequenceModel { encoder: encoder.clone(), head: Arc::new(Head { pooling: Pooling::Mean, layers }) },
        tokenizer: tokenizer.clone(),
        labels: labels.clone(),
        problem_type: ProblemType::SingleLabel,
        value: None,
        temperature: 1.0,
        thresholds: Vec::new(),
        fallback: None,
        max_tokens: MAX_TOKENS,
    };
    let pooled = SequenceModel { encoder, head: Arc::new(Head { pooling: Pooling::Mean, layers: Vec::new() }) };
    let embedder =
        Embedder { model: pooled.clone(), tokenizer: tokenizer.clone(), normalize: true, max_tokens: MAX_TOKENS };
    let summarizer =
        Summarizer { model: pooled, tokenizer: tokenizer.clone(), max_tokens: MAX_TOKENS, max_sentences: 100 };
    let sentiment = Model {
        info: info("sentiment", labels),
        tokenizer: tokenizer.clone(),
        classifier: Some(Arc::new(classifier)),
        embedder: None,
        summarizer: None,
    };
    let vectors = Model {
        info: info("org/vectors", Vec::new()),
        tokenizer,
        classifier: None,
        embedder: Some(Arc::new(embedder)),
        summarizer: Some(Arc::new(summarizer)),
    };
    (vec![Arc::new(sentiment), Arc::new(vectors)], gate)
}

fn info(id: &str, labels: Vec<String>) -> ModelInfo {
    ModelInfo {
        id: id.into(),
        version: "0123456789ab".into(),
        architecture: "bert".into(),
        precision: "int8".into(),
        scheme: "w8a8-dynamic".into(),
        labels,
        max_tokens: MAX_TOKENS,
        sizes: Vec::new(),
        file_bytes: 1000,
        compression_ratio: 4.0,
        load_seconds: 0.0,
        scores: Vec::new(),
        reference: None,
    }
}

/// Words at white space and punctuation, `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.
fn tokenizer() -> Tokenizer {
    let vocab: serde_json::Map<_, _> = WORDS.iter().zip(0..).map(|(word, id)| (word.to_string(), id.into())).collect();
    let special = |name: &str, type_id: u32| serde_json::json!({"SpecialToken": {"id": name, "type_id": type_id}});
    let sequence = |name: &str, type_id: u32| serde_json::json!({"Sequence": {"id": name, "type_id": type_id}});
    let file = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
            "pair": [
                special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0), sequence("B", 1), special("[SEP]", 1)
            ],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}
            }
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    });
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).expect("the scratch folder is writable");
    Tokenizer::from_file(&path).expect("the tokenizer above is well formed")
}
