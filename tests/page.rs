//! The page, in a real browser: headless Chromium, driven through chromedriver's HTTP interface
//! (W3C WebDriver).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Program, Server, Wire, have, http, poll, resp};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

#[test]
fn a_key_is_put_found_read_and_deleted_by_hand() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = Server::start(&[]);
    browser.open(server.port);
    browser.wait_for_text("#state", "ready");
    assert_eq!(browser.text("#address"), format!("localhost:{}", server.port));
    browser.type_into("#name", "grüße/1 ?#%");
    browser.type_into("#value", "Dylan\n & Söhne");
    browser.click("#put");
    browser.wait_for_text("#said", "Stored.");
    let (key, value) = ("grüße/1 ?#%".as_bytes(), "Dylan\n & Söhne".as_bytes());
    let expected = [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
    server.connect().ask(resp(&[b"GET", key]), expected);
    // The list has it; written behind the page's back, the value is the new one.
    browser.wait_for_text("#keys button", "grüße/1 ?#%");
    server.connect().ask(resp(&[b"SET", key, b"changed"]), "+OK\r\n");
    browser.click("#keys button");
    browser
        .wait_for("the new value", "return document.getElementById('value').value === 'changed'");
    browser.click("#delete");
    browser.wait_for_text("#said", "Deleted.");
    server.connect().ask(resp(&[b"GET", key]), "$-1\r\n");
    browser.wait_for_text("#listed", "no keys");
    browser.click("#get");
    browser.wait_for_text("#said", "no such key");
    assert_eq!(browser.complaints(), ["404"], "only the last request failed");
}

#[test]
fn stored_markup_is_shown_as_text_and_bytes_as_bytes() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = Server::start(&[]);
    let hostile = b"<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";
    let mut wire = server.connect();
    wire.ask(resp(&[b"SET", hostile, hostile]), "+OK\r\n");
    browser.open(server.port);
    browser.wait_for_text("#keys button", std::str::from_utf8(hostile).unwrap());
    browser.click("#keys button");
    browser
        .wait_for("the value", "return document.getElementById('value').value.startsWith('<img')");
    let check = "return window.hacked === undefined && \
                 !document.querySelector('img, #keys script, #entry script')";
    assert_eq!(browser.run(check), true);
    // Neither does the value run when it is opened on its own, and keys that are no text are
    // reached by their path.
    wire.ask(resp(&[b"SET", b"\xff\xfe", b"\x00\xff"]), "+OK\r\n");
    browser.type_into("#prefix", "no such prefix");
    browser.wait_for_text("#listed", "no keys");
    browser.run(
        "const field = document.getElementById('prefix'); field.value = ''; \
         field.dispatchEvent(new Event('input'))",
    );
    browser.wait_for("both keys", "return document.querySelectorAll('#keys button').length === 2");
    browser.run(
        "[...document.querySelectorAll('#keys button')].find(b => \
         !b.textContent.startsWith('<')).click()",
    );
    browser.wait_for_text("#said", "2 bytes, not text: 00 ff");
    assert!(browser.complaints().is_empty());
}

/// What the form says of a value that it must not store, and how many bytes of it there are.
const NOT_EDITABLE: [(&[u8], &str); 6] = [
    (b"\x00\xff", "Not editable here: it is not text. Download"),
    (b"one\r\ntwo\r\n", "Not editable here: its line ends (CR) would be changed. Download"),
    (b"one\rtwo", "Not editable here: its line ends (CR) would be changed. Download"),
    (b"bell\x07", "Not editable here: it has control characters that are not seen. Download"),
    (b"nul\0", "Not editable here: it has control characters that are not seen. Download"),
    (&[b'x'; (1 << 20) + 1], "Not editable here: it is too long to show. Download"),
];

#[test]
fn what_cannot_be_shown_exactly_is_not_editable() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = Server::start(&[]);
    let mut wire = server.connect();
    browser.open(server.port);
    for (index, (value, reason)) in NOT_EDITABLE.iter().enumerate() {
        let key = format!("key {index}");
        wire.ask(resp(&[b"SET", key.as_bytes(), value]), "+OK\r\n");
        // Typed or picked: Put is off, also for the Enter key in the field of the key.
        browser.type_into("#name", &key);
        browser.click("#get");
        browser.wait_for_text("#locked", reason);
        assert_eq!(browser.run("return document.getElementById('put').disabled"), true, "{reason}");
        browser.run("document.getElementById('entry').requestSubmit()");
        browser.press_enter("#name");
        browser.run(
            "document.getElementById('value').value = ''; document.getElementById('put').click()",
        );
        wire.ask(resp(&[b"STRLEN", key.as_bytes()]), format!(":{}\r\n", value.len()));
        let expected = [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        wire.ask(resp(&[b"GET", key.as_bytes()]), expected);
    }
    // Another key is written as ever, and a deleted one can be written again.
    browser.type_into("#name", "other");
    browser.type_into("#value", "text with\nlines\n");
    browser.click("#put");
    browser.wait_for_text("#said", "Stored.");
    wire.ask(resp(&[b"GET", b"other"]), "$16\r\ntext with\nlines\n\r\n");
    browser.type_into("#name", "key 0");
    browser.click("#get");
    browser.wait_for_text("#locked", NOT_EDITABLE[0].1);
    browser.click("#delete");
    browser.wait_for_text("#said", "Deleted.");
    browser.type_into("#value", "new");
    browser.click("#put");
    browser.wait_for_text("#said", "Stored.");
    wire.ask(resp(&[b"GET", b"key 0"]), "$3\r\nnew\r\n");
    assert!(browser.complaints().is_empty());
}

#[test]
fn every_key_is_addressed_by_its_bytes() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = Server::start(&[]);
    let mut wire = server.connect();
    browser.open(server.port);
    for (key, shown) in [
        (&b"two\nlines"[..], "two\\nlines"),
        (b"two\r\nlines", "two\\r\\nlines"),
        (b"\x00\x7f", "\\x00\\x7f"),
        (b"100%\xff\xfe", "100%\\xff\\xfe"),
        (b" spaces ", " spaces "),
        ("\u{feff}\u{85}".as_bytes(), "\u{feff}\\x85"),
    ] {
        wire.ask(resp(&[b"SET", key, b"before"]), "+OK\r\n");
        browser.wait_for_text("#keys button", shown);
        browser.click("#keys button");
        browser.wait_for("the value", "return document.getElementById('value').value === 'before'");
        assert_eq!(browser.run("return document.getElementById('name').value"), *shown);
        let is_typed = !shown.contains('\\');
        assert_eq!(
            browser.run("return document.getElementById('name').readOnly"),
            !is_typed,
            "{shown}"
        );
        assert_eq!(
            browser.text("#locked").starts_with("The key cannot be typed; it is "),
            !is_typed
        );
        browser.type_into("#value", "after");
        browser.click("#put");
        browser.wait_for_text("#said", "Stored.");
        wire.ask(resp(&[b"DBSIZE"]), ":1\r\n");
        wire.ask(resp(&[b"GET", key]), "$5\r\nafter\r\n");
        browser.click("#delete");
        browser.wait_for_text("#said", "Deleted.");
        wire.ask(resp(&[b"DBSIZE"]), ":0\r\n");
        // The form is free for a key that is typed.
        browser.click("#new");
        browser.type_into("#name", "typed");
        browser.click("#put");
        browser.wait_for_text("#said", "Stored.");
        wire.ask(resp(&[b"DEL", b"typed"]), ":1\r\n");
        browser.click("#new");
        browser.wait_for_text("#listed", "no keys");
    }
    // The two that no browser can send.
    wire.ask(resp(&[b"SET", b"..", b"1"]), "+OK\r\n");
    browser.wait_for_text("#keys button", "..");
    browser.click("#keys button");
    browser.wait_for_text("#said", "a browser cannot send this key, ./run_client.sh can");
    assert!(browser.complaints().is_empty());
}

#[test]
fn a_late_answer_changes_nothing() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.ask(resp(&[b"MSET", b"slow", b"old", b"fast", b"new"]), "+OK\r\n");
    browser.open(server.port);
    // The answer about one key is held back until another key is shown.
    browser.run(
        "const real = window.fetch; \
         window.fetch = (...request) => String(request[0]).endsWith('/slow') && !request[1] \
           ? new Promise(done => { window.release = () => done(real(...request)); }) : \
           real(...request)",
    );
    browser.type_into("#name", "slow");
    browser.click("#get");
    browser.wait_for("the request", "return window.release !== undefined");
    assert_eq!(
        browser.run("return document.getElementById('put').disabled"),
        true,
        "nothing is stored while reading"
    );
    browser.type_into("#name", "fast");
    browser.click("#get");
    browser.wait_for("the value", "return document.getElementById('value').value === 'new'");
    browser.run("return (async () => { await window.release(); await fetch('/livez'); })()");
    assert_eq!(browser.run("return document.getElementById('value').value"), "new");
    browser.click("#put");
    browser.wait_for_text("#said", "Stored.");
    wire.ask(resp(&[b"MGET", b"slow", b"fast"]), "*2\r\n$3\r\nold\r\n$3\r\nnew\r\n");
}

#[test]
fn a_node_that_was_never_started_is_no_alarm() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let nobody = common::cluster::free_port();
    let server = Server::start(&["--peer", &format!("127.0.0.1:{nobody}")]);
    browser.open(server.port);
    browser.wait_for(
        "the peer's row",
        "return document.querySelector('.peer span')?.textContent.startsWith('not started yet: ')",
    );
    assert!(
        browser.text(".peer span").contains("refused"),
        "the reason: {}",
        browser.text(".peer span")
    );
    let peers = common::cluster::row(&server, nobody).unwrap();
    assert!(
        peers.contains("state=connecting ")
            && peers.contains(" error=")
            && peers.contains("refused"),
        "{peers}"
    );
    server.wait_for_log(&format!(
        "peer 127.0.0.1:{nobody} cannot be reached yet, and is tried again: "
    ));
    server.connect().ask("PUT k v\n", "OK\n");
    // As if it had been behind for long: the real one takes 5 s to get there.
    poll("the change is late", || {
        let status = http::get(&server, "/status.json").json();
        (status["peers"][0]["lag_ms"].as_u64()? > 0).then_some(())
    });
    let shown = "const status = structuredClone(last); status.peers[0].lag_ms = 60000; \
                 show(status); \
                 return document.getElementById('state').textContent + \
                 document.getElementById('notes').textContent";
    assert_eq!(browser.run(shown), "ready");
    let lost = shown.replace("lag_ms = 60000", "lag_ms = 60000; status.peers[0].met = true");
    assert_eq!(
        browser.run(&lost),
        format!("laggingLagging: 127.0.0.1:{nobody} lacks changes that are 60 s old.")
    );
}

#[test]
fn the_page_shows_the_last_minutes_fits_a_phone_and_notices_a_dead_node() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let mut server = Server::start(&[]);
    // The load is over before the page is opened: its charts begin with the last minutes all the
    // same.
    let mut wire = server.connect();
    (0..50).for_each(|i| wire.ask(format!("PUT key{i} v\nGET key{i}\n"), "OK\nv\n"));
    poll("the load is history", || {
        let history = http::get(&server, "/status.json").json()["history"].take();
        let of_load =
            |sample: &Value| sample[0].as_f64().unwrap() > 10.0 && sample[2].as_u64().unwrap() > 0;
        history.as_array().unwrap().iter().any(of_load).then_some(())
    });
    browser.call("POST", "/window/rect", &json!({ "width": 390, "height": 844 }));
    browser.open(server.port);
    browser.wait_for_text("#state", "ready");
    browser.wait_for("fifty keys and three curves", {
        "return document.getElementById('figures').textContent.includes('Keys50')\
         && [...document.querySelectorAll('#operations path, #latency path')]\
            .filter(path => path.getAttribute('d').length > 20).length === 3"
    });
    let overflow = "return document.documentElement.scrollWidth <= window.innerWidth";
    assert_eq!(browser.run(overflow), true, "nothing sticks out on a narrow screen");
    server.kill();
    browser.wait_for_text("#state", "unreachable");
    let note = browser.text("#notes");
    assert!(note.starts_with("This node does not answer"), "{note}");
}

#[test]
fn a_class_watches_a_partition_and_its_healing() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let first = Server::start(&["--enable-fault-injection"]);
    let second = Server::start(&["--enable-fault-injection", "--peer", &first.address()]);
    let put = |server: &Server, value: &str| {
        browser.open(server.port);
        browser.wait_for_text("#state", "ready");
        browser.type_into("#name", "colour");
        browser.type_into("#value", value);
        browser.click("#put");
        browser.wait_for_text("#said", "Stored.");
    };
    let shows = |server: &Server, value: &str| {
        browser.open(server.port);
        browser.wait_for_text("#keys button", "colour");
        let shown = format!("return document.getElementById('value').value === {value:?}");
        poll(&format!("the page of {} shows {value}", server.port), || {
            browser.click("#keys button");
            // A person's pause between two clicks.
            std::thread::sleep(std::time::Duration::from_millis(50));
            (browser.run(&shown) == true).then_some(())
        });
    };
    put(&first, "red");
    shows(&second, "red");
    // The link is seen, and cut with its button.
    browser.open(first.port);
    browser.wait_for_text(".peer span", "live");
    assert!(
        browser.text("#picture").contains(&format!(":{}", second.port)),
        "{}",
        browser.text("#picture")
    );
    browser.click(".peer button");
    browser.wait_for_text(".peer span", "partitioned");
    browser.wait_for_text(".peer button", "Heal");
    put(&first, "green");
    put(&second, "blue");
    shows(&first, "green");
    shows(&second, "blue");
    // After healing the later write is everywhere.
    browser.open(first.port);
    browser.wait_for_text(".peer button", "Heal");
    browser.click(".peer button");
    browser.wait_for_text(".peer span", "live");
    shows(&first, "blue");
    shows(&second, "blue");
    assert!(browser.complaints().is_empty());
}

/// A browser with one window; both processes end when it is dropped.
struct Browser {
    port: u16,
    session: String,
    _driver: Program,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None` where Chromium is not installed.
    fn start() -> Option<Browser> {
        if !have("chromedriver", "chromium-driver") || !have("chromium", "chromium") {
            return None;
        }
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines
            .find_map(|line| {
                line.strip_suffix('.')?.rsplit_once("successfully on port ")?.1.parse().ok()
            })
            .expect("chromedriver says its port");
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().unwrap();
        let mut browser =
            Browser { port, session: String::new(), _driver: Program(driver), _profile: profile };
        let options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--no-proxy-server",
            "--disable-background-networking", "--disable-component-update",
            "--disable-dev-shm-usage",
            format!("--user-data-dir={}", browser._profile.path().display()),
        ] });
        let always = json!({
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let session = browser.request(
            "POST",
            "/session",
            &json!({ "capabilities": { "alwaysMatch": always } }),
        );
        browser.session = session["sessionId"].as_str().expect("a session").to_string();
        Some(browser)
    }

    fn open(&self, port: u16) {
        self.call("POST", "/url", &json!({ "url": format!("http://127.0.0.1:{port}/") }));
    }

    /// Runs JavaScript in the page.
    fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    #[track_caller]
    fn wait_for(&self, what: &str, script: &str) {
        poll(what, || (self.run(script) == true).then_some(()));
    }

    /// The text of the first element that a selector finds; empty if there is none.
    fn text(&self, selector: &str) -> String {
        let script =
            format!("return (document.querySelector({selector:?}) || {{}}).textContent || ''");
        self.run(&script).as_str().unwrap().to_string()
    }

    #[track_caller]
    fn wait_for_text(&self, selector: &str, text: &str) {
        poll(&format!("{selector} says {text:?}"), || (self.text(selector) == text).then_some(()));
    }

    fn element(&self, selector: &str) -> String {
        let found =
            self.call("POST", "/element", &json!({ "using": "css selector", "value": selector }));
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        id.unwrap_or_else(|| panic!("no {selector}: {found}")).to_string()
    }

    /// A click of the mouse, as a person makes it: fails when something else is in front.
    fn click(&self, selector: &str) {
        let clicked =
            self.call("POST", &format!("/element/{}/click", self.element(selector)), &json!({}));
        assert_eq!(clicked, Value::Null, "{selector}");
    }

    fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.call("POST", &format!("/element/{element}/clear"), &json!({}));
        let typed =
            self.call("POST", &format!("/element/{element}/value"), &json!({ "text": text }));
        assert_eq!(typed, Value::Null, "{selector}");
    }

    fn press_enter(&self, selector: &str) {
        let path = format!("/element/{}/value", self.element(selector));
        assert_eq!(
            self.call("POST", &path, &json!({ "text": "\u{e007}" })),
            Value::Null,
            "{selector}"
        );
    }

    /// What the browser put into its console as an error: a status, or the message.
    fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE");
        let messages = entries.map(|entry| entry["message"].as_str().unwrap().to_string());
        let status = |message: String| match message.split_once("with a status of ") {
            Some((_, status)) => status[..3].to_string(),
            None => message,
        };
        messages.map(status).collect()
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.request(method, &format!("/session/{}{path}", self.session), body)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut wire = Wire::connect(self.port);
        let answer =
            http::ask(&mut wire, method, path, &["Host: localhost"], body.to_string().as_bytes())
                .json();
        answer["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser, also after a failure, when nothing here may fail once more.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let request =
                format!("DELETE /session/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.session);
            let _ = stream.set_read_timeout(Some(common::SOON));
            let _ = stream.write_all(request.as_bytes());
            // The answer comes when the browser has ended.
            let _ = stream.read(&mut [0; 1024]);
        }
    }
}
