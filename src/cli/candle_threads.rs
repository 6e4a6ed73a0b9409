//! candle's own threads.
//!
//! candle cuts element-wise steps between the threads of a pool of the whole process, whose callers wait in a loop until
//! all are done: on a busy machine they wait for a thread that has no CPU. Octet has threads of its own, so candle gets
//! one. It takes the number from the environment, which a running process cannot change safely.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Read by rayon and candle.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Starts the program over with one thread for candle, when nobody chose a number. Call it before anything is done.
pub(super) fn limit() {
    if std::env::var_os(THREADS).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let error = Command::new(program).args(std::env::args_os().skip(1)).env(THREADS, "1").exec();
    tracing::warn!(%error, "candle may use more than one thread; set {THREADS}=1");
}
