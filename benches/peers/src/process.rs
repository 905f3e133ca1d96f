//! Processes: this program in another role, and the CPU time of processes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A tick of `/proc/PID/stat` on Linux, in microseconds.
const TICK: f64 = 10_000.0;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments);
    command
}

/// Runs this program to its end, and returns the numbers that it prints. `None` if it fails.
pub fn numbers(arguments: &[&str]) -> Option<Vec<f64>> {
    let output = program(arguments).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then(|| text.split_whitespace().map(|number| number.parse().unwrap()).collect())
}

/// A server process. It is killed on drop.
pub struct Served {
    child: Child,
    pub address: String,
}

impl Served {
    pub fn start(name: &str, place: &str) -> Self {
        let mut child = program(&["serve", name, place]).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().to_owned() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The fields of `/proc/PID/stat` after the name: the state is the first.
fn stat(process: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

fn ticks(stat: &[String], fields: std::ops::Range<usize>) -> f64 {
    stat[fields].iter().map(|field| field.parse::<f64>().unwrap()).sum::<f64>() * TICK
}

/// The CPU time of a process so far, user and system, in microseconds.
pub fn cpu_of(process: u32) -> f64 {
    stat(process).map_or(0.0, |stat| ticks(&stat, 11..13))
}

/// The CPU time of a process and its children, those that ended too, in microseconds.
pub fn cpu_with_children(process: u32) -> f64 {
    let parent = process.to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let children = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .filter(|stat| stat[1] == parent)
        .map(|stat| ticks(&stat, 11..15));
    stat(process).map_or(0.0, |stat| ticks(&stat, 11..15)) + children.sum::<f64>()
}

/// The resident memory of this process, in bytes.
pub fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}
