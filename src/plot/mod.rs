//! Figures as inline SVG, and pages of figures and tables as one HTML file that needs nothing else: no scripts, no
//! fonts, no images from elsewhere. A leaf: it imports nothing of ours.
//!
//! Colours are CSS variables that [`Page`] sets for light and dark screens. Start with [`Bars`], [`Lines`], [`Points`]
//! or [`Distribution`].

mod axis;
mod bars;
mod distribution;
mod frame;
mod heat_map;
mod intervals;
mod lines;
mod page;
mod points;

pub use axis::Scale;
pub use bars::{BarSeries, Bars};
pub use distribution::Distribution;
pub use heat_map::HeatMap;
pub use intervals::{IntervalRow, Intervals};
pub use lines::{LineSeries, Lines};
pub use page::{Block, Page};
pub use points::{Point, Points};

/// Text as HTML and SVG take it, in elements and in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A number for people in few digits: `0.85`, `12.5`, `340`, `12.5k`, `2.4M`, `1.1G`, `5e-4`.
fn short(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.000_95 {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let (scaled, unit) = match value.abs() {
        a if a >= 999.5e6 => (value / 1e9, "G"),
        a if a >= 999.5e3 => (value / 1e6, "M"),
        a if a >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        a if a >= 99.95 => 0,
        a if a >= 9.995 || a == 0.0 => 1,
        a if a >= 0.0995 => 2,
        _ => 4,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let tiny = [(5e-4, "5e-4"), (-1.24e-5, "-1.2e-5"), (0.001, "0.001")];
        let cases = [(0.0, "0"), (0.00123, "0.0012"), (0.5, "0.5"), (12.34, "12.3"), (100.0, "100"), (999.6, "1k")];
        let large = [(1250.0, "1.25k"), (20_000.0, "20k"), (472.8e9, "473G"), (1.5e6, "1.5M"), (-2000.0, "-2k")];
        for (value, expected) in cases.into_iter().chain(large).chain(tiny) {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn marks_of_the_language_are_escaped() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    }
}
