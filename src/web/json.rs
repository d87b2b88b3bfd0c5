//! Writing JSON (RFC 8259).

use std::fmt::Write;

/// A string with its quotes. Bytes that are no UTF-8 become replacement characters.
pub fn string(text: &[u8]) -> String {
    let mut out = String::from('"');
    for character in String::from_utf8_lossy(text).chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control < ' ' || control == '\u{7f}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A list of values that are JSON already.
pub fn array(values: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", values.into_iter().collect::<Vec<_>>().join(","))
}

/// An object of names and values that are JSON already.
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let members = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(
            string("a\"\\\n\u{0}ü</script>".as_bytes()),
            "\"a\\\"\\\\\\u000a\\u0000ü</script>\""
        );
        assert_eq!(string(b"\xff"), "\"\u{fffd}\"");
        assert_eq!(object([("a", array(["1".into(), "2".into()]))]), "{\"a\":[1,2]}");
    }
}
