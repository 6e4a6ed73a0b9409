//! Sets up logging. Input text is never logged: events carry ids, counts and times.

use std::io::IsTerminal;

pub use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Layer, fmt, registry};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Writes our events of at least `level`, and warnings of the libraries, to standard error. A second call changes
/// nothing.
///
/// What libraries say below a warning may hold pieces of a request, so it is left out at every level. For the same
/// reason panics are logged with their place but without their message.
pub fn init(level: LevelFilter, format: Format) {
    let ours = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("octet", level);
    // Colours are for people who watch, not for files and log collectors.
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).with_target(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    if registry().with(lines.with_filter(ours)).try_init().is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
            tracing::error!(place, thread, "panic");
        }));
    }
}
