//! Which column holds what.

/// What to do about a column that is not found.
pub(super) const HINT: &str = "rename it, or say which one it is with --text-column, --label-column and their like";

/// What to do when these are all columns of a file: a single one with a separator in its name is several.
pub(super) fn hint(found: &[String]) -> String {
    let [only] = found else { return HINT.into() };
    match only.chars().find(|c| ",;|\t".contains(*c)) {
        Some(',') => "that is separated by commas; the file's name must end in .csv then".into(),
        Some('\t') => "that is separated by tabs; the file's name must end in .tsv then".into(),
        Some(other) => format!("that is separated by \"{other}\"; save it with commas as .csv, or with tabs as .tsv"),
        None => HINT.into(),
    }
}

/// What a column can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The text.
    Text,
    /// The second text of a pair.
    TextPair,
    /// One class.
    Label,
    /// Several classes: a list, or names with `|` between them.
    Labels,
    /// How likely each class is: an object, `{"negative": 0.7, "positive": 0.3}`.
    Probabilities,
    /// A number that people gave the text, or the pair.
    Rating,
    /// The numbers of single people: a list, or numbers with `|` between them.
    Ratings,
    /// A summary that people wrote.
    Summary,
    /// Where the text comes from.
    Source,
}

impl Field {
    /// Names under which it is found when nothing else was said; the first that a file has counts.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Field::Text => &["text", "sentence", "input", "sentence1"],
            Field::TextPair => &["text_pair", "sentence2"],
            Field::Label => &["label"],
            Field::Labels => &["labels"],
            Field::Probabilities => &["probabilities"],
            Field::Rating => &["rating", "score"],
            Field::Ratings => &["ratings"],
            Field::Summary => &["summary"],
            Field::Source => &["source"],
        }
    }
}

/// Names of columns that differ from the usual ones.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    named: Vec<(Field, String)>,
    /// Columns with numbers that other programs gave the text.
    pub scores: Vec<String>,
}

impl Columns {
    /// Takes `field` from the column of this name and from no other.
    pub fn name(mut self, field: Field, name: impl Into<String>) -> Self {
        self.named.retain(|(known, _)| *known != field);
        self.named.push((field, name.into()));
        self
    }

    /// The names to look for, in order. A column that was named for something else is not looked at.
    pub(super) fn names(&self, field: Field) -> Vec<&str> {
        match self.named.iter().find(|(named, _)| *named == field) {
            Some((_, name)) => vec![name],
            None => field.names().iter().copied().filter(|name| !self.asked().any(|asked| asked == *name)).collect(),
        }
    }

    /// The columns that must be there, because somebody named them.
    pub(super) fn asked(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|(_, name)| name.as_str()).chain(self.scores.iter().map(String::as_str))
    }
}
