//! The user interface of the client: the original's `> ` prompt, commands from a pipe, or one
//! command from the command line.
//!
//! At the prompt and in a pipe words may be quoted (see `words`).

use std::io::{self, BufRead, IsTerminal, Read, Write};

use super::words::split;
use super::{Client, Response, with_hint};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::protocol::command::{Row, TABLE, row};

const BANNER: &str = "Commands: PUT <key> <value>, GET <key>, DELETE <key>, QUIT";

/// Reads commands from standard input until `QUIT`, `EXIT` or its end. At a terminal with banner
/// and prompt, as in the original; from a pipe without. Returns whether every request worked.
pub fn run(client: &mut Client) -> Result<bool> {
    let input = io::stdin();
    let interactive = input.is_terminal();
    if interactive {
        print(&format!("Connected to server at {}\n{BANNER}\n", client.address()))?;
    }
    let (mut input, mut all_worked) = (input.lock(), true);
    loop {
        if interactive {
            print("> ")?;
        }
        let Some(line) = read_line(&mut input)? else {
            break;
        };
        match carry_out(client, &line) {
            Ok(Some(worked)) => all_worked &= worked,
            Ok(None) => break,
            Err(Error::Io(error)) => return Err(error.into()),
            Err(error) => {
                all_worked = false;
                complain(&format!("Error: {error}"));
            }
        }
    }
    if interactive {
        print("Goodbye!\n")?;
    }
    Ok(interactive || all_worked)
}

/// The usage of a command with too few or too many words. `None` if the number is right, or if only
/// the server can check it.
pub fn usage(words: &[Vec<u8>]) -> Option<String> {
    let row = row(words.first()?)?;
    let fits = match row.arity {
        // The words of a value are joined.
        _ if row.name == "PUT" => words.len() >= 3,
        exactly if exactly > 0 => words.len() == exactly as usize,
        at_least => words.len() >= at_least.unsigned_abs() as usize,
    };
    (!fits).then(|| usage_of(row))
}

fn usage_of(row: &Row) -> String {
    match row.name {
        "PUT" => "PUT <key> <value>".into(),
        "GET" => "GET <key>".into(),
        "DELETE" => "DELETE <key>".into(),
        name => format!("{name} {}", row.arguments).trim_end().into(),
    }
}

/// Carries out one command from the command line: prints the bare result. Returns whether it
/// worked.
pub fn run_once(client: &mut Client, words: &[Vec<u8>]) -> Result<bool> {
    let mut words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let joined;
    if words[0].eq_ignore_ascii_case(b"PUT") && words.len() > 3 {
        joined = words[2..].join(&b' ');
        words.truncate(2);
        words.push(&joined);
    }
    let response = client.request(&words);
    show_notice(client);
    match response? {
        Response::Null => complain("NOT_FOUND"),
        Response::Error(code, message) => show_error(&code, &message),
        response => {
            let mut bytes = Vec::new();
            write_bare(&response, &mut bytes);
            io::stdout().write_all(&bytes)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Carries out one line and returns whether it worked; `None` to leave.
fn carry_out(client: &mut Client, line: &[u8]) -> Result<Option<bool>> {
    let words = split(line).map_err(|fault| Error::Fatal(fault.into()))?;
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_ref()).collect();
    let name = words[0].to_ascii_uppercase();
    let label = match (name.as_slice(), words.len()) {
        (b"", 1) => return Ok(Some(true)),
        (b"QUIT" | b"EXIT", _) => return Ok(None),
        (b"HELP", _) => return print(&help()).map(|()| Some(true)),
        (b"GET", 2) => "Value: ",
        (b"PUT", 3) if !words[1].is_empty() => "Response: ",
        (b"DELETE", 2) => "Response: ",
        _ => match row(&name) {
            Some(row) if matches!(row.name, "PUT" | "GET" | "DELETE") => {
                return print(&format!("Usage: {}\n", usage_of(row))).map(|()| Some(false));
            }
            Some(_) => "Response: ",
            None => {
                let name = escaped(&name);
                return print(&format!("Unknown command: {name}\n")).map(|()| Some(false));
            }
        },
    };
    let response = client.request(&words);
    show_notice(client);
    match response? {
        Response::Error(code, message) => {
            show_error(&code, &message);
            Ok(Some(false))
        }
        response => print(&format!("{label}{}\n", shown(&response, ""))).map(|()| Some(true)),
    }
}

/// A line without its end; `None` at the end of input.
fn read_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let max = Limits::default().line_bytes_max as u64;
    let mut line = Vec::new();
    let len = input.take(max).read_until(b'\n', &mut line)?;
    if len as u64 == max {
        return Err(Error::Fatal(format!("a line of input is longer than {max} bytes")));
    }
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    Ok((len > 0).then_some(line))
}

/// Prints and flushes. Unlike `print!` it returns an error when the output is closed.
pub fn print(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}

/// Prints a line to stderr. Unlike `eprintln!` it does not panic when stderr is closed.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn show_notice(client: &mut Client) {
    if let Some(notice) = client.notice() {
        complain(&notice);
    }
}

fn show_error(code: &str, message: &str) {
    complain(&format!("Error: {}", with_hint(code, message)));
}

/// Formats a response for a person: control characters escaped, one list element per line.
fn shown(response: &Response, indent: &str) -> String {
    match response {
        Response::Simple(word) => word.clone(),
        Response::Error(code, message) => format!("{code} {message}"),
        Response::Integer(number) => number.to_string(),
        Response::Null => "NOT_FOUND".into(),
        // Only the reply to INFO is text of several lines.
        Response::Bulk(bytes) if bytes.starts_with(b"# ") && bytes.ends_with(b"\r\n") => {
            format!("\n{}", String::from_utf8_lossy(bytes).trim_end().replace('\r', ""))
        }
        Response::Bulk(bytes) => escaped(bytes),
        Response::Array(list) => {
            let indent = format!("{indent}  ");
            let lines = list.iter().enumerate();
            let lines = lines
                .map(|(index, one)| format!("\n{indent}{}) {}", index + 1, shown(one, &indent)));
            if list.is_empty() { "(empty)".into() } else { lines.collect() }
        }
    }
}

/// Escapes control characters and bytes that are not UTF-8, so that a stored value cannot send
/// commands to the terminal.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// Formats a response for a script: raw bytes, one line for each value.
fn write_bare(response: &Response, out: &mut Vec<u8>) {
    match response {
        Response::Array(list) => {
            list.iter().for_each(|one| write_bare(one, out));
            return;
        }
        Response::Bulk(bytes) => out.extend_from_slice(bytes),
        Response::Null => out.extend_from_slice(b"NOT_FOUND"),
        other => out.extend_from_slice(shown(other, "").as_bytes()),
    }
    out.push(b'\n');
}

fn help() -> String {
    let rows = TABLE.iter().map(|row| {
        format!("  {:48}  {}\n", format!("{} {}", row.name, row.arguments), row.summary)
    });
    rows.collect::<String>()
        + "  QUIT, EXIT or the end of input leaves.\n  \
           Words may be quoted: PUT \"my key\" \"two\\nlines\"\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_command_the_terminal() {
        assert_eq!(escaped("héllo".as_bytes()), "héllo");
        assert_eq!(escaped(b"a\x1b[2Jb\nc\xff"), "a\\u{1b}[2Jb\\nc\\xff");
    }

    #[test]
    fn help_names_every_command() {
        let help = help();
        assert!(TABLE.iter().all(|row| help.contains(&format!("  {}", row.name))));
    }
}
