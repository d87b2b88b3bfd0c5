//! What the tests share: real servers in their own processes, raw sockets, waiting with a deadline.
#![allow(dead_code)] // Each test file uses its part.

pub mod clients;
pub mod cluster;
pub mod disk;
pub mod http;
pub mod measure;
pub mod raft;
pub mod redis;
pub mod slow;

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen soon; generous, as machines may be loaded.
pub const SOON: Duration = Duration::from_secs(20);

/// The release binary, built if it is not up to date.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // `target/debug/kvstore` of this run tells where the target directory is.
        let debug = Path::new(env!("CARGO_BIN_EXE_kvstore"));
        let target = debug.parent().and_then(Path::parent).expect("a target directory");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--release", "--quiet", "--manifest-path"]);
        build.arg(repository().join("Cargo.toml")).arg("--target-dir").arg(target);
        assert!(build.status().expect("cargo runs").success(), "the release build failed");
        target.join("release").join("kvstore")
    })
}

/// The top of the source tree.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A server process on a free port; killed when dropped.
#[derive(Debug)]
pub struct Server {
    pub port: u16,
    /// What it printed until it served.
    pub printed: String,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server with these options.
    pub fn start(options: &[&str]) -> Server {
        Server::start_on(0, options, &[])
    }

    /// Starts a server with options and environment variables on a port (0: any).
    pub fn start_on(port: u16, options: &[&str], variables: &[(&str, &str)]) -> Server {
        let mut command = Command::new(binary());
        command.arg("server").arg(port.to_string()).args(options).envs(variables.iter().copied());
        Server::spawn(command).unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    /// Starts a server by any command that ends in one; its log if it ends before it serves.
    pub fn spawn(mut command: Command) -> Result<Server, String> {
        raise_descriptor_limit();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server can be run");
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, copy) = (child.stderr.take().expect("piped"), Arc::clone(&log));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = copy.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (mut line, mut printed) = (String::new(), String::new());
        while stdout.read_line(&mut line).expect("the server prints text") > 0 {
            printed.push_str(&line);
            if let Some(port) = line.trim().strip_prefix("Server started on port ") {
                let port = port.parse().expect("a port number");
                // Keep reading, so that the server never meets a closed or full pipe.
                thread::spawn(move || stdout.read_to_string(&mut String::new()));
                return Ok(Server { port, printed, child, log });
            }
            line.clear();
        }
        let status = child.wait().expect("it ended");
        // The reader of stderr ends with the pipe: then all last words are there.
        reader.join().expect("read");
        let said = log.lock().unwrap().clone();
        Err(format!("{status}: {said}"))
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A raw connection.
    pub fn connect(&self) -> Wire {
        Wire::connect(self.port)
    }

    /// Waits until the server has logged this: it may have done something before its words arrive
    /// here.
    #[track_caller]
    pub fn wait_for_log(&self, words: &str) {
        poll(&format!("the log says '{words}'"), || self.log().contains(words).then_some(()));
    }

    /// What the server logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The exit code, once the process has ended.
    pub fn exit_code(&mut self) -> Option<i32> {
        poll("the server ends", || self.child.try_wait().expect("its state")).code()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- log of the server on port {} ---\n{}", self.port, self.log());
        }
    }
}

/// Raises this process's soft limit of open files, which servers inherit, as `run_server.sh` does:
/// with the usual 1,024 a server says at its start that it takes fewer connections.
pub fn raise_descriptor_limit() {
    static RAISED: OnceLock<()> = OnceLock::new();
    RAISED.get_or_init(|| drop(rlimit::increase_nofile_limit(65_536)));
}

/// Sends a signal to a process. By the shell: the program `kill` is in a package that a base system
/// lacks.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(status.expect("a shell").success(), "kill -{name} {pid}");
}

/// Quotes a word for the shell.
pub fn quoted(word: impl std::fmt::Display) -> String {
    format!("'{}'", word.to_string().replace('\'', "'\\''"))
}

/// A program in the background; killed when dropped.
#[derive(Debug)]
pub struct Program(pub Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A raw TCP connection with time limits.
#[derive(Debug)]
pub struct Wire {
    pub stream: TcpStream,
}

impl Wire {
    pub fn connect(port: u16) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Reads exactly as many bytes as `expected` has and compares.
    #[track_caller]
    pub fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut bytes = vec![0; expected.len()];
        let mut len = 0;
        while len < bytes.len() {
            match self.stream.read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) => panic!("after '{}': {error}", bytes[..len].escape_ascii()),
            }
        }
        assert_eq!(bytes[..len].escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    /// Sends a request and compares the reply.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
        self.send(request);
        self.expect(expected);
    }

    /// Reads a line, without its end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.stream.read(&mut byte).expect("a line comes") == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned()
    }

    /// Reads until the last bytes are these.
    pub fn read_until(&mut self, end: &[u8]) {
        let (mut bytes, mut piece) = (Vec::new(), [0; 64 * 1024]);
        while !bytes.ends_with(end) {
            let len = self.stream.read(&mut piece).expect("a reply");
            assert!(len > 0, "closed");
            bytes.extend_from_slice(&piece[..len]);
        }
    }

    /// Reads until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => bytes,
            Err(error) => panic!("not closed after '{}': {error}", bytes.escape_ascii()),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

/// A request in RESP.
pub fn resp(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Asks again and again until there is an answer; fails after [`SOON`].
#[track_caller]
pub fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < SOON, "did not happen in {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a test can use a program. If not, says so where the test runner does not hide it; in CI
/// a check that cannot run is a failure.
pub fn have(program: &str, package: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    });
    if !found {
        skip(&format!("{program} is not installed (Debian: {package})"));
    }
    found
}

/// Where `.ci/run` installs the clients that tests drive.
pub fn clients_folder() -> PathBuf {
    std::env::var_os("KVSTORE_TEST_CLIENTS")
        .map_or_else(|| repository().join("target").join("clients"), PathBuf::from)
}

/// Says that a check is left out.
pub fn skip(reason: &str) {
    assert!(!is_ci(), "in CI every check must run: {reason}");
    let name = thread::current().name().unwrap_or("test").to_string();
    // Not eprintln!: the test runner would hide it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}

/// Whether this is CI, where nothing may be skipped.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// How many rounds or seeds a test of full size does: all, or the part for which `.ci/run` has time
/// on a slow machine.
pub fn full_size(rounds: u64) -> u64 {
    let percent = std::env::var("KVSTORE_TEST_SHARE")
        .ok()
        .and_then(|percent| percent.parse().ok())
        .unwrap_or(100);
    if percent >= 100 {
        return rounds;
    }
    let part = (rounds * percent / 100).max(1);
    let name = thread::current().name().unwrap_or("test").to_string();
    let _ = writeln!(
        std::io::stderr(),
        "SHORTENED {name}: {part} of {rounds}, as this machine is slow"
    );
    part
}

/// What a command printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

/// Runs a command to its end with this input.
pub fn run(command: &mut Command, input: impl AsRef<[u8]>) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.as_ref().to_vec();
    // In a thread, as the program may print before it has read everything; it may also not read at
    // all.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("written");
    Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

/// User and system time a process has used.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: u64 =
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("Linux").count()
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

/// Shows a value in a failure without flooding the screen.
pub fn short(value: &impl Debug) -> String {
    let mut text = format!("{value:?}");
    text.truncate(300);
    text
}

/// A program at a terminal: what a person would see and type. Uses `script` (util-linux).
#[derive(Debug)]
pub struct Terminal {
    program: Program,
    keyboard: std::process::ChildStdin,
    screen: Receiver<u8>,
    /// Everything shown so far, with plain line ends.
    pub shown: String,
    /// How much was shown when the last line was typed.
    typed_at: usize,
}

impl Terminal {
    /// Starts a shell command at a terminal.
    pub fn start(command: &str) -> Terminal {
        // A shell without job control starts what is in the background with Ctrl-C ignored, and a
        // program inherits that.
        let mut script = Command::new("env");
        script.args(["--default-signal=INT,QUIT", "script", "-qfec", command, "/dev/null"]);
        // `script` takes the shell of whoever runs the tests, which may be any or none.
        script.env("SHELL", "/bin/sh").env("TERM", "dumb");
        let mut child = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("script runs");
        let keyboard = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let (sender, screen) = channel();
        thread::spawn(move || {
            BufReader::new(stdout)
                .bytes()
                .map_while(Result::ok)
                .try_for_each(|byte| sender.send(byte))
        });
        Terminal { program: Program(child), keyboard, screen, shown: String::new(), typed_at: 0 }
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        self.typed_at = self.shown.len();
        self.keyboard.write_all(format!("{line}\n").as_bytes()).expect("somebody reads");
    }

    /// Presses keys.
    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("somebody reads");
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        self.program.0.try_wait().expect("its state").is_none()
    }

    /// Waits until something was shown since the last line was typed, and it ends with `end`.
    #[track_caller]
    pub fn wait_for(&mut self, end: &str) {
        let deadline = Instant::now() + SOON;
        while !self.shown[self.typed_at..].ends_with(end) {
            match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(b'\r') => {}
                Ok(byte) => self.shown.push(char::from(byte)),
                Err(error) => panic!("never showed {end:?} ({error}): {:?}", self.shown),
            }
        }
    }

    /// The rest of what is shown, to the end of the program.
    pub fn finish(mut self) -> String {
        loop {
            match self.screen.recv_timeout(SOON) {
                Ok(b'\r') => {}
                Ok(byte) => self.shown.push(char::from(byte)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:?}", self.shown),
            }
        }
        let _ = self.program.0.wait();
        std::mem::take(&mut self.shown)
    }
}
