//! What int8 costs on real text, and that it costs the same everywhere: closeness to float, and equal bits.

use std::path::Path;

use octet::architectures::{self, Encoder, RaggedBatch};
use octet::checkpoint::ModelDir;
use octet::eval::classification::agreement;
use octet::eval::embedding::closeness;
use octet::kernels::Kernels;
use octet::pipelines::{Loader, Model, OutputActivation, Precision};
use octet::quantize::{QuantizeOptions, quantize};
use octet::runtime::Int8Encoder;
use octet::text::Encoding;

use super::process::skipped;
use super::support::{frozen_head, kernels};

const ENCODER: &str = "models/all-MiniLM-L6-v2";
const SENTIMENT: &str = "models/sentiment";

/// 500 human-rated sentences, 125 of each source (`tests/goldens/make_sentences.py`).
fn sentences() -> Vec<String> {
    let lines = std::fs::read_to_string("tests/goldens/sentences.jsonl").unwrap();
    let text = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().into();
    lines.lines().map(text).collect()
}

/// Mean-pooled float vectors of the sentences, by transformers, `[500][384]`.
fn float_vectors() -> Vec<Vec<f32>> {
    let file = std::fs::read("tests/goldens/sentences.safetensors").unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let bytes = tensors.tensor("pooled").unwrap().data().to_vec();
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    values.chunks_exact(384).map(<[f32]>::to_vec).collect()
}

fn load(path: &str, kernels: Kernels) -> Model {
    Loader::new(kernels, Precision::Int8).load(path, Path::new(path)).unwrap()
}

fn encode(model: &Model, texts: &[String]) -> Vec<Encoding> {
    texts.iter().map(|t| model.tokenizer.encode(t, None, 256).unwrap()).collect()
}

fn batch_of<'a>(sequences: impl IntoIterator<Item = &'a Encoding>) -> RaggedBatch {
    let mut batch = RaggedBatch::new();
    sequences.into_iter().for_each(|s| batch.push(&s.ids, &s.type_ids));
    batch
}

/// Hidden states of each sequence of a batch, as bits.
fn bits(encoder: &dyn Encoder, batch: &RaggedBatch) -> Vec<Vec<u32>> {
    let mut hidden = Vec::new();
    encoder.forward(batch, &mut encoder.workspace(), &mut hidden);
    let width = encoder.spec().hidden_size;
    batch.ranges().map(|r| hidden[r.start * width..r.end * width].iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn the_shipped_encoder_stays_close_to_float_on_500_sentences() {
    let kernels = kernels();
    let embedder = load(ENCODER, kernels).embedder.unwrap();
    let float = float_vectors();
    let model = load(ENCODER, kernels);
    let mut workspace = embedder.model.encoder.workspace();
    let int8 = embedder.model.rows(&batch_of(&encode(&model, &sentences())), &mut workspace);

    let found = closeness(&int8, &float);
    println!(
        "mean cosine {:.5}, 1 % below {:.5}, same nearest neighbour {:.1} %",
        found.mean_cosine,
        found.p1_cosine,
        100.0 * found.same_nearest
    );
    assert!(found.mean_cosine >= 0.998, "mean cosine to float is {}", found.mean_cosine);
}

/// The classes, beside the same weights without rounded activations, attention and activation function; what rounding
/// the weights costs, `octet eval --float` measures (docs/training.md).
#[test]
fn the_shipped_classifier_gives_the_classes_of_its_weights_in_f32() {
    let int8 = load(SENTIMENT, kernels());
    let float = Loader::new(kernels(), Precision::Float).load("float", Path::new(SENTIMENT)).unwrap();
    let sequences = encode(&int8, &sentences());
    let [int8, float] = [int8, float].map(|model| {
        let classifier = model.classifier.unwrap();
        let rows = sequences.chunks(50).flat_map(|some| {
            let mut workspace = classifier.model.encoder.workspace();
            classifier.model.rows(&batch_of(some), &mut workspace)
        });
        rows.map(|row| classifier.activate(&row, OutputActivation::Softmax)).collect::<Vec<_>>()
    });
    let found = agreement(&int8, &float);
    println!("class agreement {:.1} %, margins of float where it flips: {:?}", 100.0 * found.share, found.flip_margins);
    assert!(found.share >= 0.99, "class agreement with f32 is {}", found.share);
    assert!(found.flip_margins.iter().all(|m| *m < 0.1), "a decided class flipped: {:?}", found.flip_margins);
}

/// [`bits`] of one sequence that `members` threads compute together, twice with the same team.
fn bits_of_team(encoder: &dyn Encoder, batch: &RaggedBatch, members: usize) -> Vec<u32> {
    let team = encoder.team(members).expect("the int8 executor splits a sequence");
    let mut hidden = [Vec::new(), Vec::new()];
    for hidden in &mut hidden {
        std::thread::scope(|scope| {
            for member in 1..members {
                let team = &team;
                scope.spawn(move || {
                    encoder.forward_together(batch, team, member, &mut encoder.workspace(), &mut Vec::new());
                });
            }
            encoder.forward_together(batch, &team, 0, &mut encoder.workspace(), hidden);
        });
    }
    assert_eq!(hidden[0], hidden[1]);
    hidden[0].iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_text_has_the_same_bits_alone_in_any_batch_in_any_order_and_on_every_isa() {
    let dir = ModelDir::open(Path::new(ENCODER)).unwrap();
    let model = load(ENCODER, kernels());
    let mut texts: Vec<String> = sentences().into_iter().step_by(21).collect();
    texts.push(sentences().concat());
    let sequences = encode(&model, &texts);
    let mut expected: Option<Vec<Vec<u32>>> = None;
    for kernels in Kernels::available() {
        println!("ran on {}", kernels.gemm_name());
        let mut weights = dir.weights().unwrap();
        let described = architectures::describe(dir.config(), &|name| weights.contains(name)).unwrap();
        let encoder = Int8Encoder::load(described.spec, &described.encoder, &mut weights, kernels).unwrap();
        let together = bits(&encoder, &batch_of(&sequences));
        let alone: Vec<_> = sequences.iter().flat_map(|s| bits(&encoder, &batch_of([s]))).collect();
        assert!(together == alone, "{}: a text's bits depend on its batch mates", kernels.isa());
        for members in [1, 2, 3, 7] {
            let by_teams: Vec<_> = sequences.iter().map(|s| bits_of_team(&encoder, &batch_of([s]), members)).collect();
            assert!(together == by_teams, "{}: a text's bits depend on the threads", kernels.isa());
        }
        let mut reversed = bits(&encoder, &batch_of(sequences.iter().rev()));
        reversed.reverse();
        assert!(together == reversed, "{}: a text's bits depend on the order", kernels.isa());
        let expected = expected.get_or_insert_with(|| together.clone());
        assert!(*expected == together, "{} gives other bits than the first instruction set", kernels.isa());
    }
}

#[test]
fn quantizing_at_load_and_beforehand_give_the_same_bits() {
    let scratch = tempfile::tempdir().unwrap();
    let source = Path::new("tests/goldens/bert-classify");
    let quantized = scratch.path().join("bert");
    let options = QuantizeOptions::new("golden");
    let report = quantize(&ModelDir::open(source).unwrap(), &quantized, &options, |_, _| {}).unwrap();
    assert!(report.bytes < report.f32_bytes / 2 && report.layers.iter().all(|l| l.cosine > 0.999));
    let batch = || {
        let mut batch = RaggedBatch::new();
        batch.push(&[1, 5, 9, 2], &[0, 0, 1, 1]);
        batch
    };
    let kernels = kernels();
    let row = |path: &Path| {
        let model = Loader::new(kernels, Precision::Int8).load("bert", path).unwrap();
        let model = model.classifier.unwrap().model.clone();
        model.rows(&batch(), &mut model.encoder.workspace())
    };
    assert_eq!(row(source), row(&quantized));
    let again = quantize(&ModelDir::open(source).unwrap(), &quantized, &options, |_, _| {});
    assert!(again.unwrap_err().to_string().contains("bert"), "an existing folder is not replaced in silence");
    let twice = quantize(&ModelDir::open(&quantized).unwrap(), &scratch.path().join("twice"), &options, |_, _| {});
    assert!(twice.unwrap_err().to_string().contains("quantized already"));
}

#[test]
fn two_models_share_one_encoder_in_memory() {
    let mut loader = Loader::new(kernels(), Precision::Int8);
    let encoder = loader.load("minilm", Path::new(ENCODER)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let head = loader.load("head", &frozen_head(scratch.path())).unwrap();
    assert!(std::sync::Arc::ptr_eq(encoder.encoder(), head.encoder()));
    assert_eq!(head.info.labels, ["negative", "neutral", "positive"]);
    // Another encoder, the same words.
    let sentiment = loader.load("sentiment", Path::new(SENTIMENT)).unwrap();
    assert!(!std::sync::Arc::ptr_eq(encoder.encoder(), sentiment.encoder()));
    assert!(std::sync::Arc::ptr_eq(&encoder.tokenizer, &sentiment.tokenizer));
}

#[test]
fn shipped_folders_are_small_and_say_where_they_come_from() {
    for folder in [ENCODER, SENTIMENT, "models/sentiment-small", "models/intents"] {
        let bytes: u64 = walk(Path::new(folder)).map(|f| f.metadata().unwrap().len()).sum();
        assert!(bytes <= 24_000_000, "{folder} has {bytes} bytes");
        let dir = ModelDir::open(Path::new(folder)).unwrap();
        let manifest = dir.manifest().unwrap();
        assert_eq!(manifest.source.license.as_deref(), Some("Apache-2.0"));
        assert!(!manifest.scores.is_empty(), "{folder} has no scores");
        let card = std::fs::read_to_string(Path::new(folder).join("README.md")).unwrap();
        assert!(card.contains(&manifest.source.id) && card.contains("## Scores"), "{folder} has no model card");
    }
}

fn walk(folder: &Path) -> Box<dyn Iterator<Item = std::fs::DirEntry>> {
    Box::new(std::fs::read_dir(folder).unwrap().map(Result::unwrap).flat_map(|entry| {
        match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path()),
            false => Box::new(std::iter::once(entry)) as Box<dyn Iterator<Item = _>>,
        }
    }))
}

/// The packaged float weights: CI fetches them (`tests/fetch-assets.sh`).
#[test]
fn shipped_encoder_is_what_octet_quantize_makes_of_the_packaged_weights() {
    let Ok(source) = std::env::var("OCTET_TEST_F32") else {
        let test = "shipped_encoder_is_what_octet_quantize_makes_of_the_packaged_weights";
        skipped(test, "OCTET_TEST_F32 does not name the folder of the float weights");
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let made = scratch.path().join("made");
    let options = QuantizeOptions::new("test");
    quantize(&ModelDir::open(Path::new(&source)).unwrap(), &made, &options, |_, _| {}).unwrap();
    let digest = |folder: &Path| ModelDir::open(folder).unwrap().digest().to_string();
    assert_eq!(digest(&made), digest(Path::new(ENCODER)));
}
