//! From values to places along an axis, and where its ticks are.

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps; begins at 0.
    #[default]
    Linear,
    /// Equal steps; begins and ends near the values, wherever these are.
    Span,
    /// Equal ratios; values that are not positive have no place.
    Log,
}

/// One axis of a figure.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    /// Where `low` and `high` lie, in pixels.
    span: (f64, f64),
}

impl Axis {
    /// An axis that holds all values, ends at a tick, and takes about `ticks` of these.
    pub(super) fn new(scale: Scale, values: impl Iterator<Item = f64>, ticks: usize, span: (f64, f64)) -> Self {
        let values = values.filter(|v| v.is_finite() && (scale != Scale::Log || *v > 0.0));
        let bounds = values.fold(None, |bounds: Option<(f64, f64)>, v| {
            Some(bounds.map_or((v, v), |(low, high)| (low.min(v), high.max(v))))
        });
        let (low, high) = bounds.unwrap_or((1.0, 1.0));
        let ticks = match scale {
            Scale::Linear => linear_ticks(high.max(f64::MIN_POSITIVE), ticks),
            Scale::Span => span_ticks(low, high, ticks),
            Scale::Log => log_ticks(low, high, ticks),
        };
        Axis { scale, low: ticks[0], high: ticks[ticks.len() - 1], ticks, span }
    }

    /// Where a value lies, in pixels; one outside the axis lies at its end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear | Scale::Span => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        let (from, to) = self.span;
        from + share.clamp(0.0, 1.0) * (to - from)
    }

    /// The values to mark, rising, first and last at the ends.
    pub(super) fn ticks(&self) -> &[f64] {
        &self.ticks
    }
}

/// From 0 to `high` or a little more, in steps of 1, 2 or 5 times a power of ten.
fn linear_ticks(high: f64, about: usize) -> Vec<f64> {
    let step = round_step(high / about as f64);
    let count = (high / step - 1e-9).ceil().max(1.0) as usize;
    (0..=count).map(|i| i as f64 * step).collect()
}

/// From at most `low` to at least `high`, in steps of 1, 2 or 5 times a power of ten.
fn span_ticks(low: f64, high: f64, about: usize) -> Vec<f64> {
    let width = high - low;
    let step = round_step(if width > 0.0 { width } else { low.abs().max(1.0) } / about as f64);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
    let last = last.max(first + 1.0);
    (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect()
}

/// The least of 1, 2 and 5 times a power of ten that is not below `rough`.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999);
    step.unwrap_or(10.0 * power)
}

/// From at most `low` to at least `high`: powers of ten, with 2 and 5 times these where that gives few ticks.
fn log_ticks(low: f64, high: f64, about: usize) -> Vec<f64> {
    let decades = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = |steps: &[f64]| {
        let decades = decades.0..=decades.1.max(decades.0 + 1);
        let ticks: Vec<f64> = decades.flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d))).collect();
        let first = ticks.iter().rposition(|t| *t <= low * 1.000_001).unwrap_or(0);
        let last = ticks.iter().position(|t| *t >= high * 0.999_999).unwrap_or(ticks.len() - 1);
        ticks[first..=last.max(first + 1).min(ticks.len() - 1)].to_vec()
    };
    let fine = all(&[1.0, 2.0, 5.0]);
    if fine.len() <= 2 * about { fine } else { all(&[1.0]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: Scale, values: &[f64]) -> Vec<f64> {
        Axis::new(scale, values.iter().copied(), 5, (0.0, 100.0)).ticks
    }

    #[test]
    fn a_linear_axis_goes_from_zero_past_the_largest_value_in_round_steps() {
        assert_eq!(ticks(Scale::Linear, &[3.0, 47.0]), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(ticks(Scale::Linear, &[50.0]), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(ticks(Scale::Linear, &[51.0]), [0.0, 20.0, 40.0, 60.0]);
        assert_eq!(ticks(Scale::Linear, &[f64::NAN, 1.0]).last(), Some(&1.0));
    }

    #[test]
    fn a_span_surrounds_its_values_closely() {
        let close = |found: Vec<f64>, expected: &[f64]| {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}");
        };
        close(ticks(Scale::Span, &[0.981, 0.997]), &[0.98, 0.985, 0.99, 0.995, 1.0]);
        close(ticks(Scale::Span, &[-0.3, 0.6]), &[-0.4, -0.2, 0.0, 0.2, 0.4, 0.6]);
        close(ticks(Scale::Span, &[5.0, 5.0]), &[5.0, 6.0]);
    }

    #[test]
    fn a_log_axis_surrounds_its_values() {
        assert_eq!(ticks(Scale::Log, &[0.3, 40.0]), [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(ticks(Scale::Log, &[1e-3, 1e4]).len(), 8, "only powers of ten");
        assert_eq!(ticks(Scale::Log, &[10.0, 10.0]), [10.0, 20.0]);
        assert_eq!(ticks(Scale::Log, &[0.0, -3.0, 1.0]), [1.0, 2.0], "what is not positive has no place");
        for values in [[9.99, 10.01], [0.99, 1.0], [2e-7, 3e9]] {
            let ticks = ticks(Scale::Log, &values);
            assert!(ticks.len() > 1 && ticks[0] <= values[0] && ticks[ticks.len() - 1] >= values[1], "{ticks:?}");
        }
    }

    #[test]
    fn axes_without_values_still_have_two_ends() {
        for scale in [Scale::Linear, Scale::Span, Scale::Log] {
            for values in [vec![], vec![0.0], vec![f64::INFINITY]] {
                let axis = Axis::new(scale, values.into_iter(), 5, (0.0, 100.0));
                assert!(axis.ticks.len() > 1 && axis.ticks.iter().all(|t| axis.place(*t).is_finite()), "{axis:?}");
            }
        }
    }

    #[test]
    fn places_are_within_the_span() {
        let axis = Axis::new(Scale::Log, [1.0, 100.0].into_iter(), 5, (200.0, 0.0));
        assert_eq!([0.0, 1.0, 10.0, 100.0, 1e9].map(|v| axis.place(v).round()), [200.0, 200.0, 100.0, 0.0, 0.0]);
    }
}
