//! The house keeps its own rules: short files and lines, a README for newcomers, a tidy top level.
//! The length of functions is clippy's business (`.clippy.toml`).

use std::path::{Path, PathBuf};

/// Lines of a file under `src/` up to its tests.
const FILE_LINES_MAX: usize = 400;
const README_LINES_MAX: usize = 260;
/// Characters of a line, outside tables and blocks.
const COLUMNS_MAX: usize = 100;
/// What may stand at the top; names with a dot in front are for tools.
const TOP: [&str; 7] =
    ["Cargo.lock", "Cargo.toml", "README.md", "run_client.sh", "run_server.sh", "src", "tests"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder whose names end so.
fn files(folder: &str, ends: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("read").path();
            if path.is_dir() {
                folders.push(path);
            } else if ends.iter().any(|end| path.to_string_lossy().ends_with(end)) {
                found.push(path);
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn named(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}

/// Whether a file holds nothing but tests.
fn is_of_tests(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.iter().any(|part| part == "tests")
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for path in files("src", &[".rs"]).into_iter().filter(|path| !is_of_tests(path)) {
        let text = read(&path);
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{}: {lines}", named(&path)));
        }
    }
    assert!(long.is_empty(), "too many lines before their tests: {long:#?}");
}

#[test]
fn the_readme_is_short() {
    let lines = read(&repository().join("README.md")).lines().count();
    assert!(lines <= README_LINES_MAX, "{lines} lines; pages of src/book/ have room");
}

#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    let pages = [vec![repository().join("README.md")], files("src/book", &[".md"])].concat();
    let code = [files("src", &[".rs"]), files("tests", &[".rs"])].concat();
    for path in pages.iter().chain(&code) {
        let mut is_block = false;
        for (index, line) in read(path).lines().enumerate() {
            is_block ^= line.starts_with("```");
            let is_table = line.trim_start_matches(['/', '!', ' ']).starts_with('|');
            if line.chars().count() > COLUMNS_MAX && !is_block && !is_table {
                long.push(format!("{}:{}", named(path), index + 1));
            }
        }
    }
    assert!(long.is_empty(), "more than {COLUMNS_MAX} columns: {long:#?}");
}

#[test]
fn nothing_else_stands_at_the_top() {
    let entries = std::fs::read_dir(repository()).expect("the repository");
    let names = entries.map(|entry| entry.expect("read").file_name().display().to_string());
    // What cargo and a server's own runs leave is named in .gitignore.
    let ignored = read(&repository().join(".gitignore"));
    let is_ignored = |name: &str| ignored.lines().any(|line| line == format!("/{name}"));
    let others: Vec<String> = names
        .filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()) && !is_ignored(name))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}
