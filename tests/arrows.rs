//! The table of `lib.rs`: which module may import which. Read from the `use` lines and the paths in
//! the code of every file, but for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import, in the order of the table.
type Table = Vec<(String, BTreeSet<String>)>;

fn names(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(String::from)
}

/// The table in the documentation of `lib.rs`. Rows without chapters of their own are helpers,
/// which every later row may import.
fn table(lib: &str) -> Table {
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let rows = rows.map(|row| format!("`{row}")).collect::<Vec<_>>();
    let (mut table, mut helpers) = (Table::new(), BTreeSet::new());
    let mut in_helpers = true;
    for row in rows {
        let [modules, imports, ..] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("two columns: {row}")
        };
        in_helpers &= !modules.contains("`store`");
        let own: BTreeSet<String> = names(imports).collect();
        for module in names(modules) {
            let imports = if in_helpers { own.clone() } else { &own | &helpers };
            table.push((module, imports));
        }
        if in_helpers {
            helpers.extend(names(modules));
        }
    }
    table
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| match path.is_dir() {
        true => rust_files(&path),
        false => vec![path],
    });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The code of a file without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    code.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The first name behind each `crate::`.
fn imports(code: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let paths = code.split("crate::").skip(1);
    paths.map(|path| path.chars().take_while(|letter| is_name(*letter)).collect()).collect()
}

/// What is wrong with the imports of one file, which is `path` below `src`.
fn faults(path: &Path, text: &str, table: &Table) -> Vec<String> {
    let module = path.iter().next().unwrap().to_string_lossy();
    let module = module.trim_end_matches(".rs");
    let is_test = path.iter().any(|part| part == "tests" || part == "tests.rs");
    if matches!(module, "lib" | "main" | "book") || is_test {
        return Vec::new();
    }
    let path = path.display();
    let Some((_, allowed)) = table.iter().find(|(name, _)| name == module) else {
        return vec![format!("{path}: `{module}` is not in the table")];
    };
    let code = code(text);
    let wrong = imports(&code).into_iter().filter(|name| name != module && !allowed.contains(name));
    let mut faults: Vec<String> =
        wrong.map(|name| format!("{path}: `{module}` may not import `{name}`")).collect();
    if code.contains("super::super") {
        faults.push(format!("{path}: `super::super` hides what is imported"));
    }
    faults
}

fn lib() -> String {
    fs::read_to_string("src/lib.rs").unwrap()
}

#[test]
fn no_file_imports_what_the_table_does_not_allow() {
    let table = table(&lib());
    let src = Path::new("src");
    let faults: Vec<String> = rust_files(src)
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            faults(file.strip_prefix(src).unwrap(), &text, &table)
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_table_has_every_module_and_no_circle() {
    let (lib, mut above) = (lib(), BTreeSet::new());
    let rows: BTreeMap<String, BTreeSet<String>> = table(&lib).into_iter().collect();
    for (module, imports) in table(&lib) {
        assert!(imports.is_subset(&above), "`{module}` imports only rows above it: {imports:?}");
        assert!(above.insert(module.clone()), "`{module}` stands there once");
    }
    let declared = lib.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'));
    let declared: BTreeSet<String> = declared.map(String::from).collect();
    assert!(declared.contains("node") && declared.contains("glob"), "{declared:?}");
    let missing = declared.iter().find(|name| *name != "book" && !rows.contains_key(*name));
    assert_eq!(missing, None);
}

#[test]
fn a_planted_arrow_is_found() {
    let table = table(&lib());
    let count = |path: &str, text: &str| faults(Path::new(path), text, &table).len();
    assert_eq!(count("web/keys.rs", "use crate::node::Node;\nuse crate::error::Result;"), 0);
    assert_eq!(count("web/keys.rs", "use crate::store::Size;"), 1);
    assert_eq!(count("server/peer.rs", "fn f() { crate::replication::start() }"), 1);
    assert_eq!(
        count("store/mod.rs", "use crate::{\n    config::Limits,\n};"),
        1,
        "no list of modules"
    );
    assert_eq!(count("config.rs", "use crate::durability::FsyncPolicy;"), 1);
    assert_eq!(
        count("store/scan.rs", "/// crate::node\n#[cfg(test)]\nmod tests {\nuse crate::node"),
        0
    );
    assert_eq!(count("new.rs", ""), 1);
}
