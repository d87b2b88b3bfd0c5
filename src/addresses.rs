//! Addresses and cluster names as people and peers write them.

use std::net::IpAddr;

/// `host:port`, where the host is no wildcard and the port no 0: an address that can be connected
/// to.
pub fn parse_host_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let has_brackets = host.starts_with('[') && host.ends_with(']');
    let fits = port.parse::<u16>().is_ok_and(|port| port > 0)
        && !bare.is_empty()
        && bare.contains(':') == has_brackets
        && text.len() <= ADDRESS_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@');
    match bare.parse::<IpAddr>() {
        _ if !fits => Err("not HOST:PORT; try localhost:8080".into()),
        Ok(address) if address.is_unspecified() => {
            Err(format!("{address} stands for every interface and cannot be connected to"))
        }
        _ => Ok(text.into()),
    }
}

/// Longest address: the longest host name and a port.
const ADDRESS_BYTES_MAX: usize = 262;

/// A host name or IP address without a port; an IPv6 address may stand in brackets.
pub fn parse_host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<IpAddr>().is_ok() {
        return Ok(bare.into());
    }
    match text.rsplit_once(':') {
        Some((host, port)) if parse_host_port(text).is_ok() => Err(format!(
            "HOST and PORT are two words; say {} {port}",
            host.trim_matches(['[', ']'])
        )),
        None if parse_host_port(&format!("{text}:1")).is_ok() && !text.contains('/') => {
            Ok(text.into())
        }
        _ => Err("not a host name or IP address; try localhost".into()),
    }
}

/// The name of a cluster.
pub fn parse_cluster(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.into()).ok_or_else(|| "1 to 64 printable characters without spaces".into())
}

/// Whether an address is on this machine, as far as its words say. A name that a name server
/// answers for is not.
pub fn is_of_this_machine(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["localhost:8080", "10.0.0.1:1", "[::1]:8080", "kv-1.example:65535"] {
            assert!(parse_host_port(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost",
            ":8080",
            "h:0",
            "h:65536",
            "h:x",
            "::1:8080",
            "0.0.0.0:8080",
            "[::]:8080",
            "a b:1",
            "a@b:1",
        ] {
            assert!(parse_host_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_has_no_port() {
        for (good, host) in
            [("localhost", "localhost"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("[::1]", "::1")]
        {
            assert_eq!(parse_host(good).as_deref(), Ok(host));
        }
        for (bad, way_out) in [
            ("localhost:7000", "say localhost 7000"),
            ("[::1]:7000", "say ::1 7000"),
            ("", "try localhost"),
            ("a b", "try localhost"),
            ("http://localhost", "try localhost"),
            ("localhost/", "try localhost"),
            ("localhost:x", "try localhost"),
        ] {
            assert!(parse_host(bad).is_err_and(|reason| reason.contains(way_out)), "{bad}");
        }
    }
}
