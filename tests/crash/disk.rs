//! Disks that are full, and one that turns read-only while an inbox on it is open, as after an error of the device.
//!
//! Each is mounted for a process of its own, in a namespace that ends with the process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{InboxAdmin, Receipt, Retention};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{InboxStore, JobId, SqliteInbox};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::database::Database;

const HOUR: Duration = Duration::from_secs(3600);

/// A disk, and how it fails.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    name: &'static str,
    /// What root is needed for: a loop device, or a namespace's own root is enough.
    unshare: &'static [&'static str],
    /// Mounts it at `$0`.
    mount: &'static str,
    /// Lets it fail, or gives it room.
    remount: &'static str,
}

pub const FULL: Disk = Disk {
    name: "full",
    unshare: &["--map-root-user", "--mount"],
    mount: r#"mount -t tmpfs -o size=2m tmpfs "$0""#,
    remount: r#"mount -o remount,size=16m "$0""#,
};

/// Ext4 turns itself read-only, as it does when a write to its journal fails.
pub const BROKEN: Disk = Disk {
    name: "broken",
    unshare: &["--mount"],
    mount: r#"test -e "$0.image" || { truncate -s 32M "$0.image" && mkfs.ext4 -q -F "$0.image"; } &&
        mount -o loop "$0.image" "$0""#,
    remount: r#"mount -o remount,abort "$0""#,
};

impl Disk {
    /// A program in a namespace where the disk is mounted at a folder.
    fn command(self, folder: &Path, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(self.unshare).args(["sh", "-c", &format!(r#"{} && exec "$@""#, self.mount)]);
        command.arg(folder).arg(program).args(args).stdin(Stdio::null());
        command
    }

    /// Why the disk cannot be mounted here, if it cannot.
    pub async fn obstacle(self) -> Option<String> {
        let database = Database::sqlite();
        let folder = mounted(&database);
        let output = self.command(&folder, Path::new("true"), &[]).output().await;
        match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
            Err(error) => Some(format!("unshare: {error}")),
        }
    }

    /// Runs the checks in a process of their own, and returns what is wrong.
    pub async fn run(self, database: &Database) -> Vec<String> {
        let folder = mounted(database);
        let program = std::env::current_exe().unwrap();
        let mut command = self.command(&folder, &program, &["disk", self.name]);
        let output = command.arg(&folder).kill_on_drop(true).output();
        let output =
            timeout(Duration::from_secs(120), output).await.expect("the process does not end").unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        print!("{said}");
        if output.status.success() {
            return Vec::new();
        }
        vec![format!("{}{}", said, String::from_utf8_lossy(&output.stderr))]
    }

    async fn shell(self, script: &str, folder: &Path) -> bool {
        Command::new("sh").args(["-c", script]).arg(folder).status().await.unwrap().success()
    }
}

/// An empty folder beside the database's file.
fn mounted(database: &Database) -> std::path::PathBuf {
    let folder = Path::new(&database.url()).with_file_name("mounted");
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// The process that another one starts.
pub async fn check(name: &str, folder: &Path) {
    if name == FULL.name { full(folder).await } else { broken(folder).await }
}

fn event(number: usize, padding: usize) -> (JobId, Envelope) {
    let payload = Payload::extract_completed().job_id(format!("job-{number}"));
    let body = payload.set("/padding", "x".repeat(padding)).to_bytes();
    let event = Envelope::try_from(body).unwrap();
    (event.job().clone(), event)
}

async fn is_there(inbox: &SqliteInbox, job: &JobId) -> bool {
    inbox.get(job).await.unwrap().is_some_and(|(_, body)| body.is_some())
}

/// What does not fit is refused as "full", what was acknowledged stays, and with more room all goes on.
async fn full(folder: &Path) {
    let inbox = SqliteInbox::open(folder.join("inbox.db")).unwrap();
    let (mut stored, mut refused) = (Vec::new(), Vec::new());
    for number in 0.. {
        let (job, event) = event(number, 4000);
        match inbox.receive(&event).await {
            Ok(Receipt::Stored) => stored.push(job),
            Err(StoreError::Full) => refused.push((job, event)),
            other => panic!("a full disk is not said: {other:?}"),
        }
        if refused.len() == 30 {
            break;
        }
    }
    assert!(stored.len() > 30, "only {} were stored", stored.len());
    for job in &stored {
        assert!(is_there(&inbox, job).await, "{job} was acknowledged, and is gone");
    }
    // A worker may be refused as well, and finds everything later.
    let leased = inbox.lease(1000, Duration::from_millis(1)).await.map(|leased| leased.len());
    assert!(matches!(leased, Ok(_) | Err(StoreError::Full)), "{leased:?}");
    let pruned = inbox.prune(&Retention::default().payload(Duration::ZERO).row(HOUR)).await;
    assert!(matches!(pruned, Ok(_) | Err(StoreError::Full)), "{pruned:?}");
    println!(
        "full: {} stored, {} refused, and meanwhile lease: {leased:?}, prune: {:?}",
        stored.len(),
        refused.len(),
        pruned.map(|pruned| pruned.payloads)
    );

    assert!(FULL.shell(FULL.remount, folder).await);
    for (job, event) in &refused {
        assert!(!is_there(&inbox, job).await, "{job} was refused, and is there");
        assert_eq!(inbox.receive(event).await.unwrap(), Receipt::Stored);
    }
    sleep(Duration::from_millis(10)).await;
    let leased = inbox.lease(usize::MAX, HOUR).await.unwrap();
    assert_eq!(leased.len(), stored.len() + refused.len());
    sound(folder);
}

/// Every call fails while the disk is read-only, and after it was mounted again everything acknowledged is there.
async fn broken(folder: &Path) {
    let file = folder.join("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    let mut stored = Vec::new();
    for number in 0..100 {
        let (job, event) = event(number, 1000);
        assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Stored);
        stored.push(job);
    }
    assert!(BROKEN.shell(BROKEN.remount, folder).await);
    for number in 100..110 {
        let received = inbox.receive(&event(number, 1000).1).await;
        assert!(matches!(received, Err(StoreError::Unavailable(_))), "{received:?}");
        let leased = inbox.lease(10, HOUR).await;
        assert!(matches!(leased, Err(StoreError::Unavailable(_))), "{leased:?}");
    }
    for job in &stored {
        assert!(is_there(&inbox, job).await, "{job} cannot be read");
    }
    drop(inbox);
    while !BROKEN.shell(r#"umount "$0" 2>/dev/null"#, folder).await {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(BROKEN.shell(BROKEN.mount, folder).await);
    let inbox = SqliteInbox::open(&file).unwrap();
    for job in &stored {
        assert!(is_there(&inbox, job).await, "{job} was acknowledged, and is gone");
    }
    assert_eq!(inbox.receive(&event(100, 1000).1).await.unwrap(), Receipt::Stored);
    assert_eq!(inbox.lease(usize::MAX, HOUR).await.unwrap().len(), stored.len() + 1);
    sound(folder);
    println!("broken: {} stored before, all of them there afterwards", stored.len());
}

fn sound(folder: &Path) {
    let damage = Database::Sqlite(folder.join("inbox.db"));
    let found = damage.damage();
    std::mem::forget(damage);
    assert_eq!(found, None);
}
