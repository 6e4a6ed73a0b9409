//! Flags that say which column of a data file holds what.

use std::path::Path;

use clap::Args;

use crate::data::{Columns, Example, Field, column_names};

/// Names of columns (csv, tsv) or fields (jsonl) with texts.
#[derive(Args)]
#[command(next_help_heading = "Columns of the data")]
pub(super) struct TextColumnArgs {
    /// Column with the text [text, sentence, input, sentence1]
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// Column with the second text of a pair [text_pair, sentence2]
    #[arg(long, value_name = "NAME")]
    pair_column: Option<String>,
}

/// Names of columns or fields with texts, and with what people said about them.
#[derive(Args)]
#[command(next_help_heading = "Columns of the data")]
pub(super) struct ColumnArgs {
    #[command(flatten)]
    texts: TextColumnArgs,
    /// Column with the class [label]
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// Column with several classes: a list, or names with | between them [labels]
    #[arg(long, value_name = "NAME")]
    labels_column: Option<String>,
    /// Column with a number that people gave [rating, score]
    #[arg(long, value_name = "NAME")]
    rating_column: Option<String>,
    /// Column with a summary that people wrote [summary]
    #[arg(long, value_name = "NAME")]
    summary_column: Option<String>,
    /// Column that says where the text comes from [source]
    #[arg(long, value_name = "NAME")]
    source_column: Option<String>,
}

impl TextColumnArgs {
    /// What was named.
    pub(super) fn columns(&self) -> Columns {
        with_names(Columns::default(), [(Field::Text, &self.text_column), (Field::TextPair, &self.pair_column)])
    }
}

impl ColumnArgs {
    /// What was named.
    pub(super) fn columns(&self) -> Columns {
        let named = [
            (Field::Label, &self.label_column),
            (Field::Labels, &self.labels_column),
            (Field::Rating, &self.rating_column),
            (Field::Summary, &self.summary_column),
            (Field::Source, &self.source_column),
        ];
        with_names(self.texts.columns(), named)
    }
}

/// Columns with the names that were given.
pub(super) fn with_names<const N: usize>(columns: Columns, named: [(Field, &Option<String>); N]) -> Columns {
    let named = named.into_iter().filter_map(|(field, name)| Some((field, name.as_ref()?)));
    named.fold(columns, |columns, (field, name)| columns.name(field, name))
}

/// What a file has in place of a column that it has not: `texts.csv (found review, stars)`.
pub(super) fn with_found(path: &Path, columns: &Columns) -> String {
    let found = column_names(path, columns).unwrap_or_default();
    format!("{} (found {})", path.display(), found.join(", "))
}

/// The file that `examples` are of, with what it has in place of labels when there are none.
pub(super) fn labelled(path: &Path, columns: &Columns, examples: &[Example]) -> String {
    match examples.iter().any(|example| example.label.is_some() || example.labels.is_some()) {
        true => path.display().to_string(),
        false => with_found(path, columns),
    }
}
