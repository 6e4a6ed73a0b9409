//! How a float matrix becomes integers of a scheme: to the nearest, with a searched range, or looking at the inputs.

use crate::kernels::affine::{Granularity, Levels, QuantizedWeights, Scheme, quantize_weights};

use super::gptq::{GptqOptions, Grid, Symmetric, gptq};

/// How weights are rounded. Only symmetric int8 and int4 with a scale per row or group have a choice; whatever else is
/// rounded to the nearest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Each weight to the nearest level, the range being that of the weights: [`quantize_weights`].
    #[default]
    Nearest,
    /// To the nearest level of the range with the least squared error: [`Symmetric`].
    Search,
    /// So that the outputs are closest, which needs the second moments of the inputs: [`gptq`]; without them as
    /// [`Rounding::Search`].
    Gptq,
}

impl Rounding {
    /// All, in order of effort.
    pub const ALL: [Rounding; 3] = [Rounding::Nearest, Rounding::Search, Rounding::Gptq];

    /// Name in commands and recipes.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::Nearest => "nearest",
            Rounding::Search => "search",
            Rounding::Gptq => "gptq",
        }
    }

    /// Quantizes `weights`, `[rows, columns]`; `moments` are the second moments of their inputs, `[columns, columns]`.
    ///
    /// # Panics
    /// As [`quantize_weights`] and [`gptq`].
    pub fn quantize(
        self,
        weights: &[f32],
        [rows, columns]: [usize; 2],
        scheme: Scheme,
        moments: Option<&[f64]>,
    ) -> QuantizedWeights {
        let group = match scheme.granularity {
            Granularity::Channel => columns,
            Granularity::Group(size) => size,
            Granularity::Tensor => 0,
        };
        let has_choice = scheme.symmetric && matches!(scheme.levels, Levels::Int8 | Levels::Int4) && group > 0;
        if self == Rounding::Nearest || !has_choice {
            return quantize_weights(weights, rows, columns, scheme);
        }
        let grid = Symmetric { max: scheme.range().1 as i8, search: true };
        let by_inputs = moments
            .filter(|_| self == Rounding::Gptq)
            .and_then(|moments| gptq(weights, moments, columns, &grid, GptqOptions::with_group(group)));
        let (values, scale) = by_inputs.unwrap_or_else(|| nearest(weights, group, &grid));
        let (zero_point, smoothing) = (Vec::new(), Vec::new());
        QuantizedWeights { scheme, shape: [rows, columns], values, scale, zero_point, smoothing }
    }
}

impl std::str::FromStr for Rounding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|rounding| rounding.name() == text);
        known.ok_or_else(|| format!("\"{text}\" is no rounding; there are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Each weight to the nearest level of its group.
fn nearest(weights: &[f32], group: usize, grid: &dyn Grid) -> (Vec<i8>, Vec<f32>) {
    let scales: Vec<f32> = weights.chunks(group).map(|weights| grid.scale(weights)).collect();
    let groups = weights.chunks(group).zip(&scales);
    (groups.flat_map(|(weights, scale)| weights.iter().map(|w| grid.quantize(*w, *scale))).collect(), scales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::affine::mse;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn weights() -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(8);
        (0..8 * 64).map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn a_searched_range_is_closer_than_the_whole_one_where_steps_are_wide() {
        let weights = weights();
        let error = |rounding: Rounding, scheme: Scheme| {
            let quantized = rounding.quantize(&weights, [8, 64], scheme, None);
            assert_eq!((quantized.scheme, quantized.groups()), (scheme, scheme.groups(64).unwrap()));
            mse(&weights, &quantized.dequantize())
        };
        for granularity in [Granularity::Channel, Granularity::Group(32)] {
            let int4 = Scheme::symmetric(Levels::Int4, granularity);
            assert!(error(Rounding::Search, int4) < 0.95 * error(Rounding::Nearest, int4), "{granularity}");
        }
        // Without moments GPTQ has nothing to look at.
        let int4 = Scheme::symmetric(Levels::Int4, Granularity::Channel);
        assert_eq!(error(Rounding::Gptq, int4), error(Rounding::Search, int4));
        for levels in [Levels::Ternary, Levels::Binary] {
            let scheme = Scheme::symmetric(levels, Granularity::Channel);
            assert_eq!(error(Rounding::Search, scheme), error(Rounding::Nearest, scheme));
        }
    }

    #[test]
    fn names_are_read_and_written() {
        for rounding in Rounding::ALL {
            assert_eq!(rounding.name().parse(), Ok(rounding));
        }
        assert!("awq".parse::<Rounding>().unwrap_err().contains("nearest, search, gptq"));
    }
}
