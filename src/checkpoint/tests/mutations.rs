use super::super::{CheckpointError, ModelDir, QuantManifest, QuantizationConfig, Tensor};
use super::schemes::{all_schemes, folder_of_schemes};
use super::*;
use crate::kernels::affine::{Granularity, Inputs, QuantizedWeights, Scheme};

/// A small generator of random numbers (Marsaglia 2003, xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// What disks, networks and attackers do to a file.
fn mutate(random: &mut Random, content: &mut Vec<u8>) {
    for _ in 0..=random.below(2) {
        let at = random.below(content.len());
        match random.below(7) {
            _ if content.is_empty() => content.push(random.below(256) as u8),
            0 | 1 => content[at] ^= 1 << random.below(8),
            2 => content[at] = [0, 0xff, b'0', b'9', b'"', b'{', b'-', b'e'][random.below(8)],
            3 => content.truncate(at),
            4 => content.insert(at, random.below(256) as u8),
            5 => {
                let length = 1 + random.below(16);
                let from = random.below(content.len());
                let piece: Vec<u8> = content[from..content.len().min(from + length)].to_vec();
                content.splice(at..content.len().min(at + length), piece);
            }
            _ => {
                // The header's length field.
                let value = [0, 1, u64::MAX, 1 << 63, 8 << 20, content.len() as u64][random.below(6)];
                content.splice(..content.len().min(8), value.to_le_bytes());
            }
        }
    }
}

/// Loads a folder of [`folder_of_schemes`]; whatever comes out must be sound.
fn load_schemes(path: &Path) -> Result<(), CheckpointError> {
    let mut weights = ModelDir::open(path)?.weights()?;
    for i in 0..all_schemes().len() {
        let name = format!("layer.{i}.weight");
        match weights.take(&name, &[5, 36])? {
            Tensor::F32 { data, .. } => assert!(data.len() == 5 * 36 && data.iter().all(|v| v.is_finite())),
            Tensor::Quantized(weights) => assert_sound(&weights, &[5, 36]),
        }
        if let Inputs::Static(params) = weights.inputs(&name)? {
            assert!(params.scale >= f32::MIN_POSITIVE && params.scale.is_finite());
            assert!((0..=255).contains(&params.zero_point));
        }
    }
    Ok(())
}

/// Loads everything there is to load; whatever comes out must be sound.
fn load(path: &Path) -> Result<(), CheckpointError> {
    if path.ends_with("schemes") {
        return load_schemes(path);
    }
    let dir = ModelDir::open(path)?;
    let config = dir.config();
    assert!(config.hidden_size.is_multiple_of(config.num_attention_heads) && config.num_hidden_layers <= 48);
    assert!(config.layer_norm_eps > 0.0 && config.pad_token_id < config.vocab_size && !config.labels.is_empty());
    let mut weights = dir.weights()?;
    for (name, _, shape, _) in tensors().into_iter().skip(1) {
        match weights.take(name, &shape)? {
            Tensor::F32 { shape: found, data } => {
                assert_eq!((found, data.len()), (shape.clone(), shape.iter().product()));
                assert!(data.iter().all(|v| v.is_finite()));
            }
            Tensor::Quantized(weights) => assert_sound(&weights, &shape),
        }
    }
    Ok(())
}

fn assert_sound(weights: &QuantizedWeights, shape: &[usize]) {
    assert_eq!((&weights.shape[..], weights.values.len()), (shape, shape.iter().product()));
    let scales = match weights.scheme.granularity {
        Granularity::Tensor => 1,
        Granularity::Channel => shape[0],
        Granularity::Group(size) => shape[0] * shape[1] / size,
    };
    assert_eq!(weights.scale.len(), scales);
    assert_eq!(weights.zero_point.len(), if weights.scheme.symmetric { 0 } else { scales });
    assert!(weights.scale.iter().all(|s| s.is_finite() && *s > 0.0));
    assert!(weights.smoothing.is_empty() || weights.smoothing.len() == shape[1]);
    assert!(weights.smoothing.iter().all(|f| f.is_finite() && *f >= f32::MIN_POSITIVE));
    // Other programs use the lowest integer of 4 or 8 bits in symmetric weights too.
    let symmetric = !weights.scheme.levels.may_be_asymmetric();
    let (min, max) = Scheme { symmetric, ..weights.scheme }.range();
    assert!(weights.values.iter().chain(&weights.zero_point).all(|&v| (min..=max).contains(&i32::from(v))));
    assert!(weights.dequantize().len() == weights.values.len());
}

#[test]
fn damaged_folders_are_refused_or_sound_and_never_panic() {
    const SEED: u64 = 0x0c7e7;
    const CASES: usize = 6_000;
    println!("seed {SEED:#x}");
    let root = tempfile::tempdir().unwrap();
    let single = folder(root.path(), "single");
    let quantization = QuantizationConfig::int8(vec!["classifier".into()]);
    let config = config_with(serde_json::json!({"quantization_config": quantization.to_json()}));
    std::fs::write(single.join("config.json"), config.to_string()).unwrap();
    add_sentence_transformer(&single);
    QuantManifest::new().write(&single).unwrap();
    let sharded = folder(root.path(), "sharded");
    shard(&sharded);
    let (schemes, _) = folder_of_schemes(root.path(), "schemes");
    load(&single).unwrap();
    load(&schemes).unwrap();
    load(&sharded).unwrap();

    let targets: Vec<PathBuf> = ["config.json", "modules.json", "1_Pooling/config.json", "quant.json"]
        .iter()
        .chain(&["model.safetensors"; 6])
        .map(|name| single.join(name))
        .chain([sharded.join("model.safetensors.index.json"), sharded.join("model-00002-of-00002.safetensors")])
        .chain(["config.json", "model.safetensors", "model.safetensors", "model.safetensors"].map(|n| schemes.join(n)))
        .collect();
    let mut random = Random(SEED);
    let (mut refused, mut sound) = (0, 0);
    for case in 0..CASES {
        let target = &targets[random.below(targets.len())];
        let original = std::fs::read(target).unwrap();
        let mut content = original.clone();
        mutate(&mut random, &mut content);
        std::fs::write(target, &content).unwrap();
        let folder = [&sharded, &schemes].into_iter().find(|f| target.starts_with(f)).unwrap_or(&single);
        let result = std::panic::catch_unwind(|| load(folder));
        match result {
            Ok(Ok(())) => sound += 1,
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("case {case}: {} with {:?}", target.display(), String::from_utf8_lossy(&content)),
        }
        std::fs::write(target, original).unwrap();
    }
    println!("{refused} refused, {sound} sound");
    assert!(refused > CASES / 2 && sound > CASES / 50, "{refused} refused, {sound} sound");
}
