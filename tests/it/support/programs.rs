//! The example servers, started as programs.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

pub fn example(name: &str) -> Command {
    let program = std::env::current_exe().unwrap();
    let program = program.parent().unwrap().with_file_name("examples").join(name);
    assert!(program.exists(), "{} is missing: `cargo build --examples --all-features`", program.display());
    let mut command = Command::new(program);
    command
        .env_remove("WEBHOOK_TOKEN")
        .env_remove("DEDUP_URL")
        .env_remove("DATABASE")
        .env("ADDR", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Starts an example server, and returns its address and the output before that.
pub async fn start(command: &mut Command) -> (Child, String, String) {
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let (mut line, mut said) = (String::new(), String::new());
    let url = loop {
        line.clear();
        let read = timeout(Duration::from_secs(10), stderr.read_line(&mut line)).await;
        assert!(read.expect("nothing said for ten seconds").unwrap() > 0, "it ended: {said}");
        if let Some(url) = line.strip_prefix("listening on ") {
            break url.trim().to_owned();
        }
        said += &line;
    };
    // Read on, so that a full pipe never blocks the program.
    tokio::spawn(async move { stderr.read_to_end(&mut Vec::new()).await });
    (child, url, said)
}

pub async fn stop(child: Child, signal: &str) -> Output {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    timeout(Duration::from_secs(10), child.wait_with_output()).await.expect("it does not stop").unwrap()
}
