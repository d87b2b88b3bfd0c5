//! The README and the pages of `src/book/`, as a reader works through them.

use super::common::repository;

/// A page of the documentation.
pub struct Document {
    pub path: String,
    pub text: String,
}

/// What a reader does, from one heading to the next.
#[derive(Clone)]
pub struct Section {
    pub heading: String,
    pub steps: Vec<Step>,
}

#[derive(Clone)]
pub enum Step {
    /// Types a line, and sees this.
    Type { terminal: Terminal, command: String, expected: Vec<String> },
    /// Presses Ctrl-C in every terminal in which a server runs.
    StopServers,
}

/// A terminal in which something is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// `$`: the reader's own, in which no server runs.
    Own,
    /// `1$`: one that a server keeps until it ends.
    OfServer(char),
}

/// A kind of block, such as `console`, and what stands in it.
struct Block<'a> {
    kind: &'a str,
    lines: Vec<&'a str>,
}

enum Part<'a> {
    Heading(&'a str),
    Block(Block<'a>),
    Paragraph(String),
}

/// The README, then the pages in the order of `src/book/mod.rs`.
pub fn documents() -> Vec<Document> {
    let read = |path: &str| {
        let text = std::fs::read_to_string(repository().join(path));
        Document {
            path: path.to_string(),
            text: text.unwrap_or_else(|error| panic!("{path}: {error}")),
        }
    };
    let module = read("src/book/mod.rs").text;
    let pages = module.lines().filter_map(|line| line.strip_prefix("page!(")?.split('"').nth(1));
    let paths = pages.map(|page| format!("src/book/{page}"));
    std::iter::once("README.md".to_string()).chain(paths).map(|path| read(&path)).collect()
}

impl Document {
    pub fn named(path: &str) -> Document {
        documents().into_iter().find(|document| document.path == path).expect("there is the page")
    }

    /// The sections in which something is typed.
    pub fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section { heading: self.path.clone(), steps: Vec::new() }];
        for part in self.parts() {
            let steps = &mut sections.last_mut().expect("one at least").steps;
            match part {
                Part::Heading(heading) => sections.push(Section {
                    heading: format!("{}: {heading}", self.path),
                    steps: Vec::new(),
                }),
                Part::Block(block) if block.kind == "console" => steps.extend(typed(&block.lines)),
                Part::Paragraph(text) if text.contains("Stop ") && text.contains("Ctrl-C") => {
                    steps.push(Step::StopServers)
                }
                Part::Block(_) | Part::Paragraph(_) => {}
            }
        }
        sections.retain(|section| !section.steps.is_empty());
        sections
    }

    /// What stands in the blocks of a kind.
    pub fn blocks(&self, kind: &str) -> Vec<String> {
        let parts = self.parts().into_iter();
        parts
            .filter_map(|part| match part {
                Part::Block(block) if block.kind == kind => Some(block.lines.join("\n") + "\n"),
                _ => None,
            })
            .collect()
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut lines = self.text.lines();
        let mut paragraph = String::new();
        loop {
            let line = lines.next();
            match line {
                Some(line) if !line.is_empty() && !line.starts_with("```") && !is_heading(line) => {
                    paragraph += line;
                    paragraph += " ";
                    continue;
                }
                _ if !paragraph.is_empty() => {
                    parts.push(Part::Paragraph(std::mem::take(&mut paragraph)))
                }
                _ => {}
            }
            match line {
                None => return parts,
                Some(line) if is_heading(line) => parts.push(Part::Heading(line)),
                Some(line) => parts.extend(line.strip_prefix("```").map(|kind| {
                    let lines = lines.by_ref().take_while(|line| *line != "```").collect();
                    Part::Block(Block { kind, lines })
                })),
            }
        }
    }
}

fn is_heading(line: &str) -> bool {
    line.starts_with('#')
}

/// What is typed in a block, with what is shown then.
fn typed(lines: &[&str]) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in lines {
        if let Some((terminal, command)) = prompt(line) {
            steps.push(Step::Type { terminal, command, expected: Vec::new() });
        } else if let Some(Step::Type { expected, .. }) = steps.last_mut() {
            expected.push(line.to_string());
        } else {
            panic!("a block starts with a command, not with {line:?}");
        }
    }
    steps
}

/// What a line types, if it begins with a prompt, and where.
fn prompt(line: &str) -> Option<(Terminal, String)> {
    let (before, command) = line.split_once("$ ")?;
    let terminal = match before.as_bytes() {
        [] => Terminal::Own,
        [digit] if digit.is_ascii_digit() => Terminal::OfServer(char::from(*digit)),
        _ => return None,
    };
    Some((terminal, command.to_string()))
}

impl Section {
    /// All commands of the section, and the lines typed at a prompt of ours.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| match step {
            Step::Type { command, .. } => Some(command.as_str()),
            Step::StopServers => None,
        })
    }
}
