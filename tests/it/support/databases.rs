//! Redis, PostgreSQL and PgBouncer servers of the tests, on free ports, each in a folder of its own.
//!
//! A server ends with the program that started it, even if that is killed, and its folder is removed: a shell
//! waits for the end of its standard input, and then kills the server.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub const PASSWORD: &str = "open-sesame";

/// A running server.
pub struct Server {
    kind: Kind,
    port: u16,
    folder: PathBuf,
    /// Further arguments of its command line.
    options: Vec<String>,
    process: Process,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Redis,
    Postgres,
    PgBouncer,
}

struct Process {
    shell: Child,
    pid: u32,
}

/// The Redis server of all tests that do not harm it. It keeps every write that it acknowledged.
pub fn redis() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(|| Server::redis(&[], &[]));
    &SERVER
}

/// The PostgreSQL server of all tests that do not harm it.
pub fn postgres() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(|| Server::postgres(&[], &[]));
    &SERVER
}

impl Server {
    /// Starts a Redis server that writes every command to its disk before it answers. `files` are put into
    /// the folder that it runs in.
    pub fn redis(options: &[&str], files: &[(&str, String)]) -> Self {
        let always = ["--appendonly", "yes", "--appendfsync", "always", "--requirepass", PASSWORD];
        Self::new(Kind::Redis, &[&always, options].concat(), files)
    }

    /// Starts a PostgreSQL server with some settings. `files` are put beside its data.
    pub fn postgres(settings: &[&str], files: &[(&str, String)]) -> Self {
        Self::new(Kind::Postgres, settings, &[&[("password", PASSWORD.to_owned())], files].concat())
    }

    /// Copies a running PostgreSQL server, and starts the copy as its streaming replica. Nothing waits for the replica until
    /// the primary is told so.
    #[allow(dead_code)] // tests/crash alone has replicas
    pub fn replica_of(primary: &Server) -> Self {
        let folder = Self::folder_with(Kind::Postgres, &[]);
        copy_data(primary, &folder);
        Self::started(Kind::Postgres, folder, &[])
    }

    /// Copies a running server over the data of this one, which was killed, and starts it as a replica on its port.
    #[allow(dead_code)]
    pub fn replicate(&mut self, primary: &Server) {
        fs::remove_dir_all(self.folder.join("data")).unwrap();
        copy_data(primary, &self.folder);
        self.restart();
    }

    /// Starts PgBouncer in transaction mode in front of a PostgreSQL server.
    pub fn pgbouncer(postgres: &Server) -> Self {
        let config = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={} user=postgres password={PASSWORD}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 4\nmax_client_conn = 200\n",
            postgres.port
        );
        Self::new(Kind::PgBouncer, &[], &[("pgbouncer.ini", config)])
    }

    fn new(kind: Kind, options: &[&str], files: &[(&str, String)]) -> Self {
        let folder = Self::folder_with(kind, files);
        if kind == Kind::Postgres {
            let mut line = become_postgres();
            line.push(postgres_program("initdb"));
            line.extend(["--pgdata=data", "--username=postgres", "--pwfile=password"].map(str::to_owned));
            line.extend(
                ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"].map(str::to_owned),
            );
            run(&line, &folder);
        }
        Self::started(kind, folder, options)
    }

    /// Makes a folder that the server may write, with some files.
    fn folder_with(kind: Kind, files: &[(&str, String)]) -> PathBuf {
        static SERVERS: AtomicUsize = AtomicUsize::new(0);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("qomplement-webhooks-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        for (file, content) in files {
            let file = folder.join(file);
            fs::write(&file, content).unwrap();
            // PostgreSQL refuses a key that others can read.
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        if kind != Kind::Redis && is_root() {
            run(&["chown", "-R", "postgres:", "."].map(str::to_owned), &folder);
        }
        folder
    }

    fn started(kind: Kind, folder: PathBuf, options: &[&str]) -> Self {
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = start(kind, port, &folder, &options) {
                return Self { kind, port, folder, options, process };
            }
        }
        panic!("the server does not start: {}", fs::read_to_string(folder.join("log")).unwrap_or_default());
    }

    pub fn url(&self) -> String {
        let port = self.port;
        match self.kind {
            Kind::Redis => format!("redis://:{PASSWORD}@127.0.0.1:{port}"),
            // On a busy machine, the store's default of two seconds is not enough for a connection.
            _ => format!("postgres://postgres:{PASSWORD}@127.0.0.1:{port}/postgres?connect_timeout=30"),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills the server, as a power cut would, and waits until all its processes are gone: PostgreSQL does not start
    /// while one of them still holds the shared memory.
    pub fn kill(&mut self) {
        let pids = self.signal("KILL");
        // `wait` would close the shell's input, which removes the folder.
        let _input = self.process.shell.stdin.take();
        self.process.shell.wait().unwrap();
        wait_until("the server's processes are gone", || {
            pids.iter().all(|pid| matches!(state(pid), None | Some('Z' | 'X')))
        });
    }

    /// Starts the server again, on its port and with its data.
    pub fn restart(&mut self) {
        let process = start(self.kind, self.port, &self.folder, &self.options);
        self.process = process.unwrap_or_else(|| panic!("the server does not start again: {}", self.log()));
    }

    /// Stops all processes of the server until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// What the server has written into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Sends a signal to all processes of the server, and returns their ids.
    fn signal(&self, signal: &str) -> Vec<String> {
        let pid = self.process.pid.to_string();
        // A child process may have ended meanwhile.
        let send = |signal: &str, pids: &[String]| {
            Command::new("kill").arg(signal).args(pids).stderr(Stdio::null()).status().unwrap()
        };
        // The parent stops before its children are listed, so that it starts no other one afterwards.
        send("-STOP", std::slice::from_ref(&pid));
        wait_until("the server stands still", || matches!(state(&pid), None | Some('T' | 'Z' | 'X')));
        let children = Command::new("pgrep").args(["-P", &pid]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let pids: Vec<_> = children.split_whitespace().map(str::to_owned).chain([pid]).collect();
        send(&format!("-{signal}"), &pids);
        pids
    }
}

/// The state of a process, as `ps` shows it; `None` if the process has ended.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The state follows the name, which may contain anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

fn wait_until(fact: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "never so: {fact}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.shell.stdin.take());
        let _ = self.process.shell.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port that was free a moment ago. It is below the range of outgoing connections, so that none of them takes
/// it while its server is down: not even one to that very port, which would then be connected to itself.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 12_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time start at different ports.
    let first = std::process::id().wrapping_mul(2_654_435_761) >> 16;
    loop {
        let number = first as u16 ^ NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Copies the data of a running PostgreSQL server, with a setting that follows it.
fn copy_data(primary: &Server, folder: &Path) {
    let mut line = become_postgres();
    line.push(postgres_program("pg_basebackup"));
    let from = format!("host=127.0.0.1 port={} user=postgres password={PASSWORD}", primary.port);
    line.extend(["--pgdata=data", "--checkpoint=fast", "--no-sync", "-d", &from].map(str::to_owned));
    run(&line, folder);
    // In the file that `ALTER SYSTEM` writes.
    let script = r#"echo "primary_conninfo = '$0'" >>data/postgresql.auto.conf && touch data/standby.signal"#;
    let mut line = become_postgres();
    line.extend(["sh", "-c", script, &from].map(str::to_owned));
    run(&line, folder);
}

/// Runs a program to its end.
fn run(line: &[String], folder: &Path) {
    let output = Command::new(&line[0]).args(&line[1..]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line:?}: {output:?}");
}

fn start(kind: Kind, port: u16, folder: &Path, options: &[String]) -> Option<Process> {
    let mut line: Vec<String> = Vec::new();
    let (program, ready) = match kind {
        Kind::Redis => ("redis-server".to_owned(), "Ready to accept connections"),
        Kind::Postgres => {
            line = become_postgres();
            // A replica is ready to accept read-only connections.
            (postgres_program("postgres"), "database system is ready to accept ")
        }
        Kind::PgBouncer => {
            line = become_postgres();
            ("pgbouncer".to_owned(), "process up")
        }
    };
    line.push(program);
    match kind {
        Kind::Redis => {
            line.extend(
                ["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"].map(str::to_owned),
            );
            line.extend_from_slice(options);
        }
        Kind::Postgres => {
            line.extend(["-D", "data", "-p", &port.to_string()].map(str::to_owned));
            let settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"];
            for setting in settings.into_iter().chain(options.iter().map(String::as_str)) {
                line.extend(["-c".to_owned(), setting.to_owned()]);
            }
        }
        Kind::PgBouncer => {
            let config = fs::read_to_string(folder.join("pgbouncer.ini")).unwrap();
            let config: Vec<_> = config.lines().filter(|line| !line.starts_with("listen_port")).collect();
            let config = format!("{}\nlisten_port = {port}\n", config.join("\n"));
            fs::write(folder.join("pgbouncer.ini"), config).unwrap();
            line.push("pgbouncer.ini".to_owned());
        }
    }
    // The first line is the server's process id; its own output follows.
    let script = r#"exec 3<&0; sh -c 'echo $$; exec "$@"' sh "$@" </dev/null 2>&1 & pid=$!
        (read -r _; kill -QUIT $pid; kill -KILL $pid; rm -rf "$PWD") <&3 & wait $pid; kill $!"#;
    let mut shell = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(&line)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(shell.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pid = output.next().expect("the shell says which process it started").parse().unwrap();
    let mut log = fs::File::create(folder.join("log")).unwrap();
    let is_up = output.by_ref().any(|line| {
        let _ = writeln!(log, "{line}");
        line.contains(ready)
    });
    if !is_up {
        let _ = shell.wait();
        return None;
    }
    // Read on, so that a full pipe never blocks the server.
    std::thread::spawn(move || output.for_each(|line| drop(writeln!(log, "{line}"))));
    Some(Process { shell, pid })
}

/// PostgreSQL refuses to run as root.
fn become_postgres() -> Vec<String> {
    if !is_root() {
        return Vec::new();
    }
    ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"].map(str::to_owned).to_vec()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Debian keeps most of PostgreSQL's programs out of the path.
pub fn postgres_program(name: &str) -> String {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut programs: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    programs.retain(|program| program.exists());
    programs.sort();
    programs.pop().map_or_else(|| name.to_owned(), |program| program.display().to_string())
}
