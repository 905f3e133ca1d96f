//! The check that the open files are still the ones at their paths.
//!
//! A file can be deleted, moved or replaced while it is open. SQLite then writes on to the old file, and the data is
//! lost when it is closed. The same goes for the write-ahead log and the shared memory beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{error, info};

/// The files of an open database, with their identities when they were opened.
#[derive(Debug)]
pub(super) struct Place {
    files: Vec<(PathBuf, Identity)>,
    is_lost: AtomicBool,
}

/// The file at this path is missing, or is not the one that was opened.
#[derive(Debug, thiserror::Error)]
#[error("{} was deleted, moved or replaced; put the file back or restart the program", .0.display())]
pub(super) struct Lost(PathBuf);

impl Place {
    /// Notes the files of a database that was opened and read from. `before` is the identity of the file at its path
    /// before it was opened.
    pub(super) fn new(path: &Path, before: Option<Identity>) -> io::Result<Self> {
        let opened = identity(path)?;
        if before.is_some_and(|before| before != opened) {
            return Err(io::Error::other("the file was replaced while it was opened"));
        }
        // SQLite follows links, and creates the other files beside the target.
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

    /// Compares the files with those at their paths now. Takes some microseconds.
    pub(super) fn check(&self) -> Result<(), Lost> {
        let lost = self.files.iter().find(|(path, opened)| identity(path).ok() != Some(*opened));
        let was_lost = self.is_lost.swap(lost.is_some(), Ordering::Relaxed);
        match lost {
            Some((path, _)) => {
                if !was_lost {
                    error!(file = %path.display(), "the inbox's file was deleted, moved or replaced; no event is stored until it is back or the program is restarted");
                }
                Err(Lost(path.clone()))
            }
            None => {
                if was_lost {
                    info!("the inbox's file is back; storing events again");
                }
                Ok(())
            }
        }
    }
}

/// The device and inode of a file.
#[cfg(unix)]
pub(super) type Identity = (u64, u64);

#[cfg(unix)]
pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// No identity, only existence: Windows lets no program delete or move a file that SQLite has open.
#[cfg(not(unix))]
pub(super) type Identity = ();

#[cfg(not(unix))]
pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(drop)
}
