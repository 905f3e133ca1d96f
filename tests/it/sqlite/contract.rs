//! The file keeps the contract of an inbox.

use qomplement_webhooks::SqliteInbox;
use qomplement_webhooks::conformance::inbox_all;

use super::{Folder, check};

#[tokio::test(flavor = "multi_thread")]
async fn two_handles_of_one_file() {
    let folder = Folder::new();
    let inbox = || SqliteInbox::open(folder.file()).unwrap();
    inbox_all(&inbox(), &inbox(), &[]).await;
    check(&folder.file());
}
