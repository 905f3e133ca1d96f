//! Samples of all that must not grow.

use std::fmt::Write;
use std::fs;

/// The gauges, each with its unit and the growth that is noise: whatever the size is, and by an eighth of it.
const GAUGES: [(&str, &str, u64); 6] = [
    ("memory", "KiB", 4096),
    ("file descriptors", "", 8),
    ("threads", "", 4),
    ("table", "KiB", 1024),
    ("log", "KiB", 4096),
    ("rows", "", 200),
];

#[derive(Default)]
pub struct Gauges(Vec<[u64; GAUGES.len()]>);

impl Gauges {
    /// Samples a process. `table` and `log` are in bytes.
    pub fn sample(&mut self, pid: u32, table: u64, log: u64, rows: u64) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
        self.0.push([number("VmRSS:"), files, number("Threads:"), table >> 10, log >> 10, rows]);
    }

    /// Compares the halves: prints their medians and maxima, and returns what has grown.
    pub fn compare(&self, name: &str) -> Vec<String> {
        let (first, second) = self.0.split_at(self.0.len() / 2);
        let mut wrong = Vec::new();
        let mut text = format!("{name}, {} samples, median (most) of the halves:", self.0.len());
        for (place, (gauge, unit, noise)) in GAUGES.into_iter().enumerate() {
            let of = |half: &[[u64; GAUGES.len()]]| {
                let mut values: Vec<_> = half.iter().map(|sample| sample[place]).collect();
                values.sort_unstable();
                (values[values.len() / 2], values[values.len() - 1])
            };
            let ((one, most), (other, most_of_other)) = (of(first), of(second));
            let _ = write!(text, "\n  {gauge}: {one} ({most}), {other} ({most_of_other}) {unit}");
            if other > one + noise.max(one / 8) {
                wrong.push(format!("{gauge} grows: {one} {unit}, then {other} {unit}"));
            }
        }
        println!("{text}");
        wrong
    }
}
