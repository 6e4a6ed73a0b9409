//! What the values of a graph can be.

/// Index of a value.
pub(in crate::interchange) type Id = usize;
/// Index of a constant.
pub(in crate::interchange) type ConstantId = usize;

/// How a value comes about. Floats are bits, so that values can be compared and hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::interchange) enum Value {
    /// Depends on no weight: ids, positions, masks, shapes.
    Side(Side),
    Constant(ConstantId),
    /// Rows of a table.
    Lookup {
        table: ConstantId,
        index: Side,
    },
    /// `left + right`
    Sum(Id, Id),
    /// A number times a value.
    Scaled(Id, u32),
    /// A value times a number that depends on shapes only.
    ScaledByShape(Id),
    /// A value plus a number.
    Shifted(Id, u32),
    /// `factor * left * right`, element by element.
    Times {
        left: Id,
        right: Id,
        factor: u32,
    },
    /// `value / other`, element by element.
    Quotient(Id, Id),
    /// `W input + bias`, with the weight `[outputs, inputs]`.
    Linear {
        input: Id,
        weight: ConstantId,
        bias: Option<ConstantId>,
    },
    /// The matrix product of two values.
    Product(Id, Id),
    /// Layer norm; gain and shift are filled in where they are applied.
    Norm {
        input: Id,
        gain: Option<ConstantId>,
        shift: Option<ConstantId>,
        epsilon: u32,
    },
    /// Mean over the last dimension.
    Mean(Id),
    /// `value - Mean(value)`
    Centered(Id),
    Power(Id, u32),
    Root(Id),
    Erf(Id),
    Tanh(Id),
    Relu(Id),
    Gelu(Id),
    GeluTanh(Id),
    Softmax(Id),
    /// Scores with a mask.
    Masked(Id),
    /// Whether a value is not a number.
    IsNan(Id),
    /// The first token of each sequence.
    First(Id),
    /// The integers, the scale (times a constant) and the zero point of a value that is quantized while the graph runs.
    Integers(Id),
    Scale(Id, Option<ConstantId>),
    ZeroPoint(Id),
    /// The product of a value's integers and those of a weight `[outputs, inputs]`.
    IntegerProduct {
        input: Id,
        weight: ConstantId,
        zero: Option<ConstantId>,
    },
    /// Softmax attention of fused nodes, with the factor on the scores when it is not `1 / sqrt(head width)`.
    Attention {
        query: Id,
        key: Id,
        value: Id,
        heads: usize,
        scale: Option<u32>,
    },
    /// The output of this node.
    Unknown(usize),
}

/// What a value without weights depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::interchange) struct Side {
    /// Inputs of the graph whose values (not only their shapes) matter, one bit each.
    pub inputs: u64,
    /// Whether positions are counted: from the shape of the input, or by a constant 0, 1, 2, ...
    pub counts: bool,
    /// Whether something is summed up along the sequence, as RoBERTa counts positions.
    pub sums_up: bool,
    /// The number that the inputs are compared with: RoBERTa's padding id.
    pub compared: Option<i64>,
    /// Whether all its values are 0.
    pub zeros: bool,
    /// Whether positions are compared with each other, as a mask of what comes later does.
    pub ordered: bool,
}

impl Side {
    /// What depends on both.
    pub(in crate::interchange) fn and(self, other: Side) -> Side {
        Side {
            inputs: self.inputs | other.inputs,
            counts: self.counts || other.counts,
            sums_up: self.sums_up || other.sums_up,
            compared: self.compared.or(other.compared),
            zeros: false,
            ordered: self.ordered || other.ordered,
        }
    }
}
