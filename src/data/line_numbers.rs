//! Which line a byte of a file is on.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Counts the lines of a file as far as it is asked. The csv reader's own count is behind when a line ends with two bytes
/// or empty lines follow: it sees these when the next record is read.
pub(super) struct LineNumbers {
    file: BufReader<File>,
    byte: u64,
    line: u64,
}

impl LineNumbers {
    /// At the beginning of a file.
    pub(super) fn new(file: File) -> Self {
        LineNumbers { file: BufReader::new(file), byte: 0, line: 1 }
    }

    /// The line, from 1, of the first record that begins at `byte` or after the ends of lines there; of one call to the
    /// next the places must rise.
    pub(super) fn of_record(&mut self, byte: u64) -> u64 {
        while self.byte < byte && self.pass(byte - self.byte, |_| true) {}
        while self.pass(1, |next| next == b'\r' || next == b'\n') {}
        self.line
    }

    /// Passes at most `most` bytes if the next one is of a kind; says whether it did.
    fn pass(&mut self, most: u64, is_wanted: impl Fn(u8) -> bool) -> bool {
        let Ok(bytes) = self.file.fill_buf() else { return false };
        if !bytes.first().is_some_and(|next| is_wanted(*next)) {
            return false;
        }
        let passed = bytes.len().min(most as usize);
        self.line += bytes[..passed].iter().filter(|byte| **byte == b'\n').count() as u64;
        self.file.consume(passed);
        self.byte += passed as u64;
        true
    }
}
