//! Lines through points.

use super::axis::{Axis, Scale};
use super::frame::{Frame, Key, LEFT, RIGHT, colour};
use super::{escape, short};

/// A chart of lines with a mark at each point.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// Above the figure; says what the lines show and in which unit.
    pub title: String,
    /// What runs along the horizontal axis, with its unit.
    pub x_label: String,
    /// How the horizontal axis is spread.
    pub x_scale: Scale,
    /// How the vertical axis is spread.
    pub y_scale: Scale,
    /// The lines.
    pub series: Vec<LineSeries>,
    /// A line across at this value, and what it is.
    pub limit: Option<(f64, String)>,
}

/// One line.
#[derive(Clone, Debug, Default)]
pub struct LineSeries {
    /// In the legend.
    pub name: String,
    /// (x, y) in the order of the line.
    pub points: Vec<(f64, f64)>,
}

impl Lines {
    /// The figure as an `svg` element. Every point tells its values when pointed at.
    pub fn svg(&self) -> String {
        let mut legend: Vec<_> = self.series.iter().enumerate().map(|(i, s)| (Key::Line(i), s.name.as_str())).collect();
        if let Some((_, name)) = &self.limit {
            legend.push((Key::Limit, name));
        }
        let mut frame = Frame::new(&self.title, &legend, &self.x_label);
        let points = || self.series.iter().flat_map(|s| &s.points);
        let limit = self.limit.iter().map(|(value, _)| *value);
        let x_axis = Axis::new(self.x_scale, points().map(|p| p.0), 8, (LEFT, RIGHT));
        let y_axis = Axis::new(self.y_scale, points().map(|p| p.1).chain(limit), 5, (frame.bottom, frame.top));
        frame.value_axis(&y_axis);
        frame.places(&x_axis);
        if let Some((value, _)) = self.limit {
            let y = y_axis.place(value);
            frame.draw(format_args!(r#"<line class="limit" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/>"#));
        }
        for (index, series) in self.series.iter().enumerate() {
            let class = colour(index);
            let placed = series.points.iter().map(|(x, y)| (x_axis.place(*x), y_axis.place(*y)));
            let path: Vec<_> = placed.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            frame.draw(format_args!(r#"<polyline class="line {class}" points="{}"/>"#, path.join(" ")));
            for ((x, y), (x_value, y_value)) in placed.zip(&series.points) {
                let told = format!("{}: {} at {}", series.name, short(*y_value), short(*x_value));
                frame.draw(format_args!(
                    r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="3.5"><title>{}</title></circle>"#,
                    escape(&told)
                ));
            }
        }
        frame.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_their_values_are_and_tell_them() {
        let lines = Lines {
            series: vec![LineSeries { name: "p50".into(), points: vec![(0.0, 0.0), (5.0, 20.0), (10.0, 40.0)] }],
            limit: Some((30.0, "deadline".into())),
            ..Lines::default()
        };
        let svg = lines.svg();
        let middle = (LEFT + RIGHT) / 2.0;
        assert!(svg.contains("<title>p50: 20 at 5</title>"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
        // Title, one line of legend, 240 pixels of values.
        assert!(svg.contains(&format!("points=\"52.0,310.0 {middle:.1},190.0 944.0,70.0\"")), "{svg}");
        assert!(svg.contains("y1=\"130.0\" y2=\"130.0\"") && svg.contains("deadline"), "{svg}");
    }

    #[test]
    fn a_logarithmic_axis_shows_equal_ratios_as_equal_steps() {
        let points = vec![(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)];
        let series = vec![LineSeries { name: "a".into(), points }];
        let svg = Lines { series, x_scale: Scale::Log, y_scale: Scale::Log, ..Lines::default() }.svg();
        assert!(svg.contains("points=\"52.0,310.0 498.0,190.0 944.0,70.0\""), "{svg}");
    }

    #[test]
    fn a_figure_without_points_is_still_one() {
        for scale in [Scale::Linear, Scale::Log] {
            let svg = Lines { x_scale: scale, y_scale: scale, ..Lines::default() }.svg();
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
