//! Drives a server with fred: drive-fred PORT [PASSWORD]. Fails at the first surprise.

use fred::prelude::*;
use fred::types::config::ServerConfig;
use fred::types::{CustomCommand, RespVersion};
use std::time::Duration;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(10);

async fn connect(port: u16, password: Option<&str>, version: RespVersion) -> Result<Client, Error> {
    let config = Config {
        server: ServerConfig::new_centralized("127.0.0.1", port),
        password: password.map(String::from),
        version,
        fail_fast: true,
        ..Config::default()
    };
    // Without a policy of its own it does not try again.
    let client = Builder::from_config(config)
        .with_performance_config(|config| config.default_command_timeout = LIMIT)
        .with_connection_config(|config| config.connection_timeout = LIMIT)
        .build()?;
    client.init().await?;
    Ok(client)
}

async fn everyday(client: &Client) -> Result<(), Error> {
    client.flushall::<()>(false).await?;
    assert_eq!(client.ping::<String>(None).await?, "PONG");
    client.set::<(), _, _>("name", "Dylan", None, None, false).await?;
    assert_eq!(client.get::<Option<String>, _>("name").await?.as_deref(), Some("Dylan"));
    assert_eq!(client.get::<Option<String>, _>("nobody").await?, None);
    let value: Vec<u8> = (0..4_usize << 20).map(|at| at as u8).collect();
    let key = &b"by\0tes\r\n"[..];
    client.set::<(), _, _>(key, Value::Bytes(value.clone().into()), None, None, false).await?;
    assert!(client.get::<Vec<u8>, _>(key).await? == value, "other bytes than were stored");
    client.mset(vec![("a", "1"), ("b", "2")]).await?;
    let found: Vec<Option<String>> = client.mget(vec!["a", "nobody", "b"]).await?;
    assert_eq!(found, [Some("1".into()), None, Some("2".into())]);
    assert_eq!(client.exists::<i64, _>(vec!["a", "b", "nobody"]).await?, 2);
    assert_eq!(client.dbsize::<i64>().await?, 4);
    assert_eq!(client.del::<i64, _>(vec!["a", "nobody"]).await?, 1);
    Ok(())
}

async fn wrong_and_pipelined(client: &Client) -> Result<(), Error> {
    // An error is no value, and the next reply is that of the next command.
    let nonsense = CustomCommand::new_static("NONSENSE", None, false);
    let error = client.custom::<Value, _>(nonsense, vec!["a"]).await.expect_err("no such command");
    assert!(error.to_string().contains("unknown command 'NONSENSE'"), "{error}");
    assert_eq!(client.get::<Option<String>, _>("name").await?.as_deref(), Some("Dylan"));

    let pipeline = client.pipeline();
    for number in 0..1000_i64 {
        pipeline.set::<(), _, _>(number.to_string(), number, None, None, false).await?;
        pipeline.get::<(), _>(number.to_string()).await?;
    }
    let replies: Vec<Value> = pipeline.all().await?;
    let numbers: Vec<Option<i64>> = replies.iter().skip(1).step_by(2).map(Value::as_i64).collect();
    assert!(numbers == (0..1000).map(Some).collect::<Vec<_>>(), "the replies are in another order");

    // A transaction fails and changes nothing.
    let transaction = client.multi();
    transaction.set::<(), _, _>("never", "x", None, None, false).await?;
    transaction.del::<(), _>("name").await?;
    let error = transaction.exec::<Value>(true).await.expect_err("no transactions");
    assert!(error.to_string().contains("Transaction discarded: "), "{error}");
    let found: Vec<Option<String>> = client.mget(vec!["never", "name"]).await?;
    assert_eq!(found, [None, Some("Dylan".into())]);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().and_then(|port| port.parse().ok()).expect("a port");
    let password = arguments.next();
    for version in [RespVersion::RESP2, RespVersion::RESP3] {
        let client = connect(port, password.as_deref(), version.clone()).await?;
        everyday(&client).await?;
        wrong_and_pipelined(&client).await?;
        client.quit().await?;
        for wrong in [Some("wrong"), None].into_iter().filter(|_| password.is_some()) {
            let connected = connect(port, wrong, version.clone());
            let asked = async { connected.await?.get::<Value, _>("name").await };
            let error = asked.await.expect_err("no right password");
            assert_eq!(*error.kind(), ErrorKind::Auth, "{error}");
        }
    }
    println!("ok");
    Ok(())
}
