//! What all figures share: title, legend, axes and grid lines.

use std::fmt::Write;

use super::axis::Axis;
use super::{escape, short};

pub(super) const WIDTH: f64 = 960.0;
/// Height of the area in which values are drawn.
const PLOT_HEIGHT: f64 = 240.0;
pub(super) const LEFT: f64 = 52.0;
pub(super) const RIGHT: f64 = WIDTH - 16.0;
const TITLE_HEIGHT: f64 = 36.0;
const LEGEND_LINE: f64 = 22.0;
/// For the labels of the horizontal axis, and for its name.
const BOTTOM: f64 = 30.0;
const NAME_HEIGHT: f64 = 22.0;
/// Mean width of a character at the size of figure text; letters of usual fonts are narrower on average.
pub(super) const CHARACTER: f64 = 7.2;
/// Colours there are; further series begin again.
const COLOURS: usize = 8;

/// How a legend shows a series.
#[derive(Clone, Copy)]
pub(super) enum Key {
    /// A box in the colour of a series.
    Box(usize),
    /// A line in the colour of a series.
    Line(usize),
    /// The line of a limit.
    Limit,
    /// The line of a level of quantization.
    Level,
}

/// A figure that is being drawn.
pub(super) struct Frame {
    svg: String,
    /// Where the area of values begins and ends, from above.
    pub(super) top: f64,
    pub(super) bottom: f64,
}

/// The CSS class that colours series `index`.
pub(super) fn colour(index: usize) -> String {
    format!("s{}", index % COLOURS + 1)
}

impl Frame {
    /// Begins a figure with its title, its legend and the name of the horizontal axis.
    pub(super) fn new(title: &str, legend: &[(Key, &str)], x_label: &str) -> Self {
        Frame::with_height(title, legend, x_label, PLOT_HEIGHT)
    }

    /// As [`Frame::new`], with another height of the area of values.
    pub(super) fn with_height(title: &str, legend: &[(Key, &str)], x_label: &str, plot_height: f64) -> Self {
        let mut items = String::new();
        let (mut x, mut line) = (0.0, 0.0);
        for (key, name) in legend {
            let width = 26.0 + CHARACTER * name.chars().count() as f64 + 18.0;
            if x > 0.0 && x + width > RIGHT {
                (x, line) = (0.0, line + 1.0);
            }
            let y = TITLE_HEIGHT + line * LEGEND_LINE + 8.0;
            let mark = match key {
                Key::Box(series) => {
                    format!(
                        r#"<rect class="{}" x="{x}" y="{}" width="14" height="12" rx="2"/>"#,
                        colour(*series),
                        y - 6.0
                    )
                }
                Key::Line(series) => line_mark(&format!("line {}", colour(*series)), x, y),
                Key::Limit => line_mark("limit", x, y),
                Key::Level => line_mark("level", x, y),
            };
            let (text_x, text_y) = (x + 24.0, y + 4.5);
            write_to(&mut items, format_args!(r#"{mark}<text x="{text_x}" y="{text_y}">{}</text>"#, escape(name)));
            x += width;
        }
        let top = TITLE_HEIGHT + if legend.is_empty() { 8.0 } else { (line + 1.0) * LEGEND_LINE + 12.0 };
        let bottom = top + plot_height;
        let mut svg = String::new();
        let name_height = if x_label.is_empty() { 0.0 } else { NAME_HEIGHT };
        let (height, title) = (bottom + BOTTOM + name_height, escape(title));
        write_to(
            &mut svg,
            format_args!(
                r#"<svg class="figure" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><text class="title" x="0" y="20">{title}</text>{items}"#
            ),
        );
        let mut frame = Frame { svg, top, bottom };
        if !x_label.is_empty() {
            frame.text((LEFT + RIGHT) / 2.0, bottom + BOTTOM + 12.0, x_label);
        }
        frame
    }

    /// Adds anything.
    pub(super) fn draw(&mut self, svg: std::fmt::Arguments<'_>) {
        write_to(&mut self.svg, svg);
    }

    /// Text in the middle of `x`.
    pub(super) fn text(&mut self, x: f64, y: f64, text: &str) {
        self.draw(format_args!(r#"<text class="middle" x="{x:.1}" y="{y:.1}">{}</text>"#, escape(text)));
    }

    /// Lines across at the ticks of the value axis, with their values.
    pub(super) fn value_axis(&mut self, axis: &Axis) {
        for tick in axis.ticks() {
            let y = axis.place(*tick);
            let (text_x, text_y, label) = (LEFT - 8.0, y + 4.5, short(*tick));
            self.draw(format_args!(
                r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/><text class="end" x="{text_x}" y="{text_y:.1}">{label}</text>"#
            ));
        }
    }

    /// Lines upwards at the ticks of the horizontal axis, with their values.
    pub(super) fn places(&mut self, axis: &Axis) {
        let (bottom, top) = (self.bottom, self.top);
        for tick in axis.ticks() {
            let x = axis.place(*tick);
            self.draw(format_args!(r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}"/>"#));
            self.text(x, bottom + 20.0, &short(*tick));
        }
    }

    /// The finished figure.
    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

fn line_mark(class: &str, x: f64, y: f64) -> String {
    format!(r#"<line class="{class}" x1="{x}" x2="{}" y1="{y}" y2="{y}"/>"#, x + 18.0)
}

fn write_to(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("writing to a string does not fail");
}
