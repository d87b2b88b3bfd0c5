//! The text of `INFO`.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::node::{Batch, Node};

/// All sections, or the one that is named (`all`, `everything` and `default` are all).
pub fn text(node: &Node, address: SocketAddr, section: Option<&[u8]>, batch: &mut Batch) -> String {
    let wanted = section.map_or("all".into(), |name| String::from_utf8_lossy(name).to_lowercase());
    let shows_all = matches!(wanted.as_str(), "all" | "everything" | "default");
    let is_wanted = |name: &str| !name.is_empty() && (shows_all || name.to_lowercase() == wanted);
    let mut text = String::new();
    for section in node.figures(address, is_wanted) {
        let separator = if text.is_empty() { "" } else { "\r\n" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}# {}\r\n", section.name);
        if section.name == "Keyspace" {
            // Only this: `INFO persistence` must answer while the disk hangs.
            node.shows_everything(batch);
        }
        for figure in section.figures {
            if let Some(field) = figure.field {
                let _ = write!(text, "{field}:{}\r\n", figure.value);
            }
        }
    }
    text
}
