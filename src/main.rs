//! Start-up only: parse, run, print the error chain, exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match octet::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("octet: {}", octet::cli::chain(&error));
            ExitCode::FAILURE
        }
    }
}
