//! Constants of a graph: weights, and the numbers that its nodes work with.

use std::rc::Rc;

use crate::interchange::tensors::Array;

/// Longest list of positions or token types that is looked through.
const MAX_POSITIONS: usize = 1 << 16;

/// Type of stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::interchange) enum Element {
    F32,
    F16,
    Bf16,
    I8,
    U8,
    I32,
    I64,
    Bool,
}

impl Element {
    pub(in crate::interchange) fn bytes(self) -> usize {
        match self {
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
            Element::I64 => 8,
        }
    }

    pub(in crate::interchange) fn is_float(self) -> bool {
        matches!(self, Element::F32 | Element::F16 | Element::Bf16)
    }
}

/// A constant tensor, with what the graph does to it before it is used.
#[derive(Clone, Debug)]
pub(in crate::interchange) struct Constant<'a> {
    element: Element,
    /// As stored, row-major.
    shape: Vec<usize>,
    bytes: Bytes<'a>,
    /// Whether the value is the transpose of what is stored; both have two dimensions then.
    transposed: bool,
    /// How integers stand for real numbers; `None` as long as they are integers.
    affine: Option<Affine>,
}

/// Stored values, of the file or made from it. Copies share them.
#[derive(Clone, Debug)]
pub(in crate::interchange) enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Made(Rc<[u8]>),
}

impl std::ops::Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Made(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Bytes::Borrowed(bytes)
    }
}

impl From<Vec<u8>> for Bytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::Made(bytes.into())
    }
}

/// `(q - zero) * scale`
#[derive(Clone, Debug, PartialEq)]
struct Affine {
    scale: Vec<f32>,
    zero: Vec<i32>,
    /// Dimension of the stored tensor that scales and zero points run along, when there are several.
    axis: Option<usize>,
}

impl<'a> Constant<'a> {
    /// A tensor as it is stored.
    ///
    /// # Errors
    /// When the bytes are not as many as the shape needs.
    pub(in crate::interchange) fn new(
        element: Element,
        shape: Vec<usize>,
        bytes: impl Into<Bytes<'a>>,
    ) -> Result<Self, String> {
        let bytes = bytes.into();
        let needed = shape.iter().try_fold(element.bytes(), |n, d| n.checked_mul(*d));
        if needed != Some(bytes.len()) {
            return Err(format!("{} bytes for {element:?} of shape {shape:?}", bytes.len()));
        }
        Ok(Constant { element, shape, bytes, transposed: false, affine: None })
    }

    /// One float.
    pub(in crate::interchange) fn scalar(value: f32) -> Self {
        Self::new(Element::F32, vec![], value.to_le_bytes().to_vec()).expect("a float has four bytes")
    }

    /// Sizes of the dimensions, as the graph sees them.
    pub(in crate::interchange) fn shape(&self) -> Vec<usize> {
        match self.transposed {
            true => self.shape.iter().rev().copied().collect(),
            false => self.shape.clone(),
        }
    }

    pub(in crate::interchange) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that it has of its own, beside those of the file.
    pub(in crate::interchange) fn own_bytes(&self) -> usize {
        let made = if matches!(self.bytes, Bytes::Made(_)) { self.bytes.len() } else { 0 };
        made + self.affine.as_ref().map_or(0, |a| 4 * (a.scale.len() + a.zero.len()))
    }

    /// Bytes of the array that [`Constant::to_array`] makes.
    pub(in crate::interchange) fn array_bytes(&self) -> usize {
        let is_bytes = matches!(self.element, Element::I8 | Element::U8) && self.shape.len() == 2;
        self.len() * if is_bytes { 1 } else { 4 }
    }

    /// Whether its values are real numbers: stored as floats, or integers with a scale.
    pub(in crate::interchange) fn is_real(&self) -> bool {
        self.element.is_float() || self.affine.is_some()
    }

    /// Whether it can only be a weight: real numbers, or bytes, more than one.
    pub(in crate::interchange) fn is_weight(&self) -> bool {
        self.len() > 1 && (self.is_real() || matches!(self.element, Element::I8 | Element::U8))
    }

    /// The only value.
    pub(in crate::interchange) fn as_scalar(&self) -> Option<f32> {
        (self.len() == 1 && self.is_real()).then(|| self.reals().next().expect("there is one value"))
    }

    /// All values of an integer constant of at most 8192.
    pub(in crate::interchange) fn as_integers(&self) -> Option<Vec<i64>> {
        (self.len() <= 8192 && !self.is_real()).then(|| (0..self.len()).map(|i| self.integer(i)).collect())
    }

    /// Whether integers are all 0, or count up from 0.
    pub(in crate::interchange) fn is_zeros(&self) -> bool {
        !self.is_real() && self.len() <= MAX_POSITIONS && (0..self.len()).all(|i| self.integer(i) == 0)
    }

    pub(in crate::interchange) fn counts(&self) -> bool {
        !self.is_real()
            && (2..=MAX_POSITIONS).contains(&self.len())
            && (0..self.len()).all(|i| self.integer(i) == i as i64)
    }

    /// The same values in the other order of two dimensions.
    pub(in crate::interchange) fn transpose(&self) -> Option<Self> {
        match self.shape.len() {
            0 | 1 => Some(self.clone()),
            2 => Some(Constant { transposed: !self.transposed, ..self.clone() }),
            _ => None,
        }
    }

    /// The same values in another shape, where that changes nothing that matters here: dimensions of 1 come and go.
    pub(in crate::interchange) fn reshape(&self, shape: &[i64]) -> Option<Self> {
        let sizes = |dims: Vec<usize>| dims.into_iter().filter(|d| *d != 1).collect::<Vec<_>>();
        let mut shape: Vec<usize> = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
        if let Some(free) = shape.iter().position(|d| *d == 0) {
            let others: usize = shape.iter().filter(|d| **d != 0).product();
            shape[free] = self.len() / others.max(1);
        }
        let same = sizes(shape.clone()) == sizes(self.shape());
        (same && !self.transposed && self.affine.as_ref().is_none_or(|a| a.axis.is_none()))
            .then(|| Constant { shape, ..self.clone() })
    }

    /// The columns of two-dimensional values cut into `parts` equal ranges; of one-dimensional ones, the values.
    pub(in crate::interchange) fn split(&self, parts: usize) -> Option<Vec<Self>> {
        let width = *self.shape.last()?;
        if self.transposed || self.shape.len() > 2 || !width.is_multiple_of(parts) {
            return None;
        }
        let (part, bytes) = (width / parts, self.element.bytes());
        let last = self.shape.len() - 1;
        let cut = |affine: &Affine, i: usize| {
            let mut affine = affine.clone();
            match affine.axis {
                Some(axis) if axis == last => {
                    let of = |n: usize| if n > 1 { i * part..(i + 1) * part } else { 0..n };
                    affine.scale = affine.scale[of(affine.scale.len())].to_vec();
                    affine.zero = affine.zero[of(affine.zero.len())].to_vec();
                }
                _ => {}
            }
            affine
        };
        let split = (0..parts).map(|i| {
            let rows = self.bytes.chunks_exact(width * bytes);
            let bytes: Vec<u8> = rows.flat_map(|row| &row[i * part * bytes..(i + 1) * part * bytes]).copied().collect();
            let mut shape = self.shape.clone();
            shape[last] = part;
            let affine = self.affine.as_ref().map(|affine| cut(affine, i));
            Constant { element: self.element, shape, bytes: bytes.into(), transposed: false, affine }
        });
        Some(split.collect())
    }

    /// The integers as real numbers of themselves.
    pub(in crate::interchange) fn to_real(&self) -> Option<Self> {
        match self.is_real() {
            true => Some(self.clone()),
            false => self.dequantize(&Constant::scalar(1.0), None, None),
        }
    }

    /// Integers → `(q - zero) * scale`, along dimension `axis` of the value when there are several scales.
    pub(in crate::interchange) fn dequantize(
        &self,
        scale: &Constant,
        zero: Option<&Constant>,
        axis: Option<i64>,
    ) -> Option<Self> {
        if self.is_real() || !scale.is_real() || self.element == Element::Bool {
            return None;
        }
        let zero = match zero {
            None => vec![0],
            Some(zero) => zero.as_integers()?.into_iter().map(|z| i32::try_from(z).ok()).collect::<Option<Vec<_>>>()?,
        };
        let scale: Vec<f32> = scale.reals().collect();
        let count = scale.len().max(zero.len());
        let axis = match count {
            1 => None,
            _ => {
                let rank = self.shape.len() as i64;
                let axis = axis.unwrap_or(1);
                let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
                let axis = if self.transposed { 1usize.checked_sub(axis)? } else { axis };
                (self.shape.get(axis) == Some(&count)).then_some(Some(axis))?
            }
        };
        let fits = |n: usize| n == 1 || n == count;
        let affine = Affine { scale, zero, axis };
        (fits(affine.scale.len()) && fits(affine.zero.len())).then(|| Constant { affine: Some(affine), ..self.clone() })
    }

    /// Integers with a scale times real numbers that are constant along all dimensions but one.
    pub(in crate::interchange) fn times(&self, factor: &Constant) -> Option<Self> {
        let affine = self.affine.as_ref()?;
        let factors: Vec<f32> = factor.reals().collect();
        if factors.len() == 1 {
            let scale = affine.scale.iter().map(|s| s * factors[0]).collect();
            return Some(Constant { affine: Some(Affine { scale, ..affine.clone() }), ..self.clone() });
        }
        let shape = factor.shape();
        // Dimensions are matched from the last one, as numpy broadcasts.
        let from_end = shape.iter().rev().position(|d| *d != 1)?;
        if shape.iter().filter(|d| **d != 1).count() != 1 || affine.scale.len() != 1 {
            return None;
        }
        let axis = self.shape.len().checked_sub(1 + from_end)?;
        let axis = if self.transposed { 1 - axis } else { axis };
        let fits = self.shape[axis] == factors.len() && (affine.axis.is_none() || affine.axis == Some(axis));
        let scale = factors.iter().map(|f| f * affine.scale[0]).collect();
        fits.then(|| Constant {
            affine: Some(Affine { scale, axis: Some(axis), zero: affine.zero.clone() }),
            ..self.clone()
        })
    }

    /// The tensor in the orientation that the graph sees.
    ///
    /// # Errors
    /// When integers have scales along their columns, or do not fit into 8 bits.
    pub(in crate::interchange) fn to_array(&self) -> Result<Array, String> {
        let shape = self.shape();
        let bytes = matches!(self.element, Element::I8 | Element::U8);
        let Some(affine) = self.affine.as_ref().filter(|_| shape.len() == 2 && bytes) else {
            if !self.is_real() {
                return Err(format!("{:?} without a scale, expected real numbers", self.element));
            }
            return Ok(Array::F32 { shape, data: self.reals().collect() });
        };
        let rows = if self.transposed { 1 } else { 0 };
        if affine.axis.is_some_and(|axis| axis != rows) {
            return Err("a scale per column; supported: one per row, or one for all".into());
        }
        // An unsigned 8-bit integer and its zero point become signed together.
        let shift = if self.element == Element::U8 { 128 } else { 0 };
        let data = (0..self.len()).map(|i| (self.integer(self.place(i)) - shift) as i8).collect();
        let zero_point = affine.zero.iter().map(|z| i8::try_from(i64::from(*z) - shift)).collect::<Result<_, _>>();
        let zero_point =
            zero_point.map_err(|_| format!("zero points {:?} outside of the integers' range", affine.zero))?;
        Ok(Array::Int8 { shape, data, scale: affine.scale.clone(), zero_point })
    }

    /// Where the value with this index lies in storage.
    fn place(&self, index: usize) -> usize {
        match self.transposed {
            true => index % self.shape[0] * self.shape[1] + index / self.shape[0],
            false => index,
        }
    }

    /// The values, in the order of the graph.
    pub(in crate::interchange) fn reals(&self) -> impl Iterator<Item = f32> + '_ {
        (0..self.len()).map(|index| {
            let place = self.place(index);
            let Some(affine) = &self.affine else { return self.stored_float(place) };
            let stride = |axis: usize| self.shape[axis + 1..].iter().product::<usize>();
            let group = affine.axis.map_or(0, |axis| place / stride(axis).max(1) % self.shape[axis]);
            let of = |n: usize| if n == 1 { 0 } else { group };
            let (scale, zero) = (affine.scale[of(affine.scale.len())], affine.zero[of(affine.zero.len())]);
            (self.integer(place) - i64::from(zero)) as f32 * scale
        })
    }

    fn stored_float(&self, place: usize) -> f32 {
        let at = &self.bytes[place * self.element.bytes()..];
        match self.element {
            Element::F32 => f32::from_le_bytes(at[..4].try_into().expect("four bytes")),
            Element::F16 => half::f16::from_le_bytes([at[0], at[1]]).to_f32(),
            Element::Bf16 => half::bf16::from_le_bytes([at[0], at[1]]).to_f32(),
            _ => self.integer(place) as f32,
        }
    }

    fn integer(&self, place: usize) -> i64 {
        let at = &self.bytes[place * self.element.bytes()..];
        match self.element {
            Element::I8 => i64::from(at[0] as i8),
            Element::U8 | Element::Bool => i64::from(at[0]),
            Element::I32 => i64::from(i32::from_le_bytes(at[..4].try_into().expect("four bytes"))),
            Element::I64 => i64::from_le_bytes(at[..8].try_into().expect("eight bytes")),
            _ => self.stored_float(place) as i64,
        }
    }
}
