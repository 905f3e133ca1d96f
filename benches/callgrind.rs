//! Runs a program under callgrind, and charges its instructions to the parts of this crate that caused them.
//!
//! Most instructions of a request are another crate's, and most of this crate's functions are inlined. So each address
//! is resolved to the functions that are inlined there, by `addr2line`, and the instructions of a foreign function are
//! charged to the calls of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

/// A function, by its name.
type Function = Rc<str>;
/// The place of an instruction: a function that was not inlined, and an address.
type Place = (Function, u64);

/// Counted instructions.
#[derive(Default)]
pub struct Profile {
    /// The instructions at each place, without those of calls.
    own: HashMap<Place, f64>,
    /// The instructions of the function that is called at a place.
    calls: HashMap<(Place, Function), f64>,
}

/// A program under callgrind.
pub struct Running {
    pub child: Child,
    file: PathBuf,
}

/// Starts this program once more, under callgrind, with its standard input and output piped.
pub fn start(arguments: &[&str]) -> Running {
    let file = std::env::temp_dir().join(format!("instructions.{}", std::process::id()));
    let child = Command::new("valgrind")
        .args([
            "--quiet",
            "--tool=callgrind",
            "--dump-instr=yes",
            "--compress-strings=no",
            "--compress-pos=no",
        ])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("valgrind is needed: apt-get install valgrind");
    Running { child, file }
}

impl Running {
    /// Closes the standard input, waits until the program ends, and returns its profile.
    pub fn profile(mut self) -> Profile {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "the program did not end well");
        let profile = Profile::read(&std::fs::read_to_string(&self.file).unwrap());
        std::fs::remove_file(&self.file).unwrap();
        profile
    }
}

impl Profile {
    fn read(text: &str) -> Self {
        let mut profile = Self::default();
        let mut names: HashSet<Function> = HashSet::new();
        let mut name = |name: &str| match names.get(name) {
            Some(known) => known.clone(),
            None => {
                let new = Function::from(name);
                names.insert(new.clone());
                new
            }
        };
        let program = std::env::current_exe().unwrap();
        let (mut function, mut called, mut is_call, mut is_program) = (name(""), name(""), false, false);
        for line in text.lines() {
            if let Some(object) = line.strip_prefix("ob=") {
                is_program = Path::new(object) == program;
            } else if let Some(found) = line.strip_prefix("fn=") {
                function = name(found);
            } else if let Some(found) = line.strip_prefix("cfn=") {
                called = name(found);
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if let Some(numbers) = line.strip_prefix("0x") {
                // Address, line, instructions. After `calls`, the instructions are those of the call.
                let mut numbers = numbers.split(' ');
                let address = u64::from_str_radix(numbers.next().unwrap(), 16).unwrap();
                let instructions = numbers.nth(1).map_or(0.0, |number| number.parse::<f64>().unwrap());
                // An address in a shared library could be one of the program's, too.
                let place = (function.clone(), if is_program { address } else { 0 });
                if std::mem::take(&mut is_call) {
                    *profile.calls.entry((place, called.clone())).or_default() += instructions;
                } else {
                    *profile.own.entry(place).or_default() += instructions;
                }
            }
        }
        profile
    }

    /// What one of the additional events costs, if `few` is the profile of fewer events.
    pub fn of_one_more(mut self, few: Self, more: u32) -> Self {
        for (place, instructions) in few.own {
            *self.own.entry(place).or_default() -= instructions;
        }
        for (call, instructions) in few.calls {
            *self.calls.entry(call).or_default() -= instructions;
        }
        self.own.values_mut().chain(self.calls.values_mut()).for_each(|one| *one /= f64::from(more));
        self
    }

    pub fn total(&self) -> f64 {
        self.own.values().sum()
    }

    /// The instructions that each file of this crate's source caused.
    pub fn by_file(&self) -> BTreeMap<String, f64> {
        let addresses = self.own.keys().map(|(_, address)| *address);
        let files = files(addresses.chain(self.calls.keys().map(|((_, address), _)| *address)));
        let charged = self.left_to_callers(&files);
        let mut by_file = BTreeMap::new();
        let mut charge = |address: u64, instructions: f64| {
            if let Some(file) = files.get(&address) {
                *by_file.entry(file.clone()).or_default() += instructions;
            }
        };
        for ((_, address), instructions) in &self.own {
            charge(*address, *instructions);
        }
        for (((_, address), called), instructions) in &self.calls {
            charge(*address, instructions * charged.get(called).copied().unwrap_or_default());
        }
        by_file
    }

    /// The part of each function's instructions, with those of its calls, that no file of this crate is charged with
    /// inside of it.
    fn left_to_callers(&self, files: &HashMap<u64, String>) -> HashMap<Function, f64> {
        let mut all: HashMap<Function, f64> = HashMap::new();
        for ((function, _), instructions) in &self.own {
            *all.entry(function.clone()).or_default() += instructions;
        }
        for (((function, _), _), instructions) in &self.calls {
            *all.entry(function.clone()).or_default() += instructions;
        }
        let mut left: HashMap<Function, f64> = all.keys().map(|function| (function.clone(), 1.0)).collect();
        // Functions call each other in circles; each round goes one call further up.
        for _ in 0..64 {
            let mut unclaimed: HashMap<Function, f64> = HashMap::new();
            for ((function, address), instructions) in &self.own {
                if !files.contains_key(address) {
                    *unclaimed.entry(function.clone()).or_default() += instructions;
                }
            }
            for (((function, address), called), instructions) in &self.calls {
                if !files.contains_key(address) {
                    let part = left.get(called).copied().unwrap_or_default();
                    *unclaimed.entry(function.clone()).or_default() += instructions * part;
                }
            }
            for (function, part) in &mut left {
                let unclaimed = unclaimed.get(function).copied().unwrap_or_default();
                *part = if all[function] > 0.01 { (unclaimed / all[function]).clamp(0.0, 1.0) } else { 0.0 };
            }
        }
        left
    }
}

/// The file of this crate that each address belongs to: the innermost of the functions inlined there that is this crate's.
fn files(addresses: impl Iterator<Item = u64>) -> HashMap<u64, String> {
    let addresses: HashSet<u64> = addresses.collect();
    let list = std::env::temp_dir().join(format!("addresses.{}", std::process::id()));
    let mut text = String::new();
    addresses.iter().for_each(|address| writeln!(text, "{address:#x}").unwrap());
    std::fs::write(&list, text).unwrap();
    let output = Command::new("addr2line")
        .args(["--addresses", "--inlines", "--exe"])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("@{}", list.display()))
        .output()
        .expect("addr2line is needed: apt-get install binutils");
    std::fs::remove_file(&list).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut current) = (HashMap::new(), 0);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(address) = line.strip_prefix("0x") {
            current = u64::from_str_radix(address, 16).unwrap();
        } else {
            let path = Path::new(line.rsplit_once(':').map_or(line, |(path, _)| path));
            let path = path.strip_prefix(root).unwrap_or(path);
            let path = path.strip_prefix("src/..").unwrap_or(path);
            if path.starts_with("src") || path.starts_with("integrations") {
                files.entry(current).or_insert_with(|| path.display().to_string());
            }
        }
    }
    files
}
