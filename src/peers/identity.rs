//! Who a node is.

use std::net::SocketAddr;

use crate::error::Error;

/// What this node says of itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Stays with the data.
    pub node_id: u64,
    /// New at every start.
    pub run_id: u64,
    /// Nodes of another cluster are refused.
    pub cluster: String,
    /// Whether the data survives a restart.
    pub is_durable: bool,
    /// `host:port`, or why there is none.
    pub address: std::result::Result<String, String>,
}

/// The refusal of a node at an address that this one must not connect to.
pub fn may_not_dial(address: &str) -> Error {
    Error::refused(format!(
        "it advertises '{address}', and without a password only this machine and the addresses \
         named with --peer are dialled; give all nodes a password, name it with --peer, or say \
         --insecure"
    ))
}

/// An id as it is written: 16 hex digits.
pub fn parse_id(text: &str) -> Option<u64> {
    let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok())?
}

/// Where others reach a node that listens at `listening`.
pub fn advertised(
    wanted: Option<&str>,
    listening: SocketAddr,
) -> std::result::Result<String, String> {
    match wanted {
        Some(address) => Ok(address.into()),
        None if listening.ip().is_unspecified() => Err(format!(
            "it listens on {}, which stands for every interface, and was not told where others \
             reach it; \
             start it with --advertise HOST:PORT",
            listening.ip()
        )),
        None if listening.ip().is_loopback() => Ok(format!("localhost:{}", listening.port())),
        None => Ok(listening.to_string()),
    }
}
