//! Points with names: one thing against another.

use super::axis::{Axis, Scale};
use super::frame::{CHARACTER, Frame, Key, LEFT, RIGHT, colour};
use super::{escape, short};

/// A chart of named points.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Above the figure; says what the vertical axis is.
    pub title: String,
    /// What runs along the horizontal axis, with its unit.
    pub x_label: String,
    /// Groups of points in the legend, in the order of their colours.
    pub groups: Vec<String>,
    /// The points.
    pub points: Vec<Point>,
    /// A line across at this value, and what it is.
    pub limit: Option<(f64, String)>,
}

/// One point.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// Written beside it.
    pub name: String,
    /// Index in [`Points::groups`].
    pub group: usize,
    /// Along the horizontal axis.
    pub x: f64,
    /// Along the vertical axis.
    pub y: f64,
}

impl Points {
    /// The figure as an `svg` element. Every point has its name beside it where there is room, and tells its values
    /// when pointed at.
    pub fn svg(&self) -> String {
        let mut legend: Vec<_> = self.groups.iter().enumerate().map(|(i, name)| (Key::Box(i), name.as_str())).collect();
        if let Some((_, name)) = &self.limit {
            legend.push((Key::Limit, name));
        }
        let mut frame = Frame::new(&self.title, &legend, &self.x_label);
        let limit = self.limit.iter().map(|(value, _)| *value);
        let x_axis = Axis::new(Scale::Span, self.points.iter().map(|p| p.x), 8, (LEFT, RIGHT));
        let heights = self.points.iter().map(|p| p.y).chain(limit.clone());
        let y_axis = Axis::new(Scale::Span, heights, 5, (frame.bottom, frame.top));
        frame.value_axis(&y_axis);
        frame.places(&x_axis);
        for value in limit {
            let y = y_axis.place(value);
            frame.draw(format_args!(r#"<line class="limit" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/>"#));
        }
        let mut names: Vec<(f64, f64, f64)> = Vec::new();
        for point in &self.points {
            let (x, y) = (x_axis.place(point.x), y_axis.place(point.y));
            let told = format!("{}: {} at {}", point.name, short(point.y), short(point.x));
            frame.draw(format_args!(
                r#"<circle class="{}" cx="{x:.1}" cy="{y:.1}" r="5"><title>{}</title></circle>"#,
                colour(point.group),
                escape(&told)
            ));
            // To the right of the point, or to its left at the edge; left out where another name is.
            let width = CHARACTER * point.name.chars().count() as f64;
            let (class, at, left) = match x + 10.0 + width <= RIGHT {
                true => ("start", x + 9.0, x + 9.0),
                false => ("end", x - 9.0, x - 9.0 - width),
            };
            let taken = |(l, r, other): &(f64, f64, f64)| left < *r && *l < left + width && (y - other).abs() < 14.0;
            if !names.iter().any(taken) {
                names.push((left, left + width, y));
                let name = escape(&point.name);
                frame.draw(format_args!(r#"<text class="{class}" x="{at:.1}" y="{:.1}">{name}</text>"#, y + 4.5));
            }
        }
        frame.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, x: f64, y: f64) -> Point {
        Point { name: name.into(), group: 0, x, y }
    }

    #[test]
    fn points_lie_at_their_values_with_names_that_do_not_overlap() {
        let points = vec![point("int8", 20.0, 0.99), point("int8 again", 20.1, 0.99), point("int4 <g64>", 10.0, 0.97)];
        let figure =
            Points { groups: vec!["tried".into()], points, limit: Some((0.98, "bound".into())), ..Points::default() };
        let svg = figure.svg();
        assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
        assert!(svg.contains("<title>int8 again: 0.99 at 20.1</title>"), "{svg}");
        assert!(svg.contains(">int8</text>") && !svg.contains(">int8 again</text>"), "{svg}");
        assert!(svg.contains("int4 &lt;g64&gt;</text>") && svg.contains("bound"), "{svg}");
    }

    #[test]
    fn a_figure_without_points_is_still_one() {
        let svg = Points::default().svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
