//! A `GET` allocates nothing: from the bytes in the read buffer to the bytes in the write buffer.

use kvstore::config::{Configuration, Limits};
use kvstore::node::{Batch, Node};
use kvstore::protocol::resp::{Parser, RespReply};
use kvstore::protocol::{Command, line};
use kvstore::server::execute::execute;
use kvstore::server::session::Session;

#[test]
fn a_get_allocates_nothing() {
    let node = Node::new(Configuration::default());
    node.start_serving();
    node.put(b"key", &[b'v'; 1_000], &mut Batch::default()).unwrap();
    let address = "127.0.0.1:1".parse().unwrap();
    let mut session = Session::new(1, address, true);
    let (limits, mut parser, mut lines) =
        (Limits::default(), Parser::default(), line::Parser::default());
    let mut out = Vec::with_capacity(16 * 1024);
    let mut get_all = || {
        for request in
            [&b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"[..], b"*2\r\n$3\r\nget\r\n$4\r\nmiss\r\n"]
        {
            parser.parse(request, &limits, true).unwrap().unwrap();
            let command = Command::parse(parser.words(request)).unwrap();
            let mut reply = RespReply { out: &mut out, version: 2 };
            execute(command, &node, &mut session, &mut reply).unwrap();
        }
        let command = lines.parse(b"GET key").unwrap();
        execute(command, &node, &mut session, &mut line::LineReply(&mut out)).unwrap();
    };
    // The first request makes the parsers' lists of words.
    get_all();
    let used = allocation_counter::measure(get_all);
    assert_eq!(used.count_total, 0, "{used:?}");
}

#[test]
fn a_put_of_the_same_length_allocates_nothing_and_another_once() {
    let node = Node::new(Configuration::default());
    node.start_serving();
    let mut batch = Batch::default();
    node.put(b"key", b"value1", &mut batch).unwrap();
    let same = allocation_counter::measure(|| node.put(b"key", b"value2", &mut batch).unwrap());
    let longer =
        allocation_counter::measure(|| node.put(b"key", b"a longer value", &mut batch).unwrap());
    assert_eq!((same.count_total, longer.count_total), (0, 1));
}
