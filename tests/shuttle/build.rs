//! Copies sources of the crate, with shuttle's locks and atomics instead of the standard library's.

use std::path::Path;
use std::{env, fs};

const SOURCES: [&str; 4] =
    ["dedup/memory.rs", "execution/drain.rs", "execution/isolation.rs", "inbox/postgres/queue.rs"];

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    for source in SOURCES {
        let path = Path::new("../../src").join(source);
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // The tests in the file are for tokio's own clock.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String =
            code.lines().filter(|line| !line.starts_with("//!")).map(|line| line.to_owned() + "\n").collect();
        assert!(code.contains("std::sync") || code.contains("tokio::"), "{source} has nothing to replace");
        // The queue matches all variants of the error, which is possible in its own crate only.
        let code = match source {
            "inbox/postgres/queue.rs" => code.replace("crate::store::", "super::"),
            _ => code,
        };
        let name = Path::new(source).file_name().expect("a file");
        fs::write(Path::new(&out).join(name), code.replace("std::sync", "shuttle::sync"))
            .expect("can be written");
    }
}
