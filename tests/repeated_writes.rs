//! What client libraries do when the reply to a write is lost: some send it again by themselves,
//! and then it may happen twice, with another client's write in between. `src/book/consensus.md`
//! says how to set each so that it does not.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::clients::{have_client, have_library, limited, script};
use common::{Server, clients_folder, run};

/// Stands before a server. The first write reaches the server, but instead of the reply the client
/// sees its connection end.
struct LosesReplies {
    port: u16,
    writes: Arc<AtomicUsize>,
}

impl LosesReplies {
    fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (writes, counted) = (Arc::new(AtomicUsize::new(0)), server.port);
        let counter = Arc::clone(&writes);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                thread::spawn(move || pass_on(client, counted, &counter));
            }
        });
        LosesReplies { port, writes }
    }
}

/// Passes requests on, and replies back, but for the reply to the first write of all.
fn pass_on(mut client: TcpStream, port: u16, writes: &AtomicUsize) {
    let mut server = TcpStream::connect(("127.0.0.1", port)).expect("the server");
    let (mut bytes, mut reply) = ([0; 65536], [0; 65536]);
    while let Ok(len) = client.read(&mut bytes)
        && len > 0
    {
        let request = &bytes[..len];
        server.write_all(request).expect("sent");
        let len = server.read(&mut reply).expect("a reply");
        let is_write = request.to_ascii_uppercase().windows(9).any(|word| word == b"$3\r\nSET\r\n");
        let is_lost = is_write && writes.fetch_add(1, Ordering::SeqCst) == 0;
        if is_lost || client.write_all(&reply[..len]).is_err() {
            return;
        }
    }
}

/// What a program says of its write, and how often the write came.
fn written_by(program: &[&str], arguments: &[&str]) -> (String, usize) {
    let server = Server::start(&[]);
    let proxy = LosesReplies::before(&server);
    let mut command = limited(program[0]);
    command.args(&program[1..]).arg(proxy.port.to_string()).args(arguments);
    if clients_folder().is_dir() {
        // Node.js looks for its packages from here.
        command.current_dir(clients_folder());
    }
    let output = run(&mut command, "");
    assert_eq!(output.code, Some(0), "{program:?}: {output:?}");
    (output.stdout, proxy.writes.load(Ordering::SeqCst))
}

/// Set as the book says, a library sends the write once and tells that it does not know.
fn writes_once(program: &[&str]) {
    let (said, count) = written_by(program, &[]);
    assert!(said.contains("error:") && count == 1, "{program:?}: {count} writes, {said}");
}

/// As the library comes, it sends the write again.
fn repeats_by_default(program: &[&str]) {
    let (said, count) = written_by(program, &["default"]);
    assert!(said == "OK\n" && count == 2, "{program:?}: {count} writes, {said}");
}

fn path_of(name: &str) -> String {
    script(name).to_string_lossy().into_owned()
}

fn python() -> String {
    clients_folder().join("python/bin/python").to_string_lossy().into_owned()
}

#[test]
fn redis_py() {
    if have_client("python/bin/python") {
        let (python, script) = (python(), path_of("one_write.py"));
        writes_once(&[&python, &script, "redis_py"]);
        repeats_by_default(&[&python, &script, "redis_py"]);
    }
}

#[test]
fn valkey_glide() {
    let python = python();
    if have_client("python/bin/python")
        && have_library(&[&python, "-c", "import glide_sync"], "valkey-glide-sync")
    {
        writes_once(&[&python, &path_of("one_write.py"), "valkey_glide"]);
    }
}

#[test]
fn ioredis_and_node_redis() {
    if have_client("node_modules/ioredis") && have_client("node_modules/redis") {
        let own = clients_folder().join("node_modules/node/bin/node");
        let node = if own.exists() { own.to_string_lossy().into_owned() } else { "node".into() };
        let script = path_of("one_write.mjs");
        writes_once(&[&node, &script, "ioredis"]);
        repeats_by_default(&[&node, &script, "ioredis"]);
        writes_once(&[&node, &script, "node_redis"]);
    }
}

#[test]
fn redis_rb() {
    if have_library(&["ruby", "-rredis", "-e", "1"], "ruby-redis") {
        writes_once(&["ruby", &path_of("one_write.rb")]);
        repeats_by_default(&["ruby", &path_of("one_write.rb")]);
    }
}

#[test]
fn phpredis_and_predis() {
    let script = path_of("one_write.php");
    if have_library(&["php", "-r", "exit(extension_loaded('redis') ? 0 : 1);"], "php-redis") {
        writes_once(&["php", &script, "phpredis"]);
    }
    if have_library(&["php", "-r", "require 'Predis/Autoloader.php';"], "php-predis") {
        writes_once(&["php", &script, "predis"]);
    }
}

#[test]
fn the_redis_crate() {
    let server = Server::start(&[]);
    let proxy = LosesReplies::before(&server);
    let client = redis::Client::open(("127.0.0.1", proxy.port)).expect("a client");
    let mut connection = client.get_connection().expect("a connection");
    let result: redis::RedisResult<()> =
        redis::cmd("SET").arg("key").arg("v").query(&mut connection);
    assert!(result.is_err());
    assert_eq!(proxy.writes.load(Ordering::SeqCst), 1);
}
