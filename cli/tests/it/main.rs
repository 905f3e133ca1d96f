//! The command line, run as a program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod databases;
mod fetch;
mod guide;
mod help;
mod hostile;
mod inbox;
mod listen;
mod pipes;
mod secrets;
mod send;
mod serve;
mod support;
mod terminal;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use regex::Regex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_qomplement-webhooks");
/// Longer than any command takes.
const LONG: Duration = Duration::from_secs(30);

/// The program, in an environment without tokens, databases or terminal settings.
fn command(args: &[&str]) -> Command {
    let mut command = Command::from(plain_command(args));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn plain_command(args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(PROGRAM);
    command.args(args);
    for name in [
        "WEBHOOK_TOKEN",
        "DATABASE",
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "COLUMNS",
        "QOMPLEMENT_API_KEY",
    ] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm");
    command
}

/// The output and the exit status of a command.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn run(args: &[&str]) -> Ran {
    finish(&mut command(args), "").await
}

/// Runs a command to its end, with a standard input.
async fn finish(command: &mut Command, input: &str) -> Ran {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Fails if the command does not read it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    end(child).await
}

async fn end(child: Child) -> Ran {
    let output = timeout(LONG, child.wait_with_output()).await.expect("it does not end").unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    /// Compares the output with a transcript whose varying parts are masked.
    #[track_caller]
    fn shows(&self, code: i32, out: &str, err: &str) -> &Self {
        let shown = (self.code, masked(&self.out), masked(&self.err));
        let plain = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        let same = shown.0 == Some(code) && plain(&shown.1) == plain(out) && plain(&shown.2) == plain(err);
        assert!(same, "exit status {:?}\n--- stdout\n{}--- stderr\n{}", shown.0, shown.1, shown.2);
        self
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Masks the parts of a text that differ from run to run; columns are two spaces apart.
fn masked(text: &str) -> String {
    static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let masks = [
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "JOB"),
            (r"(\d{4}-\d\d-\d\dT|\b)\d\d:\d\d:\d\dZ", "NOW"),
            (r"\b\d+(\.\d+)? (ms|s)\b", "TIME"),
            (r"\b\d+(ms|s)\b", "TIME"),
            (r"\b\d+ deliveries/s", "N deliveries/s"),
            (r"127\.0\.0\.1:\d+", "ADDRESS"),
            (r"/[^ ]*/qomplement-webhooks-cli-\d+-\d+/", "FOLDER/"),
            (r"(?m)(^|=)[A-Za-z0-9_-]{43}$", "${1}TOKEN"),
            (r"([^ \n])  +", "$1  "),
        ];
        masks.into_iter().map(|(regex, mask)| (Regex::new(regex).unwrap(), mask)).collect()
    });
    MASKS.iter().fold(text.to_owned(), |text, (regex, mask)| regex.replace_all(&text, *mask).into_owned())
}

/// A running command, and the lines of its standard error.
struct Going {
    child: Child,
    err: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
}

impl Going {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, err }
    }

    async fn next_err(&mut self) -> String {
        timeout(LONG, self.err.next_line()).await.expect("nothing is said").unwrap().expect("it has ended")
    }

    async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it has ended").to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }

    async fn end(self) -> Ran {
        let (child, mut err) = (self.child, self.err);
        let rest = async {
            let mut rest = String::new();
            err.get_mut().read_to_string(&mut rest).await.unwrap();
            rest
        };
        let (ran, rest) = tokio::join!(end(child), rest);
        Ran { err: rest, ..ran }
    }

    async fn interrupt(self) -> Ran {
        self.signal("-INT").await;
        self.end().await
    }
}

/// A folder that is deleted after the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("qomplement-webhooks-cli-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// The path of a file in it.
    fn file(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().unwrap()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let file = self.file(name);
        std::fs::write(&file, content).unwrap();
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
