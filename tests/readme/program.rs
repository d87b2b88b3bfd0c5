//! The README's program compiles as shown in a new project, and does what it says.

use std::path::Path;
use std::process::Command;

use super::common::{self, Server, quoted, repository};
use super::document::Document;

#[test]
fn the_program_works_in_a_new_project() {
    let readme = Document::named("README.md");
    let [program] = &readme.blocks("rust")[..] else { panic!("one program") };
    let dependency = "kvstore = { path = \"../kvstore\" }";
    assert!(readme.text.contains(dependency), "the README says how to add the library");
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let project = folder.path().join("hello");
    let cargo = |words: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        let output = common::run(cargo.args(words).current_dir(folder.path()), "");
        assert!(output.code == Some(0), "cargo {words:?}: {}", output.stderr);
    };
    cargo(&["new", "--quiet", "--vcs", "none", "hello"]);
    let path = repository().display().to_string();
    let dependencies = format!("[dependencies]\n{}\n", dependency.replace("../kvstore", &path));
    let manifest = project.join("Cargo.toml");
    let written = std::fs::read_to_string(&manifest).expect("cargo wrote it");
    let manifest_with = written.replace("[dependencies]\n", &dependencies);
    assert!(manifest_with.contains(&dependencies), "{manifest_with}");
    std::fs::write(&manifest, manifest_with).expect("written");
    // The versions that are here already: nothing is downloaded.
    std::fs::copy(repository().join("Cargo.lock"), project.join("Cargo.lock")).expect("copied");
    let main = project.join("src").join("main.rs");
    let port = format!("localhost:{}", server.port);
    std::fs::write(main, program.replace("localhost:8080", &port)).expect("written");
    // Where most of the library's own packages are built already.
    let target = common::binary().parent().and_then(Path::parent).expect("a target directory");
    let mut run = Command::new(env!("CARGO"));
    run.args(["run", "--quiet", "--offline", "--target-dir"]).arg(target).current_dir(&project);
    let output = common::run(&mut run, "");
    assert!(output.code == Some(0), "{}: {}", quoted(project.display()), output.stderr);
    let mut wire = server.connect();
    wire.ask("GET name\n", "Dylan\n");
}
