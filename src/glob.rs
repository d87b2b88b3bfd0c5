//! Patterns for `SCAN … MATCH` and `KEYS`: `*`, `?`, `[a-z]`, `[^a-z]`, `\` before a literal.
//!
//! Semantics as in Redis (`stringmatchlen` in `util.c`), on bytes. A star is matched without
//! recursion by remembering only the last one, so the cost is at most pattern times text and a
//! pattern such as `a*a*a*a*b` cannot hold a thread for long. A [`Matcher`] counts its comparisons,
//! so that a caller that matches many texts can stop between two of them.

/// Longest pattern of a command. With a key of 64 KiB it takes up to 67 million comparisons.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// A pattern, and how much work it was to match it.
#[derive(Debug)]
pub struct Matcher<'p> {
    pattern: &'p [u8],
    /// Bytes of the pattern that were compared with bytes of a text so far.
    pub comparisons: u64,
}

/// Whether the whole of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    Matcher::new(pattern).matches(text)
}

impl<'p> Matcher<'p> {
    /// A matcher that has not worked yet.
    pub fn new(pattern: &'p [u8]) -> Self {
        Matcher { pattern, comparisons: 0 }
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&mut self, text: &[u8]) -> bool {
        let pattern = self.pattern;
        let (mut p, mut t) = (0, 0);
        // Where to go on after a mismatch: behind the last star, with one more byte given to it.
        let mut retry: Option<(usize, usize)> = None;
        while t < text.len() {
            if p < pattern.len() && pattern[p] == b'*' {
                p += 1;
                if p == pattern.len() {
                    return true;
                }
                retry = Some((p, t));
                continue;
            }
            let (is_match, len) = one(&pattern[p..], text[t]);
            self.comparisons += len as u64;
            if is_match {
                p += len;
                t += 1;
                continue;
            }
            let Some((after_star, start)) = retry else {
                return false;
            };
            retry = Some((after_star, start + 1));
            (p, t) = (after_star, start + 1);
        }
        pattern[p..].iter().all(|&byte| byte == b'*')
    }
}

/// Whether the pattern's first element matches `byte`, and the element's length; at its end nothing
/// does.
fn one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match *pattern {
        [] => (false, 1),
        [b'?', ..] => (true, 1),
        [b'[', ..] => class(pattern, byte),
        [b'\\', literal, ..] => (literal == byte, 2),
        [literal, ..] => (literal == byte, 1),
    }
}

/// A class `[…]`; one that is never closed ends with the pattern, as in Redis.
fn class(pattern: &[u8], byte: u8) -> (bool, usize) {
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = if negated { 2 } else { 1 };
    let mut found = false;
    while at < pattern.len() && pattern[at] != b']' {
        match pattern[at..] {
            [b'\\', literal, ..] => {
                found |= literal == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                at += 3;
            }
            _ => {
                found |= pattern[at] == byte;
                at += 1;
            }
        }
    }
    (found != negated, (at + 1).min(pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        let cases: &[(&str, &str, bool)] = &[
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("[\\]]", "]", true),
            ("*foo*bar*", "xfooybarz", true),
            ("*foo*bar*", "xbaryfooz", false),
            ("a*b*c", "aXbXbXc", true),
            ("user:*", "user:1", true),
            ("[a", "a", true),
            ("abc*", "ab", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                *expected,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(30) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(10_000).as_bytes()));
    }
}
