//! A part of a report: a table, rows of JSON, figures and notes.

use std::fmt;

use serde_json::Value;

use crate::plot::Block;

use super::table::Table;

/// What one part of a command found.
pub(in crate::cli) struct Section {
    /// Its name in JSON.
    pub(in crate::cli) key: &'static str,
    /// Its heading.
    pub(in crate::cli) title: &'static str,
    pub(in crate::cli) table: Table,
    /// The rows of the table with all their figures, for JSON.
    pub(in crate::cli) rows: Vec<Value>,
    /// The figures of the page, as SVG.
    pub(in crate::cli) figures: Vec<String>,
    /// What the figures mean, a sentence each.
    pub(in crate::cli) notes: Vec<String>,
}

impl Section {
    /// Its part of a page.
    pub(in crate::cli) fn blocks(&self) -> Vec<Block> {
        let mut blocks = vec![Block::Heading(self.title.to_string())];
        blocks.extend(self.figures.iter().cloned().map(Block::Figure));
        if self.table.rows().len() > 1 {
            blocks.push(Block::Table(self.table.rows().to_vec()));
        }
        blocks.extend(self.notes.iter().cloned().map(Block::Text));
        blocks
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n\n{}", self.title, self.table)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}
