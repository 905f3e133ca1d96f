//! The server that is killed: the example `durable_inbox`, as a program.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::ledger::Ledger;

pub struct App {
    pub url: String,
    child: Child,
    /// Reads what it prints into the ledger, to the end.
    reading: JoinHandle<()>,
}

impl App {
    pub async fn start(database: &str, ledger: &Arc<Ledger>) -> Self {
        let program = std::env::current_exe().unwrap();
        let program = program.parent().unwrap().with_file_name("examples").join("durable_inbox");
        assert!(
            program.exists(),
            "{} is missing: `cargo build --examples --all-features`",
            program.display()
        );
        let mut child = Command::new(program)
            .env_remove("WEBHOOK_TOKEN")
            .env("ADDR", "127.0.0.1:0")
            .env("DATABASE", database)
            .env("FAIL_PERCENT", "10")
            .env("WORK_MS", "5")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut said) = (String::new(), String::new());
        let url = loop {
            line.clear();
            let read = timeout(Duration::from_secs(60), stderr.read_line(&mut line)).await;
            assert!(read.expect("the server says nothing").unwrap() > 0, "the server ended: {said}");
            if let Some(url) = line.strip_prefix("listening on ") {
                break url.trim().to_owned();
            }
            said += &line;
        };
        // Read on, so that it never waits for us.
        tokio::spawn(async move { stderr.read_to_end(&mut Vec::new()).await });
        let (mut lines, ledger) = (BufReader::new(child.stdout.take().unwrap()).lines(), ledger.clone());
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                ledger.note(&line);
            }
        });
        Self { url, child, reading }
    }

    /// Kills it, and waits until all that it printed has been read.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
        self.reading.await.unwrap();
    }

    /// Stops it as an operator would; whether it ended well.
    pub async fn stop(mut self) -> bool {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        let status = timeout(Duration::from_secs(30), self.child.wait()).await;
        self.reading.await.unwrap();
        status.is_ok_and(|status| status.unwrap().success())
    }
}
