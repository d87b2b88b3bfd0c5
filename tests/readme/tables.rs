//! The tables of the pages say what the source says.

use std::process::Command;

use kvstore::config::{Configuration, KEY_BYTES_MAX, Limits, VALUE_BYTES_MAX};
use kvstore::protocol::UNAUTHENTICATED_ELEMENTS_MAX;
use kvstore::protocol::command::TABLE;

use super::common::{self, repository};
use super::document::{Document, documents};

#[test]
fn the_command_table_is_the_sources() {
    let text = Document::named("src/book/commands.md").text;
    for row in TABLE {
        let usage = format!("{} {}", row.name, row.arguments).trim_end().replace('|', "\\|");
        let line = text.lines().find(|line| line.starts_with(&format!("| `{usage}`")));
        let line = line.unwrap_or_else(|| panic!("the page has no row for `{usage}`"));
        let lines = if row.on_lines { "| yes |" } else { "| |" };
        assert!(line.contains(lines) && line.contains(row.summary), "{line}: {row:?}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, TABLE.len(), "no row for a command that is not here");
}

#[test]
fn the_readme_names_all_commands_and_options() {
    let readme = Document::named("README.md").text;
    for row in TABLE {
        let named = [format!("`{}`", row.name), format!("`{} ", row.name)];
        assert!(named.iter().any(|name| readme.contains(name)), "no {} in the README", row.name);
    }
    for mode in ["server", "client"] {
        let help = common::run(Command::new(common::binary()).args([mode, "--help"]), "").stdout;
        let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        let mut options = 0;
        for option in flags.filter_map(|flag| flag.split([' ', '=']).next()) {
            let named = [format!("`--{option}`"), format!("`--{option} ")];
            assert!(named.iter().any(|name| readme.contains(name)), "no --{option} in the README");
            options += 1;
        }
        assert!(options >= 3, "{help}");
    }
}

#[test]
fn the_limits_table_is_the_sources() {
    let (text, limits) = (Document::named("src/book/limits.md").text, Limits::default());
    for figure in [
        format!("1 to {}", with_commas(KEY_BYTES_MAX)),
        format!("{} MiB", VALUE_BYTES_MAX >> 20),
        with_commas(limits.request_elements_max),
        with_commas(Configuration::default().connections_max),
        format!("{} MiB in all", limits.request_bytes_max >> 20),
        format!(
            "{} elements, {} KiB",
            UNAUTHENTICATED_ELEMENTS_MAX,
            limits.unauthenticated_bytes_max >> 10
        ),
        format!("{} s between two bytes", limits.partial_request_timeout.as_secs()),
        format!("{} s without progress", limits.write_timeout.as_secs()),
    ] {
        assert!(text.contains(&figure), "the page does not say '{figure}'");
    }
}

fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits"))
        .collect();
    groups.join(",")
}

#[test]
fn files_named_in_the_pages_exist() {
    let mut named = 0;
    for document in documents() {
        let words = document.text.split(['`', '(', ')', ' ', '\n']);
        for word in words.map(|word| word.trim_end_matches([',', '.', ':'])) {
            if ["src/", "tests/", ".ci/", ".github/"].iter().any(|start| word.starts_with(start)) {
                assert!(repository().join(word).exists(), "{}: {word}", document.path);
                named += 1;
            }
        }
    }
    assert!(named > 30);
}

#[test]
fn every_page_is_linked_from_the_readme_and_in_the_documentation() {
    let readme = Document::named("README.md").text;
    let mut pages: Vec<String> = std::fs::read_dir(repository().join("src/book"))
        .expect("the folder is there")
        .map(|entry| format!("src/book/{}", entry.expect("read").file_name().display()))
        .filter(|path| path.ends_with(".md"))
        .collect();
    pages.sort();
    for page in &pages {
        assert!(readme.contains(&format!("({page})")), "the README has no link to {page}");
    }
    let mut shown: Vec<String> = documents().into_iter().skip(1).map(|page| page.path).collect();
    shown.sort();
    assert_eq!(pages, shown, "src/book/mod.rs shows all pages");
}

/// A link between pages works in the files, and in the documentation by what `page!` defines.
#[test]
fn links_between_pages_lead_somewhere() {
    let module = std::fs::read_to_string(repository().join("src/book/mod.rs")).expect("a module");
    for document in documents().into_iter().skip(1) {
        let definitions = document.text.lines().filter(|line| line.starts_with('['));
        for (name, file) in definitions.filter_map(|line| line.split_once("]: ")) {
            let definition = format!("{name}]: crate::book::{}", file.trim_end_matches(".md"));
            assert!(module.contains(&definition), "{}: {definition}", document.path);
            assert!(repository().join("src/book").join(file).exists(), "{}: {file}", document.path);
        }
        assert!(!document.text.contains(".md)"), "{}: a link by path is broken", document.path);
    }
}
