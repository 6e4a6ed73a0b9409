//! Bubbles: one value against another, and a third as the size of the bubble.

use super::axis::{Axis, Scale};
use super::frame::{CHARACTER, Frame, Key, LEFT, RIGHT, colour};
use super::{escape, short};

/// Radius of the largest bubble, in pixels, and of one without a size.
const LARGEST: f64 = 22.0;
const PLAIN: f64 = 6.0;

/// A chart of bubbles.
#[derive(Clone, Debug, Default)]
pub struct Bubbles {
    /// Above the figure; says what runs upwards, and what the size of a bubble is.
    pub title: String,
    /// What runs along the horizontal axis, with its unit.
    pub x_label: String,
    /// How the horizontal axis is spread.
    pub x_scale: Scale,
    /// How the vertical axis is spread.
    pub y_scale: Scale,
    /// The bubbles; each has a colour of its own.
    pub bubbles: Vec<Bubble>,
}

/// One bubble.
#[derive(Clone, Debug, Default)]
pub struct Bubble {
    /// In the legend.
    pub name: String,
    /// Along the horizontal axis.
    pub x: f64,
    /// Upwards.
    pub y: f64,
    /// Ends of its whisker; none without.
    pub interval: Option<(f64, f64)>,
    /// Its area stands for this; all bubbles or none have one.
    pub size: Option<f64>,
    /// Beside the bubble and in what it tells when pointed at.
    pub note: String,
}

impl Bubbles {
    /// The figure as an `svg` element. Every bubble tells its values when pointed at.
    pub fn svg(&self) -> String {
        let legend: Vec<_> = self.bubbles.iter().enumerate().map(|(i, p)| (Key::Box(i), p.name.as_str())).collect();
        let mut frame = Frame::new(&self.title, &legend, &self.x_label);
        let x_axis = Axis::new(self.x_scale, self.bubbles.iter().map(|p| p.x), 8, (LEFT, RIGHT));
        let ends = |p: &Bubble| p.interval.map_or([p.y; 3], |(low, high)| [low, p.y, high]);
        let y_axis = Axis::new(self.y_scale, self.bubbles.iter().flat_map(ends), 5, (frame.bottom, frame.top));
        frame.value_axis(&y_axis);
        frame.places(&x_axis);
        let largest = self.bubbles.iter().filter_map(|p| p.size).fold(f64::MIN_POSITIVE, f64::max);
        let mut notes: Vec<(f64, f64)> = Vec::new();
        for (index, bubble) in self.bubbles.iter().enumerate() {
            let (class, x, y) = (colour(index), x_axis.place(bubble.x), y_axis.place(bubble.y));
            let radius = bubble.size.map_or(PLAIN, |size| (LARGEST * (size / largest).max(0.0).sqrt()).max(3.0));
            if let Some((low, high)) = bubble.interval {
                let (low, high) = (y_axis.place(low), y_axis.place(high));
                frame.draw(format_args!(
                    r#"<line class="line {class}" x1="{x:.1}" x2="{x:.1}" y1="{low:.1}" y2="{high:.1}"/>"#
                ));
            }
            let note = escape(&bubble.note);
            let told = format!("{}: {} at {}, {note}", escape(&bubble.name), short(bubble.y), short(bubble.x));
            frame.draw(format_args!(
                r#"<circle class="{class} see-through" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}"><title>{told}</title></circle>"#
            ));
            // Beside the bubble, on the side that has room, and below the notes that are there.
            let width = CHARACTER * bubble.note.chars().count() as f64;
            let (class, at) = match x + radius + 6.0 + width <= RIGHT {
                true => ("", x + radius + 6.0),
                false => ("end", x - radius - 6.0),
            };
            let mut note_y = y + 4.5;
            while notes.iter().any(|(x, y)| (x - at).abs() < width + 40.0 && (y - note_y).abs() < 15.0) {
                note_y += 15.0;
            }
            notes.push((at, note_y));
            frame.draw(format_args!(r#"<text class="{class}" x="{at:.1}" y="{note_y:.1}">{note}</text>"#));
        }
        frame.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bubbles_lie_where_their_values_are_and_their_areas_are_in_the_ratio_of_their_sizes() {
        let bubble = |name: &str, x, y, size| Bubble {
            name: name.into(),
            x,
            y,
            interval: Some((y - 0.05, y + 0.05)),
            size: Some(size),
            note: format!("{size} ms"),
        };
        let bubbles = vec![bubble("int8", 20.0, 0.7, 1.0), bubble("f32", 100.0, 0.8, 4.0)];
        let svg = Bubbles { bubbles, y_scale: Scale::Span, ..Bubbles::default() }.svg();
        assert!(svg.contains("r=\"11.0\"") && svg.contains("r=\"22.0\""), "{svg}");
        assert!(svg.contains("<title>int8: 0.7 at 20, 1 ms</title>"), "{svg}");
        assert!(svg.contains("class=\"end\" x=\"916.0\""), "no room at the right end: {svg}");
    }

    #[test]
    fn a_figure_without_bubbles_is_still_one() {
        let svg = Bubbles::default().svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
