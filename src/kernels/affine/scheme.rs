//! Names of the ways to quantize: which integers, how finely, and what happens to a layer's inputs.

use std::fmt;

use super::QParams;

/// The integers that stand for weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Levels {
    /// -1 and 1: `w ~ S sign(w)` (Rastegari et al. 2016, <https://arxiv.org/abs/1603.05279>).
    Binary,
    /// -1, 0 and 1: `w ~ S t` (Li & Liu 2016, <https://arxiv.org/abs/1605.04711>).
    Ternary,
    /// 4 bits: -7 to 7 when symmetric, -8 to 7 when not.
    Int4,
    /// 8 bits: -127 to 127 when symmetric, -128 to 127 when not.
    Int8,
}

impl Levels {
    /// All of them, coarsest first.
    pub const ALL: [Levels; 4] = [Levels::Binary, Levels::Ternary, Levels::Int4, Levels::Int8];

    /// Bits that one weight takes in a file.
    pub fn bits(self) -> u32 {
        match self {
            Levels::Binary => 1,
            Levels::Ternary => 2,
            Levels::Int4 => 4,
            Levels::Int8 => 8,
        }
    }

    /// Name in recipes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Levels::Binary => "binary",
            Levels::Ternary => "ternary",
            Levels::Int4 => "int4",
            Levels::Int8 => "int8",
        }
    }

    /// Whether weights may have a zero point other than 0.
    pub fn may_be_asymmetric(self) -> bool {
        matches!(self, Levels::Int4 | Levels::Int8)
    }
}

/// How many weights share one scale (and zero point).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Granularity {
    /// The whole matrix.
    Tensor,
    /// One row of `[rows, columns]`: an output channel, or a row of an embedding table.
    Channel,
    /// So many neighbouring weights of one row (Yao et al. 2022, section 4.1, <https://arxiv.org/abs/2206.01861>); the
    /// number divides the columns.
    Group(usize),
}

/// How a weight matrix is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scheme {
    /// The integers.
    pub levels: Levels,
    /// Whether the zero point is 0 everywhere; binary and ternary weights always are symmetric.
    pub symmetric: bool,
    /// How many weights share a scale.
    pub granularity: Granularity,
}

impl Scheme {
    /// Symmetric int8 with one scale per row: what Octet quantizes to unless told otherwise.
    pub const INT8: Scheme = Scheme::symmetric(Levels::Int8, Granularity::Channel);

    /// A scheme without zero points.
    pub const fn symmetric(levels: Levels, granularity: Granularity) -> Self {
        Scheme { levels, symmetric: true, granularity }
    }

    /// Smallest and largest integer.
    pub fn range(self) -> (i32, i32) {
        match (self.levels, self.symmetric) {
            (Levels::Binary | Levels::Ternary, _) => (-1, 1),
            (Levels::Int4, true) => (-7, 7),
            (Levels::Int4, false) => (-8, 7),
            (Levels::Int8, true) => (-127, 127),
            (Levels::Int8, false) => (-128, 127),
        }
    }

    /// Scales of one row of `columns` weights; `None` for a scheme whose groups do not divide the row, or with zero
    /// points where there are none.
    pub fn groups(self, columns: usize) -> Option<usize> {
        if !self.symmetric && !self.levels.may_be_asymmetric() {
            return None;
        }
        match self.granularity {
            Granularity::Tensor | Granularity::Channel => Some(1),
            Granularity::Group(size) => (size > 0 && columns.is_multiple_of(size)).then(|| columns / size.max(1)),
        }
    }

    /// Whether an integer product with one scale per row computes it: no zero points, no groups.
    pub fn is_per_row(self) -> bool {
        self.symmetric && !matches!(self.granularity, Granularity::Group(_))
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("per tensor"),
            Granularity::Channel => f.write_str("per channel"),
            Granularity::Group(size) => write!(f, "per group of {size}"),
        }
    }
}

impl fmt::Display for Scheme {
    /// Such as `int8 symmetric per channel`; what is always symmetric does not say so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symmetry = match (self.levels.may_be_asymmetric(), self.symmetric) {
            (false, _) => "",
            (true, true) => "symmetric ",
            (true, false) => "asymmetric ",
        };
        write!(f, "{} {symmetry}{}", self.levels.name(), self.granularity)
    }
}

/// How the rows that enter a matrix product are quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inputs {
    /// Not at all: the product is in f32.
    Float,
    /// To u8 by the range of each row, while it runs.
    Dynamic,
    /// To u8 by one range for all rows, found beforehand.
    Static(QParams),
}
