//! Smoothing in a post-norm encoder, measured. Where it folds exactly, from the values to the output projection, it leaves
//! the float model as it is, and int8 as far from it as before. Everywhere else it would be a multiplication in the row
//! quantizer, which a forward pass written out here has. This is the evidence that `octet quantize` does without it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{D, Device, Tensor};
use candle_nn::ops::softmax_last_dim;
use octet::architectures::{Activation, LayerNames, LinearNames, NormNames, RaggedBatch};
use octet::checkpoint::ModelDir;
use octet::kernels::Kernels;
use octet::kernels::affine::{Scheme, quantize_row_u8, quantize_weights};
use octet::nn::{Enters, Site};
use octet::pipelines::{ClassifyInput, Loader, Precision};
use octet::quantize::{CalibrateOptions, Calibration, Judge, Original, Recipe, Verdict, column_max, factors, migrate};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

use super::process::skipped;
use super::support::kernels;

/// Share of the divergence from float that smoothing may take off or add before it is worth another look.
const GAIN: f64 = 0.05;

/// Every so-many-th of 2,000 sentences of the speed benchmark.
fn texts(step: usize) -> Vec<ClassifyInput> {
    let lines = std::fs::read_to_string("benches/stream.jsonl").unwrap();
    let text = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().into();
    lines.lines().step_by(step).map(|line| ClassifyInput { text: text(line), text_pair: None }).collect()
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
    let judge = Judge::new(&model, &original.encoder, &texts(8), threads, |_, _| {}).unwrap();
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

/// How the products of a site run.
enum Run {
    Float,
    /// Int8 weights, float inputs: what no smoothing can beat but by luck.
    Int8Weights,
    /// Int8 weights whose columns are multiplied by factors, and inputs in u8 that are divided by them.
    Int8(Vec<f32>),
}

/// How the products of a site run, by its largest input and largest weight of each channel.
type RunOf<'a> = dyn Fn(Enters, &[f32], &[f32]) -> Run + 'a;

/// The matrix products of a layer that read one input.
struct Products {
    weights: Vec<(Tensor, Tensor)>,
    run: Run,
}

impl Products {
    fn new(original: &Original, names: &[&LinearNames], run: Run) -> Self {
        let weight = |names: &&LinearNames| {
            let module = original.modules.iter().find(|m| m.weight() == names.weight).unwrap();
            let [rows, columns] = [module.rows, module.columns];
            let mut values = original.weight(module).to_vec();
            if let Run::Int8(factors) = &run {
                values.chunks_exact_mut(columns).for_each(|row| row.iter_mut().zip(factors).for_each(|(w, f)| *w *= f));
            }
            if !matches!(run, Run::Float) {
                values = quantize_weights(&values, rows, columns, Scheme::INT8).dequantize();
            }
            let turned = Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap().t().unwrap();
            (turned.contiguous().unwrap(), Tensor::new(original.bias(module).unwrap(), &Device::Cpu).unwrap())
        };
        Products { weights: names.iter().map(weight).collect(), run }
    }

    fn forward(&self, x: &Tensor) -> Vec<Tensor> {
        let x = match &self.run {
            Run::Float | Run::Int8Weights => x.clone(),
            Run::Int8(factors) => {
                let (rows, columns) = x.dims2().unwrap();
                let mut values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let mut integers = vec![0; columns];
                for row in values.chunks_exact_mut(columns) {
                    row.iter_mut().zip(factors).for_each(|(x, f)| *x /= f);
                    let params = quantize_row_u8(row, &mut integers);
                    row.iter_mut().zip(&integers).for_each(|(x, q)| *x = params.dequantize(i32::from(*q)));
                }
                Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
            }
        };
        let product = |(weight, bias): &(Tensor, Tensor)| x.matmul(weight).unwrap().broadcast_add(bias).unwrap();
        self.weights.iter().map(product).collect()
    }
}

/// A post-norm encoder whose quantizers smooth; embeddings, attention, norms and activations are in f32.
struct Smoothing<'a> {
    original: &'a Original<'a>,
    /// Products of each layer in the order of [`Enters`], and its two norms: gain and shift.
    layers: Vec<([Products; 4], [[Tensor; 2]; 2])>,
}

/// The largest weight of each column of several matrices.
fn columns_of(original: &Original, names: &[&LinearNames], columns: usize) -> Vec<f32> {
    let of = |names: &&LinearNames| {
        let module = original.modules.iter().find(|m| m.weight() == names.weight).unwrap();
        column_max(original.weight(module), columns)
    };
    let larger = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| a.max(*b)).collect();
    names.iter().map(of).reduce(larger).unwrap()
}

impl<'a> Smoothing<'a> {
    /// `run` says how the products of a site run, which has this largest input and largest weight of each channel.
    fn new(
        source: &ModelDir,
        original: &'a Original<'a>,
        seen: &Calibration,
        run: impl Fn(Enters, &[f32], &[f32]) -> Run,
    ) -> Self {
        let mut weights = source.weights().unwrap();
        let mut norm = |names: &NormNames| {
            [&names.weight, &names.bias].map(|name| {
                let values = weights.take(name, &[original.spec.hidden_size]).unwrap().into_f32();
                Tensor::new(values, &Device::Cpu).unwrap()
            })
        };
        let layers = original.names.layers.iter().enumerate().map(|(layer, n)| {
            let products = [
                (Enters::Attention, vec![&n.query, &n.key, &n.value]),
                (Enters::Projection, vec![&n.attention_output]),
                (Enters::Up, vec![&n.ffn_up]),
                (Enters::Down, vec![&n.ffn_down]),
            ];
            let products = products.map(|(enters, names)| {
                let inputs = &seen.at(Site { layer, enters }).max;
                let columns = columns_of(original, &names, inputs.len());
                Products::new(original, &names, run(enters, inputs, &columns))
            });
            (products, [norm(&n.attention_norm), norm(&n.output_norm)])
        });
        Smoothing { original, layers: layers.collect() }
    }

    /// `[tokens, hidden]`.
    fn hidden(&self, batch: &RaggedBatch) -> Tensor {
        let spec = &self.original.spec;
        assert_eq!(spec.activation, Activation::Gelu);
        let norm = |x: &Tensor, [gain, shift]: &[Tensor; 2]| {
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap();
            let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
            let deviation = (variance + f64::from(spec.layer_norm_eps)).unwrap().sqrt().unwrap();
            let unit = centred.broadcast_div(&deviation).unwrap();
            unit.broadcast_mul(gain).unwrap().broadcast_add(shift).unwrap()
        };
        let mut x = self.original.encoder.embedded(batch).unwrap();
        for (products, norms) in &self.layers {
            let projected = products[0].forward(&x);
            let context: Vec<Tensor> = batch.ranges().map(|r| attend(&projected, r, spec.head_dim)).collect();
            let context = Tensor::cat(&context, 0).unwrap();
            let middle = norm(&(products[1].forward(&context).remove(0) + &x).unwrap(), &norms[0]);
            let inner = products[2].forward(&middle).remove(0).gelu_erf().unwrap();
            x = norm(&(products[3].forward(&inner).remove(0) + &middle).unwrap(), &norms[1]);
        }
        x
    }

    fn verdict(&self, judge: &Judge) -> Verdict {
        let rows = judge.batches().iter().flat_map(|batch| judge.rows(batch, &self.hidden(batch)).unwrap());
        judge.verdict_of_rows(&rows.collect::<Vec<_>>())
    }
}

/// The context of one sequence, `[tokens, heads x head_dim]`.
fn attend(projected: &[Tensor], rows: std::ops::Range<usize>, head_dim: usize) -> Tensor {
    let heads = |x: &Tensor| {
        let x = x.narrow(0, rows.start, rows.len()).unwrap();
        x.reshape((rows.len(), (), head_dim)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
    };
    let [query, key, value] = [0, 1, 2].map(|i| heads(&projected[i]));
    let scores = (query.matmul(&key.t().unwrap().contiguous().unwrap()).unwrap() / (head_dim as f64).sqrt()).unwrap();
    let context = softmax_last_dim(&scores).unwrap().matmul(&value).unwrap();
    context.transpose(0, 1).unwrap().flatten_from(1).unwrap()
}

#[test]
fn smoothing_inside_the_row_quantizer_is_measured_beside_float_inputs() {
    let test = "smoothing_inside_the_row_quantizer_is_measured_beside_float_inputs";
    let Ok(folder) = std::env::var("OCTET_TEST_F32") else {
        return skipped(test, "OCTET_TEST_F32 does not name the folder of the float weights");
    };
    let folder = Path::new(&folder);
    let source = ModelDir::open(folder).unwrap();
    let original = Original::load(&source).unwrap();
    let model = Loader::new(kernels(), Precision::Float).load("float", folder).unwrap();
    let judge = Judge::new(&model, &original.encoder, &texts(20), 2, |_, _| {}).unwrap();
    let seen = Calibration::run(&original.encoder, judge.batches(), CalibrateOptions::default(), |_| {}).unwrap();
    let verdict = |run: &RunOf<'_>| Smoothing::new(&source, &original, &seen, run).verdict(&judge);
    let float = verdict(&|_, _, _| Run::Float);
    assert!(float.divergence < 1e-6, "the forward pass here is that of the model: {float:?}");
    let plain = verdict(&|_, inputs, _| Run::Int8(vec![1.0; inputs.len()]));
    let weights = verdict(&|_, _, _| Run::Int8Weights);
    let gain = |found: Verdict| 1.0 - found.divergence / plain.divergence;
    println!("{} texts; int8 without smoothing: {:.3e} from float", judge.len(), plain.divergence);
    let told = |what: &str, found: Verdict| {
        let (divergence, agreement, percent) = (found.divergence, found.agreement, 100.0 * gain(found));
        println!("{what}: {divergence:.3e} from float, gain {percent:+.1} %, agreement {agreement:.4}");
    };
    told("without smoothing", plain);
    told("int8 weights, float inputs", weights);
    let smoothed = |strength: f32, at: &dyn Fn(Enters) -> bool| {
        verdict(&|enters, inputs, columns| {
            Run::Int8(if at(enters) { factors(inputs, columns, strength) } else { vec![1.0; inputs.len()] })
        })
    };
    let norms = |enters| matches!(enters, Enters::Attention | Enters::Up);
    told("all inputs, strength 0.25", smoothed(0.25, &|_| true));
    let all = smoothed(0.5, &|_| true);
    told("all inputs, strength 0.5", all);
    told("all inputs, strength 0.75", smoothed(0.75, &|_| true));
    told("outputs of norms, strength 0.5", smoothed(0.5, &norms));
    told("contexts, strength 0.5", smoothed(0.5, &|e| e == Enters::Projection));
    told("outputs of GELU, strength 0.5", smoothed(0.5, &|e| e == Enters::Down));
    assert!(gain(all) < gain(weights), "smoothing beats float inputs");
}
