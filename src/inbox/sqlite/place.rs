//! Whether the file is still where it was opened.
//!
//! A file can be deleted, moved or replaced while it is open. SQLite goes on writing to it then, and nobody will find
//! what it writes. The same goes for the write-ahead log and the shared memory beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{error, info};

/// The files of an open database, and which they were.
#[derive(Debug)]
pub(super) struct Place {
    files: Vec<(PathBuf, Identity)>,
    is_lost: AtomicBool,
}

/// The file of that name is another one than was opened, or there is none.
#[derive(Debug, thiserror::Error)]
#[error("{} is gone or another file now: events are stored again when it is back, or when the program has been restarted", .0.display())]
pub(super) struct Lost(PathBuf);

impl Place {
    /// Notes the files of a database that was opened and read from. `before` is the file of its name before that.
    pub(super) fn new(path: &Path, before: Option<Identity>) -> io::Result<Self> {
        let opened = identity(path)?;
        if before.is_some_and(|before| before != opened) {
            return Err(io::Error::other("the file was replaced while it was being opened"));
        }
        // SQLite follows links, and puts the others beside the file itself.
        let file = fs::canonicalize(path)?;
        let beside = ["-wal", "-shm"].map(|suffix| {
            let mut name = file.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        });
        let mut files = vec![(path.to_owned(), opened)];
        for path in beside {
            let identity = identity(&path)?;
            files.push((path, identity));
        }
        Ok(Self { files, is_lost: AtomicBool::new(false) })
    }

    /// Compares the files with those that are there now. It costs some microseconds.
    pub(super) fn check(&self) -> Result<(), Lost> {
        let lost = self.files.iter().find(|(path, opened)| identity(path).ok() != Some(*opened));
        let was_lost = self.is_lost.swap(lost.is_some(), Ordering::Relaxed);
        match lost {
            Some((path, _)) => {
                if !was_lost {
                    error!(file = %path.display(), "the inbox's file was deleted, moved or replaced: nothing is stored any more");
                }
                Err(Lost(path.clone()))
            }
            None => {
                if was_lost {
                    info!("the inbox's file is back: events are stored again");
                }
                Ok(())
            }
        }
    }
}

/// What sets a file apart from another of the same name.
#[cfg(unix)]
pub(super) type Identity = (u64, u64);

#[cfg(unix)]
pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Elsewhere, only that there is one: Windows lets nobody delete or move a file that SQLite has open.
#[cfg(not(unix))]
pub(super) type Identity = ();

#[cfg(not(unix))]
pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(drop)
}
