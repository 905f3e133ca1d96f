//! Tests that need a process of their own.

use std::process::Command;

const ALONE: &str = "RUNS_ALONE";

/// Whether this is the process of one test. Otherwise, runs that test, named with its modules, in such a process, and
/// checks that it passes there.
pub fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}
