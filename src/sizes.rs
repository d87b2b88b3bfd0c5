//! Sizes as people write them: `1048576`, `64MiB`, `1GiB`.

/// A size in bytes: a number, with `KiB`, `MiB` or `GiB` behind it or not.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "not a size; try 64MiB, 1GiB or a number of bytes".to_string();
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| "a size beyond all machines".to_string())
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("64MiB", 64 << 20),
            ("1gib", 1 << 30),
            ("2k", 2048),
            ("3MB", 3 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "x",
            "-1",
            "1.5GiB",
            "1 GiB",
            "GiB",
            "1TiBx",
            "99999999999999999999",
            "99999999999GiB",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
