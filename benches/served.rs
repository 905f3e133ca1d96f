//! A server process, which is this program once more, and `wrk` (from the package of that name) as its client.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use qomplement_webhooks::SharedToken;

const TOKEN: &str = "4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";

/// The path of the webhook, with its token.
pub fn path() -> String {
    format!("/webhook?token={TOKEN}")
}

pub fn token() -> SharedToken {
    SharedToken::new(TOKEN).unwrap()
}

/// The assignment of the machine's cores.
#[derive(Clone, Copy)]
pub enum Cores {
    /// The server has the first core, and `wrk` the second.
    OneEach,
    /// Both have all cores.
    Shared,
}

/// A server process. It is killed on drop.
pub struct Served {
    child: Child,
    address: SocketAddr,
    cores: Cores,
}

impl Served {
    /// Starts this program with `serve` and more arguments. Its first line is its address.
    pub fn start(cores: Cores, arguments: &[&str]) -> Self {
        let mut command = command(cores, "0", std::env::current_exe().unwrap().to_str().unwrap());
        let mut child = command.arg("serve").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().parse().unwrap(), cores }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Posts webhooks with distinct ids for some time, and returns their number. Panics unless all were acknowledged.
    pub fn load(&self, connections: usize, seconds: u64, is_large: bool) -> f64 {
        let mut wrk = command(self.cores, "1", "wrk");
        wrk.args(["-t1", &format!("-c{connections}"), "-d", &format!("{seconds}s"), "-s"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load.lua"))
            .arg(format!("http://{}{}", self.address, path()));
        if is_large {
            wrk.env("LARGE", "1");
        }
        let output = wrk.output().expect("wrk is needed: apt-get install wrk");
        let output = String::from_utf8_lossy(&output.stdout);
        let number = |name| {
            let line = output.lines().find_map(|line: &str| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("wrk says: {output}")).trim().parse::<f64>().unwrap()
        };
        assert_eq!(number("failed "), 0.0, "not every webhook was acknowledged: {output}");
        number("requests ")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(cores: Cores, core: &str, program: &str) -> Command {
    match cores {
        Cores::Shared => Command::new(program),
        Cores::OneEach => {
            let mut taskset = Command::new("taskset");
            taskset.args(["-c", core, program]);
            taskset
        }
    }
}
