//! Progress bars on standard error; silent when it is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `total` steps, with time left.
pub(super) fn bar(total: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:32}] {pos}/{len}, {eta} left  {wide_msg}")
        .expect("the template is valid")
        .progress_chars("=> ");
    ProgressBar::new(total as u64).with_style(style).with_prefix(what)
}

/// A bar over the bytes of a download.
pub(super) fn download() -> ProgressBar {
    let style = ProgressStyle::with_template("download [{bar:32}] {bytes}/{total_bytes}, {eta} left  {wide_msg}")
        .expect("the template is valid")
        .progress_chars("=> ");
    ProgressBar::new(0).with_style(style)
}
