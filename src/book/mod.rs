//! # The reference: pages for those who use and run the server
//!
//! The README is for a newcomer. These pages hold the details, one theme to a page. Each is a
//! Markdown file in `src/book/`, so it reads the same here, in an editor and on a web site.
//! `tests/readme/` runs their `console` blocks and compares their tables with the source.

/// A page, with links between pages that work here as well as between the files: the first
/// definition of a link's name is the one that counts.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = "[clients]: crate::book::clients"]
        #[doc = "[cluster]: crate::book::cluster"]
        #[doc = "[commands]: crate::book::commands"]
        #[doc = "[consensus]: crate::book::consensus"]
        #[doc = "[contributing]: crate::book::contributing"]
        #[doc = "[files]: crate::book::files"]
        #[doc = "[glossary]: crate::book::glossary"]
        #[doc = "[HTTP]: crate::book::http"]
        #[doc = "[labs]: crate::book::labs"]
        #[doc = "[limits]: crate::book::limits"]
        #[doc = "[operations]: crate::book::operations"]
        #[doc = "[security]: crate::book::security"]
        #[doc = "[speed]: crate::book::speed"]
        #[doc = ""]
        #[doc = include_str!($file)]
        pub mod $name {}
    };
}

page!(commands, "commands.md");
page!(clients, "clients.md");
page!(http, "http.md");
page!(files, "files.md");
page!(cluster, "cluster.md");
page!(consensus, "consensus.md");
page!(labs, "labs.md");
page!(operations, "operations.md");
page!(limits, "limits.md");
page!(security, "security.md");
page!(speed, "speed.md");
page!(glossary, "glossary.md");
page!(contributing, "contributing.md");
