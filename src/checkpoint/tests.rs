//! Tests over whole folders, made on the fly.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{CheckpointError, ModelDir, Tensor};

/// A tensor to write: name, storage type, shape, bytes.
type RawTensor<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A safetensors file, written without the crate so that broken ones can be made too.
fn safetensors(tensors: &[RawTensor]) -> Vec<u8> {
    let (mut entries, mut data) = (vec![r#""__metadata__":{"format":"pt"}"#.to_string()], Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let (start, end) = (data.len(), data.len() + bytes.len());
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
        data.extend(bytes);
    }
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn config() -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 3, "max_position_embeddings": 16,
        "hidden_act": "gelu",
    })
}

/// A folder with one F32, one F16, one BF16, one I8 and one I64 tensor.
fn folder(root: &Path) -> PathBuf {
    let path = root.join("tiny");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("config.json"), config().to_string()).unwrap();
    std::fs::write(path.join("tokenizer.json"), "{}").unwrap();
    let half: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let brain: Vec<u8> = [0.25f32, 3.0].iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    let file = safetensors(&[
        ("positions", "I64", vec![1], vec![0; 8]),
        ("float", "F32", vec![2, 1], f32_bytes(&[1.0, -0.5])),
        ("half", "F16", vec![2], half),
        ("brain", "BF16", vec![2], brain),
        ("table.weight", "I8", vec![2, 2], vec![0x80, 127, 1, 0xff]),
        ("table.weight_scale", "F32", vec![2, 1], f32_bytes(&[0.5, 2.0])),
    ]);
    std::fs::write(path.join("model.safetensors"), file).unwrap();
    path
}

#[test]
fn every_storage_type_is_read() {
    let root = tempfile::tempdir().unwrap();
    let dir = ModelDir::open(&folder(root.path())).unwrap();
    let mut weights = dir.weights().unwrap();
    let f32s = |shape: &[usize], data: &[f32]| Tensor::F32 { shape: shape.to_vec(), data: data.to_vec() };
    assert_eq!(weights.take("float", &[2, 1]).unwrap(), f32s(&[2, 1], &[1.0, -0.5]));
    assert_eq!(weights.take("half", &[2]).unwrap(), f32s(&[2], &[1.5, -2.0]));
    assert_eq!(weights.remaining().collect::<Vec<_>>(), ["brain", "table.weight", "table.weight_scale"]);
    assert_eq!(weights.take("brain", &[2]).unwrap(), f32s(&[2], &[0.25, 3.0]));
    let table = weights.take("table.weight", &[2, 2]).unwrap();
    assert_eq!(table, Tensor::Int8 { shape: vec![2, 2], data: vec![-127, 127, 1, -1], scale: vec![0.5, 2.0] });
    assert_eq!(table.into_f32(), [-63.5, 63.5, 2.0, -2.0]);
    assert_eq!(weights.remaining().count(), 0);
    let error = weights.take("positions", &[1]).unwrap_err();
    assert!(matches!(error, CheckpointError::Tensor { .. }), "{error}");
}
