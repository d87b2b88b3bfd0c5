//! The words of a line that a person typed, quoted as in `redis-cli`.
//!
//! A word that begins with `"` ends at the next `"` and may hold `\n`, `\r`, `\t`, `\b`, `\a`,
//! `\xHH` (a byte), `\"` and `\\`. One that begins with `'` ends at the next `'`, and only `\'` is
//! special in it. A quote within an unquoted word has no meaning, as in `it's`.

use std::borrow::Cow;

/// What is wrong with a line.
type Fault = &'static str;

/// A word, and the rest of the line behind it.
type Taken<'l> = Result<(Cow<'l, [u8]>, &'l [u8]), Fault>;

const UNFINISHED: Fault =
    "a quote is not closed, nothing was done; write \\\" for a quote inside a value in quotes";
const CONTINUED: Fault =
    "there is more text after the closing quote, nothing was done; put the whole word in quotes";

/// All words of a line. The value of a `PUT`, its third word, is the rest of the line if it is not
/// quoted.
pub(super) fn split(line: &[u8]) -> Result<Vec<Cow<'_, [u8]>>, Fault> {
    let (name, mut rest) = take(line.trim_ascii_start())?;
    let is_put = name.eq_ignore_ascii_case(b"PUT");
    let mut words = vec![name];
    loop {
        if is_put && words.len() == 2 && !is_quote(rest.trim_ascii_start().first()) {
            // Exactly one space divides key and value: the value keeps its own, and may be empty.
            words.extend(rest.split_first().map(|(_, value)| Cow::Borrowed(value)));
            return Ok(words);
        }
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(words);
        }
        let (word, behind) = take(rest)?;
        words.push(word);
        rest = behind;
    }
}

/// The first word of a line that begins with one.
fn take(line: &[u8]) -> Taken<'_> {
    match line.first() {
        Some(b'"') => take_quoted(&line[1..], b'"'),
        Some(b'\'') => take_quoted(&line[1..], b'\''),
        _ => {
            let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
            Ok((Cow::Borrowed(&line[..end]), &line[end..]))
        }
    }
}

/// The rest of a word behind its first quote.
fn take_quoted(mut rest: &[u8], quote: u8) -> Taken<'_> {
    let mut word = Vec::new();
    loop {
        let (byte, len) = match *rest {
            [] => return Err(UNFINISHED),
            [byte, ref behind @ ..] if byte == quote => {
                let is_end = behind.first().is_none_or(|&next| next == b' ');
                return if is_end { Ok((Cow::Owned(word), behind)) } else { Err(CONTINUED) };
            }
            [b'\\', b'\'', ..] if quote == b'\'' => (b'\'', 2),
            [b'\\', b'x', high, low, ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(high) * 16 + hex(low), 4)
            }
            [b'\\', escaped, ..] if quote == b'"' => (unescaped(escaped), 2),
            [byte, ..] => (byte, 1),
        };
        word.push(byte);
        rest = &rest[len..];
    }
}

fn is_quote(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b'"' | b'\''))
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(line: &str, expected: &[&str]) {
        let words = split(line.as_bytes()).expect("words");
        let words: Vec<String> =
            words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        assert_eq!(words, expected, "{line}");
    }

    #[test]
    fn words_are_divided_by_spaces_and_the_value_of_a_put_keeps_them() {
        check("", &[""]);
        check("  GET   k ", &["GET", "k"]);
        check("put k a  value ", &["put", "k", "a  value "]);
        check("PUT k  x", &["PUT", "k", " x"]);
        check("PUT k ", &["PUT", "k", ""]);
        check("PUT k", &["PUT", "k"]);
        check("PUT  k", &["PUT", "k"]);
        check("SET k a b", &["SET", "k", "a", "b"]);
    }

    #[test]
    fn quoted_words_are_as_in_redis_cli() {
        check(r#"PUT "my key" "a\n b""#, &["PUT", "my key", "a\n b"]);
        check(r#"PUT 'my key' rest of "the" line"#, &["PUT", "my key", "rest of \"the\" line"]);
        check(r#"PUT "my key" "#, &["PUT", "my key", ""]);
        check(r#"PUT k   "v"  "#, &["PUT", "k", "v"]);
        check(r#"PUT k """#, &["PUT", "k", ""]);
        check(r#"GET "\x41\r\t\"\\\q\xz""#, &["GET", "A\r\t\"\\qxz"]);
        check(r"GET 'it\'s \n'", &["GET", "it's \\n"]);
        check("GET it's", &["GET", "it's"]);
        check(r#"MGET "a b" c 'd e'"#, &["MGET", "a b", "c", "d e"]);
    }

    #[test]
    fn half_a_quotation_is_refused() {
        for line in [r#"PUT k "a"#, "GET 'x", r#"PUT "k v"#, r#"GET "a\"#, r#"GET "a\""#] {
            assert_eq!(split(line.as_bytes()), Err(UNFINISHED), "{line}");
        }
        for line in [r#"PUT k "a"b"#, r#"GET 'x''y'"#] {
            assert_eq!(split(line.as_bytes()), Err(CONTINUED), "{line}");
        }
        // More words than a command takes are the command's usage.
        check(r#"PUT k "a" b"#, &["PUT", "k", "a", "b"]);
    }

    proptest! {
        #[test]
        fn every_word_can_be_quoted(word in prop::collection::vec(any::<u8>(), 0..20)) {
            let escaped: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            let line = format!("PUT \"{escaped}\" \"{escaped}\"");
            let expected: Vec<Cow<[u8]>> =
                vec![Cow::Borrowed(b"PUT"), Cow::Borrowed(&word), Cow::Borrowed(&word)];
            prop_assert_eq!(split(line.as_bytes()), Ok(expected));
        }

        #[test]
        fn arbitrary_bytes_never_panic(line in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = split(&line);
        }
    }
}
