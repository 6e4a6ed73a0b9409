//! Checkpoint tensors → matrix products and tables, quantizing here what a folder without quantization holds in float.

use std::ops::Range;

use crate::architectures::{LinearNames, TableName};
use crate::checkpoint::{CheckpointError, Tensor, Weights};
use crate::kernels::affine::{Inputs, QuantizedWeights, Scheme, quantize_weights};
use crate::kernels::{
    AlignedVec, Arena, FloatWeights, GroupedScratch, GroupedWeights, Int8Rows, Kernels, PackedWeights, QuantizedRows,
};

use super::workspace::sized;

/// Matrices with the same inputs, stacked by rows: the product of one site of a layer.
pub(super) struct Matrix {
    /// One when all are quantized alike, which is fast.
    parts: Vec<Part>,
    n: usize,
}

/// A product, and how its rows are quantized.
struct Part {
    product: Product,
    inputs: Inputs,
    /// What rows are multiplied by before they are quantized, `[k]`; empty for nothing.
    smoothing: Vec<f32>,
}

/// How rows become what a product takes.
#[derive(Clone, Copy)]
pub(super) struct Entering<'a> {
    pub(super) inputs: Inputs,
    /// What they are multiplied by before they are quantized, `[k]`.
    pub(super) smoothing: Option<&'a [f32]>,
}

impl Entering<'_> {
    /// Nothing is quantized.
    pub(super) const FLOAT: Self = Entering { inputs: Inputs::Float, smoothing: None };

    /// Quantizes rows `x` `[m, k]`; not at all when they stay float.
    pub(super) fn quantize(self, kernels: Kernels, x: &[f32], k: usize, rows: &mut QuantizedRows) {
        match (self.inputs, self.smoothing) {
            (Inputs::Float, _) => {}
            (Inputs::Dynamic, None) => kernels.quantize_rows(x, k, rows),
            (Inputs::Dynamic, Some(factors)) => kernels.smooth_quantize_rows(factors, x, rows),
            (Inputs::Static(params), None) => kernels.quantize_rows_static(x, k, params, rows),
            (Inputs::Static(params), Some(factors)) => kernels.smooth_quantize_rows_static(factors, x, params, rows),
        }
    }
}

enum Product {
    /// Integers with one scale per row, int4 and below unpacked to int8.
    Int8(PackedWeights),
    /// Integers with several scales per row, or zero points.
    Grouped(GroupedWeights),
    /// f32.
    Float(FloatWeights),
}

/// Buffers of products that are not one int8 product.
#[derive(Default)]
pub(super) struct MatrixScratch {
    rows: QuantizedRows,
    grouped: GroupedScratch,
    out: AlignedVec<f32>,
}

/// A weight as the executor multiplies it.
enum Weight {
    Integers(QuantizedWeights),
    Float(Vec<f32>),
}

/// A tensor as the executor uses it: as stored, but a float one of a folder that says nothing about quantization
/// becomes int8, so that it runs as the folder that `octet quantize` makes of it.
fn as_served(tensor: Tensor, weights: &Weights) -> Weight {
    match tensor {
        Tensor::Quantized(quantized) => Weight::Integers(quantized),
        Tensor::F32 { data, .. } if weights.quantization().is_some() => Weight::Float(data),
        Tensor::F32 { shape, data } => Weight::Integers(quantize_weights(&data, shape[0], shape[1], Scheme::INT8)),
    }
}

/// A vector in f32.
pub(super) fn vector(weights: &mut Weights, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
    Ok(weights.take(name, &[len])?.into_f32())
}

impl Matrix {
    /// Takes the matrices of `stack`, which have the same inputs; their integers lie in `arena` as far as it has room.
    pub(super) fn load(
        kernels: Kernels,
        arena: &Arena,
        weights: &mut Weights,
        stack: &[&LinearNames],
    ) -> Result<Self, CheckpointError> {
        let mut loaded = Vec::new();
        for names in stack {
            let tensor = weights.take(&names.weight, &[names.outputs, names.inputs])?;
            let weight = as_served(tensor, weights);
            let inputs = match weight {
                Weight::Integers(_) => weights.inputs(&names.weight)?,
                Weight::Float(_) => Inputs::Float,
            };
            loaded.push((weight, inputs, vector(weights, &names.bias, names.outputs)?));
        }
        let k = stack[0].inputs;
        let n = stack.iter().map(|names| names.outputs).sum();
        if are_alike(&loaded) {
            let (mut values, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
            let (inputs, mut smoothing) = (loaded[0].1, Vec::new());
            for (weight, _, bias) in loaded {
                let Weight::Integers(q) = weight else { unreachable!("only integers are alike") };
                scales.extend(q.row_scales());
                values.extend(q.values);
                biases.extend(bias);
                smoothing = q.smoothing;
            }
            let mut packed = PackedWeights::pack(kernels, &values, &scales, Some(&biases), n, k);
            packed.move_to(arena);
            return Ok(Matrix { parts: vec![Part { product: Product::Int8(packed), inputs, smoothing }], n });
        }
        let parts = loaded.into_iter().zip(stack).map(|((weight, inputs, bias), names)| {
            Part::new(kernels, arena, weight, inputs, &bias, [names.outputs, k])
        });
        Ok(Matrix { parts: parts.collect(), n })
    }

    /// How the rows given to [`Matrix::product`] are to be quantized; float when its parts do not agree, and then each
    /// quantizes them itself.
    pub(super) fn entering(&self) -> Entering<'_> {
        match self.parts.as_slice() {
            [part] => part.entering(),
            _ => Entering::FLOAT,
        }
    }

    /// `out = x w^T + bias`, `[m, n]`: of the rows in f32, and of the same rows quantized as [`Matrix::entering`] says.
    pub(super) fn product(
        &self,
        kernels: Kernels,
        x: &[f32],
        rows: &QuantizedRows,
        scratch: &mut MatrixScratch,
        out: &mut [f32],
    ) {
        let MatrixScratch { rows: own_rows, grouped, out: part_out } = scratch;
        if let [part] = self.parts.as_slice() {
            return part.product(kernels, x, rows, grouped, out);
        }
        let m = out.len() / self.n;
        let mut column = 0;
        for part in &self.parts {
            let (n, k) = part.size();
            part.entering().quantize(kernels, x, k, own_rows);
            let part_out = sized(part_out, m * n);
            part.product(kernels, x, own_rows, grouped, part_out);
            for (out, part) in out.chunks_exact_mut(self.n).zip(part_out.chunks_exact(n)) {
                out[column..column + n].copy_from_slice(part);
            }
            column += n;
        }
    }

    /// Output channels.
    pub(super) fn n(&self) -> usize {
        self.n
    }

    /// Whether [`Matrix::product_of_columns`] computes it: one int8 product of rows that have a scale each.
    pub(super) fn is_divisible(&self) -> bool {
        matches!(self.parts.as_slice(), [Part { product: Product::Int8(_), inputs: Inputs::Dynamic, .. }])
    }

    /// Some columns of [`Matrix::product`], from a multiple of [`COLUMN_BLOCK`](kernels::COLUMN_BLOCK) on; rows of `out`
    /// begin `stride` values apart.
    ///
    /// # Panics
    /// When the matrix is not divisible.
    pub(super) fn product_of_columns(
        &self,
        kernels: Kernels,
        rows: &QuantizedRows,
        columns: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let [Part { product: Product::Int8(weights), .. }] = self.parts.as_slice() else {
            panic!("only one int8 product can be divided");
        };
        kernels.gemm_columns(rows, weights, columns, out, stride);
    }

    /// Bytes held as (int8, f32): integers; scales, zero points, factors, biases and float weights.
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.parts.iter().map(Part::bytes).fold((0, 0), |(int8, f32), part| (int8 + part.0, f32 + part.1))
    }

    /// Whether nothing of it is in integers.
    pub(super) fn is_float(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.product, Product::Float(_)))
    }
}

/// Whether matrices are one int8 product: integers with a scale per row, and the same rows for all.
fn are_alike(stack: &[(Weight, Inputs, Vec<f32>)]) -> bool {
    let [(Weight::Integers(first), inputs, _), ..] = stack else { return false };
    let alike = |(weight, own, _): &(Weight, Inputs, Vec<f32>)| match weight {
        Weight::Integers(q) => q.is_per_row() && own == inputs && q.smoothing == first.smoothing,
        Weight::Float(_) => false,
    };
    *inputs != Inputs::Float && stack.iter().all(alike)
}

impl Part {
    fn new(kernels: Kernels, arena: &Arena, weight: Weight, inputs: Inputs, bias: &[f32], [n, k]: [usize; 2]) -> Self {
        let float = |weight: &[f32]| Part {
            product: Product::Float(FloatWeights::pack(weight, bias, n, k)),
            inputs: Inputs::Float,
            smoothing: Vec::new(),
        };
        let q = match weight {
            Weight::Float(weight) => return float(&weight),
            Weight::Integers(q) if inputs == Inputs::Float => return float(&q.dequantize()),
            Weight::Integers(q) => q,
        };
        let product = if q.is_per_row() {
            let mut packed = PackedWeights::pack(kernels, &q.values, &q.row_scales(), Some(bias), n, k);
            packed.move_to(arena);
            Product::Int8(packed)
        } else {
            let mut packed = GroupedWeights::pack(kernels, &q, bias);
            packed.move_to(arena);
            Product::Grouped(packed)
        };
        Part { product, inputs, smoothing: q.smoothing }
    }

    fn entering(&self) -> Entering<'_> {
        let smoothing = Some(self.smoothing.as_slice()).filter(|factors| !factors.is_empty());
        Entering { inputs: self.inputs, smoothing }
    }

    fn product(
        &self,
        kernels: Kernels,
        x: &[f32],
        rows: &QuantizedRows,
        scratch: &mut GroupedScratch,
        out: &mut [f32],
    ) {
        match &self.product {
            Product::Int8(weights) => kernels.gemm(rows, weights, out),
            Product::Grouped(weights) => kernels.gemm_grouped(rows, weights, scratch, out),
            Product::Float(weights) => kernels.gemm_f32(x, weights, out),
        }
    }

    /// Outputs and inputs.
    fn size(&self) -> (usize, usize) {
        match &self.product {
            Product::Int8(weights) => (weights.n(), weights.k()),
            Product::Grouped(weights) => (weights.n(), weights.k()),
            Product::Float(weights) => (weights.n(), weights.k()),
        }
    }

    fn bytes(&self) -> (u64, u64) {
        let (n, k) = self.size();
        let (n, k, factors) = (n as u64, k as u64, self.smoothing.len() as u64);
        match &self.product {
            Product::Int8(_) => (n * k, 4 * (2 * n + factors)),
            Product::Grouped(weights) => (n * k, 4 * (n + weights.parameters() as u64 + factors)),
            Product::Float(_) => (0, 4 * (n * k + n)),
        }
    }
}

/// An embedding table `[rows, width]`.
pub(super) enum Table {
    /// Integers with one scale per row.
    Int8 { values: Vec<i8>, scale: Vec<f32> },
    /// Integers of any other scheme.
    Integers(QuantizedWeights),
    /// f32.
    Float(Vec<f32>),
}

impl Table {
    pub(super) fn load(name: &TableName, width: usize, weights: &mut Weights) -> Result<Self, CheckpointError> {
        let tensor = weights.take(&name.weight, &[name.rows, width])?;
        Ok(match as_served(tensor, weights) {
            Weight::Float(values) => Table::Float(values),
            Weight::Integers(q) if q.is_per_row() && q.smoothing.is_empty() => {
                Table::Int8 { scale: q.row_scales(), values: q.values }
            }
            Weight::Integers(q) => Table::Integers(q),
        })
    }

    /// `out` `[indices, width]` = the rows of these indices, added to what `out` holds if `ADD`.
    pub(super) fn gather<const ADD: bool>(
        &self,
        kernels: Kernels,
        indices: impl ExactSizeIterator<Item = usize> + Clone,
        width: usize,
        out: &mut [f32],
    ) {
        let put = |x: &mut f32, w: f32| *x = if ADD { *x + w } else { w };
        let rows = indices.clone().zip(out.chunks_exact_mut(width));
        match self {
            Table::Int8 { values, scale } => {
                kernels.gather::<ADD>(Int8Rows { values, scale, k: width }, indices, out);
            }
            Table::Integers(weights) => {
                rows.for_each(|(index, row)| weights.each_of_row(index, |l, w| put(&mut row[l], w)));
            }
            Table::Float(values) => {
                let of_index = |index: usize| &values[index * width..][..width];
                rows.for_each(|(index, row)| row.iter_mut().zip(of_index(index)).for_each(|(x, w)| put(x, *w)));
            }
        }
    }

    /// Bytes held as (int8, f32).
    pub(super) fn bytes(&self) -> (u64, u64) {
        match self {
            Table::Int8 { values, scale } => (values.len() as u64, 4 * scale.len() as u64),
            Table::Integers(q) => {
                ((q.values.len() + q.zero_point.len()) as u64, 4 * (q.scale.len() + q.smoothing.len()) as u64)
            }
            Table::Float(values) => (0, 4 * values.len() as u64),
        }
    }
}
