//! Bars side by side for each category, with an optional limit that each could reach.

use super::axis::{Axis, Scale};
use super::frame::{CHARACTER, Frame, Key, LEFT, RIGHT, colour};
use super::{escape, short};

/// Widest bar, in pixels.
const MAX_BAR: f64 = 72.0;

/// A bar chart.
#[derive(Clone, Debug, Default)]
pub struct Bars {
    /// Above the figure; says what a bar is and in which unit.
    pub title: String,
    /// Names along the horizontal axis.
    pub categories: Vec<String>,
    /// One bar in every category each.
    pub series: Vec<BarSeries>,
    /// What the limits of the series are, in the legend; empty when there are none.
    pub limit: String,
    /// How values are spread; bars on a logarithmic axis begin at its lowest tick.
    pub scale: Scale,
}

/// Bars of one colour.
#[derive(Clone, Debug, Default)]
pub struct BarSeries {
    /// In the legend.
    pub name: String,
    /// By category; none where there is no bar.
    pub values: Vec<Option<f64>>,
    /// By category: a line across the bar. May be shorter.
    pub limits: Vec<Option<f64>>,
}

impl Bars {
    /// The figure as an `svg` element. Every bar tells its value when pointed at, and shows it where all
    /// have room for that.
    pub fn svg(&self) -> String {
        let mut legend: Vec<_> = self.series.iter().enumerate().map(|(i, s)| (Key::Box(i), s.name.as_str())).collect();
        if !self.limit.is_empty() {
            legend.push((Key::Limit, &self.limit));
        }
        let mut frame = Frame::new(&self.title, &legend, "");
        let values = self.series.iter().flat_map(|s| s.values.iter().chain(&s.limits)).flatten().copied();
        let axis = Axis::new(self.scale, values, 5, (frame.bottom, frame.top));
        frame.value_axis(&axis);

        let slot = (RIGHT - LEFT) / self.categories.len().max(1) as f64;
        let bar = (0.8 * slot / self.series.len().max(1) as f64).min(MAX_BAR);
        let shown = self.series.iter().flat_map(|s| &s.values).flatten().map(|v| short(*v).chars().count());
        let labelled = CHARACTER * shown.max().unwrap_or(0) as f64 <= bar;
        for (index, category) in self.categories.iter().enumerate() {
            let middle = LEFT + (index as f64 + 0.5) * slot;
            let label_y = frame.bottom + 20.0;
            frame.text(middle, label_y, category);
            for (number, series) in self.series.iter().enumerate() {
                let x = middle + (number as f64 - self.series.len() as f64 / 2.0) * bar;
                self.bar(&mut frame, &axis, (x, bar, labelled), (number, series), index);
            }
        }
        frame.finish()
    }

    fn bar(
        &self,
        frame: &mut Frame,
        axis: &Axis,
        (x, width, labelled): (f64, f64, bool),
        (number, series): (usize, &BarSeries),
        category: usize,
    ) {
        let Some(value) = series.values.get(category).copied().flatten() else { return };
        let limit = series.limits.get(category).copied().flatten();
        let (top, label) = (axis.place(value), short(value));
        let told = limit.map_or(String::new(), |limit| format!(" ({}: {})", self.limit, short(limit)));
        let told = format!("{}, {}: {label}{told}", self.categories[category], series.name);
        frame.draw(format_args!(
            r#"<rect class="{}" x="{:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" rx="2"><title>{}</title></rect>"#,
            colour(number),
            x + 1.0,
            width - 2.0,
            frame.bottom - top,
            escape(&told),
        ));
        if let Some(limit) = limit {
            let y = axis.place(limit);
            frame.draw(format_args!(
                r#"<line class="limit" x1="{x:.1}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/>"#,
                x + width
            ));
        }
        if labelled {
            // Inside the bar when the limit's line would run through the text above it.
            let crossed = limit.is_some_and(|l| (axis.place(l)..axis.place(l) + 24.0).contains(&top));
            let y = if crossed && frame.bottom - top > 24.0 { top + 18.0 } else { top - 6.0 };
            let class = if y > top { "inside" } else { "middle" };
            frame.draw(format_args!(r#"<text class="{class}" x="{:.1}" y="{y:.1}">{label}</text>"#, x + width / 2.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars() -> Bars {
        let series = |name: &str, values: Vec<Option<f64>>| BarSeries { name: name.into(), values, limits: vec![] };
        Bars {
            title: "tokens/s <real>".into(),
            categories: vec!["1x16".into(), "8x32".into()],
            series: vec![series("1 thread", vec![Some(10.0), Some(20.0)]), series("2 threads", vec![None, Some(40.0)])],
            ..Bars::default()
        }
    }

    #[test]
    fn each_value_is_a_bar_of_its_height_that_tells_it() {
        let svg = bars().svg();
        assert_eq!(svg.matches("<title>").count(), 3, "{svg}");
        assert!(svg.contains("<title>8x32, 2 threads: 40</title>") && svg.contains("tokens/s &lt;real&gt;"), "{svg}");
        // The axis ends at 40, so the heights are in the ratio of the values.
        for height in ["60.0", "120.0", "240.0"] {
            assert!(svg.contains(&format!("height=\"{height}\"")), "{height}: {svg}");
        }
    }

    #[test]
    fn limits_are_lines_with_a_place_in_the_legend() {
        let mut bars = bars();
        assert!(!bars.svg().contains("class=\"limit\""));
        bars.limit = "peak".into();
        bars.series[0].limits = vec![Some(30.0), None];
        let svg = bars.svg();
        assert_eq!(svg.matches("class=\"limit\"").count(), 2, "one in the figure, one in the legend: {svg}");
        assert!(svg.contains("<title>1x16, 1 thread: 10 (peak: 30)</title>"), "{svg}");
    }

    #[test]
    fn a_figure_without_bars_is_still_one() {
        let svg = Bars::default().svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
    }
}
