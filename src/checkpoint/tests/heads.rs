use serde_json::json;

use super::super::{ModelDir, Pooling};
use super::*;

/// An encoder folder and a head folder beside it, whose `octet` object has some keys replaced.
fn head(root: &Path, changes: Value) -> PathBuf {
    let encoder = folder(root, "encoder");
    let digest = ModelDir::open(&encoder).unwrap().digest().to_string();
    let mut octet = json!({"encoder": "encoder", "encoder_sha256": digest, "head": {"pooling": "mean"}});
    for (key, value) in changes.as_object().unwrap() {
        octet[key] = value.clone();
    }
    let path = root.join("head");
    std::fs::create_dir(&path).unwrap();
    let config = json!({"id2label": {"0": "bad", "1": "good"}, "octet": octet});
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    let weights = safetensors(&[("classifier.weight", "F32", vec![2, 4], f32_bytes(&[1.0; 8]))]);
    std::fs::write(path.join("model.safetensors"), weights).unwrap();
    path
}

#[test]
fn a_head_takes_encoder_tokenizer_and_sizes_from_its_sibling() {
    let root = tempfile::tempdir().unwrap();
    let path = head(root.path(), json!({}));
    let dir = ModelDir::open(&path).unwrap();
    assert!(dir.is_head_only());
    assert_eq!(dir.config().labels, ["bad", "good"]);
    assert_eq!(dir.config().hidden_size, 4);
    assert_eq!(dir.config().octet.as_ref().unwrap().head.pooling, Pooling::Mean);
    assert_eq!(dir.tokenizer_path(), root.path().join("encoder/tokenizer.json"));
    assert_eq!(dir.weights().unwrap().names().collect::<Vec<_>>(), ["classifier.weight"]);
    assert!(dir.encoder().weights().unwrap().contains("float"));
    assert!(!dir.encoder().is_head_only());
    assert_eq!(dir.encoder().encoder().path(), dir.encoder().path());
}

#[test]
fn a_head_does_not_inherit_how_its_encoder_is_stored() {
    let root = tempfile::tempdir().unwrap();
    let path = head(root.path(), json!({}));
    let quantization = super::super::QuantizationConfig::int8(vec![]);
    let config = config_with(json!({"quantization_config": quantization.to_json()}));
    std::fs::write(root.path().join("encoder/config.json"), config.to_string()).unwrap();
    let dir = ModelDir::open(&path).unwrap();
    assert_eq!(dir.quantization(), None);
    assert_eq!(dir.encoder().quantization(), Some(&quantization));
    assert!(dir.config().architectures.is_empty());
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let cases = [
        (json!({"encoder": "../encoder"}), vec!["\"octet.encoder\"", "the name of a folder beside this one"]),
        (json!({"encoder": "."}), vec!["\"octet.encoder\""]),
        (json!({"encoder": "/etc"}), vec!["\"octet.encoder\""]),
        (json!({"encoder": ""}), vec!["\"octet.encoder\""]),
        (json!({"encoder": "head"}), vec!["names its own folder"]),
        (json!({"encoder": "other"}), vec!["other is missing", "needs it as its encoder"]),
        (json!({"encoder_sha256": "0".repeat(64)}), vec!["needs encoder weights with sha256 0000", "train the head"]),
        (json!({"encoder_sha256": "xyz"}), vec!["\"octet.encoder_sha256\"", "64 hexadecimal digits"]),
        (json!({"head": {"pooling": "last"}}), vec!["\"octet\"", "cls, mean or max"]),
        (json!({"extra": 1}), vec!["unknown field `extra`"]),
    ];
    for (changes, parts) in cases {
        let root = tempfile::tempdir().unwrap();
        let path = head(root.path(), changes.clone());
        assert_says(&changes.to_string(), ModelDir::open(&path), &parts);
    }
}

#[test]
fn a_head_of_other_sizes_than_its_encoder_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = head(root.path(), json!({}));
    let mut config: Value = serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap();
    config["hidden_size"] = json!(8);
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    assert_says("sizes", ModelDir::open(&path), &["its sizes differ from those of its encoder"]);
}

#[test]
fn a_head_on_a_head_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = head(root.path(), json!({}));
    let config = std::fs::read(path.join("config.json")).unwrap();
    std::fs::write(root.path().join("encoder/config.json"), config).unwrap();
    assert_says("chain", ModelDir::open(&path), &["is itself a head"]);
}
