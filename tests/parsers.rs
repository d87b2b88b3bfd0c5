//! Properties of both parsers: the same result however the bytes are split, no panic, and memory
//! in proportion to what was received.

use kvstore::config::Limits;
use kvstore::protocol::command::DataCommand;
use kvstore::protocol::{self, Choice, Command, line, resp};
use proptest::prelude::*;

/// What a connection would make of its bytes, in words: commands, refusals, and how it ended.
#[derive(Default)]
struct Reader {
    unread: Vec<u8>,
    parser: Option<Parser>,
    seen: Vec<String>,
    ended: bool,
}

enum Parser {
    Line(line::Parser),
    Resp(resp::Parser),
}

impl Reader {
    fn receive(&mut self, bytes: &[u8], limits: &Limits) {
        self.unread.extend_from_slice(bytes);
        while !self.ended && self.step(limits) {}
    }

    /// One request; `false` when more bytes are needed.
    fn step(&mut self, limits: &Limits) -> bool {
        let Reader { unread, parser, seen, ended } = self;
        let mut end = |error: kvstore::error::Error| {
            seen.push(format!("closed: {error}"));
            *ended = true;
            false
        };
        match parser {
            None => {
                unread.drain(..protocol::empty_lines(unread));
                match protocol::choose(unread) {
                    Ok(None) => return false,
                    Ok(Some(Choice::Resp)) => *parser = Some(Parser::Resp(resp::Parser::default())),
                    Ok(Some(Choice::Line)) => *parser = Some(Parser::Line(line::Parser::default())),
                    Err(error) => return end(error),
                }
                true
            }
            Some(Parser::Resp(parser)) => match parser.parse(unread, limits, true) {
                Ok(None) => false,
                Ok(Some(len)) => {
                    let words = parser.words(unread);
                    if !words.is_empty() {
                        seen.push(outcome(Command::parse(words)));
                    }
                    unread.drain(..len);
                    true
                }
                Err(error) => end(error),
            },
            Some(Parser::Line(line_parser)) => match line_parser.line_end(unread, limits, true) {
                Ok(None) => false,
                Ok(Some(len)) => {
                    let line = line::trimmed(&unread[..len]).to_vec();
                    if seen.is_empty() && line::is_hello(&line) {
                        *parser = Some(Parser::Resp(resp::Parser::with_inline_request()));
                        return true;
                    }
                    seen.push(outcome(line_parser.parse(&line)));
                    unread.drain(..len);
                    true
                }
                Err(error) => end(error),
            },
        }
    }
}

fn outcome(command: kvstore::error::Result<Command>) -> String {
    match command {
        Ok(Command::Data(DataCommand::Del { keys })) => {
            format!("del {:?}", keys.iter().collect::<Vec<_>>())
        }
        Ok(Command::Data(DataCommand::MSet { pairs })) => {
            format!("mset {:?}", pairs.iter().collect::<Vec<_>>())
        }
        Ok(Command::Data(DataCommand::Get { key })) => format!("get {key:?}"),
        Ok(Command::Data(DataCommand::Put { key, value })) => format!("put {key:?} {value:?}"),
        // Its name without its words.
        Ok(other) => format!("{other:?}").chars().take_while(|c| !c.is_whitespace()).collect(),
        Err(error) => format!("refused: {error}"),
    }
}

fn read_in_pieces<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: &Limits,
) -> (Vec<String>, bool) {
    let mut reader = Reader::default();
    pieces.into_iter().for_each(|piece| reader.receive(piece, limits));
    (reader.seen, reader.ended)
}

/// Small limits, so that random input meets them.
fn small_limits() -> Limits {
    Limits {
        line_bytes_max: 60,
        request_elements_max: 5,
        request_bytes_max: 120,
        ..Limits::default()
    }
}

/// Bytes that look like requests often enough to get deep into the parsers.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        4 => prop::sample::select(vec![
            "*1\r\n", "*2\r\n", "*3\r\n", "*0\r\n", "*-1\r\n", "*6\r\n", "$3\r\n", "$1\r\n",
            "$0\r\n", "$-1\r\n", "$x\r\n", "GET", "SET", "PUT ", "GET ", "DEL ", "k", " ", "\r\n",
            "\n", "\r", "\0", "*", "$", "MSET", "$4\r\nMSET\r\n", "$1\r\nk\r\n", "HTTP/1.1",
            "HELLO 3",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(fragment, 0..24).prop_map(|fragments| fragments.concat())
}

/// Valid requests, in RESP or as lines.
fn valid_requests() -> impl Strategy<Value = Vec<u8>> {
    let word = || prop::collection::vec(any::<u8>(), 1..12);
    let resp_request = prop::collection::vec(word(), 1..4).prop_map(|mut words| {
        words.insert(0, b"DEL".to_vec());
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend([format!("${}\r\n", word.len()).as_bytes(), &word, b"\r\n"].concat());
        }
        bytes
    });
    let text = || "[a-z]{1,9}";
    let line_request =
        (text(), text(), prop::bool::ANY).prop_map(|(key, value, carriage_return)| {
            format!("PUT {key} {value}{}\n", if carriage_return { "\r" } else { "" }).into_bytes()
        });
    prop_oneof![
        prop::collection::vec(resp_request, 1..5).prop_map(|requests| requests.concat()),
        prop::collection::vec(line_request, 1..5).prop_map(|requests| requests.concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn requests_are_the_same_however_the_bytes_are_split(
        bytes in any_bytes(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let limits = small_limits();
        let whole = read_in_pieces([bytes.as_slice()], &limits);
        prop_assert_eq!(&read_in_pieces(bytes.chunks(1), &limits), &whole, "byte by byte");
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts {
            pieces.push(&bytes[start..cut]);
            start = cut;
        }
        pieces.push(&bytes[start..]);
        prop_assert_eq!(&read_in_pieces(pieces, &limits), &whole, "in pieces");
    }

    #[test]
    fn valid_requests_cut_at_every_position_are_read(bytes in valid_requests()) {
        let limits = Limits::default();
        let (whole, ended) = read_in_pieces([bytes.as_slice()], &limits);
        prop_assert!(!ended && !whole.is_empty());
        let is_write = |request: &String| request.starts_with("del") || request.starts_with("put");
        prop_assert!(whole.iter().all(is_write), "{:?}", whole);
        for cut in 0..=bytes.len() {
            let (before, after) = bytes.split_at(cut);
            prop_assert_eq!(&read_in_pieces([before, after], &limits).0, &whole);
            // A request that was cut off is never carried out.
            let (seen, _) = read_in_pieces([before], &limits);
            let (is_short, len) = (seen.len() < whole.len(), bytes.len());
            prop_assert!(is_short || cut == len, "cut at {cut} of {len}");
            prop_assert_eq!(&seen[..], &whole[..seen.len()]);
        }
    }

    #[test]
    fn memory_is_in_proportion_to_what_was_received(bytes in any_bytes()) {
        let limits = Limits::default();
        let used = allocation_counter::measure(|| {
            let mut parser = resp::Parser::default();
            let _ = parser.parse(&bytes, &limits, true);
        });
        let (used, len) = (used.bytes_max, bytes.len());
        prop_assert!(used <= 200 + 16 * len as u64, "{used} bytes for {len}");
    }
}

#[test]
fn announced_lengths_allocate_nothing() {
    let limits = Limits::default();
    for bytes in [
        &b"*1048576\r\n"[..],
        b"*1048576\r\n$67108864\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$67108864\r\nabc",
    ] {
        let used = allocation_counter::measure(|| {
            assert!(matches!(resp::Parser::default().parse(bytes, &limits, true), Ok(None)));
        });
        assert!(used.bytes_max < 256, "{} bytes for {}", used.bytes_max, bytes.escape_ascii());
    }
}

#[test]
fn many_small_pieces_take_no_quadratic_time() {
    // 10,000 elements that come byte by byte: 170,000 bytes. Looking at each again and again would
    // be 10^10 steps, which takes minutes.
    let mut bytes = b"*10001\r\n$3\r\nDEL\r\n".to_vec();
    (0..10_000).for_each(|i| bytes.extend_from_slice(format!("$7\r\nkey{i:04}\r\n").as_bytes()));
    let limits = Limits::default();
    let mut parser = resp::Parser::default();
    let start = std::time::Instant::now();
    for len in 1..bytes.len() {
        assert!(matches!(parser.parse(&bytes[..len], &limits, true), Ok(None)));
    }
    assert_eq!(parser.parse(&bytes, &limits, true).unwrap(), Some(bytes.len()));
    let mut parser = line::Parser::default();
    let line = "PUT k ".to_string() + &"v".repeat(1_000_000);
    for len in (1..line.len()).step_by(100) {
        assert!(matches!(parser.line_end(&line.as_bytes()[..len], &limits, true), Ok(None)));
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
