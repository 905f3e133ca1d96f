//! The Lua scripts of the steps that read before they write.

/// One script for each step.
pub(super) struct Scripts {
    pub(super) renew: Script,
    pub(super) complete: Script,
    pub(super) release: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            // KEYS: the job's. ARGV: the claim; milliseconds.
            renew: Script::new(
                "local held = redis.call('GET', KEYS[1])
                 if held and held ~= ARGV[1] then return 0 end
                 redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
                 return 1",
            ),
            // KEYS: the job's. ARGV: the claim; the completion; milliseconds.
            complete: Script::new(
                "local held = redis.call('GET', KEYS[1])
                 if held == ARGV[2] then return 1 end
                 if held and held ~= ARGV[1] then return 0 end
                 redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
                 return 1",
            ),
            // KEYS: the job's. ARGV: the claim.
            release: Script::new(
                "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
                 return redis.call('DEL', KEYS[1])",
            ),
        }
    }
}

/// A script. The driver's own type copies every argument twice.
pub(super) struct Script {
    pub(super) code: String,
    /// The name for `EVALSHA`. The server knows it after the first `EVAL`.
    pub(super) hash: String,
}

impl Script {
    fn new(code: &str) -> Self {
        // A server with full memory refuses new claims, but must renew and complete those that it granted.
        let code = format!("#!lua flags=allow-oom\n{code}");
        let hash = ::redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }
}
