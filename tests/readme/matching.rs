//! What is shown, compared with what is expected: `…` stands for anything within a line, and alone
//! on a line for any lines.

pub fn is_same(shown: &str, expected: &[String]) -> bool {
    lines_match(expected, &shown.lines().collect::<Vec<&str>>())
}

/// Whether all lines are as expected; a line `…` stands for any number of lines.
fn lines_match(expected: &[String], lines: &[&str]) -> bool {
    match (expected, lines) {
        ([any, rest @ ..], _) if any == "…" => {
            (0..=lines.len()).any(|skipped| lines_match(rest, &lines[skipped..]))
        }
        ([first, rest @ ..], [line, lines @ ..]) => {
            matches(first, line) && lines_match(rest, lines)
        }
        (expected, lines) => expected.is_empty() && lines.is_empty(),
    }
}

/// Whether a line is as expected; `…` stands for anything.
fn matches(expected: &str, line: &str) -> bool {
    let pieces: Vec<&str> = expected.split('…').collect();
    let (first, rest) = pieces.split_first().expect("at least one piece");
    let Some(mut left) = line.strip_prefix(first) else {
        return false;
    };
    let Some((last, middle)) = rest.split_last() else {
        return left.is_empty();
    };
    for piece in middle {
        let Some(at) = left.find(piece) else {
            return false;
        };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

#[test]
fn wildcards_match_within_a_line() {
    assert!(matches("a … c", "a b c") && matches("…", "") && matches("x", "x"));
    assert!(!matches("a … c", "a b d") && !matches("x", "xy"));
}
