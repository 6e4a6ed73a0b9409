//! How often values occur, with the levels of a quantization drawn in.

use super::axis::{Axis, Scale};
use super::escape;
use super::frame::{Frame, Key, LEFT, RIGHT, colour};

/// Bars drawn at most; neighbouring bins join.
const COLUMNS: usize = 192;
/// Levels closer than this, in pixels, cannot be told apart; then only each so-many-th is drawn.
const NEAREST_LEVELS: f64 = 6.0;

/// A histogram with a logarithmic height, so that rare values are seen.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    /// Above the figure.
    pub title: String,
    /// What the values are, with their unit.
    pub x_label: String,
    /// (value, how often), rising; each stands for the values up to the next.
    pub bins: Vec<(f64, f64)>,
    /// Values that the quantization can represent, rising.
    pub levels: Vec<f64>,
    /// What the levels are, in the legend.
    pub level_name: String,
}

impl Distribution {
    /// The figure as an `svg` element.
    pub fn svg(&self) -> String {
        let ends = self.bins.first().into_iter().chain(self.bins.last()).map(|b| b.0);
        let x_axis = Axis::new(Scale::Span, ends.chain(self.levels.iter().copied()), 8, (LEFT, RIGHT));
        let places: Vec<f64> = self.levels.iter().map(|level| x_axis.place(*level)).collect();
        let last = places.len().saturating_sub(1);
        let gap = (places.last().unwrap_or(&0.0) - places.first().unwrap_or(&0.0)) / last.max(1) as f64;
        let stride = (NEAREST_LEVELS / gap.max(f64::MIN_POSITIVE)).ceil().clamp(1.0, last.max(1) as f64) as usize;
        let name = match stride {
            1 => self.level_name.clone(),
            _ => format!("{}: {} values, one in {stride} drawn", self.level_name, self.levels.len()),
        };
        let mut legend = vec![(Key::Box(0), "how often (logarithmic)")];
        if !self.levels.is_empty() {
            legend.push((Key::Level, name.as_str()));
        }
        let mut frame = Frame::new(&self.title, &legend, &self.x_label);
        let (bottom, top) = (frame.bottom, frame.top);
        frame.places(&x_axis);

        let columns = self.columns(&x_axis);
        let counts = columns.iter().copied().filter(|c| *c > 0.0);
        let y_axis = Axis::new(Scale::Log, counts, 5, (bottom, top));
        frame.value_axis(&y_axis);
        let width = (RIGHT - LEFT) / COLUMNS as f64;
        for (index, count) in columns.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let (x, y) = (LEFT + index as f64 * width, y_axis.place(*count).min(bottom - 1.0));
            frame.draw(format_args!(
                r#"<rect class="{}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{:.1}"><title>{}</title></rect>"#,
                colour(0),
                bottom - y,
                escape(&super::short(*count)),
            ));
        }
        for (_, x) in places.iter().enumerate().filter(|(i, _)| i % stride == 0 || *i == last) {
            frame.draw(format_args!(r#"<line class="level" x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}"/>"#));
        }
        frame.finish()
    }

    /// Sums of the bins by column of the figure.
    fn columns(&self, axis: &Axis) -> Vec<f64> {
        let mut columns = vec![0.0; COLUMNS];
        for (value, count) in &self.bins {
            let share = (axis.place(*value) - LEFT) / (RIGHT - LEFT);
            columns[((share * COLUMNS as f64) as usize).min(COLUMNS - 1)] += count;
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_counted_and_every_level_drawn() {
        let figure = Distribution {
            title: "weights".into(),
            bins: vec![(-1.0, 5.0), (0.0, 1000.0), (0.001, 24.0), (1.0, 1.0)],
            levels: vec![-1.0, 0.0, 1.0],
            level_name: "ternary".into(),
            ..Distribution::default()
        };
        let svg = figure.svg();
        assert_eq!(svg.matches("<rect class=\"s1\"").count(), 1 + 3, "legend and three columns: {svg}");
        assert!(svg.contains("<title>1.02k</title>"), "near bins join: {svg}");
        assert_eq!(svg.matches("class=\"level\"").count(), 1 + 3, "{svg}");
        assert!(svg.contains("ternary"), "{svg}");
    }

    #[test]
    fn many_levels_are_thinned_and_say_so() {
        let levels: Vec<f64> = (-127..=127).map(f64::from).collect();
        let svg = Distribution { levels, level_name: "int8".into(), ..Distribution::default() }.svg();
        assert!(svg.contains("int8: 255 values, one in 3 drawn"), "{svg}");
        assert_eq!(svg.matches("class=\"level\"").count(), 1 + 86, "{svg}");
        // One weight far out makes the levels so dense that they would be a block.
        let levels: Vec<f64> = (-127..=127).map(|q| f64::from(q) * 0.01).collect();
        let bins = vec![(-1.0, 10.0), (40.0, 1.0)];
        let svg = Distribution { levels, bins, level_name: "int8".into(), ..Distribution::default() }.svg();
        assert!(svg.matches("class=\"level\"").count() < 14, "{svg}");
        let svg = Distribution::default().svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
    }
}
