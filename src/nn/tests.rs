//! The float path as a whole: gradients, independence of sequences, and its int8 layers.

use std::convert::Infallible;

use candle_core::{Device, Tensor, Var};

use crate::architectures::{
    Activation, Encoder, EncoderNames, EncoderSpec, LayerNames, LayerSpec, LinearNames, NormNames, RaggedBatch,
    TableName,
};
use crate::checkpoint;
use crate::kernels::Kernels;
use crate::kernels::affine::{Inputs, Scheme, quantize_weights};

use super::{CandleEncoder, Dropout, Linear, Parameters, Precision};

fn spec() -> EncoderSpec {
    EncoderSpec {
        family: "bert".into(),
        vocab_size: 20,
        hidden_size: 12,
        head_dim: 4,
        layers: vec![LayerSpec { num_heads: 3, intermediate_size: 20 }; 2],
        max_positions: 16,
        position_offset: 2,
        type_vocab_size: 2,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
    }
}

fn names(spec: &EncoderSpec) -> EncoderNames {
    let hidden = spec.hidden_size;
    let table = |name: &str, rows| TableName { weight: name.into(), rows };
    let norm = |name: String| NormNames { weight: format!("{name}.weight"), bias: format!("{name}.bias") };
    let layer = |(i, layer): (usize, &LayerSpec)| {
        let (attention, inner) = (layer.num_heads * spec.head_dim, layer.intermediate_size);
        LayerNames {
            query: LinearNames::of(&format!("{i}.query"), attention, hidden),
            key: LinearNames::of(&format!("{i}.key"), attention, hidden),
            value: LinearNames::of(&format!("{i}.value"), attention, hidden),
            attention_output: LinearNames::of(&format!("{i}.attention_output"), hidden, attention),
            attention_norm: norm(format!("{i}.attention_norm")),
            ffn_up: LinearNames::of(&format!("{i}.ffn_up"), inner, hidden),
            ffn_down: LinearNames::of(&format!("{i}.ffn_down"), hidden, inner),
            output_norm: norm(format!("{i}.output_norm")),
        }
    };
    EncoderNames {
        word_embeddings: table("word", spec.vocab_size),
        position_embeddings: table("position", spec.max_positions),
        token_type_embeddings: Some(table("token_type", spec.type_vocab_size)),
        embedding_norm: norm("embedding_norm".into()),
        layers: spec.layers.iter().enumerate().map(layer).collect(),
    }
}

/// Numbers in -1..1 from a linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn fill(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// Random variables, listed as they are handed out.
struct RandomVariables {
    random: Random,
    variables: Vec<(String, Var)>,
}

impl Parameters for RandomVariables {
    type Error = Infallible;

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Infallible> {
        let data = self.random.fill(shape.iter().product());
        let variable = Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu).unwrap()).unwrap();
        let tensor = variable.as_tensor().clone();
        self.variables.push((name.into(), variable));
        Ok(tensor)
    }
}

fn model(spec: &EncoderSpec, threads: usize) -> (CandleEncoder, Vec<(String, Var)>) {
    let mut parameters = RandomVariables { random: Random(7), variables: Vec::new() };
    let encoder = CandleEncoder::build(spec, &names(spec), &mut parameters, threads).unwrap();
    (encoder, parameters.variables)
}

const IDS: [u32; 5] = [3, 17, 4, 3, 9];
const TYPES: [u32; 5] = [0, 0, 0, 1, 1];

/// A fixed random projection of the hidden states.
fn loss(encoder: &CandleEncoder) -> Tensor {
    let hidden = encoder.hidden_states(&IDS, &TYPES).unwrap();
    let weights = Tensor::from_vec(Random(3).fill(hidden.elem_count()), hidden.shape(), &Device::Cpu).unwrap();
    (hidden * weights).unwrap().sum_all().unwrap()
}

#[test]
fn every_parameter_gets_a_gradient() {
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let (encoder, variables) = model(&EncoderSpec { activation, ..spec() }, 1);
        let gradients = loss(&encoder).backward().unwrap();
        assert_eq!(variables.len(), 5 + 2 * 16);
        for (name, variable) in &variables {
            let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
            let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            // A key bias adds the same to all scores of a query, and softmax does not see that: its gradient is 0.
            assert!(largest > 1e-4 || name.ends_with("key.bias"), "gradient of {name} is at most {largest}");
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let (encoder, variables) = model(&spec(), 1);
    check_gradients(&encoder, &variables, loss);
    let sizes = [(1, 7), (2, 20)];
    let layers = sizes.map(|(num_heads, intermediate_size)| LayerSpec { num_heads, intermediate_size }).to_vec();
    let (pruned, variables) = model(&EncoderSpec { layers, ..spec() }, 1);
    check_gradients(&pruned, &variables, loss);
}

/// Compares the slope of the loss along a random direction of each variable with its gradient.
fn check_gradients(encoder: &CandleEncoder, variables: &[(String, Var)], loss: impl Fn(&CandleEncoder) -> Tensor) {
    let gradients = loss(encoder).backward().unwrap();
    let value = || f64::from(loss(encoder).to_scalar::<f32>().unwrap());
    let step = 2e-3;
    for (name, variable) in variables {
        let start = variable.as_tensor().copy().unwrap();
        let gradient = gradients.get(variable).unwrap();
        let direction = Tensor::from_vec(Random(11).fill(start.elem_count()), start.shape(), &Device::Cpu).unwrap();
        let slope = (gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        variable.set(&(&start + (&direction * step).unwrap()).unwrap()).unwrap();
        let above = value();
        variable.set(&(&start - (&direction * step).unwrap()).unwrap()).unwrap();
        let below = value();
        variable.set(&start).unwrap();
        let measured = (above - below) / (2.0 * step);
        // The loss is near 10 in f32, so a difference over 0.004 is good to about 1e-3; curvature takes the rest.
        let slack = 0.02 + 0.02 * measured.abs();
        assert!((f64::from(slope) - measured).abs() < slack, "{name}: gradient {slope}, measured {measured}");
    }
}

/// A batch of three sequences with the middle one long, and a loss over all of it.
fn batch_loss(encoder: &CandleEncoder, dropout: Dropout) -> Tensor {
    let mut batch = RaggedBatch::new();
    for ids in [&[5u32][..], &IDS, &[1, 2]] {
        batch.push(ids, &vec![1; ids.len()]);
    }
    let words = encoder.word_embeddings().index_select(&Tensor::new(batch.ids.as_slice(), &Device::Cpu).unwrap(), 0);
    let hidden = encoder.hidden_states_of(&batch, &words.unwrap(), dropout, &mut |_, _| Ok(())).unwrap();
    let weights = Tensor::from_vec(Random(3).fill(hidden.elem_count()), hidden.shape(), &Device::Cpu).unwrap();
    (hidden * weights).unwrap().sum_all().unwrap()
}

#[test]
fn gradients_through_dropout_agree_with_finite_differences() {
    let (encoder, variables) = model(&spec(), 1);
    for dropout in [Dropout::NONE, Dropout::new(0.3, 5)] {
        check_gradients(&encoder, &variables, |encoder| batch_loss(encoder, dropout));
    }
    let value = |dropout| batch_loss(&encoder, dropout).to_scalar::<f32>().unwrap();
    assert_eq!(value(Dropout::new(0.3, 5)), value(Dropout::new(0.3, 5)));
    assert_ne!(value(Dropout::new(0.3, 5)), value(Dropout::new(0.3, 6)));
}

#[test]
fn a_batch_gives_each_sequence_what_it_gives_alone() {
    let (encoder, _) = model(&spec(), 1);
    let mut batch = RaggedBatch::new();
    let sequences: [&[u32]; 3] = [&[5], &IDS, &[1, 2]];
    sequences.iter().for_each(|ids| batch.push(ids, &vec![0; ids.len()]));
    let words = encoder.word_embeddings().index_select(&Tensor::new(batch.ids.as_slice(), &Device::Cpu).unwrap(), 0);
    let together = encoder.hidden_states_of(&batch, &words.unwrap(), Dropout::NONE, &mut |_, _| Ok(())).unwrap();
    let together: Vec<f32> = together.flatten_all().unwrap().to_vec1().unwrap();
    let alone = forward(&encoder, &sequences);
    let difference = together.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
}

fn forward(encoder: &CandleEncoder, sequences: &[&[u32]]) -> Vec<f32> {
    let mut batch = RaggedBatch::new();
    for ids in sequences {
        batch.push(ids, &vec![0; ids.len()]);
    }
    let (mut workspace, mut out) = (encoder.workspace(), vec![f32::NAN; 3]);
    encoder.forward(&batch, &mut workspace, &mut out);
    assert_eq!(out.len(), batch.tokens() * encoder.spec().hidden_size);
    out
}

#[test]
fn a_sequence_gives_the_same_bits_alone_and_in_any_batch() {
    let (encoder, _) = model(&spec(), 1);
    let (short, long): (&[u32], &[u32]) = (&[5], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    let alone = [forward(&encoder, &[short]), forward(&encoder, &[long])];
    assert_eq!(forward(&encoder, &[short, long]), alone.concat());
    assert_eq!(forward(&encoder, &[long, short, long]), [&alone[1][..], &alone[0], &alone[1]].concat());
    assert!(forward(&encoder, &[]).is_empty());
}

#[test]
fn positions_start_at_the_offset() {
    let (mut shifted, variables) = (spec(), model(&spec(), 1).1);
    let position = variables.iter().find(|(name, _)| name == "position").unwrap().1.as_tensor().clone();
    shifted.position_offset = 0;
    let (encoder, moved) = model(&shifted, 1);
    // A table without its first two rows, read from row 0, is the table read from row 2.
    let tail = position.narrow(0, 2, 14).unwrap();
    let padded = Tensor::cat(&[&tail, &position.narrow(0, 0, 2).unwrap()], 0).unwrap();
    moved.iter().find(|(name, _)| name == "position").unwrap().1.set(&padded).unwrap();
    assert_eq!(forward(&encoder, &[&IDS]), forward(&model(&spec(), 1).0, &[&IDS]));
}

#[test]
#[should_panic(expected = "checked by the caller")]
fn an_id_outside_the_vocabulary_panics() {
    forward(&model(&spec(), 1).0, &[&[20]]);
}

#[test]
#[should_panic(expected = "checked by the caller")]
fn a_sequence_longer_than_the_position_table_panics() {
    forward(&model(&spec(), 1).0, &[&[1; 15]]);
}

#[test]
fn two_threads_agree_with_one() {
    let one = forward(&model(&spec(), 1).0, &[&IDS]);
    let two = forward(&model(&spec(), 2).0, &[&IDS]);
    let difference = one.iter().zip(&two).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
}

/// An int8 layer and its exact inputs: `(names, stored weight, bias)`.
fn stored_linear() -> (LinearNames, checkpoint::Tensor, Vec<f32>) {
    let names = LinearNames::of("layer", 5, 30);
    let weights = quantize_weights(&Random(1).fill(150), 5, 30, Scheme::INT8);
    (names, checkpoint::Tensor::Quantized(weights), Random(2).fill(5))
}

#[test]
fn int8_layer_is_close_to_its_widened_weights() {
    let (names, weight, bias) = stored_linear();
    let x = Tensor::from_vec(Random(4).fill(90), (3, 30), &Device::Cpu).unwrap();
    let float = Linear::from_stored(&names, weight.clone(), bias.clone(), Inputs::Dynamic, Precision::Float);
    let expected: Vec<f32> = float.forward(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    for kernels in Kernels::available() {
        let int8 =
            Linear::from_stored(&names, weight.clone(), bias.clone(), Inputs::Dynamic, Precision::AsStored(kernels));
        assert!(matches!(int8, Linear::Int8(_)));
        // Also from a transposed view: the layer makes its input contiguous.
        for x in [x.clone(), x.t().unwrap().contiguous().unwrap().t().unwrap()] {
            let y = int8.forward(&x).unwrap();
            assert_eq!(y.dims(), [3, 5]);
            let y: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
            // Rounding to u8 errs by at most half a step of (max - min) / 255 = 0.004 in each of 30 products.
            let worst = y.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst > 0.0 && worst < 30.0 * 0.004, "{worst} with {}", kernels.isa());
        }
    }
}

#[test]
fn float_weights_stay_float_whatever_the_precision() {
    let (names, weight, bias) = stored_linear();
    let weight = checkpoint::Tensor::F32 { shape: vec![5, 30], data: weight.into_f32() };
    let layer = Linear::from_stored(&names, weight, bias, Inputs::Dynamic, Precision::AsStored(Kernels::detect()));
    assert!(matches!(layer, Linear::Float { .. }));
}

#[test]
fn training_through_an_int8_layer_is_an_error_not_a_silent_zero() {
    let (names, weight, bias) = stored_linear();
    let layer = Linear::from_stored(&names, weight, bias, Inputs::Dynamic, Precision::AsStored(Kernels::detect()));
    let x = Var::ones((1, 30), candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = layer.forward(x.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap_err();
    assert!(error.to_string().contains("int8-linear"), "{error}");
}

#[test]
fn int8_layer_refuses_rows_of_another_width() {
    let (names, weight, bias) = stored_linear();
    let layer = Linear::from_stored(&names, weight, bias, Inputs::Dynamic, Precision::AsStored(Kernels::detect()));
    let x = Tensor::zeros((2, 29), candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = layer.forward(&x).unwrap_err().to_string();
    assert!(error.contains("rows of 29 values, expected 30"), "{error}");
}
