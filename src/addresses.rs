//! The form of addresses and of cluster names, as people and peers write them.

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

/// The name of a cluster.
pub fn parse_cluster(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.into()).ok_or_else(|| "1 to 64 printable characters without spaces".into())
}
