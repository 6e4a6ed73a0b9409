//! Points with names: one thing against another, and a third as the size of the point.

use super::axis::{Axis, Scale};
use super::frame::{CHARACTER, Frame, Key, LEFT, RIGHT, colour};
use super::{escape, short};

/// Of a point without a size, of the largest one, and of the smallest, in pixels.
const RADIUS: f64 = 5.0;
const LARGEST: f64 = 22.0;
const SMALLEST: f64 = 3.0;
/// Of a name.
const NAME_HEIGHT: f64 = 15.0;

/// The middle of a point and its radius, in pixels.
type Place = (f64, f64, f64);

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
    fn around((x, y, radius): Place) -> Self {
        Area { left: x - radius, right: x + radius, top: y - radius, bottom: y + radius }
    }

    /// Where the name of a point can be: to its right, to its left, above and below it; with the class of its text, and
    /// the `x` that this class wants.
    fn beside((x, y, radius): Place, width: f64) -> [(&'static str, f64, Self); 4] {
        let gap = radius + 4.0;
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
    /// How the horizontal axis is spread.
    pub x_scale: Scale,
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
    /// Ends of its whisker; none without.
    pub interval: Option<(f64, f64)>,
    /// Its area stands for this; all points or none have one.
    pub size: Option<f64>,
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
        let x_axis = Axis::new(self.x_scale, self.points.iter().map(|p| p.x), 8, (LEFT, RIGHT));
        let ends = |p: &Point| p.interval.map_or([p.y; 3], |(low, high)| [low, p.y, high]);
        let heights = self.points.iter().flat_map(ends).chain(limit.clone());
        let y_axis = Axis::new(Scale::Span, heights, 5, (frame.bottom, frame.top));
        frame.value_axis(&y_axis);
        frame.places(&x_axis);
        for value in limit {
            let y = y_axis.place(value);
            frame.draw(format_args!(r#"<line class="limit" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/>"#));
        }
        let largest = self.points.iter().filter_map(|p| p.size).fold(f64::MIN_POSITIVE, f64::max);
        let radius = |size: f64| (LARGEST * (size / largest).max(0.0).sqrt()).max(SMALLEST);
        let place = |p: &Point| (x_axis.place(p.x), y_axis.place(p.y), p.size.map_or(RADIUS, radius));
        let places: Vec<Place> = self.points.iter().map(place).collect();
        for (point, (x, y, radius)) in self.points.iter().zip(&places) {
            let class = colour(point.group);
            if let Some((low, high)) = point.interval {
                let (low, high) = (y_axis.place(low), y_axis.place(high));
                frame.draw(format_args!(
                    r#"<line class="line {class}" x1="{x:.1}" x2="{x:.1}" y1="{low:.1}" y2="{high:.1}"/>"#
                ));
            }
            let told = escape(&format!("{}: {} at {}", point.name, short(point.y), short(point.x)));
            let class = if point.size.is_some() { format!("{class} see-through") } else { class };
            frame.draw(format_args!(
                r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}"><title>{told}</title></circle>"#
            ));
        }
        let mut taken: Vec<Area> = places.iter().map(|place| Area::around(*place)).collect();
        for (point, place) in self.points.iter().zip(&places) {
            let sides = Area::beside(*place, CHARACTER * point.name.chars().count() as f64);
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
        Point { name: name.into(), x, y, ..Point::default() }
    }

    #[test]
    fn points_lie_at_their_values_with_names_that_do_not_overlap() {
        let points = vec![point("int8", 20.0, 0.99), point("int8 again", 20.1, 0.99), point("int4 <g64>", 10.0, 0.97)];
        let figure = Points {
            x_scale: Scale::Span,
            groups: vec!["tried".into()],
            points,
            limit: Some((0.98, "bound".into())),
            ..Points::default()
        };
        let svg = figure.svg();
        assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
        assert!(svg.contains("<title>int8 again: 0.99 at 20.1</title>"), "{svg}");
        // The second point lies where the first one's name would be, so that goes to the left.
        assert!(svg.contains("class=\"end\"") && svg.contains(">int8</text>"), "{svg}");
        assert!(svg.contains(">int8 again</text>"), "{svg}");
        assert!(svg.contains("int4 &lt;g64&gt;</text>") && svg.contains("bound"), "{svg}");
    }

    #[test]
    fn areas_are_in_the_ratio_of_the_sizes_and_whiskers_are_seen() {
        let sized = |name: &str, x, y, size| Point {
            interval: Some((y - 0.05, y + 0.05)),
            size: Some(size),
            ..point(name, x, y)
        };
        let points = vec![sized("int8, 1 ms", 20.0, 0.7, 1.0), sized("f32, 4 ms", 100.0, 0.8, 4.0)];
        let svg = Points { points, ..Points::default() }.svg();
        assert!(svg.contains("r=\"11.0\"") && svg.contains("r=\"22.0\""), "{svg}");
        assert!(svg.contains("<title>int8, 1 ms: 0.7 at 20</title>"), "{svg}");
        assert!(svg.contains("class=\"end\" x=\"918.0\""), "no room at the right end: {svg}");
        assert_eq!(svg.matches("<line class=\"line s1\"").count(), 2, "{svg}");
    }

    #[test]
    fn a_figure_without_points_is_still_one() {
        let svg = Points::default().svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
