//! Values with their intervals, one below the other.

use super::axis::{Axis, Scale};
use super::frame::{CHARACTER, Frame, LEFT, RIGHT, colour};
use super::{escape, short};

/// Height of a row, in pixels.
const ROW: f64 = 30.0;

/// A chart of dots with whiskers, a row for each name.
#[derive(Clone, Debug, Default)]
pub struct Intervals {
    /// Above the figure; says what the values are and what the whiskers.
    pub title: String,
    /// From above.
    pub rows: Vec<IntervalRow>,
    /// A line across at this value.
    pub limit: Option<f64>,
}

/// A value and how far it may be from the truth.
#[derive(Clone, Debug, Default)]
pub struct IntervalRow {
    /// At the left.
    pub name: String,
    /// Which colour it has: rows about one thing have the same in all figures of a page.
    pub series: usize,
    /// The dot.
    pub value: f64,
    /// Ends of the whisker.
    pub low: f64,
    /// Ends of the whisker.
    pub high: f64,
}

impl Intervals {
    /// The figure as an `svg` element. Every dot tells its values when pointed at.
    pub fn svg(&self) -> String {
        let mut frame = Frame::with_height(&self.title, &[], "", ROW * self.rows.len().max(1) as f64);
        let names = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let left = (CHARACTER * names as f64 + 12.0).clamp(LEFT, (LEFT + RIGHT) / 2.0);
        let values = self.rows.iter().flat_map(|row| [row.low, row.high, row.value]).chain(self.limit);
        let axis = Axis::new(Scale::Span, values, 8, (left, RIGHT));
        frame.places(&axis);
        let (top, bottom) = (frame.top, frame.bottom);
        if let Some(limit) = self.limit {
            let x = axis.place(limit);
            frame.draw(format_args!(r#"<line class="limit" x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}"/>"#));
        }
        for (index, row) in self.rows.iter().enumerate() {
            let (y, class) = (top + (index as f64 + 0.5) * ROW, colour(row.series));
            let (low, x, high) = (axis.place(row.low), axis.place(row.value), axis.place(row.high));
            let name = escape(&row.name);
            let told = format!("{name}: {}, {} to {}", short(row.value), short(row.low), short(row.high));
            frame.draw(format_args!(
                r#"<text x="0" y="{:.1}">{name}</text><line class="line {class}" x1="{low:.1}" x2="{high:.1}" y1="{y}" y2="{y}"/><circle class="{class}" cx="{x:.1}" cy="{y}" r="5"><title>{told}</title></circle>"#,
                y + 4.5
            ));
        }
        frame.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whiskers_reach_from_end_to_end_around_their_dot() {
        let row = |name: &str, value| {
            let (low, high) = (value - 0.01, value + 0.01);
            IntervalRow { name: name.into(), series: 2, value, low, high }
        };
        let svg =
            Intervals { title: "accuracy".into(), rows: vec![row("a<b", 0.71), row("c", 0.73)], limit: None }.svg();
        // The axis reaches from 0.70 to 0.74 over the pixels 52 to 944.
        assert!(svg.contains("x1=\"52.0\" x2=\"498.0\"") && svg.contains("cx=\"275.0\""), "{svg}");
        assert!(svg.contains("<title>a&lt;b: 0.71, 0.7 to 0.72</title>"), "{svg}");
        assert_eq!((svg.matches("\"s3\"").count(), svg.matches("\"s1\"").count()), (2, 0), "{svg}");
    }

    #[test]
    fn a_figure_without_rows_is_still_one() {
        let svg = Intervals { limit: Some(0.0), ..Intervals::default() }.svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
    }
}
