//! Smoothing from a recipe to the answers: what is stored, that the executors, calibration and the gate see it, and what
//! it is worth (docs/quantization.md).

use std::path::Path;
use std::sync::Arc;

use octet::architectures::{Encoder, RaggedBatch};
use octet::checkpoint::{ModelDir, Tensor};
use octet::kernels::affine::Inputs;
use octet::pipelines::{ClassifyInput, Loader, Precision};
use octet::quantize::{
    Bound, CalibrateOptions, Calibration, Form, Judge, OnFailure, Original, QuantizeOptions, Recipe, Rounding, Verdict,
    quantize,
};

use super::process::{octet, skipped, succeed};
use super::support::kernels;

const GOLDEN: &str = "tests/goldens/bert-classify";

fn recipe(lines: &str) -> Recipe {
    Recipe::parse(&format!("scheme = \"x\"\nweights = \"int8\"\n{lines}\n"), "test").unwrap()
}

/// Every so-many-th of 2,000 sentences of the speed benchmark.
fn texts(step: usize) -> Vec<ClassifyInput> {
    let lines = std::fs::read_to_string("benches/stream.jsonl").unwrap();
    let text = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().into();
    lines.lines().step_by(step).map(|line| ClassifyInput { text: text(line), text_pair: None }).collect()
}

fn judge(original: &Original, texts: &[ClassifyInput]) -> Judge {
    let model = Loader::new(kernels(), Precision::Float).load("float", original.folder()).unwrap();
    Judge::new(&model, &original.encoder, texts, 2, |_, _| {}).unwrap()
}

/// A recipe of a float model beside the answers of a judge, on whose texts it is calibrated.
fn verdict(original: &Original, judge: &Judge, recipe: &Recipe) -> Verdict {
    let moments = recipe.rounding == Rounding::Gptq;
    let (options, smoothing) =
        (CalibrateOptions { moments, ..Default::default() }, original.smoothing(recipe).unwrap());
    let seen = Calibration::run(&original.encoder, judge.batches(), options, &smoothing, |_| {}).unwrap();
    let forms = original.forms(recipe, Some(&seen), |_| {}).unwrap();
    judge.verdict(Arc::new(original.candidate(&forms.iter().collect::<Vec<_>>(), kernels()).unwrap()))
}

#[test]
fn what_a_recipe_smooths_is_stored_and_served_as_it_was_made() {
    let scratch = tempfile::tempdir().unwrap();
    let (source, made) = (ModelDir::open(Path::new(GOLDEN)).unwrap(), scratch.path().join("made"));
    let recipe = recipe("smoothing = 0.5\n[layers]\n\"*layer.0*key\" = \"float\"");
    let options = QuantizeOptions { recipe: recipe.clone(), ..QuantizeOptions::new("golden") };
    quantize(&source, &made, &options, |_, _| {}).unwrap();
    let original = Original::load(&source).unwrap();
    let forms = original.forms(&recipe, None, |_| {}).unwrap();
    let dir = ModelDir::open(&made).unwrap();
    let mut weights = dir.weights().unwrap();
    let mut shared: Vec<Vec<f32>> = Vec::new();
    for (module, form) in original.modules.iter().zip(&forms) {
        let stored = weights.take(&module.weight(), &[module.rows, module.columns]).unwrap();
        let is_matrix = module.place.site().is_some();
        match (stored, &form.weight) {
            (Tensor::Quantized(found), Some(expected)) => {
                assert_eq!(found, *expected, "{}", module.name);
                // It pays at every site of this model.
                assert_eq!(!found.smoothing.is_empty(), is_matrix, "{}", module.name);
                if is_matrix && !shared.contains(&found.smoothing) {
                    shared.push(found.smoothing);
                }
            }
            (Tensor::F32 { data, .. }, None) => assert_eq!(data, original.weight(module), "float stays what it was"),
            (found, _) => panic!("{}: {found:?}", module.name),
        }
    }
    let layers = original.names.layers.len();
    assert_eq!(shared.len(), 4 * layers, "queries, keys and values share their factors");
    assert_eq!(dir.quantization().unwrap().smoothed.len(), 6 * layers - 1);
    // The same executor, from memory and from the folder.
    let batch = judge(&original, &texts(200)).batches()[0].clone();
    let candidate = original.candidate(&forms.iter().collect::<Vec<_>>(), kernels()).unwrap();
    let served = Loader::new(kernels(), Precision::Int8).load("made", &made).unwrap();
    let rows = |encoder: &dyn Encoder| {
        let mut out = Vec::new();
        encoder.forward(&batch, &mut encoder.workspace(), &mut out);
        out
    };
    assert_eq!(rows(&candidate), rows(&**served.encoder()));
    // Its integers, read in f32, are the weights of the inputs as they are.
    let float = Loader::new(kernels(), Precision::Float).load("float", &made).unwrap();
    let (widened, original) = (rows(&**float.encoder()), rows(&original.encoder));
    let difference = widened.iter().zip(&original).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 0.1, "int8 weights with float inputs are {difference} from float");
}

#[test]
fn the_gate_puts_single_smoothed_layers_back_into_float() {
    let source = ModelDir::open(Path::new(GOLDEN)).unwrap();
    let original = Original::load(&source).unwrap();
    let judge = judge(&original, &texts(100));
    let mut forms = original.forms(&recipe("smoothing = 0.5"), None, |_| {}).unwrap();
    // A bound that only the float model keeps: every module goes back, one after the other.
    let bound = Bound { min_agreement: 2.0, on_failure: OnFailure::Fallback };
    let mut seen = Vec::new();
    let passed = bound.pass(&original, &judge, &mut forms, (kernels(), 2), |what| seen.push(what));
    assert!(passed.is_err() && forms.iter().all(|form| *form == Form::float()), "{seen:?}");
    let left = original.forms(&recipe("smoothing = 0.5\nactivations = \"float\""), None, |_| {}).unwrap();
    let plain = |form: &Form| form.weight.as_ref().is_none_or(|weight| weight.smoothing.is_empty());
    assert!(left.iter().all(|form| plain(form) && form.inputs == Inputs::Float), "float inputs need no smoothing");
}

#[test]
fn smoothing_takes_a_quarter_off_the_distance_from_float_and_calibration_sees_it() {
    let test = "smoothing_takes_a_quarter_off_the_distance_from_float_and_calibration_sees_it";
    let Ok(folder) = std::env::var("OCTET_TEST_F32") else {
        return skipped(test, "OCTET_TEST_F32 does not name the folder of the float weights");
    };
    let source = ModelDir::open(Path::new(&folder)).unwrap();
    let original = Original::load(&source).unwrap();
    let judge = judge(&original, &texts(20));
    for (what, lines, gain) in [
        ("int8", "", 0.25),
        ("int8, gptq, corrected biases", "rounding = \"gptq\"\nbias_correction = true", 0.25),
        ("int8, static inputs", "activations = \"static\"", 0.25),
    ] {
        let plain = verdict(&original, &judge, &recipe(lines));
        let smooth = verdict(&original, &judge, &recipe(&format!("smoothing = 0.5\n{lines}")));
        let found = 1.0 - (1.0 - smooth.cosine) / (1.0 - plain.cosine);
        println!("{what}: cosine {:.6}, smoothed {:.6}, {:+.1} %", plain.cosine, smooth.cosine, 100.0 * found);
        assert!(found > gain, "{what}: smoothing takes off {found}");
    }
    // A team divides the weights of a short sequence; each member's rows and columns are smoothed as one's are.
    let forms = original.forms(&recipe("smoothing = 0.5"), None, |_| {}).unwrap();
    let encoder = original.candidate(&forms.iter().collect::<Vec<_>>(), kernels()).unwrap();
    let (batch, team) = (&judge.batches()[0], encoder.team(2).unwrap());
    for rows in batch.ranges().take(4) {
        let mut alone = RaggedBatch::new();
        alone.push(&batch.ids[rows.clone()], &batch.type_ids[rows]);
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        encoder.forward(&alone, &mut encoder.workspace(), &mut expected);
        std::thread::scope(|scope| {
            let other = || encoder.forward_together(&alone, &team, 1, &mut encoder.workspace(), &mut Vec::new());
            scope.spawn(other);
            encoder.forward_together(&alone, &team, 0, &mut encoder.workspace(), &mut found);
        });
        assert!(
            found.iter().map(|x| x.to_bits()).eq(expected.iter().map(|x| x.to_bits())),
            "{} tokens",
            alone.tokens()
        );
    }
}

#[test]
fn inspect_refuses_factors_that_an_executor_refuses() {
    let scratch = tempfile::tempdir().unwrap();
    let model = scratch.path().join("model");
    let mut quantize = octet();
    succeed(quantize.args(["quantize", "tests/goldens/bert"]).arg(&model).args(["--recipe", "w8a8-smooth"]));
    assert!(succeed(octet().arg("inspect").arg(&model)).contains(", smoothed"));
    let weights = model.join("model.safetensors");
    let mut content = std::fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&content[8..header]).unwrap();
    let (name, tensor) = tensors.as_object().unwrap().iter().find(|(name, _)| name.ends_with("_smoothing")).unwrap();
    let first = header + tensor["data_offsets"][0].as_u64().unwrap() as usize;
    for (factor, told) in [(f32::NAN, "value NaN at index 0"), (0.0, "factor 0 of column 0"), (-1.0, "factor -1 of")] {
        content[first..first + 4].copy_from_slice(&factor.to_le_bytes());
        std::fs::write(&weights, &content).unwrap();
        let output = octet().arg("inspect").arg(&model).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(told) && error.contains(name), "{error}");
    }
}
