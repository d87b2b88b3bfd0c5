//! The table of commands, which `COMMAND`, `COMMAND DOCS`, the client's `HELP` and the README show.
//! A test holds the README to it.

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// In capitals.
    pub name: &'static str,
    /// What follows the name.
    pub arguments: &'static str,
    /// Words with the name; negative: at least that many (Redis's convention).
    pub arity: i64,
    /// Which words are keys.
    pub keys: KeyPositions,
    /// Whether it changes data.
    pub writes: bool,
    /// Whether the line protocol has it.
    pub on_lines: bool,
    /// What it does, in a few words.
    pub summary: &'static str,
}

/// Which words of a command are keys, as in Redis; zeros without keys.
#[derive(Clone, Copy, Debug)]
pub struct KeyPositions {
    /// The first of them.
    pub first: i64,
    /// The last; negative: from the end.
    pub last: i64,
    /// Words from one to the next.
    pub step: i64,
}

const READ: bool = false;
const WRITE: bool = true;
const LINES: bool = true;
const RESP: bool = false;
const NO_KEYS: KeyPositions = KeyPositions { first: 0, last: 0, step: 0 };
const ONE_KEY: KeyPositions = KeyPositions { first: 1, last: 1, step: 1 };
const ALL_KEYS: KeyPositions = KeyPositions { first: 1, last: -1, step: 1 };
const PAIRS: KeyPositions = KeyPositions { first: 1, last: -1, step: 2 };

const fn new(
    name: &'static str,
    arguments: &'static str,
    arity: i64,
    keys: KeyPositions,
    writes: bool,
    on_lines: bool,
    summary: &'static str,
) -> Row {
    Row { name, arguments, arity, keys, writes, on_lines, summary }
}

/// All commands, the everyday ones first.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    new("PUT", "key value", 3, ONE_KEY, WRITE, LINES, "store a value"),
    new("GET", "key", 2, ONE_KEY, READ, LINES, "read a value"),
    new("DELETE", "key", 2, ONE_KEY, WRITE, LINES, "remove a key, whether it is there or not"),
    new("SET", "key value", 3, ONE_KEY, WRITE, LINES, "PUT under Redis's name"),
    new("DEL", "key [key ...]", -2, ALL_KEYS, WRITE, LINES, "remove keys; how many there were"),
    new("UNLINK", "key [key ...]", -2, ALL_KEYS, WRITE, RESP, "DEL under another name"),
    new("MGET", "key [key ...]", -2, ALL_KEYS, READ, RESP, "read several values"),
    new("MSET", "key value [key value ...]", -3, PAIRS, WRITE, RESP, "store several values"),
    new("EXISTS", "key [key ...]", -2, ALL_KEYS, READ, LINES, "how many of the keys are there"),
    new("STRLEN", "key", 2, ONE_KEY, READ, LINES,
        "length of a value in bytes, 0 if it is not there"),
    new("TYPE", "key", 2, ONE_KEY, READ, LINES, "string, or none"),
    new("DBSIZE", "", 1, NO_KEYS, READ, LINES, "how many keys there are"),
    new("SCAN", "cursor [MATCH pattern] [COUNT count]", -2, NO_KEYS, READ, RESP,
        "list keys in steps"),
    new("KEYS", "pattern", 2, NO_KEYS, READ, RESP, "list all keys that match"),
    new("FLUSHALL", "", 1, NO_KEYS, WRITE, RESP, "delete every key"),
    new("FLUSHDB", "", 1, NO_KEYS, WRITE, RESP, "delete every key"),
    new("WAIT", "peers timeout_ms", 3, NO_KEYS, READ, LINES,
        "wait until peers hold this connection's writes; how many do"),
    new("INFO", "[section]", -1, NO_KEYS, READ, LINES, "what goes on"),
    new("PEERS", "", 1, NO_KEYS, READ, LINES, "one row per peer"),
    new("PARTITION", "address | id | *", 2, NO_KEYS, READ, LINES,
        "for experiments: neither send to nor accept from a peer"),
    new("HEAL", "", 1, NO_KEYS, READ, LINES, "ends every PARTITION"),
    new("PEER",
        "HELLO ... | DIGESTS [shard] | VERSIONS shard bucket [key] | \
        MERGE records | APPEND ... | VOTE ... | FORWARD ... | REMOVE id | \
        FORGET address | id",
        -2, NO_KEYS, READ, RESP,
        "between nodes; FORGET bans a node for good"),
    new("READONLY", "", 1, NO_KEYS, READ, RESP,
        "with --raft, from now on read what this node has, which may be old"),
    new("READWRITE", "", 1, NO_KEYS, READ, RESP, "end READONLY"),
    new("SHUTDOWN", "", 1, NO_KEYS, READ, LINES, "stop the server gently"),
    new("PING", "[message]", -1, NO_KEYS, READ, LINES, "PONG, or the message"),
    new("ECHO", "message", 2, NO_KEYS, READ, RESP, "the message"),
    new("AUTH", "[user] password", -2, NO_KEYS, READ, LINES,
        "give the password; the only user is default"),
    new("HELLO", "[2|3 [AUTH user password] [SETNAME name]]", -1, NO_KEYS, READ, RESP,
        "choose RESP2 or RESP3"),
    new("CLIENT", "SETINFO attribute value | SETNAME name | GETNAME | ID", -2, NO_KEYS, READ, RESP,
        "about this connection"),
    new("COMMAND", "[DOCS [name ...] | INFO [name ...] | COUNT]", -1, NO_KEYS, READ, RESP,
        "about these commands"),
    new("CONFIG",
        "GET pattern [pattern ...] | SET name value [name value ...]",
        -2, NO_KEYS, READ, RESP,
        "settings; they change only at a start"),
    new("FUNCTION", "FLUSH", -2, NO_KEYS, READ, RESP, "there are no functions"),
    new("SELECT", "0", 2, NO_KEYS, READ, RESP, "choose the only database"),
    new("QUIT", "", -1, NO_KEYS, READ, LINES, "close the connection"),
    new("RESET", "", 1, NO_KEYS, READ, RESP, "make the connection as new"),
    new("MULTI", "", 1, NO_KEYS, READ, RESP,
        "commands are answered QUEUED and not executed, until EXEC or DISCARD"),
    new("EXEC", "", 1, NO_KEYS, READ, RESP, "end MULTI with an error: there are no transactions"),
    new("DISCARD", "", 1, NO_KEYS, READ, RESP, "end MULTI without an error"),
    new("WATCH", "key [key ...]", -2, ALL_KEYS, READ, RESP, "refused: there are no transactions"),
    new("UNWATCH", "", 1, NO_KEYS, READ, RESP, "nothing is watched"),
];

/// The row of a command, in whatever case its name is written.
pub fn row(name: &[u8]) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name.as_bytes().eq_ignore_ascii_case(name))
}
