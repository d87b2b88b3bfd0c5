//! Driving programs and libraries that other people wrote.

use std::ffi::OsStr;
use std::process::Command;

use super::{Server, clients_folder, have, repository, run, skip};

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

/// Runs a program with the port of a server that has no password, and with the port and the
/// password of one that has; the program prints `ok` in the end.
pub fn drive(program: &[&OsStr]) {
    drive_with(PASSWORD, program);
}

/// [`drive`] with this password.
pub fn drive_with(password: &str, program: &[&OsStr]) {
    let closed = Server::start_on(0, &[], &[("KVSTORE_PASSWORD", password)]);
    for (server, password) in [(Server::start(&[]), None), (closed, Some(password))] {
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

/// Whether a program can load the library of a package: `probe` fails if not.
pub fn have_library(probe: &[&str], package: &str) -> bool {
    if !have(probe[0], package) {
        return false;
    }
    let found = run(Command::new(probe[0]).args(&probe[1..]), "").code == Some(0);
    if !found {
        skip(&format!("{} cannot load {package}", probe[0]));
    }
    found
}
