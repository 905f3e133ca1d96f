//! Programs whose clock is wrong.

use std::fs;
use std::path::PathBuf;

/// The environment that shifts a program's clock by an offset such as `+1h`. Its timers stay right.
pub fn environment(offset: &str) -> [(&'static str, String); 3] {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten().map(|folder| folder.path());
    let libraries: Vec<PathBuf> = folders.map(|path| path.join("faketime/libfaketimeMT.so.1")).collect();
    let found = libraries.iter().find(|path| path.exists());
    let library = found.expect("libfaketime is missing: apt-get install faketime").display().to_string();
    [
        ("LD_PRELOAD", library),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}
