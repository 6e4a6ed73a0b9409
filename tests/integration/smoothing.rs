//! Smoothing where it is exact in a post-norm encoder, from the values to the output projection: it leaves the float
//! model as it is, and int8 as far from it as before. This is the evidence that `octet quantize` does without it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use octet::architectures::LayerNames;
use octet::checkpoint::ModelDir;
use octet::kernels::Kernels;
use octet::nn::{Enters, Site};
use octet::pipelines::{ClassifyInput, Loader, Precision};
use octet::quantize::{CalibrateOptions, Calibration, Judge, Original, Recipe, Verdict, column_max, factors, migrate};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

use super::process::skipped;
use super::support::kernels;

/// Share of the divergence from float that smoothing may take off or add before it is worth another look.
const GAIN: f64 = 0.05;

/// 250 sentences of the speed benchmark.
fn texts() -> Vec<ClassifyInput> {
    let lines = std::fs::read_to_string("benches/stream.jsonl").unwrap();
    let text = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().into();
    lines.lines().step_by(8).map(|line| ClassifyInput { text: text(line), text_pair: None }).collect()
}

/// Int8 of a float model beside the answers of a judge.
fn int8(original: &Original, judge: &Judge, kernels: Kernels) -> Verdict {
    let forms = original.forms(&Recipe::default(), None, |_| {}).unwrap();
    let encoder = original.candidate(&forms.iter().collect::<Vec<_>>(), kernels).unwrap();
    judge.verdict(Arc::new(encoder))
}

/// Writes a float encoder with the difficulty of each context moved to the output projection.
fn smooth(source: &Path, destination: &Path, names: &[LayerNames], seen: &Calibration, strength: f32) {
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(source.join(file), destination.join(file)).unwrap();
    }
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut changed: HashMap<String, Vec<f32>> = HashMap::new();
    let values = |name: &str| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    for (layer, names) in names.iter().enumerate() {
        let [mut value, mut bias, mut output] =
            [&names.value.weight, &names.value.bias, &names.attention_output.weight].map(|name| values(name));
        let context = &seen.at(Site { layer, enters: Enters::Projection }).max;
        let factors = factors(context, &column_max(&output, context.len()), strength);
        assert!(factors.iter().any(|f| *f != 1.0), "nothing is smoothed in layer {layer}");
        migrate(&factors, &mut value, &mut bias, &mut output);
        changed.insert(names.value.weight.clone(), value);
        changed.insert(names.value.bias.clone(), bias);
        changed.insert(names.attention_output.weight.clone(), output);
    }
    let changed: HashMap<String, Vec<u8>> =
        changed.into_iter().map(|(name, v)| (name, v.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
    let views = tensors.tensors().into_iter().map(|(name, tensor)| {
        let bytes = changed.get(&name).map_or(tensor.data(), Vec::as_slice);
        let view = TensorView::new(tensor.dtype(), tensor.shape().to_vec(), bytes).unwrap();
        (name, view)
    });
    serialize_to_file(views.collect::<Vec<_>>(), None, &destination.join("model.safetensors")).unwrap();
}

#[test]
fn smoothing_of_values_keeps_float_as_it_is_and_brings_int8_no_closer() {
    let test = "smoothing_of_values_keeps_float_as_it_is_and_brings_int8_no_closer";
    let Ok(folder) = std::env::var("OCTET_TEST_F32") else {
        return skipped(test, "OCTET_TEST_F32 does not name the folder of the float weights");
    };
    let folder = Path::new(&folder);
    let (kernels, threads) = (kernels(), 2);
    let source = ModelDir::open(folder).unwrap();
    let original = Original::load(&source).unwrap();
    let model = Loader::new(kernels, Precision::Float).load("float", folder).unwrap();
    let judge = Judge::new(&model, &original.encoder, &texts(), threads, |_, _| {}).unwrap();
    let seen = Calibration::run(&original.encoder, judge.batches(), CalibrateOptions::default(), |_| {}).unwrap();
    let plain = int8(&original, &judge, kernels);
    println!("{} texts; int8 without smoothing: cosine {:.6}", judge.len(), plain.cosine);
    for strength in [0.25, 0.5, 0.75] {
        let smoothed = tempfile::tempdir().unwrap();
        smooth(folder, smoothed.path(), &original.names.layers, &seen, strength);
        let source = ModelDir::open(smoothed.path()).unwrap();
        let moved = Original::load(&source).unwrap();
        let float = [&original, &moved].map(|o| {
            let hidden = o.encoder.hidden_states_seen(&judge.batches()[0], &mut |_, _| Ok(())).unwrap();
            hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        assert!(float[0] == float[1], "powers of two change no bit of the float model");
        let found = int8(&moved, &judge, kernels);
        let gain = 1.0 - (1.0 - found.cosine) / (1.0 - plain.cosine);
        println!("int8 with smoothing of strength {strength}: cosine {:.6}, gain {:+.1} %", found.cosine, 100.0 * gain);
        assert!(gain.abs() < GAIN, "smoothing of strength {strength} gains {gain}; see docs/quantization.md");
    }
}
