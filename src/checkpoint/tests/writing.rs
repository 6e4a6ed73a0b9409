use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::super::{Existing, ModelDir, ModelFiles, QuantManifest, QuantizationConfig, Tensor, write_model};
use super::*;
use crate::kernels::affine::{QuantizedWeights, Scheme};

fn tensors_to_write() -> BTreeMap<String, Tensor> {
    let int8 = Tensor::Quantized(QuantizedWeights {
        scheme: Scheme::INT8,
        shape: [2, 3],
        values: vec![-127, 0, 127, 1, 2, 3],
        scale: vec![0.5, 0.25],
        zero_point: vec![],
        smoothing: vec![],
    });
    let bias = Tensor::F32 { shape: vec![3], data: vec![1.0, -0.0, f32::MIN_POSITIVE] };
    BTreeMap::from([("dense.weight".to_string(), int8), ("dense.bias".to_string(), bias)])
}

#[test]
fn a_written_folder_reads_back_equal_and_is_the_same_bytes_each_time() {
    let root = tempfile::tempdir().unwrap();
    let source = folder(root.path(), "source");
    add_sentence_transformer(&source);
    std::fs::write(source.join("special_tokens_map.json"), "{\"pad\": 0}").unwrap();
    let quantization = QuantizationConfig::int8(vec![]);
    let manifest = QuantManifest { f32_bytes: 36, ..QuantManifest::new() };
    let files = ModelFiles {
        config: config().as_object().unwrap().clone(),
        quantization: Some(&quantization),
        tensors: tensors_to_write(),
        inputs: BTreeMap::new(),
        manifest: Some(&manifest),
        copy_from: Some(&source),
        extra: BTreeMap::from([("README.md".to_string(), b"a model\n".to_vec())]),
    };
    let (first, second) = (root.path().join("deep/first"), root.path().join("second"));
    write_model(&first, &files, Existing::Refuse).unwrap();
    write_model(&second, &files, Existing::Refuse).unwrap();

    let dir = ModelDir::open(&first).unwrap();
    assert_eq!(dir.quantization(), Some(&quantization));
    assert_eq!(dir.manifest(), Some(&manifest));
    assert_eq!(dir.pooling(), ModelDir::open(&source).unwrap().pooling());
    let mut weights = dir.weights().unwrap();
    for (name, tensor) in &tensors_to_write() {
        assert_eq!(weights.take(name, tensor.shape()).unwrap(), *tensor);
    }
    assert_eq!(weights.remaining().count(), 0);
    assert_eq!(weights.shape("dense.weight_scale"), Some(&[2, 1][..]));

    for name in ["config.json", "model.safetensors", "quant.json", "tokenizer.json", "modules.json", "README.md"] {
        assert_eq!(std::fs::read(first.join(name)).unwrap(), std::fs::read(second.join(name)).unwrap(), "{name}");
    }
    assert!(first.join("special_tokens_map.json").is_file() && first.join("1_Pooling/config.json").is_file());
    let mode = |name: &str| std::fs::metadata(first.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("model.safetensors"), mode("config.json"), "weights are as readable as other files");
    let parsed = safetensors::SafeTensors::deserialize(&std::fs::read(first.join("model.safetensors")).unwrap())
        .map(|file| file.len());
    assert_eq!(parsed.unwrap(), 3);
}

#[test]
fn a_taken_destination_is_left_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let files = ModelFiles { config: config().as_object().unwrap().clone(), ..ModelFiles::default() };
    let model = folder(root.path(), "model");
    let before = std::fs::read(model.join("model.safetensors")).unwrap();
    assert_says("model", write_model(&model, &files, Existing::Refuse), &["not empty", "choose another folder"]);
    assert_eq!(std::fs::read(model.join("model.safetensors")).unwrap(), before);

    let home = root.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("letter.txt"), "dear").unwrap();
    assert_says("home", write_model(&home, &files, Existing::Replace), &["not a model folder"]);
    assert_says("file", write_model(&home.join("letter.txt"), &files, Existing::Replace), &["is not a folder"]);
    assert!(home.join("letter.txt").is_file());
}

#[test]
fn replacing_leaves_only_the_new_model() {
    let root = tempfile::tempdir().unwrap();
    let model = folder(root.path(), "model");
    let files = ModelFiles {
        config: config().as_object().unwrap().clone(),
        tensors: tensors_to_write(),
        copy_from: Some(&model),
        ..ModelFiles::default()
    };
    write_model(&model, &files, Existing::Replace).unwrap();
    assert!(ModelDir::open(&model).unwrap().weights().unwrap().contains("dense.weight"));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left beside the model");
    let empty = root.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    write_model(&empty, &ModelFiles { copy_from: Some(&model), ..files }, Existing::Refuse).unwrap();
    assert!(ModelDir::open(&empty).is_ok());
}

#[test]
fn a_failed_write_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let source = folder(root.path(), "source");
    std::fs::write(source.join("modules.json"), "{").unwrap();
    let files = ModelFiles { copy_from: Some(&source), ..ModelFiles::default() };
    assert_says("broken source", write_model(&root.path().join("new"), &files, Existing::Refuse), &["modules.json"]);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
}
