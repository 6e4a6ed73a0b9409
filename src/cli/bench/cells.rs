//! Cells of the grid: how many sequences of how many tokens.

use std::fmt;
use std::str::FromStr;

/// A batch of equal sequences, written `8x128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) sequences: usize,
    /// Of each sequence.
    pub(super) tokens: usize,
}

/// The grid that is measured when no cells are given.
pub(super) const GRID: [Cell; 9] = [
    Cell { sequences: 1, tokens: 16 },
    Cell { sequences: 1, tokens: 32 },
    Cell { sequences: 1, tokens: 128 },
    Cell { sequences: 1, tokens: 512 },
    Cell { sequences: 8, tokens: 32 },
    Cell { sequences: 8, tokens: 128 },
    Cell { sequences: 32, tokens: 32 },
    Cell { sequences: 32, tokens: 128 },
    Cell { sequences: 32, tokens: 512 },
];

/// Most tokens of a cell: 64 times the largest of the grid.
const MAX_TOKENS: usize = 1 << 20;

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}x{}", self.sequences, self.tokens))
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('x').and_then(|(b, t)| Some((b.trim().parse().ok()?, t.trim().parse().ok()?)));
        match numbers {
            Some((sequences @ 1.., tokens @ 1..)) if usize::saturating_mul(sequences, tokens) <= MAX_TOKENS => {
                Ok(Cell { sequences, tokens })
            }
            _ => Err(format!(
                "found \"{text}\", expected sequences x tokens, e.g. 8x128, with at most {MAX_TOKENS} tokens in all"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_read_back_as_they_are_written() {
        for cell in GRID {
            assert_eq!(cell.to_string().parse(), Ok(cell));
        }
        assert_eq!(" 8 x 128".parse(), Ok(Cell { sequences: 8, tokens: 128 }));
    }

    #[test]
    fn what_is_no_cell_is_refused_with_an_example() {
        for text in ["", "8", "8x", "x8", "0x8", "8x0", "-1x8", "8x8x8", "1.5x8", "1048577x1", "99999999999999x9999999"]
        {
            let error = text.parse::<Cell>().unwrap_err();
            assert!(error.contains(&format!("\"{text}\"")) && error.contains("8x128"), "{error}");
        }
    }
}
