//! Asking over HTTP, on a raw connection.

use std::io::Read;

use super::{Server, Wire};
use serde_json::Value;

/// A response, taken apart.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Reads the response to a request with this method.
pub fn read_response(wire: &mut Wire, method: &str) -> Response {
    let mut head = String::new();
    loop {
        match wire.line() {
            line if line.is_empty() => break,
            line => head.push_str(&format!("{line}\n")),
        }
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut response = Response {
        status: status.unwrap_or_else(|| panic!("no response: {head:?}")),
        head,
        body: vec![],
    };
    let len = response.header("Content-Length").map_or(0, |len| len.parse().expect("a length"));
    if method != "HEAD" {
        response.body = vec![0; len];
        wire.stream.read_exact(&mut response.body).expect("the whole body");
    }
    response
}

/// One request on an open connection, with a Host and a length.
pub fn ask(wire: &mut Wire, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Response {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        head.push_str("Host: localhost:8080\r\n");
    }
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    if method == "PUT" || !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    wire.send([head.as_bytes(), body].concat());
    read_response(wire, method)
}

/// One request on a connection of its own.
pub fn once(
    server: &Server,
    method: &str,
    target: &str,
    headers: &[&str],
    body: &[u8],
) -> Response {
    ask(&mut server.connect(), method, target, headers, body)
}

/// What a GET on a connection of its own answers.
pub fn get(server: &Server, target: &str) -> Response {
    once(server, "GET", target, &[], b"")
}
