//! Escapes text from others before it is logged or shown.

/// Longest text that is shown whole, in bytes: more than an honest address needs.
const SHOWN_BYTES_MAX: usize = 120;

/// Text from others for use inside quotes in a log or message. Printable ASCII stays. Everything
/// else and both quotes are escaped as in Rust. A long text is cut and followed by its length.
///
/// ```
/// use kvstore::guard::shown;
/// assert_eq!(shown(b"node1:8080"), "node1:8080");
/// assert_eq!(shown(b"x\n[ERROR] 'forged' \x1b[2J"), r"x\n[ERROR] \'forged\' \x1b[2J");
/// assert!(shown(&[b'a'; 9_000]).ends_with("aaa... (9000 bytes)"));
/// ```
pub fn shown(words: impl AsRef<[u8]>) -> String {
    let words = words.as_ref();
    match words.get(..SHOWN_BYTES_MAX) {
        Some(start) if words.len() > start.len() => {
            format!("{}... ({} bytes)", start.escape_ascii(), words.len())
        }
        _ => words.escape_ascii().to_string(),
    }
}

/// Longest sentence that is shown whole, in bytes: the server's own refusals are shorter.
const SENTENCE_BYTES_MAX: usize = 500;

/// A sentence from another program, such as a peer's refusal, for use outside quotes in a log or a
/// row of `PEERS`. Quotes and printable ASCII stay, everything else is escaped. A long sentence is
/// cut.
pub fn sentence(words: impl AsRef<[u8]>) -> String {
    let words = words.as_ref();
    let end = words.len().min(SENTENCE_BYTES_MAX);
    let cut = if end < words.len() { "..." } else { "" };
    let escaped = words[..end].iter().map(|&byte| match byte {
        b'\'' | b'"' => char::from(byte).to_string(),
        other => other.escape_ascii().to_string(),
    });
    escaped.collect::<String>() + cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sentence_keeps_its_quotes_and_nothing_that_moves_the_cursor() {
        assert_eq!(sentence("it's \"so\"\r\n\x1b[2J"), "it's \"so\"\\r\\n\\x1b[2J");
        assert_eq!(sentence([b'x'; 600]).len(), SENTENCE_BYTES_MAX + 3);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_short_and_printable(
            words in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let shown = shown(&words);
            prop_assert!(shown.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
            let sentence = sentence(&words);
            prop_assert!(sentence.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
            prop_assert!(shown.len() <= 4 * SHOWN_BYTES_MAX + 24);
            let plain = shown.replace("\\\\", "").replace("\\'", "").replace("\\\"", "");
            prop_assert!(!plain.contains(['\'', '"']));
        }
    }
}
