//! `owner/name[@revision]`.

use std::fmt;

/// The id of a model on a hub. All parts are safe to use in paths and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelId {
    pub owner: String,
    pub name: String,
    /// Branch, tag or commit; `main` when none is given.
    pub revision: String,
}

impl ModelId {
    /// Splits an id, or returns `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = path.split_once('/')?;
        let is_valid = is_part(owner) && is_part(name) && revision.split('/').all(is_part);
        is_valid.then(|| ModelId { owner: owner.into(), name: name.into(), revision: revision.into() })
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// Letters, digits, `-`, `_` and `.`; no `..` or `--` (the cache uses it to join parts), nothing hidden.
fn is_part(text: &str) -> bool {
    (1..=96).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !text.starts_with(['.', '-'])
        && !text.ends_with('.')
        && !text.contains("..")
        && !text.contains("--")
}
