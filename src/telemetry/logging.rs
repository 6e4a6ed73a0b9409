//! Sets up logging. Input text is never logged: events carry ids, counts and times.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Writes events of at least `level` to standard error; a second call changes nothing.
///
/// Panics are logged with their place but without their message, which may hold a piece of an input.
pub fn init(level: LevelFilter, format: Format) {
    let lines = fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    let first = match format {
        Format::Text => lines.finish().try_init().is_ok(),
        Format::Json => lines.json().flatten_event(true).finish().try_init().is_ok(),
    };
    if first {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
            tracing::error!(place, thread, "panic");
        }));
    }
}
