//! Programs that tests start: the octet binary itself, and tools that may be missing.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use super::support::PATIENCE;

/// A started program. Dropping it kills it, and only it.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The octet binary without the settings that this process may have in its environment.
pub fn octet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
    std::env::vars().filter(|(name, _)| name.starts_with("OCTET_")).for_each(|(name, _)| {
        command.env_remove(name);
    });
    command
}

/// Starts a command that ends up in `octet serve`, and waits until it tells its address.
pub fn serve(command: &mut Command) -> (Running, SocketAddr) {
    let mut server = Running(command.stdout(Stdio::piped()).spawn().expect("the program starts"));
    let output = BufReader::new(server.0.stdout.take().expect("its output is a pipe"));
    let (tell, told) = mpsc::channel();
    // Reads on to the end, so that the server never waits for a full pipe.
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let rest = line.strip_prefix("listening on http://").and_then(|rest| rest.split(' ').next());
            if let Some(address) = rest.and_then(|address| address.parse().ok()) {
                let _ = tell.send(address);
            }
        }
    });
    let address = told.recv_timeout(PATIENCE).expect("the server says where it listens");
    (server, address)
}

/// A program in the folder that the variable names, or else on the search path.
pub fn find_program(name: &str, folder_variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(folder_variable).map(PathBuf::from);
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let folders = named.into_iter().chain(on_path.unwrap_or_default()).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Says that a test did not run, where it is seen also when the test runner swallows the output of tests that pass.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

/// Runs a command to its end.
///
/// # Panics
/// When it fails, with all that it printed.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?} failed:\n{printed}");
    printed
}
