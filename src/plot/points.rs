//! Points with names: one thing against another.

use super::axis::{Axis, Scale};
use super::frame::{CHARACTER, Frame, Key, LEFT, RIGHT, colour};
use super::{escape, short};

/// Of a point, in pixels.
const RADIUS: f64 = 5.0;
/// Of a name.
const NAME_HEIGHT: f64 = 15.0;

/// A rectangle in which something is drawn, in pixels from above and from the left.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Area {
    /// Of a point.
    fn around(x: f64, y: f64) -> Self {
        Area { left: x - RADIUS, right: x + RADIUS, top: y - RADIUS, bottom: y + RADIUS }
    }

    /// Where the name of a point can be: to its right, to its left, above and below it; with the class of its text, and
    /// the `x` that this class wants.
    fn beside(x: f64, y: f64, width: f64) -> [(&'static str, f64, Self); 4] {
        let gap = RADIUS + 4.0;
        let at = |left: f64, top: f64| Area { left, right: left + width, top, bottom: top + NAME_HEIGHT };
        let middle = y - NAME_HEIGHT / 2.0;
        [
            ("start", x + gap, at(x + gap, middle)),
            ("end", x - gap, at(x - gap - width, middle)),
            ("middle", x, at(x - width / 2.0, y - gap - NAME_HEIGHT)),
            ("middle", x, at(x - width / 2.0, y + gap)),
        ]
    }

    fn meets(&self, other: &Area) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }
}

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
    /// The figure as an `svg` element. Every point has its name beside it where that covers no point and no other name,
    /// and tells its values when pointed at.
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
        let places: Vec<(f64, f64)> = self.points.iter().map(|p| (x_axis.place(p.x), y_axis.place(p.y))).collect();
        for (point, (x, y)) in self.points.iter().zip(&places) {
            let told = format!("{}: {} at {}", point.name, short(point.y), short(point.x));
            frame.draw(format_args!(
                r#"<circle class="{}" cx="{x:.1}" cy="{y:.1}" r="{RADIUS}"><title>{}</title></circle>"#,
                colour(point.group),
                escape(&told)
            ));
        }
        let mut taken: Vec<Area> = places.iter().map(|(x, y)| Area::around(*x, *y)).collect();
        for (point, (x, y)) in self.points.iter().zip(&places) {
            let sides = Area::beside(*x, *y, CHARACTER * point.name.chars().count() as f64);
            let fits = |(_, _, area): &(&str, f64, Area)| {
                let inside = area.left >= LEFT && area.right <= RIGHT && area.top >= frame.top - NAME_HEIGHT;
                inside && !taken.iter().any(|t| t.meets(area))
            };
            let Some((class, at, area)) = sides.into_iter().find(fits) else { continue };
            let (base, name) = (area.top + 0.8 * NAME_HEIGHT, escape(&point.name));
            frame.draw(format_args!(r#"<text class="{class}" x="{at:.1}" y="{base:.1}">{name}</text>"#));
            taken.push(area);
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
        // The second point lies where the first one's name would be, so that goes to the left.
        assert!(svg.contains("class=\"end\"") && svg.contains(">int8</text>"), "{svg}");
        assert!(svg.contains(">int8 again</text>"), "{svg}");
        assert!(svg.contains("int4 &lt;g64&gt;</text>") && svg.contains("bound"), "{svg}");
    }

    #[test]
    fn a_figure_without_points_is_still_one() {
        let svg = Points::default().svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
