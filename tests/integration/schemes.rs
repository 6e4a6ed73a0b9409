//! Every scheme through both executors, from one folder format: the same numbers, the same classes, the same bits on
//! every instruction set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use octet::architectures::{Architecture, Encoder, RaggedBatch, describe};
use octet::checkpoint::{
    Existing, InputConfig, ModelDir, ModelFiles, QuantizationConfig, QuantizationGroup, Tensor, write_model,
};
use octet::kernels::Kernels;
use octet::kernels::affine::{Granularity, Levels, QParams, Scheme, quantize_weights};
use octet::nn::{CandleEncoder, Precision, Stored};
use octet::pipelines::{self, Loader};
use octet::runtime::Int8Encoder;

use super::support::kernels;

/// Largest difference between the two executors: an input that the other order of f32 sums brings over a rounding
/// boundary moves products by a step, 1/255 of a row's range (or of the static range, 0.04), times a weight, and the
/// next layer by more. The golden weights are drawn wide, so a flip is seen more than in a trained model.
const STEP: f32 = 0.2;

/// Smallest cosine of a token's hidden states in the two executors.
const COSINE: f32 = 0.999;

/// Smallest cosine of a token's hidden states to those of float weights; the worst model here has 0.9963.
const NEAR_FLOAT: f32 = 0.98;

const MODELS: [&str; 5] =
    ["bert-classify", "distilbert-multilabel", "roberta-classify", "bert-gelu-tanh", "bert-pruned"];

/// How a model of these tests is stored: matrices by their number, tables, inputs.
struct Case {
    name: &'static str,
    matrix: fn(usize) -> Option<Scheme>,
    table: Option<Scheme>,
    inputs: fn(usize) -> Option<InputConfig>,
    /// Whether the matrices are smoothed, those of a layer with other factors than those of the next one.
    smoothed: bool,
}

const DYNAMIC: Option<InputConfig> = Some(InputConfig::DYNAMIC);
const STATIC: Option<InputConfig> = Some(InputConfig { dynamic: false, symmetric: false });

const fn symmetric(levels: Levels, granularity: Granularity) -> Option<Scheme> {
    Some(Scheme::symmetric(levels, granularity))
}

const fn asymmetric(levels: Levels, granularity: Granularity) -> Option<Scheme> {
    Some(Scheme { levels, symmetric: false, granularity })
}

fn cases() -> Vec<Case> {
    use Granularity::{Channel, Group, Tensor};
    use Levels::{Binary, Int4, Int8, Ternary};
    let case = |name, matrix, table, inputs| Case { name, matrix, table, inputs, smoothed: false };
    let smoothed =
        |name, matrix, inputs| Case { name, matrix, table: symmetric(Int8, Channel), inputs, smoothed: true };
    let mixed_matrix: fn(usize) -> Option<Scheme> =
        |i| [symmetric(Int8, Channel), symmetric(Int4, Group(8)), None, symmetric(Ternary, Channel)][i % 4];
    vec![
        case("w8a8", |_| symmetric(Int8, Channel), symmetric(Int8, Channel), |_| DYNAMIC),
        case("w8a8 static", |_| symmetric(Int8, Channel), symmetric(Int8, Channel), |_| STATIC),
        case("w8 float inputs", |_| symmetric(Int8, Channel), symmetric(Int8, Tensor), |_| None),
        case("w8a8 per tensor", |_| symmetric(Int8, Tensor), symmetric(Int8, Tensor), |_| DYNAMIC),
        case("w8a8 asymmetric", |_| asymmetric(Int8, Channel), asymmetric(Int8, Channel), |_| DYNAMIC),
        case("w4a8", |_| symmetric(Int4, Channel), symmetric(Int4, Channel), |_| DYNAMIC),
        case("w4a8 groups", |_| symmetric(Int4, Group(8)), symmetric(Int4, Group(8)), |_| DYNAMIC),
        case("w4a8 asymmetric groups", |_| asymmetric(Int4, Group(8)), asymmetric(Int4, Group(8)), |_| STATIC),
        case("ternary", |_| symmetric(Ternary, Channel), symmetric(Ternary, Channel), |_| DYNAMIC),
        case("binary", |_| symmetric(Binary, Tensor), symmetric(Binary, Channel), |_| DYNAMIC),
        case("float", |_| None, None, |_| DYNAMIC),
        // Queries, keys and values of one layer in three schemes, with inputs of three kinds.
        case("mixed", mixed_matrix, symmetric(Int4, Group(8)), |i| [DYNAMIC, STATIC, None][i % 3]),
        smoothed("w8a8 smoothed", |_| symmetric(Int8, Channel), |_| DYNAMIC),
        smoothed("w8a8 static smoothed", |_| symmetric(Int8, Channel), |_| STATIC),
        smoothed("w8 float inputs smoothed", |_| symmetric(Int8, Channel), |_| None),
        smoothed("w4a8 asymmetric groups smoothed", |_| asymmetric(Int4, Group(8)), |_| DYNAMIC),
        smoothed("mixed smoothed", mixed_matrix, |i| [DYNAMIC, STATIC, None][i % 3]),
    ]
}

fn golden(name: &str) -> PathBuf {
    Path::new("tests/goldens").join(name)
}

/// Writes a golden model as `case` says.
fn store(name: &str, case: &Case, destination: &Path) {
    let source = ModelDir::open(&golden(name)).unwrap();
    let mut weights = source.weights().unwrap();
    let architecture = describe(source.config(), &|name| weights.contains(name)).unwrap();
    let width = source.config().hidden_size;
    let (mut tensors, mut inputs, mut groups, mut ignore) = (BTreeMap::new(), BTreeMap::new(), vec![], vec![]);
    let matrices: Vec<_> = architecture.encoder.layers.iter().flat_map(|layer| layer.linears()).collect();
    let tables = architecture.encoder.tables().map(|t| (t.weight.clone(), [t.rows, width], case.table, None, vec![]));
    let matrices = matrices.into_iter().enumerate().map(|(i, linear)| {
        let count = if case.smoothed { linear.inputs } else { 0 };
        let factors = (0..count).map(|l| [0.5, 1.0, 1.7, 0.8, 1.25][(l + i / 6) % 5]).collect();
        (linear.weight.clone(), [linear.outputs, linear.inputs], (case.matrix)(i), (case.inputs)(i), factors)
    });
    for (name, [rows, columns], scheme, config, smoothing) in tables.chain(matrices) {
        let module = name.strip_suffix(".weight").unwrap().to_string();
        let Some(scheme) = scheme else {
            ignore.push(module);
            continue;
        };
        let float = weights.take(&name, &[rows, columns]).unwrap().into_f32();
        let mut weights = match smoothing.as_slice() {
            [] => quantize_weights(&float, rows, columns, scheme),
            factors => {
                let divided: Vec<f32> = float.iter().zip(factors.iter().cycle()).map(|(w, f)| w / f).collect();
                quantize_weights(&divided, rows, columns, scheme)
            }
        };
        weights.smoothing = smoothing;
        tensors.insert(name, Tensor::Quantized(weights));
        if config == STATIC {
            inputs.insert(module.clone(), QParams { scale: 0.04, zero_point: 120 });
        }
        groups.push(QuantizationGroup { targets: vec![module], weights: scheme, inputs: config });
    }
    let names: Vec<String> = weights.names().map(str::to_string).collect();
    for name in names {
        let is_float = weights.entries().any(|e| e.name == name && ["F32", "F16", "BF16"].contains(&e.dtype.as_str()));
        if is_float && !tensors.contains_key(&name) {
            let shape = weights.shape(&name).unwrap().to_vec();
            tensors.insert(name.clone(), weights.take(&name, &shape).unwrap());
        }
    }
    ignore.extend(["re:.*classifier".to_string(), "re:.*pooler".to_string()]);
    let quantization = QuantizationConfig { groups, ignore, ..Default::default() };
    let files = ModelFiles {
        config: source.config().raw.clone(),
        quantization: Some(&quantization),
        tensors,
        inputs,
        copy_from: Some(source.path()),
        ..ModelFiles::default()
    };
    write_model(destination, &files, Existing::Replace).unwrap();
}

/// Sequences of a golden model's cases.
fn batch(name: &str) -> RaggedBatch {
    let text = std::fs::read_to_string(golden(name).join("golden.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |case: &serde_json::Value, key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
    let mut batch = RaggedBatch::new();
    for case in cases["cases"].as_array().unwrap() {
        batch.push(&ids(case, "ids"), &ids(case, "type_ids"));
    }
    batch
}

fn served(folder: &Path, kernels: Kernels) -> Int8Encoder {
    let dir = ModelDir::open(folder).unwrap();
    let mut weights = dir.weights().unwrap();
    let Architecture { spec, encoder, .. } = describe(dir.config(), &|name| weights.contains(name)).unwrap();
    Int8Encoder::load(spec, &encoder, &mut weights, kernels).unwrap()
}

fn reference(folder: &Path, kernels: Kernels) -> CandleEncoder {
    let dir = ModelDir::open(folder).unwrap();
    let mut weights = dir.weights().unwrap();
    let Architecture { spec, encoder, .. } = describe(dir.config(), &|name| weights.contains(name)).unwrap();
    let mut parameters = Stored::new(&mut weights, Precision::AsStored(kernels));
    CandleEncoder::build(&spec, &encoder, &mut parameters, 1).unwrap()
}

fn run(encoder: &dyn Encoder, batch: &RaggedBatch) -> Vec<f32> {
    let mut out = Vec::new();
    encoder.forward(batch, &mut encoder.workspace(), &mut out);
    assert!(out.iter().all(|x| x.is_finite()));
    out
}

fn smallest_cosine(a: &[f32], b: &[f32], width: usize) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    rows.map(|(a, b)| (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32).fold(1.0, f32::min)
}

#[test]
fn both_executors_agree_on_every_scheme() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    let kernels = kernels();
    for case in cases() {
        for name in MODELS {
            store(name, &case, &folder);
            let batch = batch(name);
            let (served, reference) = (served(&folder, kernels), reference(&folder, kernels));
            assert_eq!(served.precision(), reference.precision(), "{} {name}", case.name);
            let (found, expected) = (run(&served, &batch), run(&reference, &batch));
            let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let cosine = smallest_cosine(&found, &expected, served.spec().hidden_size);
            println!("{} {name}: executors differ by at most {difference:.1e}, cosine {cosine:.6}", case.name);
            assert!(difference < STEP && cosine > COSINE, "{} {name}: {difference}, {cosine}", case.name);
            if case.name.starts_with("w8a8 smoothed") {
                let cosine =
                    smallest_cosine(&found, &run(&reference_in_float(name), &batch), served.spec().hidden_size);
                println!("{} {name}: cosine to float {cosine:.6}", case.name);
                assert!(cosine > NEAR_FLOAT, "{} {name}: {cosine} to float", case.name);
            }
            // A folder that asks for nothing to be rounded differs from float by attention alone, whose integers have 8
            // significant bits.
            if case.name == "float" {
                let float = run(&reference_in_float(name), &batch);
                let difference = found.iter().zip(&float).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let cosine = smallest_cosine(&found, &float, served.spec().hidden_size);
                println!("{name}: integers of attention cost at most {difference:.1e}, cosine {cosine:.6}");
                assert!(difference < 0.03 && cosine > 0.9999, "{name}: {difference}, {cosine} from float");
                assert_eq!(served.precision(), "f32", "{name}");
            }
        }
    }
}

fn reference_in_float(name: &str) -> CandleEncoder {
    let dir = ModelDir::open(&golden(name)).unwrap();
    let mut weights = dir.weights().unwrap();
    let Architecture { spec, encoder, .. } = describe(dir.config(), &|name| weights.contains(name)).unwrap();
    CandleEncoder::load(&spec, &encoder, &mut weights, 1).unwrap()
}

#[test]
fn every_scheme_gives_the_same_bits_on_every_instruction_set_alone_in_a_batch_and_in_a_team() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (case, name) in cases().iter().flat_map(|case| [(case, "bert-classify"), (case, "bert-pruned")]) {
        store(name, case, &folder);
        let batch = batch(name);
        let expected = bits(&run(&served(&folder, Kernels::detect()), &batch));
        for kernels in Kernels::available() {
            let encoder = served(&folder, kernels);
            assert!(bits(&run(&encoder, &batch)) == expected, "{} {name} on {}", case.name, kernels.isa());
            let width = encoder.spec().hidden_size;
            for rows in batch.ranges() {
                let mut alone = RaggedBatch::new();
                alone.push(&batch.ids[rows.clone()], &batch.type_ids[rows.clone()]);
                let expected = &expected[rows.start * width..rows.end * width];
                assert!(bits(&run(&encoder, &alone)) == expected, "{} {name} alone on {}", case.name, kernels.isa());
                let team = encoder.team(2).unwrap();
                let mut hidden = Vec::new();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        encoder.forward_together(&alone, &team, 1, &mut encoder.workspace(), &mut Vec::new());
                    });
                    encoder.forward_together(&alone, &team, 0, &mut encoder.workspace(), &mut hidden);
                });
                assert!(bits(&hidden) == expected, "{} {name} in a team on {}", case.name, kernels.isa());
            }
        }
    }
}

/// A block of 64 channels holds one head of 48 and a third of the next one, so nothing is divided between heads.
#[test]
fn a_team_computes_heads_that_no_block_of_channels_holds() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    let source = ModelDir::open(&golden("bert")).unwrap();
    let mut config = source.config().raw.clone();
    let sizes = [("hidden_size", 192), ("num_attention_heads", 4), ("intermediate_size", 128)];
    for (key, value) in sizes.into_iter().chain([("max_position_embeddings", 128)]) {
        config[key] = value.into();
    }
    let mut seed = 1u32;
    let mut number = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let larger = |size: &usize| match *size {
        32 => 192,
        64 => 128,
        other => other,
    };
    let weights = source.weights().unwrap();
    let random = weights.entries().map(|entry| {
        let shape: Vec<usize> = entry.shape.iter().map(larger).collect();
        let data = (0..shape.iter().product()).map(|_| number()).collect();
        (entry.name, Tensor::F32 { shape, data })
    });
    let tensors = random.collect();
    let files = ModelFiles { config, tensors, copy_from: Some(source.path()), ..ModelFiles::default() };
    write_model(&folder, &files, Existing::Replace).unwrap();
    let encoder = served(&folder, kernels());
    let mut sequence = RaggedBatch::new();
    sequence.push(&(0..20).collect::<Vec<u32>>(), &[0; 20]);
    let alone = run(&encoder, &sequence);
    for members in [2, 3, 4] {
        let team = encoder.team(members).unwrap();
        let mut hidden = Vec::new();
        std::thread::scope(|scope| {
            for member in 1..members {
                let (encoder, team, sequence) = (&encoder, &team, &sequence);
                scope.spawn(move || {
                    encoder.forward_together(sequence, team, member, &mut encoder.workspace(), &mut Vec::new());
                });
            }
            encoder.forward_together(&sequence, &team, 0, &mut encoder.workspace(), &mut hidden);
        });
        assert_eq!(hidden, alone, "{members} members");
    }
}

#[test]
fn classes_of_both_executors_agree_and_a_folder_of_any_scheme_classifies() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    for case in cases() {
        for name in ["bert-classify", "roberta-classify", "bert-pruned"] {
            store(name, &case, &folder);
            let batch = batch(name);
            let model = Loader::new(kernels(), pipelines::Precision::Int8).load("model", &folder).unwrap();
            let classifier = model.classifier.expect("the model classifies").model.clone();
            let logits = classifier.rows(&batch, &mut classifier.encoder.workspace());
            let reference = reference(&folder, kernels());
            let hidden = run(&reference, &batch);
            let width = reference.spec().hidden_size;
            for (rows, found) in batch.ranges().zip(&logits) {
                let expected = classifier.head.apply(&hidden[rows.start * width..rows.end * width], width);
                let class =
                    |logits: &[f32]| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                let mut sorted = expected.clone();
                sorted.sort_by(f32::total_cmp);
                let margin = sorted[sorted.len() - 1] - sorted[sorted.len() - 2];
                // Logits may differ by a rounding step; a class that is decided by less than that may flip.
                assert!(class(found) == class(&expected) || margin < STEP, "{} {name}: margin {margin}", case.name);
            }
        }
    }
}
