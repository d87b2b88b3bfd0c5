//! Driving programs and libraries that other people wrote.

use std::ffi::OsStr;
use std::process::Command;

use super::{Server, clients_folder, repository, run, skip};

pub const PASSWORD: &str = "correct horse";

/// A server that asks for [`PASSWORD`].
pub fn server_with_password() -> Server {
    Server::start_on(0, &[], &[("KVSTORE_PASSWORD", PASSWORD)])
}

/// A program with its arguments, ended if it hangs.
pub fn limited(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("60").arg(program);
    command
}

/// A file of `tests/clients`.
pub fn script(name: &str) -> std::path::PathBuf {
    repository().join("tests/clients").join(name)
}

/// Runs a program with the port of a server that has no password, and with the port and the password of one that has;
/// the program prints `ok` in the end.
pub fn drive(program: &[&OsStr]) {
    for (server, password) in [(Server::start(&[]), None), (server_with_password(), Some(PASSWORD))] {
        let mut command = limited(program[0]);
        command.args(&program[1..]).arg(server.port.to_string()).args(password);
        if clients_folder().is_dir() {
            // Node.js looks for its packages from here.
            command.current_dir(clients_folder());
        }
        let output = run(&mut command, "");
        assert_eq!(
            (output.stdout.as_str(), output.code),
            ("ok\n", Some(0)),
            "{program:?}, password {password:?}: {}",
            output.stderr
        );
    }
}

/// Whether `.ci/run` has installed this under [`clients_folder`].
pub fn have_client(path: &str) -> bool {
    let found = clients_folder().join(path).exists();
    if !found {
        skip(&format!("target/clients/{path} is missing; .ci/run installs it"));
    }
    found
}

/// Whether a test can use a file that a package installs.
pub fn have_file(path: &str, package: &str) -> bool {
    let found = std::path::Path::new(path).exists();
    if !found {
        skip(&format!("{path} is missing (Debian: {package})"));
    }
    found
}
