//! REST: keys and values for `curl` and the page.

use std::fmt::Write;

use super::{json, refused, wrong_method};
use crate::error::Result;
use crate::node::{Batch, Node};
use crate::protocol::http::{HttpReply, HttpRequest, content};
use crate::protocol::resp::decimal;

/// `/keys/<key>`: the key is all that follows, percent-encoded.
pub fn one(
    request: &HttpRequest,
    key: &[u8],
    node: &Node,
    batch: &mut Batch,
    reply: &mut HttpReply,
) -> Result<()> {
    let key =
        percent_decoded(key).ok_or_else(|| refused("400", "the key is not percent-encoded"))?;
    if key.is_empty() {
        return Err(refused("400", "key is empty"));
    }
    batch.commands += 1;
    match request.method {
        b"GET" | b"HEAD" => {
            return node.get(&key, batch, |value| {
                reply.content(
                    "200",
                    content::BYTES,
                    value.ok_or_else(|| refused("404", "no such key"))?,
                );
                Ok(())
            })?;
        }
        b"PUT" => node.put(&key, request.body.unwrap_or_default(), batch)?,
        b"DELETE" => drop(node.delete(&key, batch)?),
        _ => {
            let allowed = "GET, HEAD, PUT, DELETE";
            return Err(wrong_method(allowed, "a key takes GET, HEAD, PUT and DELETE"));
        }
    }
    reply.no_content();
    Ok(())
}

/// `/keys?prefix=&cursor=&count=`: `{"keys":[…],"paths":[…],"cursor":n}`. A path is where its key's
/// value is, exact also for keys that are no text. A page may have fewer keys than `count`, or
/// none, because its work is bounded: the list goes on until the cursor is 0.
pub fn list(query: &[u8], node: &Node, batch: &mut Batch, reply: &mut HttpReply) -> Result<()> {
    let (mut pattern, mut cursor, mut count) = (b"*".to_vec(), 0, LIST_COUNT);
    for pair in query.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        let value: Vec<u8> =
            pair[at..].iter().skip(1).map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        let value = percent_decoded(&value).ok_or_else(|| refused("400", "not percent-encoded"))?;
        let number = || decimal(&value).and_then(|number| u64::try_from(number).ok());
        match &pair[..at] {
            b"prefix" => pattern = starting_with(&value),
            b"cursor" => {
                cursor = number().ok_or_else(|| refused("400", "cursor is not a number"))?
            }
            b"count" => {
                let wanted = number().filter(|count| *count > 0);
                count = wanted.ok_or_else(|| refused("400", "count is not a number from 1 on"))?
                    as usize;
            }
            // See `answer`.
            b"stale" => {}
            _ => return Err(refused("400", "the options are prefix, cursor, count and stale")),
        }
    }
    let count = count.min(LIST_COUNT_MAX);
    let page = node.page(cursor, count, &pattern, batch)?;
    let text = json::object([
        ("keys", json::array(page.keys.iter().map(|key| json::string(key)))),
        ("paths", json::array(page.keys.iter().map(|key| json::string(path(key).as_bytes())))),
        ("cursor", page.next.to_string()),
    ]);
    reply.content("200", content::JSON, text.as_bytes());
    Ok(())
}

/// Keys of a page of the listing where nothing else is said.
const LIST_COUNT: usize = 100;
/// Keys in one page of `GET /keys`. A larger `count` gets this many.
const LIST_COUNT_MAX: usize = 1_000;

/// The pattern for keys with a prefix: its special characters stand for themselves.
fn starting_with(prefix: &[u8]) -> Vec<u8> {
    let mut pattern: Vec<u8> = prefix.iter().flat_map(|&byte| [b'\\', byte]).collect();
    pattern.push(b'*');
    pattern
}

/// Where a key's value is.
fn path(key: &[u8]) -> String {
    let mut path = String::from("/keys/");
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// Replaces every `%XX` by its byte; `None` where two hexadecimal digits are missing.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (high, low) = (*after.first()?, *after.get(1)?);
            let digit = |digit: u8| char::from(digit).to_digit(16);
            decoded.push((digit(high)? * 16 + digit(low)?) as u8);
            rest = &after[2..];
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob;
    use proptest::prelude::*;

    #[test]
    fn half_an_escape_is_no_key() {
        for bad in ["%", "%4", "a%zz", "%+1"] {
            assert_eq!(percent_decoded(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(percent_decoded(b"a%20b+%c3%BC%00/"), Some("a b+ü\0/".as_bytes().to_vec()));
    }

    proptest! {
        #[test]
        fn every_key_has_a_path(key in prop::collection::vec(any::<u8>(), 1..50)) {
            let path = path(&key);
            prop_assert!(path.is_ascii() && !path.contains(['?', '#', ' ']));
            prop_assert_eq!(percent_decoded(&path.as_bytes()["/keys/".len()..]), Some(key));
        }

        #[test]
        fn a_prefix_means_itself(prefix in "[a*?\\[\\]^-]{0,5}", key in "[a*?\\[\\]^-]{0,8}") {
            let pattern = starting_with(prefix.as_bytes());
            prop_assert_eq!(glob::matches(&pattern, key.as_bytes()), key.starts_with(&prefix));
        }
    }
}
