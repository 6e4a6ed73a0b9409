use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::super::{
    CheckpointError, ModelDir, Pooling, ProblemType, QuantManifest, QuantizationConfig, Score, Tensor, Weights,
    update_manifest,
};
use super::*;
use crate::kernels::affine::{Granularity, Levels, QuantizedWeights, Scheme};

fn open(path: &Path) -> Result<ModelDir, CheckpointError> {
    ModelDir::open(path)
}

/// Opens a folder whose `config.json` has some keys replaced.
fn open_with_config(changes: Value) -> Result<ModelDir, CheckpointError> {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    std::fs::write(path.join("config.json"), config_with(changes).to_string()).unwrap();
    open(&path)
}

/// Opens a folder with other weights, and takes `name`.
fn take_from(file: &[u8], name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    std::fs::write(path.join("model.safetensors"), file).unwrap();
    open(&path)?.weights()?.take(name, shape)
}

/// Symmetric int8, with a scale per row or one for all.
fn int8(shape: [usize; 2], values: &[i8], scale: &[f32]) -> Tensor {
    let granularity = if scale.len() == 1 { Granularity::Tensor } else { Granularity::Channel };
    Tensor::Quantized(QuantizedWeights {
        scheme: Scheme::symmetric(Levels::Int8, granularity),
        shape,
        values: values.to_vec(),
        scale: scale.to_vec(),
        zero_point: Vec::new(),
        smoothing: Vec::new(),
    })
}

fn check_tensors(mut weights: Weights) {
    let f32s = |shape: &[usize], data: &[f32]| Tensor::F32 { shape: shape.to_vec(), data: data.to_vec() };
    assert_eq!(weights.take("float", &[2, 1]).unwrap(), f32s(&[2, 1], &[1.0, -0.5]));
    assert_eq!(weights.take("half", &[2]).unwrap(), f32s(&[2], &[1.5, -2.0]));
    assert_eq!(weights.remaining().collect::<Vec<_>>(), ["brain", "table.weight", "table.weight_scale"]);
    assert_eq!(weights.take("brain", &[2]).unwrap(), f32s(&[2], &[0.25, 3.0]));
    let table = weights.take("table.weight", &[2, 2]).unwrap();
    assert_eq!(table, int8([2, 2], &[-128, 127, 1, -1], &[0.5, 2.0]));
    assert_eq!(table.bytes(), 12);
    assert_eq!(table.into_f32(), [-64.0, 63.5, 2.0, -2.0]);
    assert_eq!(weights.remaining().count(), 0);
    assert_eq!(weights.names().count(), 6);
    assert_says("I64", weights.take("positions", &[1]), &["\"positions\"", "stored as I64", "supported: F32"]);
}

#[test]
fn every_storage_type_is_read_from_one_file() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    let dir = open(&path).unwrap();
    check_tensors(dir.weights().unwrap());
    let file = std::fs::read(path.join("model.safetensors")).unwrap();
    assert_eq!(dir.weight_bytes(), file.len() as u64);
    assert_eq!(dir.digest(), super::super::file::sha256_hex(&mut file.as_slice()).unwrap());
    assert_eq!(dir.tokenizer_path(), path.join("tokenizer.json"));
    assert!(dir.pooling().is_none() && dir.manifest().is_none() && dir.quantization().is_none());
}

#[test]
fn shards_are_read_as_one_file_is() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    let single = open(&path).unwrap().digest().to_string();
    shard(&path);
    let dir = open(&path).unwrap();
    check_tensors(dir.weights().unwrap());
    assert_ne!(dir.digest(), single);
    assert_eq!(dir.digest().len(), 64);
}

#[test]
fn one_scale_holds_for_all_rows() {
    for shape in [vec![], vec![1]] {
        let file = safetensors(&[
            ("w", "I8", vec![2, 1], vec![1, 2]),
            ("w_scale", "F32", shape, f32_bytes(&[0.5])),
            ("w_zero_point", "I64", vec![2, 1], vec![0; 16]),
        ]);
        let found = take_from(&file, "w", &[2, 1]).unwrap();
        assert_eq!(found, int8([2, 1], &[1, 2], &[0.5]));
        assert_eq!(found.into_f32(), [0.5, 1.0]);
    }
}

#[test]
fn large_tensors_are_read_over_several_chunks() {
    let values: Vec<f32> = (0..700_000).map(|i| i as f32).collect();
    let file = safetensors(&[("a", "I8", vec![3], vec![1, 2, 3]), ("w", "F32", vec![700_000], f32_bytes(&values))]);
    assert_eq!(take_from(&file, "w", &[700_000]).unwrap().into_f32(), values);
}

#[test]
fn broken_weight_files_are_refused_with_a_reason() {
    let good = safetensors(&tensors());
    let entry = |name: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let many = (0..10_001).map(|i| entry(&format!("t{i}"), "[1]", "[0,4]")).collect::<Vec<_>>().join(",");
    let long_name = "n".repeat(600);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "truncated"),
        ("seven bytes", vec![0; 7], "truncated"),
        ("truncated header", good[..20].to_vec(), "truncated"),
        ("truncated values", good[..good.len() - 1].to_vec(), "truncated or damaged"),
        ("trailing byte", [good.as_slice(), &[0]].concat(), "truncated or damaged"),
        ("huge header", [&u64::MAX.to_le_bytes(), good.as_slice()].concat(), "at most 8388608 allowed"),
        ("not JSON", with_header("{\"a\"", &[]), "bad header"),
        ("not an object", with_header("[1]", &[]), "bad header"),
        ("not UTF-8", [&1u64.to_le_bytes()[..], &[0xff]].concat(), "bad header"),
        ("twice", with_header(&format!("{{{0},{0}}}", entry("a", "[1]", "[0,4]")), &[0; 4]), "tensor \"a\" twice"),
        ("metadata twice", with_header(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), "twice"),
        ("many tensors", with_header(&format!("{{{many}}}"), &[0; 4]), "more than 10000 tensors"),
        ("long name", with_header(&format!("{{{}}}", entry(&long_name, "[1]", "[0,4]")), &[0; 4]), "600 bytes"),
        ("rank", with_header(&format!("{{{}}}", entry("a", "[1,1,1,1,1]", "[0,4]")), &[0; 4]), "5 dimensions"),
        ("zero", with_header(&format!("{{{}}}", entry("a", "[2,0]", "[0,0]")), &[]), "a dimension of 0"),
        ("large", with_header(&format!("{{{}}}", entry("a", "[16777217]", "[0,4]")), &[0; 4]), "16777217"),
        (
            "overflow",
            with_header(&format!("{{{}}}", entry("a", "[16777216,16777216,16777216,1]", "[0,4]")), &[0; 4]),
            "overflow",
        ),
        ("negative", with_header(&format!("{{{}}}", entry("a", "[-1]", "[0,4]")), &[0; 4]), "bad header"),
        ("short", with_header(&format!("{{{}}}", entry("a", "[2]", "[0,4]")), &[0; 4]), "bad header"),
        ("hole", with_header(&format!("{{{}}}", entry("a", "[1]", "[4,8]")), &[0; 8]), "invalid offset"),
        ("backwards", with_header(&format!("{{{}}}", entry("a", "[1]", "[4,0]")), &[0; 4]), "invalid offset"),
        (
            "overlap",
            with_header(&format!("{{{},{}}}", entry("a", "[2]", "[0,8]"), entry("b", "[1]", "[4,8]")), &[0; 8]),
            "invalid offset",
        ),
        (
            "unknown type",
            with_header(r#"{"a":{"dtype":"I4","shape":[2],"data_offsets":[0,1]}}"#, &[0]),
            "unknown variant `I4`",
        ),
    ];
    for (what, file, reason) in cases {
        assert_says(what, take_from(&file, "a", &[1]), &[reason, "model.safetensors"]);
    }
}

#[test]
fn unusable_tensors_are_refused_by_name() {
    let scaled = |scale: &[f32], shape: Vec<usize>| {
        safetensors(&[("w", "I8", vec![2, 2], vec![1; 4]), ("w_scale", "F32", shape, f32_bytes(scale))])
    };
    let bare = |dtype: &'static str, bytes: Vec<u8>, shape: Vec<usize>| safetensors(&[("w", dtype, shape, bytes)]);
    let f16_nan = half::f16::NAN.to_le_bytes().to_vec();
    let asymmetric = safetensors(&[
        ("w", "I8", vec![2, 2], vec![1; 4]),
        ("w_scale", "F32", vec![2, 1], f32_bytes(&[1.0, 1.0])),
        ("w_zero_point", "I8", vec![1], vec![3]),
    ]);
    type Case = (&'static str, Vec<u8>, Vec<usize>, Vec<&'static str>);
    let cases: Vec<Case> = vec![
        (
            "shape",
            bare("F32", f32_bytes(&[0.0; 4]), vec![4, 1]),
            vec![2, 2],
            vec!["expected shape [2, 2], found [4, 1] F32"],
        ),
        ("NaN", bare("F32", f32_bytes(&[0.0, f32::NAN]), vec![2]), vec![2], vec!["value NaN at index 1"]),
        ("infinity", bare("F32", f32_bytes(&[f32::INFINITY, 0.0]), vec![2]), vec![2], vec!["value inf at index 0"]),
        ("f16 NaN", bare("F16", f16_nan, vec![1]), vec![1], vec!["NaN"]),
        ("f64", bare("F64", vec![0; 8], vec![1]), vec![1], vec!["stored as F64"]),
        ("no scale", bare("I8", vec![0; 4], vec![2, 2]), vec![2, 2], vec!["\"w_scale\" is missing"]),
        ("zero scale", scaled(&[1.0, 0.0], vec![2, 1]), vec![2, 2], vec!["\"w_scale\"", "scale 0 in row 1"]),
        ("negative scale", scaled(&[-1.0, 1.0], vec![2]), vec![2, 2], vec!["scale -1 in row 0"]),
        ("NaN scale", scaled(&[f32::NAN, 1.0], vec![2]), vec![2, 2], vec!["\"w_scale\"", "NaN"]),
        ("scale shape", scaled(&[1.0; 4], vec![2, 2]), vec![2, 2], vec!["\"w_scale\"", "expected shape [2, 1]"]),
        ("scale rows", scaled(&[1.0; 3], vec![3, 1]), vec![2, 2], vec!["found [3, 1]"]),
        ("zero point", asymmetric, vec![2, 2], vec!["\"w_zero_point\"", "expected shape [2, 1], found [1] I8"]),
    ];
    for (what, file, shape, mut parts) in cases {
        parts.push("\"w");
        parts.push("model.safetensors");
        assert_says(what, take_from(&file, "w", &shape), &parts);
    }
}

#[test]
fn missing_tensor_error_lists_close_names() {
    let error = take_from(&safetensors(&tensors()), "table.wieght", &[2, 2]).unwrap_err().to_string();
    assert!(error.contains("tensor \"table.wieght\" is missing"), "{error}");
    assert!(error.ends_with("close names: table.weight"), "{error}");
}

#[test]
fn missing_and_wrong_files_are_refused_with_advice() {
    type Case = (&'static str, fn(&Path), &'static [&'static str]);
    let cases: [Case; 11] = [
        (
            "no config",
            |p| std::fs::remove_file(p.join("config.json")).unwrap(),
            &["config.json is missing", "folder has"],
        ),
        ("no tokenizer", |p| std::fs::remove_file(p.join("tokenizer.json")).unwrap(), &["tokenizer.json is missing"]),
        (
            "no weights",
            |p| std::fs::remove_file(p.join("model.safetensors")).unwrap(),
            &["model.safetensors is missing"],
        ),
        (
            "pickle",
            |p| std::fs::rename(p.join("model.safetensors"), p.join("pytorch_model.bin")).unwrap(),
            &["pytorch_model.bin", "a model of another program", "octet import", "NEW_FOLDER"],
        ),
        (
            "missing shard",
            |p| {
                shard(p);
                std::fs::remove_file(p.join("model-00002-of-00002.safetensors")).unwrap();
            },
            &["model-00002-of-00002.safetensors is missing", "copy all shards"],
        ),
        (
            "tensor in two shards",
            |p| {
                shard(p);
                let other = p.join("model-00002-of-00002.safetensors");
                std::fs::copy(p.join("model-00001-of-00002.safetensors"), other).unwrap();
            },
            &["tensor \"positions\" is also in", "model-00001"],
        ),
        (
            "shard outside",
            |p| {
                shard(p);
                let index = json!({"weight_map": {"float": "../other/model.safetensors"}});
                std::fs::write(p.join("model.safetensors.index.json"), index.to_string()).unwrap();
            },
            &["weight_map", "../other/model.safetensors", "plain file names"],
        ),
        (
            "link to outside",
            |p| {
                std::fs::rename(p.join("model.safetensors"), p.parent().unwrap().join("secret")).unwrap();
                symlink("../secret", p.join("model.safetensors")).unwrap();
            },
            &["model.safetensors", "leads out of the model folder"],
        ),
        (
            "folder instead of file",
            |p| {
                std::fs::remove_file(p.join("model.safetensors")).unwrap();
                std::fs::create_dir(p.join("model.safetensors")).unwrap();
            },
            &["not a regular file"],
        ),
        (
            "long config",
            |p| std::fs::write(p.join("config.json"), vec![b' '; 5 << 20]).unwrap(),
            &["config.json: longer than"],
        ),
        ("config is a list", |p| std::fs::write(p.join("config.json"), "[]").unwrap(), &["not a JSON object"]),
    ];
    for (what, break_it, parts) in cases {
        let root = tempfile::tempdir().unwrap();
        let path = folder(root.path(), "tiny");
        break_it(&path);
        assert_says(what, open(&path).and_then(|d| d.weights()), parts);
    }
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    assert_says("file", open(&path.join("config.json")), &["not a folder"]);
    assert_says("nothing", open(&root.path().join("nothing")), &["cannot open", "nothing"]);
}

#[test]
fn a_socket_in_place_of_weights_is_refused_without_waiting() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path.join("model.safetensors")).unwrap();
    assert!(open(&path).is_err());
}

#[test]
fn links_within_the_folder_and_into_cache_blobs_are_followed() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    std::fs::create_dir(path.join("..data")).unwrap();
    std::fs::rename(path.join("model.safetensors"), path.join("..data/weights")).unwrap();
    symlink("..data/weights", path.join("model.safetensors")).unwrap();
    check_tensors(open(&path).unwrap().weights().unwrap());

    let repository = root.path().join("models--a--b");
    std::fs::create_dir_all(repository.join("blobs")).unwrap();
    std::fs::create_dir_all(repository.join("snapshots")).unwrap();
    let snapshot = folder(&repository.join("snapshots"), "0123");
    std::fs::rename(snapshot.join("model.safetensors"), repository.join("blobs/abc")).unwrap();
    symlink("../../blobs/abc", snapshot.join("model.safetensors")).unwrap();
    check_tensors(open(&snapshot).unwrap().weights().unwrap());
}

#[test]
fn weights_that_change_after_opening_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    let dir = open(&path).unwrap();
    let file = path.join("model.safetensors");
    let mut changed = std::fs::read(&file).unwrap();
    changed.push(0);
    std::fs::write(&file, changed).unwrap();
    assert_says("changed", dir.weights(), &["changed while the model was loading"]);
}

#[test]
fn pruned_layers_are_read_checked_and_written_again() {
    let sizes = json!({"num_hidden_layers": 2, "pruned_heads": {"1": [0]}, "intermediate_sizes": [8, 3]});
    let dir = open_with_config(sizes.clone()).unwrap();
    let layers = &dir.config().layers;
    assert_eq!(
        layers.iter().map(|l| (l.heads.clone(), l.intermediate_size)).collect::<Vec<_>>(),
        [(vec![0, 1], 8), (vec![1], 3)]
    );
    let mut written = serde_json::Map::new();
    dir.config().write_layers(layers, &mut written);
    assert_eq!(serde_json::Value::from(written.clone()), sizes);
    // A file that says nothing, and the empty object of older versions of Transformers, leave all heads.
    let whole = open_with_config(json!({"pruned_heads": {}})).unwrap();
    assert_eq!(whole.config().layers, open_with_config(json!({})).unwrap().config().layers);
    whole.config().write_layers(&whole.config().layers, &mut written);
    assert_eq!(serde_json::Value::from(written), json!({"num_hidden_layers": 1}));

    let cases = [
        (json!({"pruned_heads": [1]}), vec!["\"pruned_heads\" is [1]", "an object"]),
        (json!({"pruned_heads": {"1": [0]}}), vec!["{\"1\": [0]}", "layers from 0 to 0"]),
        (json!({"pruned_heads": {"0": [2]}}), vec!["{\"0\": [2]}", "heads from 0 to 1"]),
        (json!({"pruned_heads": {"0": [1, 0]}}), vec!["all heads of layer 0", "at least one head"]),
        (json!({"intermediate_sizes": [8, 8]}), vec!["[8,8]", "a list of 1 whole numbers from 1 to 8"]),
        (json!({"intermediate_sizes": [9]}), vec!["[9]", "from 1 to 8"]),
        (json!({"intermediate_sizes": [0]}), vec!["[0]", "from 1 to 8"]),
    ];
    for (changes, parts) in cases {
        assert_says(&changes.to_string(), open_with_config(changes.clone()), &parts);
    }
}

#[test]
fn config_of_each_family_gives_the_same_names() {
    let bert = open_with_config(json!({})).unwrap();
    let c = bert.config();
    assert_eq!((c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size), (4, 1, 2, 8));
    assert_eq!((c.type_vocab_size, c.pad_token_id, c.layer_norm_eps), (2, 0, 1e-12));
    assert_eq!(c.raw["hidden_act"], "gelu");

    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    let distilbert = json!({
        "model_type": "distilbert", "dim": 6, "n_layers": 2, "n_heads": 3, "hidden_dim": 12, "vocab_size": 10,
        "max_position_embeddings": 20, "activation": "relu", "problem_type": "multi_label_classification",
        "num_labels": 3,
    });
    std::fs::write(path.join("config.json"), distilbert.to_string()).unwrap();
    let dir = open(&path).unwrap();
    let c = dir.config();
    assert_eq!((c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size), (6, 2, 3, 12));
    assert_eq!((c.type_vocab_size, c.hidden_act.as_str()), (0, "relu"));
    assert_eq!(c.problem_type, Some(ProblemType::MultiLabel));
    assert_eq!(c.labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);

    let roberta =
        open_with_config(json!({"model_type": "roberta", "type_vocab_size": 1, "pad_token_id": null})).unwrap();
    assert_eq!((roberta.config().type_vocab_size, roberta.config().pad_token_id), (1, 1));
}

#[test]
fn labels_are_in_index_order() {
    let labels = |changes| open_with_config(changes).unwrap().config().labels.clone();
    assert_eq!(labels(json!({"id2label": {"2": "c", "0": "a", "1": "b"}})), ["a", "b", "c"]);
    assert_eq!(labels(json!({"id2label": null, "label2id": {"x": 1, "y": 0}})), ["y", "x"]);
    assert_eq!(labels(json!({"id2label": null})), ["LABEL_0", "LABEL_1"]);
}

#[test]
fn bad_config_values_are_refused_with_key_found_and_allowed() {
    let cases = [
        (json!({"num_hidden_layers": 49}), vec!["\"num_hidden_layers\" is 49", "from 1 to 48"]),
        (json!({"num_hidden_layers": 0}), vec!["\"num_hidden_layers\" is 0"]),
        (json!({"hidden_size": 8193}), vec!["from 1 to 8192"]),
        (json!({"hidden_size": -4}), vec!["\"hidden_size\" is -4"]),
        (json!({"hidden_size": 4.5}), vec!["\"hidden_size\" is 4.5", "whole number"]),
        (json!({"hidden_size": "4"}), vec!["\"hidden_size\" is \"4\""]),
        (json!({"hidden_size": null}), vec!["\"hidden_size\" is missing"]),
        (json!({"num_attention_heads": 3}), vec!["\"num_attention_heads\" is 3", "a divisor of \"hidden_size\" (4)"]),
        (json!({"vocab_size": 1_000_001}), vec!["\"vocab_size\"", "to 1000000"]),
        (json!({"vocab_size": 1e30}), vec!["\"vocab_size\""]),
        (json!({"pad_token_id": 3}), vec!["\"pad_token_id\" is 3", "from 0 to 2"]),
        (json!({"layer_norm_eps": 0.0}), vec!["\"layer_norm_eps\" is 0.0"]),
        (json!({"layer_norm_eps": 1e-60}), vec!["\"layer_norm_eps\""]),
        (json!({"position_embedding_type": "relative_key"}), vec!["\"relative_key\"", "\"absolute\""]),
        (json!({"problem_type": "ranking"}), vec!["\"ranking\"", "regression"]),
        (json!({"model_type": 3}), vec!["\"model_type\" is 3"]),
        (json!({"model_type": null}), vec!["\"model_type\" is missing"]),
        (json!({"architectures": "BertModel"}), vec!["\"architectures\"", "a list of strings"]),
        (json!({"id2label": {"0": "a", "2": "b"}}), vec!["\"id2label\"", "0 to n - 1"]),
        (json!({"id2label": {"0": "a", "00": "b"}}), vec!["\"id2label\""]),
        (json!({"id2label": {"0": 5}}), vec!["\"id2label\""]),
        (json!({"id2label": {}}), vec!["\"id2label\"", "0 labels"]),
        (json!({"id2label": ["a"]}), vec!["\"id2label\"", "an object"]),
        (json!({"num_labels": 5}), vec!["\"num_labels\" is 5", "2, as in \"id2label\""]),
    ];
    for (changes, mut parts) in cases {
        parts.push("config.json");
        assert_says(&changes.to_string(), open_with_config(changes), &parts);
    }
}

#[test]
fn sentence_transformer_files_are_read() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    add_sentence_transformer(&path);
    let found = open(&path).unwrap().pooling().unwrap();
    assert_eq!((found.pooling, found.normalize, found.max_seq_length), (Pooling::Mean, true, Some(12)));

    let pooling = |config: Value| {
        std::fs::write(path.join("1_Pooling/config.json"), config.to_string()).unwrap();
        open(&path).map(|d| d.pooling().unwrap().pooling)
    };
    assert_eq!(pooling(json!({"pooling_mode_cls_token": true})).unwrap(), Pooling::Cls);
    assert_eq!(pooling(json!({"pooling_mode_max_tokens": true})).unwrap(), Pooling::Max);
    assert_eq!(pooling(json!({"pooling_mode": "mean"})).unwrap(), Pooling::Mean);
    let two = json!({"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true});
    assert_says("two", pooling(two), &["mean_tokens with max_tokens", "one of cls_token"]);
    assert_says("last", pooling(json!({"pooling_mode_lasttoken": true})), &["pooling lasttoken is not supported"]);
    assert_says("none", pooling(json!({})), &["no pooling mode"]);

    let modules = |list: Value| {
        std::fs::write(path.join("modules.json"), list.to_string()).unwrap();
        open(&path)
    };
    let step = |kind: &str, place: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": place});
    let dense = json!([step("Transformer", ""), step("Pooling", "1_Pooling"), step("Dense", "2_Dense")]);
    assert_says("dense", modules(dense), &["Dense in \"2_Dense\"", "not supported"]);
    let outside = json!([step("Transformer", ""), step("Pooling", "../other")]);
    assert_says("outside", modules(outside), &["../other", "not supported"]);
    assert_says("object", modules(json!({})), &["not a list of modules"]);
}

#[test]
fn sentence_transformer_settings_that_would_change_the_text_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    add_sentence_transformer(&path);
    let with = |file: &str, content: Value| {
        std::fs::write(path.join(file), content.to_string()).unwrap();
        open(&path)
    };
    let bert = "sentence_bert_config.json";
    let lower = with(bert, json!({"max_seq_length": 12, "do_lower_case": true}));
    assert_says("lower case", lower, &[bert, "\"do_lower_case\": true is not supported"]);
    assert!(with(bert, json!({"max_seq_length": 12, "do_lower_case": false})).is_ok());

    let prompts = "config_sentence_transformers.json";
    let named = |default: Value, text: &str| {
        with(prompts, json!({"prompts": {"query": text, "document": ""}, "default_prompt_name": default}))
    };
    assert_says("prompt", named(json!("query"), "query: "), &[prompts, "\"default_prompt_name\" \"query\""]);
    assert_says("no such prompt", named(json!("other"), ""), &["\"default_prompt_name\" \"other\""]);
    assert!(named(json!("query"), "").is_ok(), "an empty prompt changes nothing");
    assert!(named(json!(null), "query: ").is_ok(), "a prompt that nobody names changes nothing");
}

#[test]
fn quantization_config_reads_back_what_it_writes() {
    let written = QuantizationConfig::int8(vec!["classifier".into()]);
    let config = written.to_json();
    assert_eq!(config["config_groups"]["group_0"]["weights"]["strategy"], "channel");
    assert_eq!(config["config_groups"]["group_0"]["input_activations"]["dynamic"], true);
    assert_eq!(config["config_groups"]["group_1"].get("input_activations"), None);
    let dir = open_with_config(json!({"quantization_config": config})).unwrap();
    assert_eq!(dir.quantization(), Some(&written));
}

#[test]
fn other_quantization_schemes_are_refused_by_name() {
    let good = QuantizationConfig::int8(vec![]);
    let cases: [(&str, &str, Value, &str); 16] = [
        ("method", "/quant_method", json!("gptq"), "quant_method \"gptq\""),
        ("no method", "/quant_method", json!(null), "no quant_method"),
        ("format", "/format", json!("marlin-24"), "format \"marlin-24\""),
        ("other format", "/format", json!("pack-quantized"), "group_0: format \"int-quantized\""),
        ("group format", "/config_groups/group_0/format", json!("octet-binary"), "format \"octet-binary\""),
        ("status", "/quantization_status", json!("calibration"), "quantization_status \"calibration\""),
        ("bits", "/config_groups/group_0/weights/num_bits", json!(3), "weights of 3 bits"),
        ("other bits", "/config_groups/group_0/weights/num_bits", json!(4), "int4 in format \"int-quantized\""),
        ("float", "/config_groups/group_0/weights/type", json!("float"), "8 bits, float"),
        ("group without size", "/config_groups/group_0/weights/strategy", json!("group"), "strategy group"),
        ("order", "/config_groups/group_0/weights/actorder", json!("group"), "actorder \"group\""),
        ("per tensor", "/config_groups/group_0/input_activations/strategy", json!("tensor"), "strategy tensor"),
        ("target", "/config_groups/group_0/targets", json!(["Conv1d"]), "target \"Conv1d\""),
        ("pattern", "/config_groups/group_0/targets", json!(["re:(?!x)"]), "target \"re:(?!x)\""),
        ("no weights", "/config_groups/group_0/weights", json!(null), "no weights"),
        ("no groups", "/config_groups", json!({}), "quantization_config.config_groups"),
    ];
    for (what, pointer, value, part) in cases {
        let mut config = good.to_json();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        assert_says(what, open_with_config(json!({"quantization_config": config})), &[part, "config.json"]);
    }
    let mut config = good.to_json();
    config["kv_cache_scheme"] = json!({"num_bits": 8});
    assert_says("kv cache", open_with_config(json!({"quantization_config": config})), &["kv_cache_scheme"]);
}

#[test]
fn manifest_is_updated_in_place_and_reads_back() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    let score =
        Score { dataset: "d/test".into(), metric: "accuracy".into(), value: 0.1 + 0.2, n: 9, ..Score::default() };
    update_manifest(&path, |m| m.f32_bytes = 400).unwrap();
    update_manifest(&path, |m| m.scores.push(score.clone())).unwrap();
    let dir = open(&path).unwrap();
    let manifest = dir.manifest().unwrap();
    assert_eq!((manifest.f32_bytes, &manifest.scores), (400, &vec![score]));
    assert!(manifest.created_by.starts_with("octet "));
    let names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "no temporary file is left: {names:?}");

    let before = std::fs::read(path.join("quant.json")).unwrap();
    let not_finite = update_manifest(&path, |m| m.scores[0].value = f64::NAN);
    assert_says("NaN", not_finite, &["not finite"]);
    assert_eq!(std::fs::read(path.join("quant.json")).unwrap(), before);
}

#[test]
fn manifests_of_other_versions_and_with_bad_values_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    let with = |key: &str, value: Value| {
        let mut manifest = serde_json::to_value(QuantManifest::new()).unwrap();
        manifest[key] = value;
        std::fs::write(path.join("quant.json"), manifest.to_string()).unwrap();
        open(&path)
    };
    assert!(with("f32_bytes", json!(7)).is_ok());
    assert_says("version", with("format_version", json!(2)), &["quant.json", "format_version 2", "supported: 1"]);
    assert_says("temperature", with("temperature", json!(0.0)), &["\"temperature\" is 0", "above 0"]);
    assert!(with("thresholds", json!({"a": 0.0, "b": 1.0})).is_ok());
    assert_says("threshold", with("thresholds", json!({"a": 1.5})), &["\"thresholds.a\" is 1.5", "from 0 to 1"]);
    let reference = json!({"dataset": "dev", "tokens": {"edges": [8.0, 4.0], "counts": [1, 2, 3]}});
    assert_says("reference", with("reference", reference), &["reference", "tokens has edges that do not rise"]);
    assert_says("unknown", with("secret", json!(1)), &["unknown field `secret`"]);
}
