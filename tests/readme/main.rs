//! The README and the pages of `src/book/` are true: their console blocks are run as they stand,
//! and their tables are compared with the source.
//!
//! A reader may type everything from top to bottom in one folder, or one section (up to the next
//! heading) alone. Both orders are tested. Each gets a room: a folder in a private network and
//! process namespace where one can be made, otherwise with free ports in place of the page's. A
//! section that uses a program which this machine lacks is skipped as a whole.
//!
//! - `$ command` is run by bash at a terminal; what follows is what the terminal shows.
//! - `1$ command` starts a server at a terminal of its own, which must be free.
//! - `$ sleep …` and `$ grep …` look at what comes about by itself: repeated until they print it.
//! - After `$ ./run_client.sh …` a line `> …` is typed at the prompt.
//! - A paragraph that says "Stop … Ctrl-C" presses Ctrl-C in every terminal of a server.
//! - No server runs at the end of a section.

#[path = "../common/mod.rs"]
mod common;
mod document;
mod matching;
mod program;
mod room;
mod tables;

use document::{Section, Step, documents};
use room::Room;
use std::sync::Mutex;
use std::thread;

/// Programs that the pages use and a machine may not have, with their Debian packages.
const PROGRAMS: [(&str, &str); 2] = [("redis-cli", "redis-tools"), ("curl", "curl")];
/// Sections that are worked through at the same time: mostly they wait.
const READERS: usize = 4;

/// Whether this machine has the programs that a section uses; if not, says so.
fn has_programs(section: &Section) -> bool {
    let uses = |program| section.commands().any(|line| line.split(' ').any(|word| word == program));
    PROGRAMS.iter().all(|(program, package)| !uses(*program) || common::have(program, package))
        && common::have("script", "bsdutils")
}

/// The sections that this machine can run.
fn sections() -> Vec<Section> {
    let documents = documents();
    let sections: Vec<Section> = documents.iter().flat_map(|page| page.sections()).collect();
    let typed = |step: &&Step| matches!(step, Step::Type { .. });
    let steps = sections.iter().flat_map(|section| &section.steps).filter(typed).count();
    let is_prompt =
        |line: &&str| line.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with("$ ");
    let prompts = documents.iter().flat_map(|page| page.text.lines()).filter(is_prompt).count();
    assert_eq!(steps, prompts, "every line with a prompt is in a console block");
    let sections: Vec<Section> = sections.into_iter().filter(has_programs).collect();
    assert!(sections.len() >= 5, "these need no program that a base system lacks");
    sections
}

#[test]
fn the_pages_are_true_from_top_to_bottom() {
    common::binary();
    let mut room = Room::new();
    for section in sections() {
        eprintln!("{}", section.heading);
        room.work_through(&section);
    }
}

#[test]
fn the_pages_are_true_section_by_section() {
    common::binary();
    let sections = Mutex::new(sections().into_iter());
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let next = || sections.lock().expect("no reader panics here").next();
                while let Some(section) = next() {
                    eprintln!("{}", section.heading);
                    Room::new().work_through(&section);
                }
            });
        }
    });
}
