//! # Watching: the page, REST, health and metrics
//!
//! **The problem.** A store that nobody can look into is not trusted and not understood. The tools
//! people have for looking are a browser, `curl`, probes and Prometheus. But a browser is also a
//! way in: it sends requests to this port on behalf of any web page its owner visits.
//!
//! **The idea.** The same port speaks HTTP ([`crate::protocol::http`]). Every request passes
//! [`admit`], then [`answer`] finds its route:
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the page: charts, peers, a key browser |
//! | `GET`, `HEAD`, `PUT`, `DELETE /keys/<key>` | one value; the key percent-encoded, the value as it is |
//! | `GET /keys?prefix=&cursor=&count=` | a page of keys, as JSON |
//! | `?stale` behind one of these | what this node has is enough, as with `READONLY` |
//! | `POST /links/<id>/cut`, `/heal` | cuts and heals the link to a peer, where fault injection is enabled |
//! | `GET /status.json` | what the page shows |
//! | `GET /metrics` | the same for Prometheus |
//! | `GET /livez`, `/readyz` | whether the process answers; whether to send it work, and if not, why |
//!
//! **The rules**, against the ways a hostile web page can use its visitor's browser. Each has a
//! test.
//! - *DNS rebinding* (a name of the attacker's that resolves to our address, so that his page is
//!   "same origin" with us): the Host must be an IP address, `localhost` or the advertised name.
//!   With a password any Host is served, because a browser does not send the password that it has
//!   for one name to another name. So is any Host for the two probes, which show no data:
//!   orchestrators and proxies use names of their own.
//! - *Requests from other sites*: whatever is not GET or HEAD must come from our own page or from
//!   no page at all, by `Sec-Fetch-Site` and `Origin`. No answer allows another site to read it (no
//!   CORS).
//! - *Stored values are hostile*: they are sent as bytes that may not be shown, guessed at, run or
//!   framed; the page puts them in as text, and its policy runs only its own script.
//! - *Commands in a body*: HTTP stays HTTP until the connection ends.
//! - With a password set, everything but the two probes needs Basic authentication (user `default`
//!   or none).
//!
//! A refusal comes before the body is read. Reading and writing keys counts as commands, watching
//! does not.
//!
//! **What is left out.** TLS (a proxy in front can add it), compression, ranges, conditional
//! requests. Read on: the Fetch Metadata specification, and the OWASP cheat sheets on CSRF and DNS
//! rebinding.

mod json;
mod keys;
mod status;

use std::net::{IpAddr, SocketAddr};

use crate::error::{Code, Error, Result};
use crate::node::{Batch, Node};
use crate::protocol::http::{HttpReply, HttpRequest, content};
use crate::random::random_id;

/// The whole page: markup, style and script in one file, with nothing loaded from elsewhere.
const PAGE: &str = include_str!("page.html");

/// Whether a request may be answered at all; looked at before its body is read.
///
/// `check_password` looks at a password that the request gives, or says why not.
pub fn admit(
    request: &HttpRequest,
    node: &Node,
    mut check_password: impl FnMut(&[u8]) -> Result<bool>,
) -> Result<()> {
    let is_probe = matches!(path(request), b"/livez" | b"/readyz");
    if node.configuration.passwords.is_set() {
        let is_short = request.len <= node.configuration.limits.unauthenticated_bytes_max;
        let is_authorized =
            password(request).map_or(Ok(false), |password| check_password(&password))?;
        let is_open = is_probe && is_short;
        if !is_authorized && !is_open {
            return Err(refused(
                "401",
                "the password is needed: user default, Basic authentication",
            ));
        }
    } else if !is_probe && !is_our_name(request.host, &node.advertised_address()) {
        return Err(refused(
            "403",
            "without a password this Host is not served: use an IP address, localhost or the name \
             given to --advertise",
        ));
    }
    if !matches!(request.method, b"GET" | b"HEAD") && !is_from_here(request) {
        return Err(refused("403", "refused: sent by a page of another site"));
    }
    Ok(())
}

/// The target of a request without its query.
fn path<'a>(request: &HttpRequest<'a>) -> &'a [u8] {
    request.target.split(|&byte| byte == b'?').next().unwrap_or_default()
}

/// Answers an admitted request whose body is there. `address` is where the server listens.
pub fn answer(
    request: &HttpRequest,
    node: &Node,
    address: SocketAddr,
    batch: &mut Batch,
    reply: &mut HttpReply,
) -> Result<()> {
    let path = path(request);
    let query = request.target.get(path.len() + 1..).unwrap_or_default();
    let is_read = matches!(request.method, b"GET" | b"HEAD");
    batch.is_read_only = query.split(|&byte| byte == b'&').any(|option| option == b"stale");
    if let Some(key) = path.strip_prefix(b"/keys/") {
        return keys::one(request, key, node, batch, reply);
    }
    if let Some(link) = path.strip_prefix(b"/links/") {
        return change_link(request, link, node, reply);
    }
    match path {
        b"/" | b"/keys" | b"/livez" | b"/readyz" | b"/status.json" | b"/metrics" if !is_read => {
            return Err(wrong_method("GET, HEAD", "this can only be read"));
        }
        b"/" => page(reply),
        b"/keys" => keys::list(query, node, batch, reply)?,
        b"/livez" => reply.content("200", content::TEXT, b"alive\n"),
        b"/readyz" => {
            let reasons = node.reasons_not_ready(&node.peers()).into_iter();
            let text: String = reasons.map(|reason| format!("not ready: {reason}\n")).collect();
            match text.as_str() {
                "" => reply.content("200", content::TEXT, b"ready\n"),
                text => reply.content("503", content::TEXT, text.as_bytes()),
            }
        }
        b"/status.json" => {
            reply.content("200", content::JSON, status::json(node, address, batch).as_bytes())
        }
        b"/metrics" => reply.content(
            "200",
            content::PROMETHEUS,
            status::prometheus(node, address, batch).as_bytes(),
        ),
        _ => return Err(refused("404", "no such page; try /, /keys, /status.json or /metrics")),
    }
    Ok(())
}

/// `POST /links/<id, address or *>/cut` and `…/heal`, as `PARTITION` and `HEAL`.
fn change_link(
    request: &HttpRequest,
    link: &[u8],
    node: &Node,
    reply: &mut HttpReply,
) -> Result<()> {
    if request.method != b"POST" {
        return Err(wrong_method("POST", "links take POST"));
    }
    let link = String::from_utf8_lossy(link);
    match link.rsplit_once('/') {
        Some((peer, "cut")) => node.cut_off(peer)?,
        Some((peer, "heal")) => node.heal(peer)?,
        _ => return Err(refused("404", "a link takes /links/<id>/cut and /links/<id>/heal")),
    }
    reply.no_content();
    Ok(())
}

/// The page with a policy that runs its own script and style, and no other: they carry a number
/// that is new every time, which nothing that was stored can know.
fn page(reply: &mut HttpReply) {
    let nonce = format!("{:016x}{:016x}", random_id(), random_id());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src \
         'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = PAGE.replace("{{nonce}}", &nonce);
    reply.respond("200", content::HTML, &policy, "", page.as_bytes());
}

/// A Host that no attacker's name can be: the name itself is what rebinding needs. A browser always
/// sends one.
fn is_our_name(host: Option<&[u8]>, advertised: &str) -> bool {
    let Some(host) = host else {
        return true;
    };
    let host = String::from_utf8_lossy(host);
    let name = without_port(&host);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    bare.unwrap_or(name).parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || !name.is_empty() && name.eq_ignore_ascii_case(without_port(advertised))
}

fn without_port(host: &str) -> &str {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Whether our own page sent a request, or a person or program without any page.
fn is_from_here(request: &HttpRequest) -> bool {
    let site_fits = request.fetch_site.is_none_or(|site| matches!(site, b"same-origin" | b"none"));
    let origin_fits = request.origin.is_none_or(|origin| {
        let host = origin.strip_prefix(b"http://").or(origin.strip_prefix(b"https://"));
        host.is_some_and(|host| request.host.is_some_and(|ours| ours.eq_ignore_ascii_case(host)))
    });
    site_fits && origin_fits
}

/// The password of Basic authentication (RFC 7617). A user that does not exist has a wrong one.
fn password(request: &HttpRequest) -> Option<Vec<u8>> {
    let credentials = request.authorization.and_then(|value| {
        let (scheme, rest) = value.split_at_checked(6)?;
        scheme.eq_ignore_ascii_case(b"Basic ").then(|| base64_decoded(rest.trim_ascii()))?
    });
    let credentials = credentials?;
    let password = credentials.strip_prefix(b"default:").or(credentials.strip_prefix(b":"));
    Some(password.unwrap_or_default().to_vec())
}

/// Base64 (RFC 4648, section 4); `None` if it is not.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    let (mut bytes, mut bits, mut len) = (Vec::new(), 0_u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, len) = ((bits << 6) | u32::from(value), len + 6);
        if len >= 8 {
            len -= 8;
            bytes.push((bits >> len) as u8);
        }
    }
    Some(bytes)
}

/// An answer with a status of its own.
fn refused(status: &'static str, message: &str) -> Error {
    Error::refused_as(Code::Http(status), message)
}

/// An answer to a method that the resource does not have.
fn wrong_method(allowed: &'static str, message: &str) -> Error {
    Error::refused_as(Code::HttpMethod(allowed), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded() {
        // RFC 4648, section 10.
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
            ("Zm9vYmFy", "foobar"),
            ("Zm8", "fo"),
        ] {
            assert_eq!(base64_decoded(text.as_bytes()), Some(bytes.as_bytes().to_vec()));
        }
        assert_eq!(base64_decoded(b"+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(base64_decoded(b"Zm9-"), None);
    }

    #[test]
    fn only_names_that_cannot_be_rebound_are_ours() {
        for ours in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8080",
            "10.1.2.3:1",
        ] {
            assert!(is_our_name(Some(ours.as_bytes()), "node1:8080"), "{ours}");
        }
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example:8080",
            "127.0.0.1.evil.example",
            "1",
            ":80",
            "[::1",
            "localhost:x",
        ] {
            assert!(!is_our_name(Some(foreign.as_bytes()), ""), "{foreign}");
        }
    }
}
