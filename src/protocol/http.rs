//! The part of HTTP/1.1 that a browser, `curl`, a probe and Prometheus need (RFC 9110, RFC 9112).
//!
//! A request is a head (request line and headers, up to an empty line) and a body of
//! `Content-Length` bytes. The parser refuses what another reader could understand differently: two
//! lengths, a length beside a transfer coding, folded headers, a space before the colon. Such a
//! difference lets an attacker smuggle one request inside another. Transfer codings are not
//! supported (501).
//!
//! A connection that began with HTTP stays HTTP until it ends, so a body is never read as a
//! command. Errors are a [`Refusal`] with their status as its [`Code::Http`]; those of the framing
//! close the connection.

use super::line::trimmed;
use super::resp::decimal;
use crate::config::{Limits, VALUE_BYTES_MAX};
use crate::error::{Code, Error, Refusal, Result};

/// Reads requests from the unread bytes. A head is short, so the parser reads it again when more of
/// it has arrived.
///
/// Invariant: `pieces_do_not_matter`: the result depends on the bytes, not on how they arrived.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes of an incomplete head that were already searched for line ends.
    scanned: usize,
    /// Bytes of the request, once its head was returned and its body is awaited.
    awaited: usize,
}

/// A request, borrowed from the read buffer. Its body may still be on its way.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpRequest<'a> {
    /// In capitals: `GET`.
    pub method: &'a [u8],
    /// Path and query as they were sent: starts with `/`.
    pub target: &'a [u8],
    /// `Host`: HTTP/1.1 requires it.
    pub host: Option<&'a [u8]>,
    /// `Origin`: the site whose page sends the request.
    pub origin: Option<&'a [u8]>,
    /// `Sec-Fetch-Site`: how that site relates to ours, in the browser's words.
    pub fetch_site: Option<&'a [u8]>,
    /// `Authorization`.
    pub authorization: Option<&'a [u8]>,
    /// The body; `None` until it is complete.
    pub body: Option<&'a [u8]>,
    /// Bytes of the whole request.
    pub len: usize,
    /// The client waits for [`CONTINUE`] before it sends the body.
    pub wants_continue: bool,
    /// Whether the connection serves further requests.
    pub keep_alive: bool,
    content_length: Option<usize>,
    has_transfer_encoding: bool,
    is_old_version: bool,
}

impl Parser {
    /// The request at the start of `bytes`. If the head is complete before the body, the request is
    /// returned twice: first without its body, then with it. `None` while bytes are missing. After
    /// the request with its body the next call parses the next request.
    pub fn parse<'a>(
        &mut self,
        bytes: &'a [u8],
        limits: &Limits,
    ) -> Result<Option<HttpRequest<'a>>> {
        if bytes.len() < self.awaited {
            return Ok(None);
        }
        let window = &bytes[..bytes.len().min(limits.http_head_bytes_max)];
        let is_longer = window[self.scanned..].contains(&b'\n');
        let head = if is_longer { HttpRequest::read_head(window)? } else { None };
        let Some((mut request, start)) = head else {
            self.scanned = window.len();
            if window.len() == limits.http_head_bytes_max {
                let message = format!("request head too long: at most {} bytes", window.len());
                return Err(closing("431", message));
            }
            return Ok(None);
        };
        request.len = start + request.content_length.unwrap_or(0);
        request.body = bytes.get(start..request.len);
        request.wants_continue &= request.body.is_none();
        match request.body {
            Some(_) => *self = Parser::default(),
            None => self.awaited = request.len,
        }
        Ok(Some(request))
    }
}

impl<'a> HttpRequest<'a> {
    /// Reads the lines up to the empty one. Returns the request and where its body begins; `None`
    /// if the head is incomplete.
    fn read_head(bytes: &'a [u8]) -> Result<Option<(Self, usize)>> {
        let (mut request, mut start) = (HttpRequest::default(), 0);
        for line in
            bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"))
        {
            start += line.len();
            let line = trimmed(line);
            match (request.method.is_empty(), line.is_empty()) {
                // Empty lines before a request are no part of it.
                (true, true) => {}
                (true, false) => request.read_request_line(line)?,
                (false, false) => request.read_header(line)?,
                (false, true) => return request.checked().map(|request| Some((request, start))),
            }
        }
        Ok(None)
    }

    fn read_request_line(&mut self, line: &'a [u8]) -> Result<()> {
        let words: Vec<&[u8]> = line.splitn(4, |&byte| byte == b' ').collect();
        let (method, target, version) = match words[..] {
            [method, target, version]
                if !method.is_empty()
                    && method.iter().all(u8::is_ascii_uppercase)
                    && target.starts_with(b"/")
                    && target.iter().all(u8::is_ascii_graphic) =>
            {
                (method, target, version)
            }
            _ => return Err(closing("400", "a request line is: METHOD /target HTTP/1.1")),
        };
        self.is_old_version = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(closing("505", "HTTP/1.1 is spoken here")),
        };
        (self.method, self.target, self.keep_alive) = (method, target, !self.is_old_version);
        Ok(())
    }

    fn read_header(&mut self, line: &'a [u8]) -> Result<()> {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(0);
        let (name, value) = (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii());
        // A name is a token: with this a folded line and a space before the colon are refused, too.
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return Err(closing("400", "a header is: Name: value"));
        }
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(closing("400", "a control character in a header"));
        }
        let once = |slot: &mut Option<&'a [u8]>| match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(closing("400", "a header that may stand only once stands twice")),
        };
        match name.as_slice() {
            b"host" => once(&mut self.host)?,
            b"origin" => once(&mut self.origin)?,
            b"sec-fetch-site" => once(&mut self.fetch_site)?,
            b"authorization" => once(&mut self.authorization)?,
            b"content-length" => self.read_length(value)?,
            b"transfer-encoding" => self.has_transfer_encoding = true,
            b"connection" => {
                let mut words = value.split(|&byte| byte == b',');
                self.keep_alive &=
                    !words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
            b"expect" if value.eq_ignore_ascii_case(b"100-continue") => self.wants_continue = true,
            b"expect" => return Err(closing("417", "the only expectation is 100-continue")),
            _ => {}
        }
        Ok(())
    }

    fn read_length(&mut self, value: &[u8]) -> Result<()> {
        if self.content_length.is_some() {
            return Err(closing("400", "Content-Length stands twice"));
        }
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(closing("400", "Content-Length is not a number"));
        }
        // Digits that do not parse are a number beyond all limits.
        let len = decimal(value).filter(|len| *len <= VALUE_BYTES_MAX as i64).ok_or_else(|| {
            closing("413", format!("value too long: at most {VALUE_BYTES_MAX} bytes"))
        })?;
        self.content_length = Some(len as usize);
        Ok(())
    }

    /// Checks that need the whole head.
    fn checked(self) -> Result<Self> {
        match (self.has_transfer_encoding, self.content_length) {
            (true, Some(_)) => Err(closing("400", "both Content-Length and Transfer-Encoding")),
            (true, None) => Err(closing(
                "501",
                "Transfer-Encoding is not spoken here, send Content-Length (curl: --data-binary \
                 @file)",
            )),
            (false, None) if self.method == b"PUT" => {
                Err(closing("411", "PUT needs a Content-Length"))
            }
            _ if self.host.is_none() && !self.is_old_version => {
                Err(closing("400", "Host is missing"))
            }
            _ => Ok(self),
        }
    }
}

/// The characters of a header's name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A refusal that closes the connection, because nobody knows where the next request starts.
fn closing(status: &'static str, message: impl Into<String>) -> Error {
    Error::Protocol(Refusal { code: Code::Http(status), message: message.into() })
}

/// The answer to `Expect: 100-continue`: the client may send the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The content types of responses. A stored value is sent as bytes, so that a browser neither shows
/// nor runs it.
#[allow(missing_docs)] // The names say it.
pub mod content {
    pub const BYTES: &str = "application/octet-stream";
    pub const TEXT: &str = "text/plain; charset=utf-8";
    pub const HTML: &str = "text/html; charset=utf-8";
    pub const JSON: &str = "application/json";
    pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
}

/// The default content security policy: nothing in the content may run, load or be framed.
const INERT: &str = "sandbox; default-src 'none'; frame-ancestors 'none'";

const AUTHENTICATE: &str =
    "WWW-Authenticate: Basic realm=\"kvstore, user default\", charset=\"UTF-8\"\r\n";

/// Writes responses. A status is three digits.
#[derive(Debug)]
pub struct HttpReply<'a> {
    /// The buffer to write to.
    pub out: &'a mut Vec<u8>,
    /// `HEAD`: write only the head of the response to `GET`.
    pub head_only: bool,
    /// Whether the connection stays open.
    pub keep_alive: bool,
}

impl HttpReply<'_> {
    /// A response with a body.
    pub fn content(&mut self, status: &str, content_type: &str, body: &[u8]) {
        self.respond(status, content_type, INERT, "", body);
    }

    /// A response with a body, a content security policy, and more headers, each with its line end.
    pub fn respond(
        &mut self,
        status: &str,
        content_type: &str,
        policy: &str,
        more_headers: &str,
        body: &[u8],
    ) {
        let headers = format!(
            "Content-Type: {content_type}\r\nContent-Length: {}\r\n\
             Content-Security-Policy: {policy}\r\n{more_headers}",
            body.len()
        );
        self.head(status, &headers);
        if !self.head_only {
            self.out.extend_from_slice(body);
        }
    }

    /// A response without a body.
    pub fn no_content(&mut self) {
        self.head("204", "");
    }

    /// A refusal, with the status of its code.
    pub fn error(&mut self, refusal: &Refusal) {
        let status = refusal.code.http_status();
        let more_headers = match refusal.code {
            Code::HttpMethod(allowed) => format!("Allow: {allowed}\r\n"),
            _ if status == "401" => AUTHENTICATE.into(),
            _ => String::new(),
        };
        let body = format!("{}\n", refusal.message);
        self.respond(status, content::TEXT, INERT, &more_headers, body.as_bytes());
    }

    fn head(&mut self, status: &str, headers: &str) {
        let connection = if self.keep_alive { "keep-alive" } else { "close" };
        // A browser must not cache the content, guess its type, or show it in another site's page.
        let head = format!(
            "HTTP/1.1 {status} {}\r\n{headers}Connection: {connection}\r\n\
             Cache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n\
             Referrer-Policy: no-referrer\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\n\r\n",
            reason(status)
        );
        self.out.extend_from_slice(head.as_bytes());
    }
}

fn reason(status: &str) -> &'static str {
    match status {
        "200" => "OK",
        "204" => "No Content",
        "400" => "Bad Request",
        "401" => "Unauthorized",
        "403" => "Forbidden",
        "404" => "Not Found",
        "405" => "Method Not Allowed",
        "411" => "Length Required",
        "413" => "Content Too Large",
        "417" => "Expectation Failed",
        "431" => "Request Header Fields Too Large",
        "501" => "Not Implemented",
        "503" => "Service Unavailable",
        "505" => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds all bytes at once; the requests, and the status of the error that ended it.
    fn parse(bytes: &str) -> (Vec<String>, Option<&'static str>) {
        parse_in_pieces(bytes.as_bytes(), &[])
    }

    /// Feeds the bytes in pieces that end where `cuts` say.
    fn parse_in_pieces(bytes: &[u8], cuts: &[usize]) -> (Vec<String>, Option<&'static str>) {
        let limits = Limits { http_head_bytes_max: 200, ..Limits::default() };
        let (mut parser, mut found, mut start) = (Parser::default(), Vec::new(), 0);
        for end in cuts.iter().copied().chain([bytes.len()]) {
            loop {
                match parser.parse(&bytes[start..end.max(start)], &limits) {
                    Err(Error::Protocol(refusal)) => {
                        return (found, Some(refusal.code.http_status()));
                    }
                    Err(other) => panic!("{other}"),
                    Ok(Some(request)) if request.body.is_some() => {
                        found.push(shown(&request));
                        start += request.len;
                    }
                    Ok(_) => break,
                }
            }
        }
        (found, None)
    }

    fn shown(request: &HttpRequest) -> String {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let body = text(request.body.unwrap_or_default());
        let (host, keep) = (request.host.map(text), request.keep_alive);
        format!("{} {} {host:?} {keep} {body:?}", text(request.method), text(request.target))
    }

    #[test]
    fn a_request_is_a_head_and_a_body() {
        let (requests, error) = parse(
            "\r\nGET /a?b HTTP/1.1\r\nHost:h:1\r\n\r\n\
             PUT /k HTTP/1.0\nhost:  h \ncontent-length: 3\n\nabc\
             GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n",
        );
        assert_eq!(error, None);
        assert_eq!(
            requests,
            [
                "GET /a?b Some(\"h:1\") true \"\"",
                "PUT /k Some(\"h\") false \"abc\"",
                "GET / Some(\"h\") false \"\"",
            ]
        );
    }

    #[test]
    fn what_can_be_understood_in_two_ways_is_refused() {
        for (head, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
            ("GET / HTTP/2.0\r\n\r\n", "505"),
            ("GET  / HTTP/1.1\r\n\r\n", "400"),
            ("get / HTTP/1.1\r\n\r\n", "400"),
            ("GET http://h/ HTTP/1.1\r\n\r\n", "400"),
            ("GET /\x07 HTTP/1.1\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nnonsense\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "400"),
            ("PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n", "400"),
            ("PUT / HTTP/1.1\r\nContent-Length: +1\r\n", "400"),
            ("PUT / HTTP/1.1\r\nContent-Length: 1, 1\r\n", "400"),
            ("PUT / HTTP/1.1\r\nContent-Length:\r\n", "400"),
            ("PUT / HTTP/1.1\r\nContent-Length: 67108865\r\n", "413"),
            ("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n", "413"),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "501"),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "400"),
            ("PUT / HTTP/1.1\r\nHost: h\r\n\r\n", "411"),
            ("PUT / HTTP/1.1\r\nExpect: a miracle\r\n", "417"),
        ] {
            assert_eq!(parse(head), (vec![], Some(status)), "{head:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(200));
        assert_eq!(parse(&long), (vec![], Some("431")));
    }

    #[test]
    fn the_head_is_known_before_the_body_and_continue_is_said_once() {
        let limits = Limits::default();
        let bytes =
            b"PUT /k HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab";
        let mut parser = Parser::default();
        let (without_body, all) = (&bytes[..bytes.len() - 2], &bytes[..]);
        let mut ask = |bytes| {
            let request = parser.parse(bytes, &limits).expect("sense");
            request.map(|request| (request.wants_continue, request.body.map(<[u8]>::to_vec)))
        };
        assert_eq!(ask(without_body), Some((true, None)));
        assert_eq!(ask(without_body), None);
        assert_eq!(ask(all), Some((false, Some(b"ab".to_vec()))));
    }

    #[test]
    fn a_response_says_its_length_and_nothing_after_204() {
        let mut out = Vec::new();
        let mut reply = HttpReply { out: &mut out, head_only: false, keep_alive: true };
        reply.content("200", content::BYTES, b"abc");
        reply.no_content();
        reply.head_only = true;
        reply.content("200", content::BYTES, b"abc");
        let text = String::from_utf8(out).expect("text");
        let parts: Vec<&str> = text.split("\r\n\r\n").collect();
        assert!(parts[0].contains("\r\nContent-Length: 3\r\n") && parts[0].contains("nosniff"));
        assert!(parts[1].starts_with("abcHTTP/1.1 204 No Content\r\n"));
        assert!(!parts[1].contains("Content-Length"));
        assert!(parts[2].contains("\r\nContent-Length: 3\r\n"), "HEAD says the length");
        assert_eq!(parts[3], "", "and sends nothing");
    }

    /// Bytes that are often, but not always, HTTP.
    fn http_like() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("GET / HTTP/1.1\r\n"),
            Just("PUT /keys/a%20b HTTP/1.1\r\n"),
            Just("Host: localhost\r\n"),
            Just("Content-Length: 5\r\n"),
            Just("Content-Length: 0\r\n"),
            Just("\r\n"),
            Just("\n"),
            Just("hello"),
            Just("Expect: 100-continue\r\n"),
            Just("Connection: close\r\n"),
            Just("Transfer-Encoding: chunked\r\n"),
            Just(" "),
            Just("\0"),
            Just(":"),
        ];
        prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            bytes in http_like(),
            mut cuts in prop::collection::vec(0usize..200, 0..12),
        ) {
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(bytes.len()));
            cuts.sort_unstable();
            prop_assert_eq!(parse_in_pieces(&bytes, &cuts), parse_in_pieces(&bytes, &[]));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parse_in_pieces(&bytes, &[]);
        }

        #[test]
        fn what_was_written_is_read(
            key in "[a-z%]{0,20}",
            body in prop::collection::vec(any::<u8>(), 0..99),
        ) {
            let len = body.len();
            let line = format!("PUT /keys/{key} HTTP/1.1\r\n");
            let mut bytes = format!("{line}Host: h\r\nContent-Length: {len}\r\n\r\n").into_bytes();
            bytes.extend_from_slice(&body);
            let mut parser = Parser::default();
            let parsed = parser.parse(&bytes, &Limits::default()).expect("well formed");
            let request = parsed.expect("complete");
            prop_assert_eq!((request.body, request.len), (Some(&body[..]), bytes.len()));
            let target = format!("/keys/{key}");
            prop_assert_eq!(request.target, target.as_bytes());
        }
    }
}
