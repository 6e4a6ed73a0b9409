//! Every scheme: written, read back, and refused when a part does not fit.

use std::collections::BTreeMap;

use super::super::{
    Existing, InputConfig, ModelDir, ModelFiles, QuantizationConfig, QuantizationGroup, Tensor, Weights, write_model,
};
use super::*;
use crate::kernels::affine::{Granularity, Inputs, Levels, QParams, Scheme, quantize_weights};

/// Rows and columns of every matrix; no whole number of words in a row.
const SHAPE: [usize; 2] = [5, 36];

pub(super) fn all_schemes() -> Vec<Scheme> {
    let granularities = [Granularity::Tensor, Granularity::Channel, Granularity::Group(12)];
    let of = |levels, symmetric| granularities.map(|granularity| Scheme { levels, symmetric, granularity });
    let asymmetric = [Levels::Int4, Levels::Int8].into_iter().flat_map(|levels| of(levels, false));
    Levels::ALL.into_iter().flat_map(|levels| of(levels, true)).chain(asymmetric).collect()
}

/// A folder with one linear layer of each scheme, named by its number; every second one has static inputs, every third
/// one is smoothed.
pub(super) fn folder_of_schemes(root: &Path, name: &str) -> (PathBuf, BTreeMap<String, Tensor>) {
    let source = folder(root, &format!("{name}-source"));
    let (mut tensors, mut inputs, mut groups) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for (i, scheme) in all_schemes().into_iter().enumerate() {
        let values: Vec<f32> =
            (0..SHAPE[0] * SHAPE[1]).map(|l| ((l * 37 + i * 11) % 101) as f32 / 50.0 - 0.7).collect();
        let mut weights = quantize_weights(&values, SHAPE[0], SHAPE[1], scheme);
        if i % 3 == 0 {
            weights.smoothing = (0..SHAPE[1]).map(|l| (l + 1) as f32 / 16.0).collect();
        }
        tensors.insert(format!("layer.{i}.weight"), Tensor::Quantized(weights));
        let dynamic = i % 2 == 0;
        if !dynamic {
            inputs.insert(format!("layer.{i}"), QParams { scale: 0.25, zero_point: i as i32 * 10 });
        }
        let config = InputConfig { dynamic, symmetric: false };
        groups.push(QuantizationGroup { targets: vec![format!("layer.{i}")], weights: scheme, inputs: Some(config) });
    }
    let quantization = QuantizationConfig { groups, ignore: vec!["head".into()], ..Default::default() };
    let files = ModelFiles {
        config: config().as_object().unwrap().clone(),
        quantization: Some(&quantization),
        tensors: tensors.clone(),
        inputs,
        copy_from: Some(&source),
        ..ModelFiles::default()
    };
    let path = root.join(name);
    write_model(&path, &files, Existing::Refuse).unwrap();
    (path, tensors)
}

#[test]
fn every_scheme_reads_back_what_was_written() {
    let root = tempfile::tempdir().unwrap();
    let (path, tensors) = folder_of_schemes(root.path(), "schemes");
    let dir = ModelDir::open(&path).unwrap();
    assert_eq!(dir.config().raw["quantization_config"]["format"], "octet-smoothed");
    let mut weights = dir.weights().unwrap();
    for (i, scheme) in all_schemes().into_iter().enumerate() {
        let name = format!("layer.{i}.weight");
        assert!(weights.contains(&name), "{scheme}");
        assert_eq!(weights.take(&name, &SHAPE).unwrap(), tensors[&name], "{scheme}");
        let inputs = weights.inputs(&name).unwrap();
        match i % 2 {
            0 => assert_eq!(inputs, Inputs::Dynamic),
            _ => assert_eq!(inputs, Inputs::Static(QParams { scale: 0.25, zero_point: i as i32 * 10 })),
        }
    }
    assert_eq!(weights.inputs("head.weight").unwrap(), Inputs::Float);
    assert_eq!(weights.remaining().collect::<Vec<_>>(), Vec::<&str>::new());
    // What the file takes is what was promised, and the parameters of static inputs.
    let values: u64 = weights.entries().map(|entry| entry.bytes).sum();
    let promised: usize = tensors.values().map(Tensor::bytes).sum();
    assert_eq!(values, promised as u64 + 5 * (all_schemes().len() as u64 / 2));
}

#[test]
fn groups_of_modules_are_found_by_name_then_pattern_then_class() {
    let group = |targets: &[&str], levels| QuantizationGroup {
        targets: targets.iter().map(|t| t.to_string()).collect(),
        weights: Scheme::symmetric(levels, Granularity::Channel),
        inputs: None,
    };
    let config = QuantizationConfig {
        groups: vec![
            group(&["Linear", "Embedding"], Levels::Int8),
            group(&["re:.*attention", "re:embeddings"], Levels::Int4),
            group(&["layer.0.attention.query"], Levels::Ternary),
        ],
        ignore: vec!["classifier".into(), "re:.*pooler".into()],
        ..Default::default()
    };
    let levels = |module: &str| config.group_of(module).map(|group| group.weights.levels);
    assert_eq!(levels("layer.0.output.dense"), Some(Levels::Int8));
    assert_eq!(levels("layer.0.attention.key"), Some(Levels::Int4));
    assert_eq!(levels("layer.0.attention.query"), Some(Levels::Ternary));
    assert_eq!(levels("my.embeddings.word_embeddings"), Some(Levels::Int8), "patterns match from the start");
    assert_eq!(levels("embeddings.word_embeddings"), Some(Levels::Int4));
    assert_eq!(levels("classifier"), None);
    assert_eq!(levels("bert.pooler.dense"), None);
    let written = config.to_json();
    assert_eq!(QuantizationConfig::from_json(&written, Path::new("config.json")).unwrap(), config);
    assert_eq!(written["config_groups"]["group_1"]["format"], "pack-quantized");
    assert_eq!(config.name(), "mixed");
    let int8 = QuantizationConfig::int8(vec![]);
    assert_eq!(int8.name(), "w8a8-dynamic");
    assert_eq!(int8.to_json()["config_groups"]["group_0"]["format"], "int-quantized", "each group says its own");
    assert_eq!(QuantizationConfig::from_json(&int8.to_json(), Path::new("config.json")).unwrap(), int8);
    let float = QuantizationConfig { ignore: vec!["Linear".into()], ..Default::default() };
    assert_eq!(QuantizationConfig::from_json(&float.to_json(), Path::new("config.json")).unwrap(), float);
}

/// The tensors of a matrix `[2, 10]` in int4 with groups of 5 and zero points, and its group.
fn packed_parts() -> (Vec<RawTensor<'static>>, Value) {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let tensors: Vec<RawTensor> = vec![
        // Ten fields of 4 bits a row: 0 to 9, and all 15.
        ("w.weight_packed", "I32", vec![2, 2], words(&[0x7654_3210, 0x98, 0xffff_ffff, 0xff])),
        ("w.weight_shape", "I64", vec![2], [2u64, 10].iter().flat_map(|n| n.to_le_bytes()).collect()),
        ("w.weight_scale", "F32", vec![2, 2], f32_bytes(&[1.0, 2.0, 0.5, 0.25])),
        // Down the columns: rows 0 and 1 of group 0 are -8 and 7, of group 1 0 and -1.
        ("w.weight_zero_point", "I32", vec![1, 2], words(&[0xf0, 0x78])),
    ];
    let group = json!({
        "targets": ["w"],
        "weights": {"num_bits": 4, "type": "int", "symmetric": false, "strategy": "group", "group_size": 5},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": true, "strategy": "tensor", "dynamic": false},
    });
    (tensors, group)
}

fn open_parts(tensors: &[RawTensor], group: &Value, format: &str) -> Result<Weights, super::super::CheckpointError> {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "packed");
    let quantization = json!({"quant_method": "compressed-tensors", "format": format, "config_groups": {"g": group}});
    let config = config_with(json!({"quantization_config": quantization}));
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    std::fs::write(path.join("model.safetensors"), safetensors(tensors)).unwrap();
    ModelDir::open(&path)?.weights()
}

#[test]
fn packed_integers_and_zero_points_are_read_as_compressed_tensors_packs_them() {
    let (tensors, group) = packed_parts();
    let found = open_parts(&tensors, &group, "pack-quantized").unwrap().take("w.weight", &[2, 10]).unwrap();
    let Tensor::Quantized(weights) = found else { panic!("{found:?}") };
    assert_eq!(weights.values[..10], [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1]);
    assert_eq!(weights.values[10..], [7; 10]);
    assert_eq!(weights.zero_point, [-8, 0, 7, -1]);
    assert_eq!(weights.dequantize()[..6], [0.0, 1.0, 2.0, 3.0, 4.0, -6.0]);
    assert_eq!(weights.dequantize()[10..], [0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
}

#[test]
fn static_inputs_are_read_with_and_without_a_zero_point() {
    let (mut tensors, mut group) = packed_parts();
    tensors.push(("w.input_scale", "F32", vec![1], f32_bytes(&[0.5])));
    let inputs =
        |tensors: &[RawTensor], group: &Value| open_parts(tensors, group, "pack-quantized")?.inputs("w.weight");
    assert_eq!(inputs(&tensors, &group).unwrap(), Inputs::Static(QParams { scale: 0.5, zero_point: 128 }));
    group["input_activations"]["symmetric"] = json!(false);
    assert_says("no zero point", inputs(&tensors, &group), &["\"w.input_zero_point\" is missing"]);
    tensors.push(("w.input_zero_point", "I8", vec![], vec![0x80]));
    assert_eq!(inputs(&tensors, &group).unwrap(), Inputs::Static(QParams { scale: 0.5, zero_point: 0 }));
    for (at, dtype, shape, bytes, part) in [
        (4, "F32", vec![2], f32_bytes(&[0.5, 0.5]), "expected shape [1]"),
        (4, "F32", vec![1], f32_bytes(&[0.0]), "scale 0"),
        (4, "F32", vec![1], f32_bytes(&[f32::NAN]), "NaN"),
        (5, "I32", vec![1], vec![0; 4], "stored as I32, expected I8"),
    ] {
        let mut broken = tensors.clone();
        (broken[at].1, broken[at].2, broken[at].3) = (dtype, shape, bytes);
        assert_says(part, inputs(&broken, &group), &[part, "\"w.input_"]);
    }
    tensors.truncate(4);
    assert_says("no scale", inputs(&tensors, &group), &["\"w.input_scale\" is missing"]);
}

#[test]
fn packed_tensors_that_do_not_fit_are_refused_by_name() {
    let (tensors, group) = packed_parts();
    let take = |tensors: &[RawTensor], group: &Value, format: &str| {
        open_parts(tensors, group, format).and_then(|mut weights| weights.take("w.weight", &[2, 10]))
    };
    let changed = |at: usize, dtype: &'static str, shape: Vec<usize>, bytes: Vec<u8>| {
        let mut tensors = tensors.clone();
        (tensors[at].1, tensors[at].2, tensors[at].3) = (dtype, shape, bytes);
        tensors
    };
    let stated = |n: u64| [2u64, n].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let cases = [
        ("words", changed(0, "I32", vec![2, 1], vec![0; 8]), "\"w.weight_packed\": expected shape [2, 2]"),
        ("type of words", changed(0, "F32", vec![2, 2], vec![0; 16]), "stored as F32, expected I32"),
        ("stated shape", changed(1, "I64", vec![2], stated(11)), "another shape than [2, 10]"),
        ("length of shape", changed(1, "I64", vec![1], vec![2, 0, 0, 0, 0, 0, 0, 0]), "another shape than [2, 10]"),
        ("scales", changed(2, "F32", vec![2, 1], f32_bytes(&[1.0; 2])), "\"w.weight_scale\": expected shape [2, 2]"),
        ("zero scale", changed(2, "F32", vec![2, 2], f32_bytes(&[1.0, 1.0, 1.0, 0.0])), "scale 0 in row 1"),
        ("zero points", changed(3, "I32", vec![2, 2], vec![0; 16]), "\"w.weight_zero_point\": expected shape [1, 2]"),
        ("type of zero points", changed(3, "I8", vec![1, 2], vec![0; 2]), "stored as I8, expected I32"),
        ("no zero points", tensors[..3].to_vec(), "\"w.weight_zero_point\" is missing"),
        ("no shape", [&tensors[..1], &tensors[2..]].concat(), "\"w.weight_shape\" is missing"),
        ("no scales", [&tensors[..2], &tensors[3..]].concat(), "\"w.weight_scale\" is missing"),
        (
            "order",
            [&tensors[..], &[("w.weight_g_idx", "I32", vec![1], vec![0; 4])]].concat(),
            "columns in another order are not supported",
        ),
    ];
    assert!(take(&tensors, &group, "pack-quantized").is_ok());
    for (what, tensors, part) in cases {
        assert_says(what, take(&tensors, &group, "pack-quantized"), &[part, "model.safetensors"]);
    }
    let with = |key: &str, value: Value| {
        let mut group = group.clone();
        group["weights"][key] = value;
        group
    };
    assert_says(
        "group",
        take(&tensors, &with("group_size", json!(3)), "pack-quantized"),
        &["groups of 3", "rows of 10"],
    );
    let mut other = group.clone();
    other["targets"] = json!(["x"]);
    assert_says("no group", take(&tensors, &other, "pack-quantized"), &["no group", "targets it"]);
    assert_says("int8", take(&tensors, &with("num_bits", json!(8)), "int-quantized"), &["says int8"]);

    // Two bits: field 0 is -2, which ternary weights have not.
    let ternary = json!({
        "targets": ["w"],
        "weights": {"num_bits": 2, "type": "int", "symmetric": true, "strategy": "tensor"},
    });
    let two_bits = |word: u32| -> Vec<RawTensor> {
        vec![
            ("w.weight_packed", "I32", vec![1, 1], word.to_le_bytes().to_vec()),
            ("w.weight_shape", "I32", vec![2], [1u32, 3].iter().flat_map(|n| n.to_le_bytes()).collect()),
            ("w.weight_scale", "F32", vec![1], f32_bytes(&[1.0])),
        ]
    };
    let take = |word| open_parts(&two_bits(word), &ternary, "pack-quantized")?.take("w.weight", &[1, 3]);
    assert_eq!(take(0b11_10_01).unwrap().into_f32(), [-1.0, 0.0, 1.0]);
    assert_says("ternary", take(0b11_00_01), &["\"w.weight_packed\"", "integer -2 at index 1"]);
}

#[test]
fn smoothing_that_is_not_said_or_not_there_or_not_usable_is_refused() {
    let parts = |dtype: &'static str, factors: Vec<f32>| -> Vec<RawTensor> {
        let bytes = f32_bytes(&factors);
        vec![
            ("w.weight", "I8", vec![2, 3], vec![1, 2, 3, 4, 5, 6]),
            ("w.weight_scale", "F32", vec![2, 1], f32_bytes(&[1.0, 2.0])),
            ("w.weight_smoothing", dtype, vec![factors.len()], bytes),
            ("v.weight", "F32", vec![2, 3], f32_bytes(&[0.0; 6])),
        ]
    };
    let int8 = QuantizationConfig { ignore: vec!["v".into()], ..QuantizationConfig::int8(vec![]) };
    let said = |names: &[&str]| {
        QuantizationConfig { smoothed: names.iter().map(|n| n.to_string()).collect(), ..int8.clone() }.to_json()
    };
    let take = |config: Value, tensors: &[RawTensor], name: &str| {
        let root = tempfile::tempdir().unwrap();
        let path = folder(root.path(), "smoothed");
        std::fs::write(path.join("config.json"), config_with(json!({"quantization_config": config})).to_string())
            .unwrap();
        std::fs::write(path.join("model.safetensors"), safetensors(tensors)).unwrap();
        let mut weights = ModelDir::open(&path)?.weights()?;
        let factors_alone = weights.smoothing(name, [2, 3]);
        let taken = weights.take(name, &[2, 3]);
        assert_eq!(factors_alone.is_ok(), taken.is_ok(), "`octet inspect` asks for the factors alone");
        let taken = taken?;
        assert!(weights.remaining().all(|name| name == "v.weight"));
        Ok::<_, super::super::CheckpointError>(taken)
    };
    let good = parts("F32", vec![0.5, 1.0, 2.0]);
    let found = take(said(&["w"]), &good, "w.weight").unwrap();
    assert_eq!(found.into_f32(), [0.5, 2.0, 6.0, 4.0, 10.0, 24.0]);
    assert_says("not said", take(int8.to_json(), &good, "w.weight"), &["\"w.weight_smoothing\"", "would be ignored"]);
    let without = [&good[..2], &good[3..]].concat();
    assert_says("not there", take(said(&["w"]), &without, "w.weight"), &["\"w.weight_smoothing\" is missing"]);
    let unknown = take(said(&["w", "u"]), &good, "w.weight");
    assert_says("of nothing", unknown, &["\"u.weight_smoothing\" is missing"]);
    let both = [&good[..], &[("v.weight_smoothing", "F32", vec![3], f32_bytes(&[1.0; 3]))]].concat();
    assert_says("float", take(said(&["w", "v"]), &both, "v.weight"), &["\"v.weight\"", "float", "smoothed"]);
    assert_says(
        "float, not said",
        take(said(&["w"]), &both, "v.weight"),
        &["\"v.weight_smoothing\"", "would be ignored"],
    );
    for (what, factors, part) in [
        ("length", vec![1.0, 1.0], "expected shape [3]"),
        ("zero", vec![1.0, 0.0, 1.0], "factor 0 of column 1"),
        ("negative", vec![1.0, 1.0, -2.0], "factor -2 of column 2"),
        ("subnormal", vec![1e-40, 1.0, 1.0], "of column 0"),
        ("infinite", vec![1.0, f32::INFINITY, 1.0], "value inf at index 1"),
        ("nothing", vec![f32::NAN, 1.0, 1.0], "value NaN at index 0"),
    ] {
        assert_says(what, take(said(&["w"]), &parts("F32", factors), "w.weight"), &["\"w.weight_smoothing\"", part]);
    }
    assert_says("type", take(said(&["w"]), &parts("I32", vec![1.0; 3]), "w.weight"), &["stored as I32"]);
    // A reader that knows compressed-tensors alone goes by the format, of the whole and of each group, and finds another.
    let written = said(&["w"]);
    let group = &written["config_groups"]["group_0"];
    assert_eq!([&written["format"], &group["format"]], [&json!("octet-smoothed"); 2]);
    assert_eq!(written["smoothed"], json!(["w"]));
    assert!(int8.to_json().get("smoothed").is_none());
    let with = |key: &str, value: Value| {
        let mut config = written.clone();
        config[key] = value;
        take(config, &good, "w.weight")
    };
    assert_says("format", with("format", json!("int-quantized")), &["quantization_config.smoothed", "1 modules"]);
    assert_says("no names", with("smoothed", json!([])), &["quantization_config.smoothed", "0 modules"]);
    assert_says(
        "no list",
        with("smoothed", json!({"w": 1})),
        &["quantization_config.smoothed", "a list of module names"],
    );
}

#[test]
fn the_model_card_has_the_recipe_as_it_was_applied() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path(), "tiny");
    let applied = json!({"scheme": "w4a8", "layer": [{"match": "*attention*", "weights": "int8"}]});
    super::super::update_manifest(&path, |manifest| manifest.applied = Some(applied.clone())).unwrap();
    assert_eq!(ModelDir::open(&path).unwrap().manifest().unwrap().applied, Some(applied));
    super::super::card::write(&path).unwrap();
    let card = std::fs::read_to_string(path.join("README.md")).unwrap();
    assert!(card.contains("scheme = \"w4a8\"") && card.contains("match = \"*attention*\""), "{card}");
}
