//! A file that is deleted, moved or replaced while it is open, and one that may not be written.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use http::StatusCode;
use qomplement_webhooks::inbox::{InboxAdmin, Outcome, Receipt, Retention, SqliteInboxError};
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{InboxStore, JobId, SqliteInbox, WebhookReceiver};

use super::{Folder, HOUR, check, completed, lease_one, receive, settle};
use crate::support::{eventually, request};

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    let Err(StoreError::Unavailable(cause)) = result else { panic!("not refused: {result:?}") };
    assert!(cause.to_string().contains("was deleted, moved or replaced"), "{cause}");
}

#[tokio::test]
async fn nothing_is_stored_into_files_that_were_deleted_moved_or_replaced_until_they_are_back() {
    for suffix in ["", "-wal", "-shm"] {
        for replaced in [false, true] {
            let folder = Folder::new();
            let inbox = SqliteInbox::open(folder.file()).unwrap();
            receive(&inbox, "before").await;
            receive(&inbox, "leased").await;
            let lease = lease_one(&inbox).await;
            let (file, aside) = (beside(&folder.file(), suffix), folder.0.join("aside"));
            fs::rename(&file, &aside).unwrap();
            if replaced {
                fs::copy(&aside, &file).unwrap();
            }

            let job: JobId = "job".parse().unwrap();
            is_refused(inbox.receive(&completed("lost")).await);
            is_refused(inbox.expect(&job, HOUR).await);
            is_refused(inbox.lease(1, HOUR).await);
            is_refused(inbox.renew(&lease, HOUR).await);
            is_refused(inbox.verify(&lease, &completed("before")).await);
            is_refused(inbox.settle(&lease, &Outcome::Done).await);
            is_refused(inbox.overdue(1, HOUR).await);
            is_refused(inbox.prune(&Retention::default()).await);
            is_refused(inbox.replay(&job).await);
            is_refused(inbox.contains(&job).await);
            is_refused(inbox.get(&job).await);
            is_refused(inbox.stats().await);

            // It is an error for the sender, too.
            let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build().unwrap();
            let reply = receiver.receive(request(completed("lost").body().clone())).await;
            assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
            drop(receiver);

            if replaced {
                fs::remove_file(&file).unwrap();
            }
            fs::rename(&aside, &file).unwrap();
            assert_eq!(receive(&inbox, "lost").await, Receipt::Stored);
            settle(&inbox, &lease, Outcome::Done).await;
            drop(inbox);
            check(&folder.file());
            let reopened = SqliteInbox::open(folder.file()).unwrap();
            assert_eq!(reopened.stats().await.unwrap().received, 2, "{suffix} {replaced}");
        }
    }
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_is_another_file() {
    let folder = Folder::new();
    let (one, two, link) = (folder.0.join("one.db"), folder.0.join("two.db"), folder.0.join("link.db"));
    drop(SqliteInbox::open(&two).unwrap());
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let inbox = SqliteInbox::open(&link).unwrap();
    receive(&inbox, "job").await;
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&two, &link).unwrap();
    is_refused(inbox.receive(&completed("other")).await);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&one, &link).unwrap();
    assert_eq!(receive(&inbox, "other").await, Receipt::Stored);
}

/// Set in the process that the test below starts.
const FOLDER: &str = "FOLDER_THAT_NOBODY_MAY_WRITE";

#[tokio::test]
#[ignore = "a process that another test starts"]
async fn an_ordinary_user_opens_what_it_may_write() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by no other test"));
    let open = |name: &str| SqliteInbox::open(folder.join(name).join("inbox.db"));
    receive(&open("mine").unwrap(), "job").await;
    let error = open("file").expect_err("it was opened");
    assert!(matches!(error, SqliteInboxError::ReadOnly(_)) && error.source().is_some(), "{error:?}");
    for name in ["log", "folder", "empty"] {
        let error = open(name).expect_err(name);
        assert!(
            matches!(error, SqliteInboxError::Open(_) | SqliteInboxError::ReadOnly(_)),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_may_not_be_written_does_not_open() {
    let folder = Folder::new();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let mut open = Vec::new();
    for name in ["mine", "file", "log", "folder", "empty"] {
        let place = folder.0.join(name);
        fs::create_dir(&place).unwrap();
        let file = place.join("inbox.db");
        if name != "empty" {
            let inbox = SqliteInbox::open(&file).unwrap();
            receive(&inbox, "stored").await;
            if name == "log" {
                // As while a server of another user has it open.
                mode(&beside(&file, "-wal"), 0o444);
                mode(&beside(&file, "-shm"), 0o444);
                open.push(inbox);
            } else {
                drop(inbox);
                eventually("it is closed", async || !beside(&file, "-wal").exists()).await;
            }
            mode(&file, if name == "file" { 0o444 } else { 0o666 });
        }
        mode(&place, if ["folder", "empty"].contains(&name) { 0o555 } else { 0o777 });
    }
    mode(&folder.0, 0o777);
    let exe = folder.0.join("it");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    mode(&exe, 0o755);
    let test = "sqlite::place::an_ordinary_user_opens_what_it_may_write";
    let mut line = vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        line = vec!["env"];
    }
    let ran = Command::new(line[0])
        .args(&line[1..])
        .arg(&exe)
        .args(["--ignored", "--exact", test])
        .env(FOLDER, &folder.0)
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    for name in ["folder", "empty"] {
        mode(&folder.0.join(name), 0o777);
    }
}

/// Set in the process that the test below starts.
#[cfg(target_os = "linux")]
const READ_ONLY: &str = "FOLDER_ON_A_READ_ONLY_MOUNT";

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn on_a_read_only_mount_nothing_opens() {
    let folder = PathBuf::from(std::env::var_os(READ_ONLY).expect("started by no other test"));
    assert!(fs::write(folder.join("other"), "").is_err(), "it is writable");
    for name in ["open.db", "closed.db", "new.db"] {
        let error = SqliteInbox::open(folder.join(name)).expect_err(name);
        let is_said = matches!(error, SqliteInboxError::Open(_) | SqliteInboxError::ReadOnly(_));
        assert!(is_said && error.source().is_some(), "{name}: {error:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_on_a_read_only_mount_does_not_open() {
    let folder = Folder::new();
    let (mounted, closed, open) =
        (folder.0.join("mounted"), folder.0.join("closed.db"), folder.0.join("open.db"));
    fs::create_dir(&mounted).unwrap();
    receive(&SqliteInbox::open(&closed).unwrap(), "stored").await;
    eventually("it is closed", async || !beside(&closed, "-wal").exists()).await;
    let _open = SqliteInbox::open(&open).unwrap();
    // In a namespace of its own, where everybody may mount, and which ends with the process.
    let script = r#"mount -t tmpfs tmpfs "$0" && cp ./*.db* "$0" && mount -o remount,ro "$0" && exec "$@""#;
    let ran = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .args([mounted.clone(), std::env::current_exe().unwrap()])
        .args(["--ignored", "--exact", "sqlite::place::on_a_read_only_mount_nothing_opens"])
        .env(READ_ONLY, &mounted)
        .current_dir(&folder.0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{errors}");
}
