//! Counts in a grid, the darker the more.

use super::escape;
use super::frame::{CHARACTER, Frame};

/// Side of a cell, in pixels, at most; the figure's width bounds it for many columns.
const CELL: (f64, f64) = (110.0, 40.0);
const WIDTH: f64 = 900.0;

/// A table of counts: what was true by what was said, for instance. Each row is coloured by its own shares, so that
/// rare rows are seen as well as common ones.
#[derive(Clone, Debug, Default)]
pub struct HeatMap {
    /// Above the figure; says what rows and columns are.
    pub title: String,
    /// Names of the rows, from above.
    pub rows: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// `[rows][columns]`.
    pub counts: Vec<Vec<u64>>,
}

impl HeatMap {
    /// The figure as an `svg` element. Every cell shows its count and tells its share of the row when pointed at.
    pub fn svg(&self) -> String {
        let height = CELL.1 * (self.rows.len() + 1) as f64;
        let mut frame = Frame::with_height(&self.title, &[], "", height);
        let names = self.rows.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let left = (CHARACTER * names as f64 + 16.0).min(WIDTH / 3.0);
        let width = CELL.0.min((WIDTH - left) / self.columns.len().max(1) as f64);
        let top = frame.top;
        for (index, name) in self.columns.iter().enumerate() {
            frame.text(left + (index as f64 + 0.5) * width, top + CELL.1 * 0.7, name);
        }
        for (row, (name, counts)) in self.rows.iter().zip(&self.counts).enumerate() {
            let y = top + (row as f64 + 1.0) * CELL.1;
            let text_y = y + CELL.1 / 2.0 + 4.5;
            frame.draw(format_args!(r#"<text x="0" y="{text_y:.1}">{}</text>"#, escape(name)));
            let total = counts.iter().sum::<u64>().max(1) as f64;
            for (column, count) in counts.iter().enumerate() {
                let (x, share) = (left + column as f64 * width, *count as f64 / total);
                let told = format!("{name}, {}: {count}, {:.1} %", self.columns[column], 100.0 * share);
                let class = if share > 0.5 { "inside" } else { "middle cell" };
                frame.draw(format_args!(
                    r#"<rect class="s1" x="{x:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" rx="3" fill-opacity="{:.2}"><title>{}</title></rect><text class="{class}" x="{:.1}" y="{text_y:.1}">{count}</text>"#,
                    width - 2.0,
                    CELL.1 - 2.0,
                    0.06 + 0.94 * share,
                    escape(&told),
                    x + width / 2.0,
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
    fn cells_show_their_counts_and_are_coloured_by_the_shares_of_their_row() {
        let names = || vec!["yes".to_string(), "no".to_string()];
        let counts = vec![vec![40, 10], vec![0, 2]];
        let svg = HeatMap { title: "t".into(), rows: names(), columns: names(), counts }.svg();
        assert!(svg.contains("<title>yes, no: 10, 20.0 %</title>"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 4);
        for opacity in ["0.81", "0.25", "0.06", "1.00"] {
            assert!(svg.contains(&format!("fill-opacity=\"{opacity}\"")), "{opacity}: {svg}");
        }
    }

    #[test]
    fn a_figure_without_cells_is_still_one() {
        let svg = HeatMap::default().svg();
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
    }
}
