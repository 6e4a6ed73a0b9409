//! Tests over whole folders, made on the fly.

mod heads;
mod mutations;
mod reading;
mod schemes;
mod writing;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

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
        "hidden_act": "gelu", "id2label": {"0": "no", "1": "yes"},
    })
}

/// `config` with some keys replaced.
fn config_with(changes: Value) -> Value {
    let mut config = config();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// The tensors of [`folder`]: one of each storage type that is read, and an I64 buffer.
fn tensors() -> Vec<RawTensor<'static>> {
    let half: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let brain: Vec<u8> = [0.25f32, 3.0].iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    vec![
        ("positions", "I64", vec![1], vec![0; 8]),
        ("float", "F32", vec![2, 1], f32_bytes(&[1.0, -0.5])),
        ("half", "F16", vec![2], half),
        ("brain", "BF16", vec![2], brain),
        ("table.weight", "I8", vec![2, 2], vec![0x80, 127, 1, 0xff]),
        ("table.weight_scale", "F32", vec![2, 1], f32_bytes(&[0.5, 2.0])),
    ]
}

/// Writes a complete model folder of a few hundred bytes.
fn folder(root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("config.json"), config().to_string()).unwrap();
    std::fs::write(path.join("tokenizer.json"), "{}").unwrap();
    std::fs::write(path.join("model.safetensors"), safetensors(&tensors())).unwrap();
    path
}

/// Adds the files of sentence-transformers: mean pooling, normalized.
fn add_sentence_transformer(path: &Path) {
    let modules = json!([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]);
    let pooling =
        json!({"word_embedding_dimension": 4, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true});
    std::fs::create_dir(path.join("1_Pooling")).unwrap();
    std::fs::write(path.join("modules.json"), modules.to_string()).unwrap();
    std::fs::write(path.join("1_Pooling/config.json"), pooling.to_string()).unwrap();
    std::fs::write(path.join("sentence_bert_config.json"), json!({"max_seq_length": 12}).to_string()).unwrap();
}

/// Replaces the single weight file by two shards and their index.
fn shard(path: &Path) {
    let tensors = tensors();
    let (first, second) = tensors.split_at(3);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    for (name, part) in names.iter().zip([first, second]) {
        std::fs::write(path.join(name), safetensors(part)).unwrap();
        map.extend(part.iter().map(|t| (t.0.to_string(), json!(name))));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
}

/// The message of an error, which must contain every one of `parts`.
fn assert_says<T: std::fmt::Debug>(what: &str, result: Result<T, super::CheckpointError>, parts: &[&str]) {
    let message = result.expect_err(what).to_string();
    for part in parts {
        assert!(message.contains(part), "{what}: {message:?} does not contain {part:?}");
    }
}
