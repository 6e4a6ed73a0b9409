//! A page of headings, figures, tables and sentences.

use super::escape;

/// An HTML page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Its heading, also the title of the window.
    pub title: String,
    /// What follows, from above.
    pub blocks: Vec<Block>,
}

/// A part of a page.
#[derive(Clone, Debug)]
pub enum Block {
    /// Begins a section.
    Heading(String),
    /// A sentence or more.
    Text(String),
    /// What `svg()` of a figure gave.
    Figure(String),
    /// Rows of cells, the first being the header; the first column is aligned left, the others right.
    Table(Vec<Vec<String>>),
}

impl Page {
    /// The whole file. Its content policy forbids to load anything.
    pub fn html(&self) -> String {
        let (title, style) = (escape(&self.title), include_str!("page.css"));
        let blocks: String = self.blocks.iter().map(Block::html).collect();
        format!(
            r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{blocks}</main>
</body>
</html>
"#
        )
    }
}

impl Block {
    fn html(&self) -> String {
        match self {
            Block::Heading(text) => format!("<h2>{}</h2>\n", escape(text)),
            Block::Text(text) => format!("<p>{}</p>\n", escape(text)),
            Block::Figure(svg) => format!("<div class=\"wide\">{svg}</div>\n"),
            Block::Table(rows) => {
                let row = |cells: &Vec<String>, tag: &str| {
                    let cells: String = cells.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect();
                    format!("<tr>{cells}</tr>\n")
                };
                let rows = rows.iter().enumerate().map(|(i, cells)| row(cells, if i == 0 { "th" } else { "td" }));
                format!("<div class=\"wide\"><table>\n{}</table></div>\n", rows.collect::<String>())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_its_blocks_in_order_and_as_text() {
        let blocks = vec![
            Block::Heading("A & B".into()),
            Block::Table(vec![vec!["x".into(), "y".into()], vec!["1".into(), "<2>".into()]]),
            Block::Text("end".into()),
        ];
        let html = Page { title: "Speed <1>".into(), blocks }.html();
        let places = ["<h1>Speed &lt;1&gt;</h1>", "A &amp; B", "<th>x</th>", "<td>&lt;2&gt;</td>", "<p>end</p>"];
        let places = places.map(|part| html.find(part).unwrap_or_else(|| panic!("no {part} in {html}")));
        assert!(places.is_sorted(), "{html}");
    }
}
